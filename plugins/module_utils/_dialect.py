# Copyright (c) 2026, mysql_ops contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What each server family and version calls things: the only place that knows versions.

Sources: MySQL 5.6, 5.7, 8.0, 8.4 and 9.x reference manuals ("SHOW REPLICA STATUS", "START REPLICA",
"Replica server options"); MariaDB Knowledge Base ("SHOW REPLICA STATUS", "Multi-source replication").
"""

from __future__ import annotations

import re
import typing as t
from dataclasses import dataclass

# SQL with %s for each argument; the session quotes the arguments.
Statement = tuple[str, tuple[t.Any, ...]]

# Old and new words of one thing in column and variable names.
_WORDS = ((re.compile(r"master", re.I), "source"), (re.compile(r"slave", re.I), "replica"))


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
    def has_ddl_recovery_log(self) -> bool:
        """``ddl_recovery.log`` exists while the server runs, and after a crash (MariaDB 10.6)."""
        return self._mariadb and self.version >= (10, 6, 0)

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

    def repository_kind(self, variables: t.Mapping[str, str], which: str) -> str:
        """ "FILE" or "TABLE" for ``which`` = "connection" (master.info) or "applier" (relay-log.info)."""
        name = {"connection": "master_info_repository", "applier": "relay_log_info_repository"}[which]
        if self._mariadb:
            return "FILE"
        # From 8.3 the variable is gone and tables are all there is.
        return variables.get(name, "TABLE").upper()
