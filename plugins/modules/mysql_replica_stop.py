# Copyright (c) 2026, mysql_ops contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
from __future__ import annotations

DOCUMENTATION = r"""
module: mysql_replica_stop
short_description: Stop a replica cleanly so that its files can be copied
version_added: 0.1.0
description:
  - Refuses, with the name of the rule, the value seen and the variable that relaxes it, when the server is not a
    replica, has replicas of its own, has a stopped or failing channel, lags too far behind, belongs to a Galera or
    group replication cluster, or when the host lacks room, tools or time for the archive.
  - Arms a dead-man on the host that starts the server again when nobody else does in time, or when no step of the run
    is at work any more and none has come for O(lease) seconds.
  - Writes InnoDB's dirty pages while the server still serves, so that the shutdown has little left to write.
  - Stops the receivers, lets the appliers execute what was downloaded, waits for open temporary tables, stops the
    appliers, and records the coordinates of every channel in the ledger.
  - Shuts the server down through the service manager that owns it, waits for the process, and proves that the stop
    was clean.
  - With O(capture_now) it goes on at once, in the same step, archives or clones the files, and starts the server again.
    Neither controller nor connection is needed in between. M(mysql_ops.replica_backup.replica_archive) makes the
    archive from a clone while the server serves.
  - When anything fails on the way, the server and its threads are brought back before the module fails.
attributes:
  check_mode:
    support: full
    description: Evaluates all rules and returns the plan. Changes nothing.
  diff_mode:
    support: none
    description: The plan in the result says what changes.
extends_documentation_fragment:
  - mysql_ops.replica_backup.login
  - mysql_ops.replica_backup.run
  - mysql_ops.replica_backup.service
options:
  run_id:
    description:
      - Name of the run that the stop belongs to. A second call of the same run finds the server stopped and changes
        nothing.
      - The default is O(backup_id).
    type: str
  format:
    description: Archive format that is planned; decides which tools must be there.
    type: str
    choices: [tar, zip, copy]
    default: tar
  compression:
    description: Compression that is planned; its tool must be there.
    type: str
    choices: [none, gzip, zstd, lz4, xz]
    default: zstd
  compression_level:
    description: Level that is planned for the compressor; refused here when it has no such level.
    type: int
  compression_threads:
    description: Threads that are planned for the compressor; 0 takes one for each CPU.
    type: int
    default: 0
  shards:
    description: Into how many tar files the archive is to go, as for M(mysql_ops.replica_backup.replica_archive).
    type: int
    default: 1
  capture:
    description:
      - How the files are to be captured; the guards ask for the room and the time that it takes.
      - V(cold) archives them from the stopped server, as M(mysql_ops.replica_backup.replica_archive) does for the state
        V(captured).
      - V(snapshot) clones them within a moment, by shared blocks (XFS with reflink, btrfs) or snapshots of the volumes
        (btrfs, LVM, ZFS). Refused where a file system of the server can do neither, unless it has only a few MiB.
      - V(staged) copies them to the spool while the server runs, and what has changed since while it is down.
      - V(copy) copies them to the spool while it is down.
      - V(auto) takes V(snapshot) where it can, else V(staged) where there is room and a cold archive would take long,
        else V(cold); RV(capture) says why.
    type: str
    choices: [auto, cold, snapshot, staged, copy]
    default: cold
  capture_now:
    description:
      - Capture the files at once, in this step. Needs the list that
        M(mysql_ops.replica_backup.replica_files_discover) has written.
      - Otherwise the server is left stopped, for M(mysql_ops.replica_backup.replica_snapshot) or
        M(mysql_ops.replica_backup.replica_archive).
    type: bool
    default: false
  snapshot_size:
    description: Room for a classic LVM snapshot, in percent (1 to 100) of its origin. Thin volumes need none.
    type: int
    default: 20
  throttle:
    description:
      - MiB per second that a pre-copy (O(capture=staged)) may read while the server serves; 0 for no limit. It runs at
        the lowest priority for CPU and disk in any case.
    type: int
    default: 0
  start_server:
    description:
      - With O(capture_now), start the server the moment the capture stands or has failed, with threads as before.
      - V(false) says that it stays down until its set has left the host, so that a clone would be of no use;
        O(capture=auto) means V(cold) then.
    type: bool
    default: true
  include_binlogs:
    description: Whether the replica's own binary logs are part of the backup.
    type: bool
    default: true
  max_lag:
    description: Seconds that a channel may be behind its source, beyond its configured delay.
    type: int
    default: 300
  allow_connected_replicas:
    description: Stop a server although others replicate from it.
    type: bool
    default: false
  allow_stopped_channels:
    description: Back up a replica some of whose threads are stopped. They stay stopped.
    type: bool
    default: false
  allow_channel_errors:
    description: Back up a replica although a channel reports an error.
    type: bool
    default: false
  allow_refetch:
    description:
      - Stop a MariaDB replica that uses GTIDs although transactions wait in its relay logs (a delayed channel, a
        stopped applier). Such a server drops its relay logs at every restart and fetches them once more.
      - Make sure before that the source still has them; if it has purged them, the replica cannot go on.
    type: bool
    default: false
  space_factor:
    description: Room that must be free for O(spool_dir), as a multiple of the data's size on disk.
    type: float
    default: 1.0
  flush_timeout:
    description:
      - Seconds that may be spent, while the server still serves, on writing InnoDB's dirty pages before the stop. Ends
        earlier when few are left or when as much is dirtied as is written. Not done for less than 16 MiB.
      - It sets C(innodb_max_dirty_pages_pct) to 0 and raises C(innodb_io_capacity). Both are lost with the shutdown,
        and put back when the stop fails. For an account that may not set them there is a warning with the C(GRANT) that
        it lacks.
      - 0 leaves all of it to the shutdown.
    type: int
    default: 60
  warm:
    description: Note the pages of the buffer pool before the stop and load them after the start, on a server that is
      not set to do that by itself.
    type: bool
    default: true
  drain_timeout:
    description: Seconds without progress that the appliers may take to execute what was downloaded.
    type: int
    default: 300
  temp_tables_timeout:
    description: Seconds to wait for the applier's open temporary tables to be closed.
    type: int
    default: 60
  statement_timeout:
    description: Seconds that a single statement, such as STOP REPLICA, may take.
    type: int
    default: 60
  shutdown_timeout:
    description: Seconds that the shutdown may take. The server is never killed.
    type: int
    default: 1800
  start_timeout:
    description: Seconds that the server may take to answer when it is brought back after a failure.
    type: int
    default: 600
  downtime_budget:
    description:
      - Seconds after which the dead-man starts the server; 10 at least.
      - Refuses a server whose archive would take longer, by what the last backups of this host took, or by a sample of
        its data (two seconds at most) where that is not known.
    type: int
    default: 3600
  lease:
    description:
      - Seconds that the next step of the run may be in coming after this module has ended. When nobody is at work for
        longer, the dead-man starts the server before the budget is used up.
      - A controller that has several hosts under way may be held up by another one; give it the whole
        O(downtime_budget) then.
    type: int
    default: 90
author:
  - mysql_ops contributors (@mysql-ops)
seealso:
  - module: mysql_ops.replica_backup.mysql_replica_start
  - module: mysql_ops.replica_backup.replica_archive
"""

