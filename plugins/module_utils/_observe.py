# Copyright (c) 2026, mysql_ops contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Look at a live server: everything that guards, plan, ledger and the info module are built from. Read-only."""

from __future__ import annotations

import os
import typing as t
from dataclasses import dataclass

from ansible_collections.mysql_ops.replica_backup.plugins.module_utils import (
    _connection,
    _error_log,
    _replication,
    _run_time,
    _server,
)
from ansible_collections.mysql_ops.replica_backup.plugins.module_utils._connection import Identity, Login, Session
from ansible_collections.mysql_ops.replica_backup.plugins.module_utils._dialect import Dialect
from ansible_collections.mysql_ops.replica_backup.plugins.module_utils._errors import ReplicaBackupError
from ansible_collections.mysql_ops.replica_backup.plugins.module_utils._replication import Channel
from ansible_collections.mysql_ops.replica_backup.plugins.module_utils._run_time import RunTime
from ansible_collections.mysql_ops.replica_backup.plugins.module_utils._server import ServerProcess

# Settings without which the files may not open, or not go on as a replica, on another server.
RESTORE_SETTINGS = (
    "aria_log_dir_path",
    "basedir",
    "character_set_server",
    "collation_server",
    "datadir",
    "default_storage_engine",
    "enforce_gtid_consistency",
    "gtid_mode",
    "gtid_strict_mode",
    "innodb_checksum_algorithm",
    "innodb_data_file_path",
    "innodb_data_home_dir",
    "innodb_directories",
    "innodb_doublewrite_dir",
    "innodb_file_per_table",
    "innodb_log_file_size",
    "innodb_log_files_in_group",
    "innodb_log_group_home_dir",
    "innodb_page_size",
    "innodb_redo_log_capacity",
    "innodb_undo_directory",
    "innodb_undo_tablespaces",
    "innodb_version",
    "log_bin",
    "log_bin_basename",
    "log_bin_index",
    "log_replica_updates",
    "log_slave_updates",
    "lower_case_table_names",
    "master_info_repository",
    "pid_file",
    "port",
    "relay_log",
    "relay_log_basename",
    "relay_log_index",
    "relay_log_info_file",
    "relay_log_info_repository",
    "relay_log_recovery",
    "replica_load_tmpdir",
    "replica_parallel_workers",
    "server_id",
    "server_uuid",
    "slave_load_tmpdir",
    "slave_parallel_mode",
    "slave_parallel_workers",
    "socket",
    "tmpdir",
    "version",
    "version_comment",
)
# Where the server keeps files; for mysql_replica_info.
PATH_SETTINGS = tuple(
    name
    for name in (
        *RESTORE_SETTINGS,
        "general_log_file",
        "log_error",
        "plugin_dir",
        "secure_file_priv",
        "slow_query_log_file",
        "ssl_ca",
        "ssl_cert",
        "ssl_key",
    )
    if any(word in name for word in ("dir", "file", "path", "basename", "index", "socket", "log_error", "ssl_"))
    and not any(word in name for word in ("size", "_in_group", "per_table"))
)


@dataclass(frozen=True)
class Observed:
    """One look at a running server. ``connected_replicas`` is None when the account cannot see other sessions."""

    identity: Identity
    dialect: Dialect
    variables: dict[str, str]
    channels: tuple[Channel, ...]
    connected_replicas: tuple[str, ...] | None
    cluster: str | None
    process: ServerProcess
    run_time: RunTime

    @property
    def datadir(self) -> str:
        return self.variables["datadir"]

    @property
    def pid_file(self) -> str | None:
        return self.variables.get("pid_file") or None

    def server_facts(self) -> dict[str, t.Any]:
        """The ``server`` section of ledger and manifest."""
        return {
            "family": self.identity.family,
            "version": list(self.identity.version),
            "version_text": self.identity.version_text,
            "uuid": self.variables.get("server_uuid", ""),
            "server_id": int(self.variables.get("server_id", "0")),
            "datadir": self.datadir,
            "pid_file": self.pid_file,
            "error_log": _error_log.path_of(self.variables),
            "process": self.process.to_dict(),
            "variables": {name: self.variables[name] for name in RESTORE_SETTINGS if name in self.variables},
        }

    def channel_facts(self, channels: t.Iterable[Channel]) -> list[dict[str, t.Any]]:
        """The ``channels`` section: how each channel stands, where its metadata is kept, and how it applies."""
        repository = {which: self.dialect.repository_kind(self.variables, which) for which in ("connection", "applier")}
        before = {channel.name: channel for channel in self.channels}
        return [
            {
                **channel.to_dict(),
                "repository": repository,
                "parallel": {
                    "workers": self.dialect.applier_workers(self.variables),
                    "mode": self.dialect.parallel_mode(self.variables, channel.parallel_mode),
                    "keeps_commit_order": self.dialect.keeps_commit_order(self.variables),
                },
                "threads_before": {
                    "io": before.get(channel.name, channel).io_started,
                    "applier": before.get(channel.name, channel).applier_started,
                },
            }
            for channel in channels
        ]


def observe(session: Session, login: Login) -> Observed:
    """Look at the server behind ``session``, which was opened with ``login``.

    Raises ReplicaBackupError when its process is not on this host (the files to back up are elsewhere then).
    """
    identity = _connection.identify(session)
    dialect = Dialect(identity.family, identity.version)
    variables = session.variables()
    channels = tuple(_replication.read_channels(session, dialect))
    connected = _replication.connected_replicas(
        session, threads_running=any(channel.io_started or channel.applier_started for channel in channels)
    )
    process = _server.find_process(datadir=variables["datadir"], pid_file=variables.get("pid_file"))
    # Over TCP another host may answer whose datadir has the same path as one of ours.
    elsewhere = not login.unix_socket and variables.get("hostname", "") not in ("", os.uname().nodename)
    if process is None or elsewhere:
        raise ReplicaBackupError(
            "The server answers, but no process on this host serves its data directory",
            found=f"datadir {variables['datadir']}, hostname {variables.get('hostname')}",
            expected="login options that lead to the server on this very host",
            server_state="running, untouched",
        )
    return Observed(
        identity=identity,
        dialect=dialect,
        variables=variables,
        channels=channels,
        connected_replicas=None if connected is None else tuple(connected),
        cluster=_replication.cluster_membership(session, dialect, variables),
        process=process,
        run_time=_run_time.capture(session, dialect, variables, channels),
    )
