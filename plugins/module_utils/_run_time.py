# Copyright (c) 2026, mysql_ops contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What of replication lives in memory only: a restart would lose it without a word, so it is put back exactly.

Filters, applier settings, semi-sync switches and skip counters that were set with SET GLOBAL or CHANGE REPLICATION
FILTER are in no file. With another filter a replica applies other transactions: filters are back before a thread runs.
"""

from __future__ import annotations

import typing as t
from dataclasses import dataclass, field, replace

from ansible_collections.mysql_ops.replica_backup.plugins.module_utils import _replication
from ansible_collections.mysql_ops.replica_backup.plugins.module_utils._connection import QueryError, Session
from ansible_collections.mysql_ops.replica_backup.plugins.module_utils._dialect import (
    FILTERS,
    Dialect,
    Statement,
    neutral,
)
from ansible_collections.mysql_ops.replica_backup.plugins.module_utils._errors import (
    RefusedError,
    ReplicaBackupError,
    recover_command,
)
from ansible_collections.mysql_ops.replica_backup.plugins.module_utils._replication import Channel

RULE = "run_time_settings"

_SKIP_COUNTER = "sql_replica_skip_counter"
# By neutral name, those that decide what is applied, as filters do: a thread that runs without them for a moment may
# leave other data behind. With others it waits, fails or is slow, and goes on as before when they are back.
_DECIDING = frozenset(
    {
        "gtid_ignore_duplicates",
        "gtid_mode",
        "replica_run_triggers_for_rbr",
        "replicate_events_marked_for_skip",
        _SKIP_COUNTER,
    }
)
_READ_ONLY_VARIABLE = 1238


@dataclass(frozen=True)
class RunTime:
    """Replication's settings in memory.

    ``variables``: global ones by name. ``channels``: by channel name, the settings that each has for itself, by neutral
    name. ``global_filters``: what later channels begin with (None: none, or not to be seen). ``changed``: those of
    ``variables`` that were set at run time; None when the server cannot say (MySQL 5.6 and 5.7). ``filters_changed``:
    likewise for any filter. ``after_threads``: those of ``variables`` that are put back when the threads run.
    """

    variables: t.Mapping[str, str] = field(default_factory=dict)
    channels: t.Mapping[str, t.Mapping[str, str]] = field(default_factory=dict)
    global_filters: t.Mapping[str, str] | None = None
    changed: tuple[str, ...] | None = None
    filters_changed: bool | None = None
    after_threads: tuple[str, ...] = ()

    def to_dict(self) -> dict[str, t.Any]:
        return {
            "variables": dict(self.variables),
            "channels": {name: dict(settings) for name, settings in self.channels.items()},
            "global_filters": None if self.global_filters is None else dict(self.global_filters),
            "changed": None if self.changed is None else list(self.changed),
            "filters_changed": self.filters_changed,
            "after_threads": list(self.after_threads),
        }

    @classmethod
    def from_dict(cls, data: t.Mapping[str, t.Any]) -> RunTime:
        changed = data["changed"]
        late = tuple(data.get("after_threads", ()))
        return cls(**{**data, "changed": None if changed is None else tuple(changed), "after_threads": late})

    @property
    def starts_quietly(self) -> bool:
        """The next start should not start any replication thread: something has to be put back before they run."""
        return self.must_start_quietly or bool(self.changed)

    @property
    def must_start_quietly(self) -> bool:
        """Something among it decides which transactions are applied."""
        any_filter = any(set(settings) & set(FILTERS) for settings in self.channels.values())
        filters = any_filter if self.filters_changed is None else self.filters_changed
        return filters or self.skips or any(_decides(name) for name in self.changed or ())

    @property
    def skips(self) -> bool:
        """A skip counter has not run out."""
        texts = [settings.get("skip_counter", "0") for settings in self.channels.values()]
        texts += [text for name, text in self.variables.items() if neutral(name) == _SKIP_COUNTER]
        return any(text != "0" for text in texts)

    def lost_by_restart(self, dialect: Dialect) -> tuple[str, ...]:
        """Global variables that a restart loses, as far as the server can say."""
        names = (*self.variables, *dialect.channel_settings.values())
        counters = [name for name in names if neutral(name) == _SKIP_COUNTER] if self.skips else []
        return tuple(dict.fromkeys((*(self.changed or ()), *counters)))

    def without_skip_counters(self) -> RunTime:
        """The same for a server whose appliers may have used the counters up: once more would skip other events."""
        kept = {name: value for name, value in self.variables.items() if neutral(name) != _SKIP_COUNTER}
        return replace(
            self,
            variables=kept,
            channels={
                channel: {name: text for name, text in settings.items() if name != "skip_counter"}
                for channel, settings in self.channels.items()
            },
            changed=self.changed and tuple(name for name in self.changed if name in kept),
        )


def _decides(variable: str) -> bool:
    return neutral(variable) in _DECIDING


def capture(
    session: Session, dialect: Dialect, variables: t.Mapping[str, str], channels: t.Iterable[Channel]
) -> RunTime:
    """Read it. ``variables`` is SHOW GLOBAL VARIABLES."""
    settings: dict[str, str] = {}
    seen = set()
    # Newer servers list old and new name of one thing; the new one comes first here.
    for name in sorted(variables, key=lambda name: (neutral(name) != name, name)):
        if dialect.is_replication_setting(name) and neutral(name) not in seen:
            seen.add(neutral(name))
            settings[name] = variables[name]
    channels = tuple(channels)
    changed = _changed(session, dialect, settings)
    return RunTime(
        variables=settings,
        channels={channel.name: _of_channel(dialect, channel) for channel in channels},
        after_threads=_unused_semi_sync(session, dialect, settings if changed is None else changed, settings, channels),
        global_filters=_global_filters(session, dialect),
        changed=changed and tuple(name for name in changed if (neutral(name), settings[name]) != (_SKIP_COUNTER, "0")),
        filters_changed=_filters_changed(session, dialect),
    )


def _unused_semi_sync(
    session: Session,
    dialect: Dialect,
    changed: t.Container[str],
    settings: t.Mapping[str, str],
    channels: t.Collection[Channel],
) -> tuple[str, ...]:
    """The semi-sync switch of a replica whose receivers run without it: it was turned on after their start.

    The server has one mark for all channels whether packets carry a semi-sync header. A receiver that starts with the
    switch on sets it, and takes it back when its source knows no semi-sync; others that read meanwhile end with error
    13117 (semisync_replica.cc, slaveStart and slaveReadSyncHeader; MySQL bug 102994, MDEV-3793; seen on 9.7).
    """
    if len(channels) < 2 or not any(channel.io_started for channel in channels):
        return ()
    name = next((name for name in dialect.semi_sync_replica_switch if settings.get(name) == "ON"), "")
    if not name or name not in changed:
        return ()
    status = session.status()
    in_use = any(status.get(item) == "ON" for item in dialect.semi_sync_replica_status)
    return () if in_use else (name,)


def _of_channel(dialect: Dialect, channel: Channel) -> dict[str, str]:
    settings = {name: text for name, text in channel.filters.items() if name in FILTERS}
    for name, text in (
        ("parallel_mode", channel.parallel_mode),
        ("skip_counter", channel.skip_counter),
        ("max_relay_log_size", channel.max_relay_log_size),
    ):
        if name in dialect.channel_settings and text:
            settings[name] = text
    return settings


def _rows(session: Session, query: str | None) -> list[dict[str, t.Any]] | None:
    """None when there is no such query, or the account may not read there."""
    if query is None:
        return None
    try:
        return session.query(query)
    except QueryError:
        return None


def _changed(session: Session, dialect: Dialect, settings: t.Mapping[str, str]) -> tuple[str, ...] | None:
    rows = _rows(session, dialect.changed_settings)
    if rows is None:
        return None
    names = {neutral(str(row["name"])) for row in rows}
    return tuple(name for name in settings if neutral(name) in names)


def _filters_changed(session: Session, dialect: Dialect) -> bool | None:
    if not dialect.filters_can_change:
        return False
    if dialect.channel_settings:
        # Variables of the same names.
        rows = _rows(session, dialect.changed_settings)
        return None if rows is None else any(str(row["name"]).lower() in FILTERS for row in rows)
    rows = _rows(session, dialect.changed_filters)
    return None if rows is None else bool(rows)


def _global_filters(session: Session, dialect: Dialect) -> dict[str, str] | None:
    rows = _rows(session, dialect.global_filters)
    if rows is None:
        return None
    return {str(row["name"]).lower(): str(row["rule"]) for row in rows if row["rule"]}


def refuse_unless_start_can_be_quiet(run_time: RunTime, *, skip_supported: bool, start: str, option: str) -> None:
    """Raise RefusedError when threads would apply something else before their settings are back.

    ``start``: service in words. Settings that only say how it is applied are put back a moment later by ``put_back``.
    """
    if skip_supported or not run_time.must_start_quietly:
        return
    words = "; ".join(_in_words(run_time))
    unknown = run_time.filters_changed is None and any(set(item) & set(FILTERS) for item in run_time.channels.values())
    choose = "set replica_backup_service_manager and replica_backup_service_name"
    persist = "write the settings into an option file and restart the server (from MySQL 8.0 SET PERSIST does it too)"
    raise RefusedError(
        f"The restart through {start} would start replication before settings are back that "
        + ("may be" if unknown else "are")
        + " in no option file",
        found=f"{words}; the server cannot say which filters are from an option file"
        if unknown
        else f"set at run time: {words}",
        expected=f"a start command that hands {option} to the server"
        + ("" if unknown else ", or these settings in an option file"),
        server_state="running, untouched",
        # Where the server cannot say, an option file would change nothing.
        next_command=choose if unknown else f"{persist}, or {choose}",
        rule=RULE,
    )


def _in_words(run_time: RunTime) -> list[str]:
    words = [f"{name} = {run_time.variables[name]!r}" for name in run_time.changed or () if _decides(name)]
    for channel, settings in run_time.channels.items():
        if run_time.filters_changed is not False:
            words += [f"{name} of channel '{channel}' = {text!r}" for name, text in settings.items() if name in FILTERS]
        if settings.get("skip_counter", "0") != "0":
            words.append(f"skip counter of channel '{channel}' = {settings['skip_counter']}")
    return words or ["a replication filter that was emptied"]


@dataclass(frozen=True)
class _Change:
    words: str
    statements: tuple[Statement, ...]
    is_filter: bool
    decides: bool


def put_back(session: Session, dialect: Dialect, before: RunTime) -> tuple[list[str], list[str]]:
    """Bring the settings back to ``before``: (what was done, warnings). Threads that run are stopped for it.

    The caller starts the threads afterwards, and then calls ``put_back_after_threads``.

    Raises ReplicaBackupError when what decides which transactions are applied (a filter, gtid_mode) cannot be put
    back: no thread may run with another one.
    """
    done: list[str] = []
    failed: dict[str, str] = {}
    from_file: set[str] = set()
    warnings: list[str] = []
    # What channels take over from the filters of all is seen only afterwards, hence a second round.
    for _round in range(3):
        channels = _replication.read_channels(session, dialect)
        changes = _changes(dialect, before, capture(session, dialect, session.variables(), channels))
        changes = [change for change in changes if change.words not in failed]
        if not changes:
            break
        warnings += _stop_threads(session, dialect, channels, changes)
        for change in changes:
            try:
                for statement in change.statements:
                    session.execute(*statement)
            except QueryError as error:
                failed[change.words] = f"{change.words} could not be put back: {error.found}"
                if error.code == _READ_ONLY_VARIABLE and not change.is_filter:
                    # Nobody can have set it at run time (gtid_mode of MySQL 5.6): an option file has been edited.
                    from_file.add(change.words)
            else:
                done.append(f"put back {change.words}")
    channels = _replication.read_channels(session, dialect)
    changes = _changes(dialect, before, capture(session, dialect, session.variables(), channels))
    left = [change for change in changes if change.decides and change.words not in from_file]
    if left:
        raise ReplicaBackupError(
            "What decides which transactions are applied could not be put back, so no replication thread was started",
            found="; ".join(failed.values()) or "other filters or settings than before",
            expected="; ".join(change.words for change in left),
            server_state="running, replication stopped",
            next_command=f"set by hand what is named above as expected, then {recover_command()}",
            rule=RULE,
        )
    return done, warnings + list(failed.values())


def put_back_after_threads(session: Session, dialect: Dialect, before: RunTime) -> tuple[list[str], list[str]]:
    """Set what must not be set before the threads run: (what was done, warnings)."""
    done, warnings = [], []
    now = session.variables() if before.after_threads else {}
    for name in before.after_threads:
        wanted = before.variables[name]
        if now.get(name, wanted) == wanted:
            continue
        try:
            for statement in dialect.set_variable(name, now[name], wanted):
                session.execute(*statement)
        except QueryError as error:
            warnings.append(f"{name} = {wanted!r} could not be put back: {error.found}")
        else:
            done.append(f"put back {name} = {wanted!r}")
    return done, warnings


def _stop_threads(
    session: Session, dialect: Dialect, channels: t.Iterable[Channel], changes: t.Collection[_Change]
) -> list[str]:
    """Only stopped threads take these settings. Returns warnings about what ran without those that decide."""
    warnings = []
    filters = any(change.is_filter for change in changes)
    others = ", ".join(change.words for change in changes if change.decides and not change.is_filter)
    for channel in channels:
        for thread, runs in (("io", channel.io_started), ("applier", channel.applier_started)):
            if runs:
                session.execute(*dialect.stop_thread(channel.name, thread))
        if channel.applier_started and filters:
            warnings.append(
                f"The applier of {channel.label()} ran for a moment with the filters of the option files, not with "
                "those set at run time: compare its data with the source"
            )
        if channel.applier_started and others:
            warnings.append(
                f"The applier of {channel.label()} ran for a moment without {others}: compare its data with the source"
            )
    return warnings


def _changes(dialect: Dialect, before: RunTime, now: RunTime) -> list[_Change]:
    changes = []
    # What a new option file says of other variables is meant for the next start, and this was one.
    names = before.variables if before.changed is None else before.changed
    # Consistency is demanded before GTIDs, and given up after them.
    order = sorted(names, reverse=before.variables.get("gtid_mode", "OFF").startswith("OFF"))
    for name in order:
        if name in before.after_threads:
            continue
        if name in now.variables and now.variables[name] != before.variables[name]:
            wanted = before.variables[name]
            statements = dialect.set_variable(name, now.variables[name], wanted)
            changes.append(_Change(f"{name} = {wanted!r}", tuple(statements), False, _decides(name)))
    if dialect.channel_settings:
        for channel in sorted(set(before.channels) & set(now.channels)):
            changes += _changes_of_connection(dialect, channel, before.channels[channel], now.channels[channel])
    elif dialect.filters_can_change:
        changes += _changes_of_filters(dialect, before, now)
    return changes


def _changes_of_connection(
    dialect: Dialect, channel: str, before: t.Mapping[str, str], now: t.Mapping[str, str]
) -> list[_Change]:
    changes = []
    for name in dialect.channel_settings:
        wanted = before.get(name, "")
        if _items(wanted) == _items(now.get(name, "")) or (not wanted and name not in FILTERS):
            continue
        statements = dialect.set_channel_setting(channel, name, wanted)
        words = f"{name} of channel '{channel}' = {wanted!r}"
        decides = name in FILTERS or name == "skip_counter"
        changes.append(_Change(words, tuple(statements), name in FILTERS, decides))
    return changes


def _changes_of_filters(dialect: Dialect, before: RunTime, now: RunTime) -> list[_Change]:
    if before.global_filters is not None and now.global_filters is not None:
        differing = _differing(before.global_filters, now.global_filters)
        if differing:
            return [_filter_change(dialect, None, differing)]
    changes = []
    for channel in sorted(set(before.channels) & set(now.channels)):
        differing = _differing(before.channels[channel], now.channels[channel])
        if differing:
            changes.append(_filter_change(dialect, channel, differing))
    # One set of filters for all channels (MySQL 5.7) is set once.
    return changes if dialect.has_channel_filters else changes[:1]


def _filter_change(dialect: Dialect, channel: str | None, filters: t.Mapping[str, str]) -> _Change:
    whose = "all channels" if channel is None or not dialect.has_channel_filters else f"channel '{channel}'"
    words = ", ".join(f"{name} = {text!r}" for name, text in filters.items())
    return _Change(f"filters of {whose}: {words}", (dialect.change_filters(channel, filters),), True, True)


def _differing(before: t.Mapping[str, str], now: t.Mapping[str, str]) -> dict[str, str]:
    """Filters as they were, where they are not so now; an empty text empties a filter."""
    return {name: before.get(name, "") for name in FILTERS if _items(before.get(name, "")) != _items(now.get(name, ""))}


def _items(text: str) -> list[str]:
    """The server prints the items of a filter in no particular order."""
    return sorted(text.split(","))
