# Copyright (c) 2026, mysql_ops contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The rules that decide whether a server may be stopped: each a function from facts to verdicts.

What is not known counts as no. A verdict names the rule, the value seen, what was expected and the variable
that relaxes the rule.
"""

from __future__ import annotations

import os
import typing as t
from dataclasses import dataclass

from ansible_collections.mysql_ops.replica_backup.plugins.module_utils._budget import Prediction
from ansible_collections.mysql_ops.replica_backup.plugins.module_utils._errors import RefusedError
from ansible_collections.mysql_ops.replica_backup.plugins.module_utils._replication import Channel

_NOTHING = "nothing relaxes this rule"
# Room beside the data for manifest, lists and rounding, in bytes.
_SPARE_BYTES = 16 * 1024 * 1024


@dataclass(frozen=True)
class Policy:
    """What the user allows. ``max_lag`` in seconds; ``space_factor`` times the data's bytes must be free."""

    max_lag: int = 300
    allow_connected_replicas: bool = False
    allow_stopped_channels: bool = False
    allow_channel_errors: bool = False
    allow_refetch: bool = False
    space_factor: float = 1.0


@dataclass(frozen=True)
class Facts:
    """What was observed. None means that it could not be learnt.

    ``data_bytes``: allocated bytes of all files to copy; ``free_bytes``: free in the spool's file system for the
    user of this process; ``missing_tools``: commands that the chosen format needs and the host lacks;
    ``fetched_again``: what is said of channels whose relay logs a restart drops before they are applied;
    ``clone_bytes``: what a copy of the data takes in the spool beside the archive; ``reserve_bytes``: what a server
    that shares the spool's file system, and serves meanwhile, has to be left;
    ``prediction``: how long the server would be down, of the ``downtime_budget`` seconds that it may.
    """

    channels: tuple[Channel, ...]
    connected_replicas: tuple[str, ...] | None
    cluster: str | None
    force_recovery: str
    data_bytes: int
    free_bytes: int
    spool_dir: str
    missing_tools: tuple[str, ...]
    fetched_again: tuple[str, ...] = ()
    clone_bytes: int = 0
    reserve_bytes: int = 0
    prediction: Prediction | None = None
    downtime_budget: float = 3600.0


@dataclass(frozen=True)
class Verdict:
    """``ok`` False refuses. ``relax`` names the variable of role replica_backup that relaxes the rule."""

    rule: str
    ok: bool
    found: str
    expected: str
    relax: str

    def to_dict(self) -> dict[str, t.Any]:
        return {
            "rule": self.rule,
            "ok": self.ok,
            "found": self.found,
            "expected": self.expected,
            "relax": self.relax,
        }

    def text(self) -> str:
        return f"rule '{self.rule}': found {self.found}; expected {self.expected}; relax with: {self.relax}"


def is_replica(facts: Facts, policy: Policy) -> Verdict:
    names = ", ".join(f"{c.label()} from {c.source_host}:{c.source_port}" for c in facts.channels)
    return Verdict(
        "replica", bool(facts.channels), names or "no replication channel", "a server that replicates", _NOTHING
    )


def no_connected_replicas(facts: Facts, policy: Policy) -> Verdict:
    relax = "replica_backup_allow_connected_replicas"
    expected = "no server that replicates from this one"
    if facts.connected_replicas is None:
        found = "not known: the account sees no other sessions (it needs the PROCESS privilege)"
        return Verdict("connected_replicas", policy.allow_connected_replicas, found, expected, relax)
    found = ", ".join(facts.connected_replicas) or "none"
    ok = policy.allow_connected_replicas or not facts.connected_replicas
    return Verdict("connected_replicas", ok, found, expected, relax)


def channels_run(facts: Facts, policy: Policy) -> Verdict:
    stopped = [
        f"{channel.label()}: receiver {channel.io}, applier {channel.applier}"
        for channel in facts.channels
        if channel.io.lower() != "yes" or not channel.applier_started
    ]
    return Verdict(
        "channel_threads",
        policy.allow_stopped_channels or not stopped,
        "; ".join(stopped) or "all threads run",
        "every channel connected and applying",
        "replica_backup_allow_stopped_channels",
    )


def channels_without_errors(facts: Facts, policy: Policy) -> Verdict:
    errors = [
        f"{channel.label()}: {error}"
        for channel in facts.channels
        for error in (channel.io_error, channel.applier_error)
        if error
    ]
    return Verdict(
        "channel_errors",
        policy.allow_channel_errors or not errors,
        "; ".join(errors) or "no errors",
        "no replication error",
        "replica_backup_allow_channel_errors",
    )


def no_applier_stops_by_itself(facts: Facts, policy: Policy) -> Verdict:
    """START ... UNTIL is forgotten by a restart: the applier would go beyond the point it was to stop at."""
    found = [
        f"{channel.label()}: applier started with UNTIL {channel.until}"
        for channel in facts.channels
        if channel.until and channel.applier_started
    ]
    return Verdict(
        "until",
        not found,
        "; ".join(found) or "no START ... UNTIL under way",
        "appliers without an end, for a restart forgets it (wait until it is reached, or STOP and START without UNTIL)",
        _NOTHING,
    )