EXAMPLES = r"""
- name: Would this replica be stopped?
  mysql_ops.replica_backup.mysql_replica_stop:
    login_unix_socket: /run/mysqld/mysqld.sock
    host: "{{ inventory_hostname }}"
    backup_id: 20260101T030000Z
  check_mode: true

- name: Stop it
  mysql_ops.replica_backup.mysql_replica_stop:
    login_unix_socket: /run/mysqld/mysqld.sock
    host: "{{ inventory_hostname }}"
    backup_id: 20260101T030000Z
    max_lag: 30

- name: Stop it, archive its files and start it again, in one step that outlives the connection
  mysql_ops.replica_backup.mysql_replica_stop:
    login_unix_socket: /run/mysqld/mysqld.sock
    host: "{{ inventory_hostname }}"
    backup_id: 20260101T030000Z
    capture: cold
    capture_now: true
  async: 86400
  poll: 5

- name: Stop it, clone its files by whatever the host can do quickest, and start it again
  mysql_ops.replica_backup.mysql_replica_stop:
    login_unix_socket: /run/mysqld/mysqld.sock
    host: "{{ inventory_hostname }}"
    backup_id: 20260101T030000Z
    capture: auto
    capture_now: true
  async: 86400
  poll: 5
  register: stopped

- name: Archive the clone while the server serves
  mysql_ops.replica_backup.replica_archive:
    host: "{{ inventory_hostname }}"
    backup_id: 20260101T030000Z
    state: captured
    throttle: 50
  when: stopped.clone is defined
"""

