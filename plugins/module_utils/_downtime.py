# Copyright (c) 2026, mysql_ops contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""How long the server was away, and what for: by one clock, so that the parts add up to the whole."""

from __future__ import annotations

import time
import typing as t

from ansible_collections.mysql_ops.replica_backup.plugins.module_utils._ledger import Ledger

# Steps of the ledger that may lie in the downtime, and what a person calls them.
_PARTS = {"shutdown": "stop", "capture": "capture", "fetch": "fetch", "start": "start"}


def note(ledger: Ledger, ready_mono: float | None) -> None:
    """Put into the ledger, without saving it, the seconds from the request to stop until the server answered again.

    Nothing when that is not known, as after a restart of the host.
    """
    window = ledger.data.get("window")
    if window and ready_mono is not None and ready_mono >= window["stop_requested_mono"]:
        window["ready_mono"] = ready_mono
        ledger.data["downtime_seconds"] = round(ready_mono - window["stop_requested_mono"], 3)


def parts(ledger: Ledger) -> dict[str, float]:
    """Seconds by part: stop, capture, fetch, start as far as they were, and "between" for the rest. Empty: not known.

    Of a step only what lies between the request to stop and the first answer counts: the stop prepares something
    before, and the start puts threads back after.
    """
    window = ledger.data.get("window") or {}
    if "ready_mono" not in window:
        return {}
    begin, end = float(window["stop_requested_mono"]), float(window["ready_mono"])
    spans = {**ledger.data.get("times", {}), "fetch": window.get("fetch") or {}}
    found = {}
    for step, name in _PARTS.items():
        span: t.Mapping[str, t.Any] = spans.get(step) or {}
        if "start_mono" not in span:
            continue
        start = float(span["start_mono"])
        stop = start + float(span["seconds"]) if "seconds" in span else end
        inside = min(stop, end) - max(start, begin)
        if inside > 0:
            found[name] = inside
    rounded = {name: round(seconds, 3) for name, seconds in found.items()}
    rest = round(float(ledger.data["downtime_seconds"]) - sum(rounded.values()), 3)
    return {**rounded, "between": max(rest, 0.0)}


def fetch_begins(ledger: Ledger) -> None:
    """The set leaves the host while the server is down. A transfer that begins once more counts from the first time."""
    ledger.data.setdefault("window", {}).setdefault("fetch", {"start_mono": time.monotonic()})


def fetch_ended(ledger: Ledger) -> None:
    span = ledger.data.get("window", {}).get("fetch")
    if span is not None:
        span["seconds"] = round(time.monotonic() - span["start_mono"], 3)
