# Copyright (c) 2026, mysql_ops contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What each server family and version calls things: the only place that knows versions.

Sources: MySQL 5.6, 5.7, 8.0, 8.4 and 9.x reference manuals ("SHOW REPLICA STATUS", "START REPLICA", "CHANGE
REPLICATION FILTER", "Replica Server Options and Variables", "Performance Schema variables_info Table"); MariaDB
Knowledge Base ("SHOW REPLICA STATUS", "Multi-Source Replication", "Replication Filters", "Information Schema
SYSTEM_VARIABLES Table").
"""

from __future__ import annotations

import re
import typing as t
from dataclasses import dataclass
from decimal import Decimal

# SQL with %s for each argument; the session quotes the arguments.
Statement = tuple[str, tuple[t.Any, ...]]

# Old and new words of one thing in column and variable names.
_WORDS = ((re.compile(r"master", re.I), "source"), (re.compile(r"slave", re.I), "replica"))

# What keeps events from being applied, by its neutral name in SHOW REPLICA STATUS and as a variable or option.
FILTERS = (
    "replicate_do_db",
    "replicate_ignore_db",
    "replicate_do_table",
    "replicate_ignore_table",
    "replicate_wild_do_table",
    "replicate_wild_ignore_table",
    "replicate_rewrite_db",
)
# Settings about replication that have no common prefix, by neutral name.
_REPLICATION_SETTINGS = frozenset(
    {
        "enforce_gtid_consistency",
        "gtid_cleanup_batch_size",
        "gtid_domain_id",
        "gtid_ignore_duplicates",
        "gtid_mode",
        "gtid_strict_mode",
        "init_replica",
        "max_relay_log_size",
        "read_binlog_speed_limit",
        "relay_log_purge",
        "replicate_events_marked_for_skip",
        "source_verify_checksum",
        "sql_replica_skip_counter",
        "sync_relay_log",
        "sync_relay_log_info",
        "sync_source_info",
    }
)
# On MariaDB only SUPER may set them, and all of InnoDB's, also where it no longer stands for anything else (seen on
# 10.11 and 11.8).
_MARIADB_SUPER_VARIABLES = frozenset({"max_relay_log_size", "slave_transaction_retries", "sql_slave_skip_counter"})
# gtid_mode may only move one step at a time (manual, "gtid_mode").
_GTID_STEPS = ("OFF", "OFF_PERMISSIVE", "ON_PERMISSIVE", "ON")


@dataclass(frozen=True)
class Right:
    """A privilege of an account, as GRANT names it, and where; holding one of ``also`` ON *.* does as well.

    ``use``: what the collection does with it, in words.
    """

    grant: str
    use: str
    also: tuple[str, ...] = ()
    on: str = "*.*"


def neutral(name: str) -> str:
    """A name in lower case with today's words: ``Relay_Master_Log_File`` -> ``relay_source_log_file``."""
    for pattern, word in _WORDS:
        name = pattern.sub(word, name)
    return name.lower()


@dataclass(frozen=True)
class Dialect:
    """The vocabulary of one server. ``family`` is "mysql" or "mariadb"."""

    family: str
    version: tuple[int, int, int]

    @property
    def _mariadb(self) -> bool:
        return self.family == "mariadb"

    @property
    def _word(self) -> str:
        """REPLICA where the server knows it (MySQL 8.0.22), SLAVE elsewhere (MariaDB always takes SLAVE)."""
        return "REPLICA" if not self._mariadb and self.version >= (8, 0, 22) else "SLAVE"

    @property
    def has_channels(self) -> bool:
        """Several channels (MySQL 5.7.6) or named connections (MariaDB 10.0.1)."""
        return self.version >= ((10, 0, 1) if self._mariadb else (5, 7, 6))

    @property
    def show_channels(self) -> str:
        if self._mariadb:
            return "SHOW ALL SLAVES STATUS"
        return f"SHOW {self._word} STATUS"

    @property
    def skip_start_option(self) -> str:
        """Command line option that keeps all replication threads stopped at server start.

        Servers take ``-`` and ``_`` alike in option names (manual, "Using Options on the Command Line"). It is spelled
        as nobody else spells it, so that a server found running with it is known to have it from an earlier start by
        us, and the next start can leave it out.
        """
        new = not self._mariadb and self.version >= (8, 0, 26)
        return "--skip-replica_start" if new else "--skip-slave_start"

    @property
    def read_only_options(self) -> dict[str, str]:
        """Command line option that switches each read-only variable on at server start; spelled like no other, too."""
        options = {"read_only": "--read_only=On", "super_read_only": "--super-read_only=On"}
        if self._mariadb or self.version < (5, 7, 8):
            del options["super_read_only"]
        return options

    @property
    def relay_log_recovery_option(self) -> str:
        """Command line option with which the server throws its relay logs away at the start and goes on from what was
        executed; spelled like no other, too. MariaDB with named connections does not come up without it when theirs are
        lost (seen on 10.11)."""
        return "--relay-log_recovery=On"

    @property
    def own_start_options(self) -> tuple[str, ...]:
        """Every option that a start of ours may add to the server's own."""
        return (self.skip_start_option, *self.read_only_options.values(), self.relay_log_recovery_option)

    @property
    def _super(self) -> tuple[str, ...]:
        """SUPER where it still stands for what was split off it: everywhere but on MariaDB 11.0 and newer."""
        return ("SUPER",) if not self._mariadb or self.version < (11, 0, 0) else ()

    @property
    def _has_split_super(self) -> bool:
        """Rights to replicate and to set variables are privileges of their own (MariaDB 10.5.2, MySQL 8.0.1)."""
        return self.version >= ((10, 5, 2) if self._mariadb else (8, 0, 1))

    @property
    def rights_always_needed(self) -> tuple[Right, ...]:
        """What an account needs for any backup.

        Sources: MySQL manual, "Privileges Provided by MySQL" and "Performance Schema Tables"; MariaDB Knowledge Base,
        "GRANT", and its sql/privilege.h, which says what each statement asks for. Seen on 5.6, 9.7 and MariaDB 10.11.
        """
        threads = "stop and start replication threads"
        rights = [Right("PROCESS", "see who replicates from this server, and where its tablespaces are")]
        if not self._has_split_super:
            # It shows the state of replication, too.
            return (*rights, Right("SUPER", threads))
        status = "read the state of replication"
        if self._mariadb:
            rights.append(Right("REPLICATION SLAVE ADMIN", threads, self._super))
            if self.version >= (10, 5, 8):
                # SHOW GRANTS has its older name.
                rights.append(Right("REPLICA MONITOR", status, ("SLAVE MONITOR", *self._super)))
            return tuple(rights)
        return (
            *rights,
            Right("REPLICATION CLIENT", status, self._super),
            Right("REPLICATION_SLAVE_ADMIN", threads, self._super),
        )

    @property
    def tables_always_read(self) -> tuple[Right, ...]:
        """Tables that any backup reads and that not every account may."""
        uses: dict[str, str] = {}
        if self.has_group_replication:
            uses["replication_group_members"] = "see that this is no member of a group"
        if not self._mariadb and self.has_channel_filters:
            uses["replication_applier_filters"] = "learn which filters were set at run time"
            uses["replication_applier_global_filters"] = uses["replication_applier_filters"]
        return tuple(Right("SELECT", use, on=f"performance_schema.{table}") for table, use in uses.items())

    @property
    def right_to_shut_down(self) -> Right:
        return Right("SHUTDOWN", "shut the server down by SQL")

    def right_to_set(self, variable: str) -> Right:
        """What SET GLOBAL takes for a variable. MariaDB 10.5 asks for another right for each group of them."""
        use = f"set {variable}"
        if not self._has_split_super:
            return Right("SUPER", use)
        if not self._mariadb:
            return Right("SYSTEM_VARIABLES_ADMIN", use, self._super)
        if variable in ("read_only", "super_read_only"):
            return Right("READ_ONLY ADMIN", use, self._super if self.version < (10, 11, 0) else ())
        if variable in _MARIADB_SUPER_VARIABLES or variable.startswith("innodb_"):
            return Right("SUPER", use)
        word = neutral(variable)
        if word.startswith("rpl_semi_sync_source_") or word in ("gtid_domain_id", "source_verify_checksum"):
            return Right("REPLICATION MASTER ADMIN", use, self._super)
        return Right("REPLICATION SLAVE ADMIN", use, self._super)

    @property
    def show_replicas(self) -> str:
        """On a source: who has registered as its replica (MySQL 8.0.22 has the new word)."""
        return "SHOW REPLICAS" if not self._mariadb and self.version >= (8, 0, 22) else "SHOW SLAVE HOSTS"

    @property
    def has_shutdown_statement(self) -> bool:
        return self.version >= ((10, 0, 4) if self._mariadb else (5, 7, 9))

    @property
    def has_group_replication(self) -> bool:
        return not self._mariadb and self.version >= (5, 7, 17)

    @property
    def open_temp_tables_status(self) -> tuple[str, ...]:
        """Status variables, lower case, that count the applier's open temporary tables; the first present counts."""
        return ("replica_open_temp_tables", "slave_open_temp_tables")

    @property
    def parallel_workers_variables(self) -> tuple[str, ...]:
        return ("replica_parallel_workers", "slave_parallel_workers")

    @property
    def has_server_uuid(self) -> bool:
        """``server_uuid``, kept in ``auto.cnf`` (MySQL 5.6)."""
        return not self._mariadb and self.version >= (5, 6, 0)

    @property
    def has_ddl_recovery_log(self) -> bool:
        """``ddl_recovery.log`` exists while the server runs, and after a crash (MariaDB 10.6)."""
        return self._mariadb and self.version >= (10, 6, 0)

    @property
    def always_logs_end_of_shutdown(self) -> bool:
        """'Shutdown complete' is in the error log whatever log_error_verbosity is.

        MySQL 5.7 writes it as a note, which 1 and 2 leave out (5.7 manual, "log_error_verbosity"); from 8.0.4 it is a
        system message, which nothing leaves out. The others do not have that variable.
        """
        return self._mariadb or not (5, 7, 2) <= self.version < (8, 0, 4)

    @property
    def drops_relay_logs_with_gtid(self) -> bool:
        """A channel that uses GTIDs drops its relay logs when its first thread is started, also by a server start.

        MariaDB (slave.cc, start_slave_threads; seen on 10.11): all that was not applied is fetched once more.
        """
        return self._mariadb

    @property
    def has_mariadb_pages(self) -> bool:
        """InnoDB pages, flags and an innochecksum that are not MySQL's (MariaDB 10.4: full_crc32)."""
        return self._mariadb

    @property
    def saves_gtid_state_at_shutdown(self) -> bool:
        """``LOG_BIN_BASENAME.state`` is written by a clean shutdown."""
        return self._mariadb

    @property
    def stamps_system_tablespace_at_shutdown(self) -> bool:
        """InnoDB writes the log position of a clean shutdown into the system tablespace's first page."""
        return not self._mariadb

    @property
    def can_leave_applier_gaps(self) -> bool:
        """MySQL's multi-threaded applier may commit out of order; MariaDB's fills up to the stop position by itself."""
        return not self._mariadb and self.version >= (5, 6, 6)

    def stop_thread(self, channel: str, thread: str) -> Statement:
        """``thread`` is "io" or "applier"."""
        return self._thread("STOP", channel, thread)

    def start_thread(self, channel: str, thread: str) -> Statement:
        return self._thread("START", channel, thread)

    def start_until_gaps_filled(self, channel: str) -> Statement:
        sql = f"START {self._word} SQL_THREAD UNTIL SQL_AFTER_MTS_GAPS"
        return (f"{sql} FOR CHANNEL %s", (channel,)) if self.has_channels else (sql, ())

    def _thread(self, verb: str, channel: str, thread: str) -> Statement:
        name = {"io": "IO_THREAD", "applier": "SQL_THREAD"}[thread]
        if self._mariadb:
            return f"{verb} SLAVE %s {name}", (channel,)
        if self.has_channels:
            return f"{verb} {self._word} {name} FOR CHANNEL %s", (channel,)
        return f"{verb} {self._word} {name}", ()

    @property
    def gtid_state_variable(self) -> str:
        """What this replica has executed, as GTIDs."""
        return "gtid_slave_pos" if self._mariadb else "gtid_executed"

    @property
    def lists_named_connections(self) -> bool:
        """``multi-master.info`` names them; elsewhere the files of a channel say whose they are."""
        return self._mariadb

    @property
    def needs_relay_logs_of_named_connections(self) -> bool:
        """The server does not come up when those of one are lost, unless it recovers them (seen on MariaDB 10.11)."""
        return self._mariadb

    def reset_channel(self, channel: str) -> Statement:
        """Forget the relay logs and the coordinates, keep where the source is and how to log in there. Never ALL."""
        if self._mariadb:
            return "RESET SLAVE %s", (channel,)
        return self._for_channel(f"RESET {self._word}", (), channel)

    def change_coordinates(self, channel: str, log_file: str, log_pos: int, delay: int) -> Statement:
        """Read the source from there on. ``delay`` (seconds) is given again because a reset sets it to 0."""
        words = {"log_file": log_file, "log_pos": log_pos}
        if self._mariadb:
            # A reset leaves MariaDB with Slave_Pos.
            words["use_gtid"] = "no"
        return self._change(channel, words, delay)

    def change_to_gtid(self, channel: str, mode: str, delay: int) -> Statement:
        """Read the source from where this server's own GTID state ends.

        ``mode`` is "auto_position" (MySQL), "slave_pos" or "current_pos" (MariaDB).
        """
        return self._change(channel, {"use_gtid": mode} if self._mariadb else {"auto_position": 1}, delay)

    def change_login(self, channel: str, user: str, password: str, delay: int, heartbeat: int) -> Statement:
        """Log in at the source as somebody else; a ``delay`` (seconds) that the channel has is taken off.

        A source notices that a receiver is gone when it writes to it: after ``heartbeat`` seconds without news.
        """
        words: dict[str, t.Any] = {"user": user, "password": password, "heartbeat_period": heartbeat}
        if delay:
            words["delay"] = 0
        return self._change(channel, words, 0)

    def _change(self, channel: str, words: dict[str, t.Any], delay: int) -> Statement:
        new = not self._mariadb and self.version >= (8, 0, 23)
        prefix = "SOURCE_" if new else "MASTER_"
        values = {**words, **({"delay": delay} if delay else {})}
        # Its value is a word, not a text.
        bare = {"use_gtid"}
        parts = [f"{prefix}{key.upper()} = {value if key in bare else '%s'}" for key, value in values.items()]
        args = tuple(value for key, value in values.items() if key not in bare)
        if self._mariadb:
            return f"CHANGE MASTER %s TO {', '.join(parts)}", (channel, *args)
        verb = "CHANGE REPLICATION SOURCE TO" if new else "CHANGE MASTER TO"
        return self._for_channel(f"{verb} {', '.join(parts)}", args, channel)

    def _for_channel(self, sql: str, args: tuple[t.Any, ...], channel: str) -> Statement:
        return (f"{sql} FOR CHANNEL %s", (*args, channel)) if self.has_channels else (sql, args)

    @property
    def relay_log_gone_errors(self) -> frozenset[int]:
        """Errors of the applier for missing or misnamed relay logs (MySQL 1872; MariaDB 1201) or broken ones.

        Not 1593: that is also the receiver's, when source and replica have one server_id.
        """
        return frozenset({1201, 1594}) if self._mariadb else frozenset({1872, 13121, 13122, 1594})

    def binary_log_expiry(self, variables: t.Mapping[str, str]) -> float:
        """Seconds after its last write when a binary log may be purged by age; 0: never.

        MySQL 8.0 has the seconds and, until 8.2, the days; MariaDB 10.6 shows both. 8.0.29 can switch it off.
        """
        if variables.get("binlog_expire_logs_auto_purge", "ON") == "OFF":
            return 0.0
        seconds = float(variables.get("binlog_expire_logs_seconds") or 0)
        return seconds or float(variables.get("expire_logs_days") or 0) * 86400

    def binary_log_size_limit(self, variables: t.Mapping[str, str]) -> int:
        """Bytes of all binary logs above which the oldest are purged; 0: no limit (MariaDB 11.4, Percona Server)."""
        names = ("max_binlog_total_size", "binlog_space_limit")
        return next((int(variables[name]) for name in names if variables.get(name)), 0)

    def replicas_needed_for_purge(self, variables: t.Mapping[str, str]) -> int:
        """Without so many connected replicas nothing is purged by itself (MariaDB 11.4, 1 by default)."""
        return int(variables.get("slave_connections_needed_for_purge") or 0)

    @property
    def keeps_paths_in_dictionary(self) -> bool:
        """Where tablespaces lie is in the data dictionary; one that was moved is looked for in innodb_directories
        (8.0 manual, "Moving Tablespace Files While the Server is Offline"). Others follow .isl files."""
        return not self._mariadb and self.version >= (8, 0, 0)

    @property
    def fixes_number_of_undo_tablespaces(self) -> bool:
        """innodb_undo_tablespaces is settled when the data directory is made (5.6 and 5.7 manual)."""
        return not self._mariadb and self.version < (8, 0, 0)

    def opens_files_of(self, other: tuple[int, int, int]) -> str:
        """How a server of this version takes data files that one of ``other`` of the same family closed cleanly.

        "same": as they are. "upgrade": changes them for good (manual, "Upgrade Paths"; MariaDB Knowledge Base,
        "Upgrading"). "older", "too_far": not at all, because this server is older, or too much newer.
        """
        mine, theirs = self.version[:2], other[:2]
        if mine == theirs:
            # Within an LTS series MySQL goes back a step as well (manual, "Downgrading MySQL"); MariaDB does in all.
            back = self._mariadb or self.version >= (8, 4, 0)
            return "same" if back or self.version >= other else "older"
        if mine < theirs:
            return "older"
        if self._mariadb:
            return "upgrade"
        steps = ((5, 6), (5, 7), (8, 0), (8, 4), (9, 0))
        reach = [sum(step <= version for step in steps) for version in (mine, theirs)]
        return "upgrade" if reach[0] - reach[1] <= 1 else "too_far"

    def repository_kind(self, variables: t.Mapping[str, str], which: str) -> str:
        """ "FILE" or "TABLE" for ``which`` = "connection" (master.info) or "applier" (relay-log.info)."""
        name = {"connection": "master_info_repository", "applier": "relay_log_info_repository"}[which]
        if self._mariadb:
            return "FILE"
        # From 8.3 the variable is gone and tables are all there is.
        return variables.get(name, "TABLE").upper()

    def applier_workers(self, variables: t.Mapping[str, str]) -> int:
        """Threads that apply at once on each channel (MySQL) or in all (MariaDB); 0 without parallel appliers."""
        names = ("slave_parallel_threads",) if self._mariadb else self.parallel_workers_variables
        return next((int(variables[name]) for name in names if name in variables), 0)

    def applier_waits_for_whole_transactions(self, variables: t.Mapping[str, str]) -> bool:
        """STOP waits up to 60 s for the rest of a transaction of which a part was downloaded.

        MySQL with a multi-threaded applier, whatever the engine of the tables (seen on 5.6.24: SLAVE_WAIT_GROUP_DONE of
        rpl_slave.cc, which all versions have); others drop the part at once.
        """
        return not self._mariadb and self.applier_workers(variables) > 0

    def keeps_commit_order(self, variables: t.Mapping[str, str]) -> bool:
        """Transactions become visible in the source's order, whatever number of threads applies them.

        MySQL 5.6 has no such setting and never keeps it; MariaDB always does (within a GTID domain).
        """
        if self._mariadb or self.applier_workers(variables) < 2:
            return True
        names = ("replica_preserve_commit_order", "slave_preserve_commit_order")
        return next((variables[name] == "ON" for name in names if name in variables), False)

    def parallel_mode(self, variables: t.Mapping[str, str], of_channel: str) -> str:
        """How work is shared out among applier threads, in lower case; ``of_channel`` from the channel's own row.

        MariaDB: none, minimal, conservative, optimistic, aggressive. MySQL: database, logical_clock; a choice between
        the two only where there is a variable for it (5.7.2 and later, no more in 9.7).
        """
        if self._mariadb:
            return of_channel or variables.get("slave_parallel_mode", "")
        names = ("replica_parallel_type", "slave_parallel_type")
        default = "logical_clock" if self.version >= (5, 7, 2) else "database"
        return next((variables[name] for name in names if name in variables), default).lower()

    def is_replication_setting(self, name: str) -> bool:
        """A global variable that says how this server replicates, and that has one value for all channels."""
        word = neutral(name)
        if name in self.channel_settings.values():
            return False
        return word.startswith(("replica_", "rpl_")) or word in _REPLICATION_SETTINGS

    @property
    def semi_sync_replica_switch(self) -> tuple[str, ...]:
        """Variables, lower case, by which a replica's receivers ask for semi-sync; the first present counts."""
        return ("rpl_semi_sync_replica_enabled", "rpl_semi_sync_slave_enabled")

    @property
    def semi_sync_replica_status(self) -> tuple[str, ...]:
        """Status variables, lower case: whether a receiver uses semi-sync."""
        return ("rpl_semi_sync_replica_status", "rpl_semi_sync_slave_status")

    @property
    def channel_settings(self) -> dict[str, str]:
        """Column of the status row (neutral) to variable, for what MariaDB keeps in memory for each connection."""
        if not self._mariadb:
            return {}
        return {
            **{name: name for name in FILTERS},
            "parallel_mode": "slave_parallel_mode",
            "skip_counter": "sql_slave_skip_counter",
            "max_relay_log_size": "max_relay_log_size",
        }

    @property
    def changed_settings(self) -> str | None:
        """Query for the ``name`` of each variable that was set at run time and is lost by a restart; None: cannot say.

        MySQL 8.0: ``variables_info`` tells where a value comes from; what was set with SET PERSIST is not lost.
        """
        if self._mariadb:
            if self.version < (10, 1, 1):
                return None
            return (
                "SELECT VARIABLE_NAME AS name FROM information_schema.SYSTEM_VARIABLES"
                " WHERE GLOBAL_VALUE_ORIGIN = 'SQL'"
            )
        if self.version < (8, 0, 2):
            return None
        return (
            "SELECT i.VARIABLE_NAME AS name FROM performance_schema.variables_info i"
            " JOIN performance_schema.global_variables g USING (VARIABLE_NAME)"
            " LEFT JOIN performance_schema.persisted_variables p USING (VARIABLE_NAME)"
            " WHERE i.VARIABLE_SOURCE = 'DYNAMIC'"
            " AND (p.VARIABLE_VALUE IS NULL OR p.VARIABLE_VALUE <> g.VARIABLE_VALUE)"
        )

    @property
    def filters_can_change(self) -> bool:
        """Filters can be set without a restart (MySQL 5.7.3), and then are lost by one."""
        return self._mariadb or self.version >= (5, 7, 3)

    @property
    def has_channel_filters(self) -> bool:
        """Each channel may have filters of its own (MySQL 8.0.1)."""
        return self._mariadb or self.version >= (8, 0, 1)

    @property
    def changed_filters(self) -> str | None:
        """Query with one row for each filter that was set (or emptied) at run time; None: the server cannot say."""
        if self._mariadb or not self.has_channel_filters:
            return None
        return (
            "SELECT FILTER_NAME AS name FROM performance_schema.replication_applier_filters"
            " WHERE CONFIGURED_BY LIKE 'CHANGE%' UNION ALL"
            " SELECT FILTER_NAME FROM performance_schema.replication_applier_global_filters"
            " WHERE CONFIGURED_BY LIKE 'CHANGE%'"
        )

    @property
    def global_filters(self) -> str | None:
        """Query for ``name`` and ``rule`` of the filters that channels made later begin with."""
        if self._mariadb or not self.has_channel_filters:
            return None
        return (
            "SELECT FILTER_NAME AS name, FILTER_RULE AS rule FROM performance_schema.replication_applier_global_filters"
        )

    def set_variable(self, name: str, now: str, wanted: str) -> list[Statement]:
        """Bring a global variable from one value to another; both as SHOW GLOBAL VARIABLES prints them."""
        steps = [wanted]
        if name == "gtid_mode" and {now, wanted} <= set(_GTID_STEPS):
            here, there = _GTID_STEPS.index(now), _GTID_STEPS.index(wanted)
            way = range(here + 1, there + 1) if there > here else range(here - 1, there - 1, -1)
            steps = [_GTID_STEPS[step] for step in way]
        return [(f"SET GLOBAL {name} = %s", (_typed(step),)) for step in steps]

    def set_channel_setting(self, channel: str, setting: str, wanted: str) -> list[Statement]:
        """MariaDB: such a variable belongs to the connection that the session has chosen."""
        value: t.Any = wanted if setting in FILTERS else _typed(wanted)
        return [
            ("SET @@SESSION.default_master_connection = %s", (channel,)),
            (f"SET GLOBAL {self.channel_settings[setting]} = %s", (value,)),
            ("SET @@SESSION.default_master_connection = %s", ("",)),
        ]

    def change_filters(self, channel: str | None, filters: t.Mapping[str, str]) -> Statement:
        """MySQL: set the filters named, as SHOW REPLICA STATUS prints them; ``channel`` None sets those of all.

        A database whose name contains a comma is printed like two, and cannot be told from them.
        """
        parts: list[tuple[str, t.Any]] = []
        for name, text in filters.items():
            parts.append((f"{', ' if parts else ''}{name.upper()} = (", None))
            for number, (word, argument) in enumerate(_filter_items(name, text)):
                parts.append((f"{', ' if number else ''}{word}", argument))
            parts.append((")", None))
        if channel is not None and self.has_channel_filters:
            parts += [(" FOR CHANNEL ", None), ("%s", channel)]
        arguments = tuple(argument for _word, argument in parts if argument is not None)
        # Percent signs are doubled only where arguments are filled in.
        words = [word.replace("%", "%%") if arguments and argument is None else word for word, argument in parts]
        return ("CHANGE REPLICATION FILTER " + "".join(words), arguments)


def _typed(value: str) -> int | Decimal | str:
    """Numbers must not be quoted in SET; ON and OFF may be."""
    if re.fullmatch(r"-?\d+", value):
        return int(value)
    return Decimal(value) if re.fullmatch(r"-?\d+\.\d+", value) else value


def _filter_items(name: str, text: str) -> list[tuple[str, t.Any]]:
    """(SQL, argument or None) for each item of a filter: names are identifiers, patterns are texts."""
    if name == "replicate_rewrite_db":
        pairs = re.findall(r"\(([^,()]*),([^,()]*)\)", text)
        return [(f"({_quoted(old)}, {_quoted(new)})", None) for old, new in pairs]
    items = [item for item in text.split(",") if item]
    if "wild" in name:
        return [("%s", item) for item in items]
    if name.endswith("_table"):
        return [(".".join(_quoted(word) for word in item.split(".", 1)), None) for item in items]
    return [(_quoted(item), None) for item in items]


def _quoted(name: str) -> str:
    return "`" + name.replace("`", "``") + "`"