def relay_logs_survive(facts: Facts, policy: Policy) -> Verdict:
    """What waits in relay logs that a restart drops is lost when the source has purged it: no start heals that."""
    return Verdict(
        "refetch",
        policy.allow_refetch or not facts.fetched_again,
        "; ".join(facts.fetched_again) or "nothing that a restart would drop",
        "no transactions that wait in relay logs that a restart drops, or a source that is known to have them still",
        "replica_backup_allow_refetch",
    )


def lag_is_low(facts: Facts, policy: Policy) -> Verdict:
    behind = []
    for channel in facts.channels:
        if not (channel.io_started and channel.applier_started):
            continue  # judged by channel_threads
        if channel.lag is None:
            if not policy.allow_stopped_channels:
                behind.append(f"{channel.label()}: lag not known")
        elif channel.lag - channel.delay > policy.max_lag:
            behind.append(f"{channel.label()}: {channel.lag} s behind (configured delay {channel.delay} s)")
    return Verdict(
        "lag",
        not behind,
        "; ".join(behind) or "no channel further behind",
        f"at most {policy.max_lag} s beyond the configured delay",
        "replica_backup_max_lag",
    )


def not_in_cluster(facts: Facts, policy: Policy) -> Verdict:
    return Verdict(
        "cluster_member",
        facts.cluster is None,
        facts.cluster or "no cluster",
        "a server outside Galera and group replication",
        _NOTHING,
    )


def not_in_forced_recovery(facts: Facts, policy: Policy) -> Verdict:
    return Verdict(
        "force_recovery",
        facts.force_recovery == "0",
        f"innodb_force_recovery = {facts.force_recovery}",
        "0: a damaged server's files are no backup",
        _NOTHING,
    )


def has_room(facts: Facts, policy: Policy) -> Verdict:
    spare = max(_SPARE_BYTES, facts.reserve_bytes)
    needed = int(facts.data_bytes * policy.space_factor) + facts.clone_bytes + spare
    copied = f", {facts.clone_bytes} for the copy that is archived" if facts.clone_bytes else ""
    return Verdict(
        "space",
        facts.free_bytes >= needed,
        f"{facts.free_bytes} bytes free for {facts.spool_dir}",
        f"{needed} bytes ({facts.data_bytes} bytes of data x {policy.space_factor:g}{copied}, and {spare} spare)",
        "replica_backup_space_factor (or another replica_backup_spool_dir or replica_backup_capture)",
    )


def has_tools(facts: Facts, policy: Policy) -> Verdict:
    return Verdict(
        "tools",
        not facts.missing_tools,
        f"missing: {', '.join(facts.missing_tools)}" if facts.missing_tools else "all present",
        "the commands that format and compression need",
        "replica_backup_compression",
    )


def budget_suffices(facts: Facts, policy: Policy) -> Verdict:
    """Only what would not do at its best is refused: the first run on a host has nothing to go by."""
    prediction = facts.prediction
    found = "not known: no run has been measured, and the data are too few to matter"
    if prediction is not None:
        found = f"predicted {prediction.text()}"
        if prediction.least < prediction.seconds:
            found += f" ({prediction.least:.0f} s by the quickest of the last backups)"
    return Verdict(
        "downtime_budget",
        prediction is None or prediction.least <= facts.downtime_budget,
        found,
        f"at most {facts.downtime_budget:g} s",
        "replica_backup_downtime_budget (or a quicker replica_backup_capture or replica_backup_compression)",
    )


RULES: tuple[t.Callable[[Facts, Policy], Verdict], ...] = (
    is_replica,
    not_in_cluster,
    no_connected_replicas,
    channels_run,
    channels_without_errors,
    no_applier_stops_by_itself,
    relay_logs_survive,
    lag_is_low,
    not_in_forced_recovery,
    has_tools,
    has_room,
    budget_suffices,
)


def judge(facts: Facts, policy: Policy) -> list[Verdict]:
    """All verdicts, in the order of RULES."""
    return [rule(facts, policy) for rule in RULES]


def refuse_unless_all_pass(verdicts: t.Sequence[Verdict]) -> None:
    """Raise RefusedError that names every rule that said no."""
    failed = [verdict for verdict in verdicts if not verdict.ok]
    if failed:
        raise RefusedError(
            "This server must not be stopped: " + " | ".join(verdict.text() for verdict in failed),
            server_state="untouched",
            next_command="mend what the rules name, or relax them where you mean it, then start the backup again",
            rule=failed[0].rule,
            verdicts=[verdict.to_dict() for verdict in failed],
        )


def free_bytes(path: str) -> int:
    """Bytes that this process's user may still write in the file system of ``path`` or its nearest parent."""
    while not os.path.isdir(path):
        parent = os.path.dirname(path)
        if parent == path:
            break
        path = parent
    status = os.statvfs(path)
    return status.f_frsize * (status.f_bfree if os.geteuid() == 0 else status.f_bavail)