RETURN = r"""
plan:
  description:
    - What was decided from facts, with the verdict of every rule.
    - C(predicted_downtime) has C(seconds), C(least) (by the quickest of the last backups), C(bytes) and C(source), or
      is none where nothing was measured and the data are too few to matter.
  returned: unless the server was stopped already
  type: dict
  sample: {"service_manager": "systemd", "service_name": "mariadb.service", "data_bytes": 123456789}
run_id:
  description: The run.
  returned: when stopped
  type: str
  sample: 20260101T030000Z
channels:
  description: Coordinates of every channel at rest.
  returned: when stopped
  type: list
  elements: dict
  sample: [{"name": "", "source_log_file": "binlog.000001", "source_log_pos": 1416}]
clean_stop:
  description: How the clean stop was proven.
  returned: when stopped
  type: dict
  sample: {"clean": true, "proofs": [{"name": "process", "verdict": true, "detail": "process 812 is gone"}]}
service:
  description: What stopped the server.
  returned: when stopped
  type: dict
  sample: {"manager": "systemd", "name": "mariadb.service"}
ledger:
  description: Path of the ledger.
  returned: when stopped
  type: str
  sample: /var/lib/mysql-replica-backup/ledger.json
deadline:
  description: When the dead-man fires, UTC.
  returned: when stopped
  type: str
  sample: "2026-01-01T04:00:00.000000Z"
times:
  description: Start, end and seconds of every step.
  returned: when stopped
  type: dict
  sample: {"shutdown": {"start": "2026-01-01T03:00:01.000000Z", "end": "2026-01-01T03:00:02.000000Z", "seconds": 1.0}}
shutdown_waited_for:
  description: What the shutdown waited for, by the pages and entries before it, the bytes written and the error log.
  returned: when stopped
  type: list
  elements: str
  sample: ["stop 0.2 s", "32 dirty pages to write (0 MiB)", "the server wrote 0 MiB during it"]
archive:
  description: What the capture made, as M(mysql_ops.replica_backup.replica_archive) returns it.
  returned: after a cold capture
  type: dict
  sample: {"set_dir": "/var/backups/mysql-replica/db2/20260101T030000Z", "files": 6218}
clone:
  description: What the capture made, as M(mysql_ops.replica_backup.replica_snapshot) returns it.
  returned: after a capture by snapshot, staged or copy
  type: dict
  sample: {"capture": "snapshot", "files": 6218, "bytes": 2684354560, "seconds": 0.1}
capture:
  description: The capture that was chosen, why, and by what means for each file system.
  returned: when stopped
  type: dict
  sample: {"capture": "snapshot", "why": "asked for", "by": [{"roots": ["/var/lib/mysql"], "by": "reflink"}]}
server_restored:
  description: Whether the server runs again, threads as before.
  returned: with O(capture_now=true) and O(start_server=true), and when the module failed after the first change
  type: bool
  sample: true
start_error:
  description: Why it does not; empty when it does.
  returned: with O(capture_now=true) and O(start_server=true)
  type: str
  sample: ""
stopped:
  description: Whether this run had stopped the server when the module failed.
  returned: when the capture failed
  type: bool
  sample: true
"""

import typing as t

from ansible.module_utils.basic import AnsibleModule

from ansible_collections.mysql_ops.replica_backup.plugins.module_utils import _handover
from ansible_collections.mysql_ops.replica_backup.plugins.module_utils._errors import RefusedError
from ansible_collections.mysql_ops.replica_backup.plugins.module_utils._guards import Policy
from ansible_collections.mysql_ops.replica_backup.plugins.module_utils._layout import SetPaths
from ansible_collections.mysql_ops.replica_backup.plugins.module_utils._module import (
    login_argument_spec,
    login_from_params,
    run,
    run_argument_spec,
    service_argument_spec,
)
from ansible_collections.mysql_ops.replica_backup.plugins.module_utils._replication import Limits
from ansible_collections.mysql_ops.replica_backup.plugins.module_utils._start import StartRequest
from ansible_collections.mysql_ops.replica_backup.plugins.module_utils._stop import StopRequest, stop

# Smallest values that make sense, in seconds.
_AT_LEAST = {
    "max_lag": 0,
    "flush_timeout": 0,
    "drain_timeout": 1,
    "temp_tables_timeout": 0,
    "statement_timeout": 1,
    "shutdown_timeout": 1,
    "start_timeout": 1,
    "downtime_budget": 10,
    "lease": 30,
    "snapshot_size": 1,
    "throttle": 0,
}
_UNITS = {"lease": "seconds", "snapshot_size": "percent", "throttle": "MiB per second"}


