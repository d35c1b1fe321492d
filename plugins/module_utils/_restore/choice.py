# Copyright (c) 2026, mysql_ops contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""How each channel of a restored server goes on, from facts alone."""

from __future__ import annotations

import typing as t
from dataclasses import dataclass

from ansible_collections.mysql_ops.replica_backup.plugins.module_utils._lost_relay_logs.coordinates import gtid_mode
from ansible_collections.mysql_ops.replica_backup.plugins.module_utils._replication import Threads

# What may be asked for.
REQUESTS = ("auto", "relay_logs", "reposition", "auto_position", "none")


@dataclass(frozen=True)
class Place:
    """What decides besides the channel. ``lost``: why its restored relay logs cannot be gone on with, "" when they can.

    ``recovers``: relay_log_recovery is on in this server's own settings. ``drops``: a channel by GTID drops its relay
    logs when its first thread starts (``Dialect.drops_relay_logs_with_gtid``). ``may_ask``: there is a login for the
    source.
    """

    lost: str = ""
    recovers: bool = False
    drops: bool = False
    may_ask: bool = False


@dataclass(frozen=True)
class Choice:
    """``how``: "relay_logs", "relay_log_recovery" (the server does it by itself), "auto_position", "reposition",
    "stopped" (was stopped, stays so) or "none" (all are left stopped). ``threads`` are those to run afterwards.
    ``refused`` says why it cannot be done, with ``alternatives``."""

    name: str
    how: str
    why: str
    threads: Threads
    refused: str = ""
    alternatives: tuple[str, ...] = ()

    @property
    def reads_again(self) -> bool:
        """Its relay logs are thrown away and its coordinates set."""
        return self.how in ("auto_position", "reposition")

    def to_dict(self) -> dict[str, t.Any]:
        return {
            "name": self.name,
            "how": self.how,
            "why": self.why,
            "io": self.threads.io,
            "applier": self.threads.applier,
        }


def choose(recorded: t.Mapping[str, t.Any], requested: str, place: Place) -> Choice:
    """``recorded`` is the channel in the manifest, ``requested`` one of REQUESTS."""
    name = str(recorded["name"])
    before = recorded["threads_before"]
    threads = Threads(name, bool(before["io"]), bool(before["applier"]))
    by_gtid = bool(gtid_mode(recorded.get("gtid") or {}))

    def choice(how: str, why: str, **more: t.Any) -> Choice:
        return Choice(name, how, why, Threads(name, False, False) if how == "none" else threads, **more)

    if not (threads.io or threads.applier):
        return _stopped(choice, bool(recorded.get("source_log_file")), by_gtid, place)
    if requested == "none":
        return choice("none", "asked for")
    if requested == "relay_logs":
        return _relay_logs(choice, by_gtid, place)
    if requested == "auto_position" and not by_gtid:
        return choice(
            "auto_position",
            "asked for",
            refused="it finds its place by file and position, not by GTID",
            alternatives=("resume=reposition", "resume=relay_logs", "resume=auto"),
        )
    if requested in ("auto_position", "reposition"):
        return _read_again(choice, "asked for", by_gtid, place)
    if place.lost:
        return _read_again(choice, place.lost, by_gtid, place)
    return _relay_logs(choice, by_gtid, place, asked=False)


def _relay_logs(choice: t.Callable[..., Choice], by_gtid: bool, place: Place, *, asked: bool = True) -> Choice:
    if place.lost:
        return choice(
            "relay_logs",
            "asked for",
            refused=f"the restored relay logs cannot be gone on with: {place.lost}",
            alternatives=("resume=auto_position",) if by_gtid else ("resume=reposition",),
        )
    if by_gtid and place.drops:
        return choice(
            "relay_logs",
            "they are there; this server drops them at the thread's start all the same, since the channel uses GTIDs,"
            " and fetches what was not applied once more",
        )
    if place.recovers and asked:
        return choice(
            "relay_logs",
            "asked for",
            refused="relay_log_recovery=ON in the settings of this server: at its start it throws the restored relay"
            " logs away",
            alternatives=("resume=auto, which lets it", "set relay_log_recovery=OFF until the restore is done"),
        )
    if place.recovers:
        return choice(
            "relay_log_recovery",
            "relay_log_recovery=ON in the settings of this server: at its start it throws the restored relay logs away,"
            " and reads again from what was executed",
        )
    return choice("relay_logs", "the restored relay logs are usable")


def _read_again(choice: t.Callable[..., Choice], why: str, by_gtid: bool, place: Place) -> Choice:
    if by_gtid:
        return choice("auto_position", why)
    if not place.may_ask:
        return choice(
            "reposition",
            why,
            refused="its source has to be asked first whether it is the right server and still has what is needed",
            alternatives=("give source_login_user and source_login_password", "resume=none"),
        )
    return choice("reposition", why)


def _stopped(choice: t.Callable[..., Choice], ever_ran: bool, by_gtid: bool, place: Place) -> Choice:
    """It stays stopped; but it must be possible to start it one day."""
    why = "its threads were stopped when the backup was made"
    if not place.lost or not ever_ran:
        return choice("stopped", why)
    if by_gtid or place.may_ask:
        return choice("auto_position" if by_gtid else "reposition", f"{why}, and stay so; {place.lost}")
    return choice(
        "stopped",
        f"{why}; {place.lost}. Before it is started, run mysql_replica_reposition with the set's manifest",
    )