def _request(params: t.Mapping[str, t.Any]) -> StopRequest:
    for name, least in _AT_LEAST.items():
        if params[name] < least:
            raise RefusedError(
                f"The value of {name} is too small",
                found=params[name],
                expected=f"{least} {_UNITS.get(name, 'seconds')} or more"
                + ("" if name == "lease" else f"; variable replica_backup_{name}"),
                server_state="untouched",
                rule="input",
            )
    if params["snapshot_size"] > 100:
        raise RefusedError(
            "The value of snapshot_size is too large",
            found=params["snapshot_size"],
            expected="100 percent of the origin at most; variable replica_backup_snapshot_size",
            server_state="untouched",
            rule="input",
        )
    return StopRequest(
        login=login_from_params(params),
        paths=SetPaths(params["spool_dir"], params["host"], params["backup_id"]),
        state_dir=params["state_dir"],
        run_id=params["run_id"] or params["backup_id"],
        policy=Policy(
            max_lag=params["max_lag"],
            allow_connected_replicas=params["allow_connected_replicas"],
            allow_stopped_channels=params["allow_stopped_channels"],
            allow_channel_errors=params["allow_channel_errors"],
            allow_refetch=params["allow_refetch"],
            space_factor=params["space_factor"],
        ),
        format=params["format"],
        compression=params["compression"],
        compression_level=params["compression_level"],
        compression_threads=params["compression_threads"],
        shards=params["shards"],
        include_binlogs=params["include_binlogs"],
        service_manager=params["service_manager"],
        service_name=params["service_name"],
        flush_timeout=params["flush_timeout"],
        warm=params["warm"],
        limits=Limits(drain=params["drain_timeout"], temp_tables=params["temp_tables_timeout"]),
        statement_timeout=params["statement_timeout"],
        shutdown_timeout=params["shutdown_timeout"],
        start_timeout=params["start_timeout"],
        downtime_budget=params["downtime_budget"],
        gap=params["lease"],
        capture=params["capture"],
        stays_down=not params["start_server"],
        snapshot_size=params["snapshot_size"],
        bytes_per_second=params["throttle"] * 1024 * 1024,
    )


def _work(params: t.Mapping[str, t.Any], check: bool) -> dict[str, t.Any]:
    request = _request(params)
    if check or not params["capture_now"]:
        return stop(request, check=check)
    return _handover.stop_then_capture(
        lambda: stop(request),
        lambda: _handover.by_plan(request.archive),
        StartRequest(
            login=request.login,
            state_dir=request.state_dir,
            run_id=request.run_id,
            host=request.paths.host,
            shutdown_timeout=request.shutdown_timeout,
            start_timeout=request.start_timeout,
        ),
        start_server=params["start_server"],
    )


def main() -> None:
    module = AnsibleModule(
        argument_spec={
            **login_argument_spec(),
            **run_argument_spec(),
            **service_argument_spec(),
            "run_id": {"type": "str"},
            "format": {"type": "str", "choices": ["tar", "zip", "copy"], "default": "tar"},
            "compression": {"type": "str", "choices": ["none", "gzip", "zstd", "lz4", "xz"], "default": "zstd"},
            "compression_level": {"type": "int"},
            "compression_threads": {"type": "int", "default": 0},
            "shards": {"type": "int", "default": 1},
            "capture": {"type": "str", "choices": ["auto", "cold", "snapshot", "staged", "copy"], "default": "cold"},
            "capture_now": {"type": "bool", "default": False},
            "snapshot_size": {"type": "int", "default": 20},
            "throttle": {"type": "int", "default": 0},
            "start_server": {"type": "bool", "default": True},
            "include_binlogs": {"type": "bool", "default": True},
            "max_lag": {"type": "int", "default": 300},
            "allow_connected_replicas": {"type": "bool", "default": False},
            "allow_stopped_channels": {"type": "bool", "default": False},
            "allow_channel_errors": {"type": "bool", "default": False},
            "allow_refetch": {"type": "bool", "default": False},
            "space_factor": {"type": "float", "default": 1.0},
            "flush_timeout": {"type": "int", "default": 60},
            "warm": {"type": "bool", "default": True},
            "drain_timeout": {"type": "int", "default": 300},
            "temp_tables_timeout": {"type": "int", "default": 60},
            "statement_timeout": {"type": "int", "default": 60},
            "shutdown_timeout": {"type": "int", "default": 1800},
            "start_timeout": {"type": "int", "default": 600},
            "downtime_budget": {"type": "int", "default": 3600},
            "lease": {"type": "int", "default": 90},
        },
        supports_check_mode=True,
    )
    run(module, lambda: _work(module.params, module.check_mode))


if __name__ == "__main__":
    main()
