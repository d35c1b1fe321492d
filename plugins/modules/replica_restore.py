# Copyright (c) 2026, mysql_ops contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Module replica_restore: lay a backup set onto a host, mapped to that host's own paths."""

from __future__ import annotations

DOCUMENTATION = r"""
module: replica_restore
short_description: Lays a backup set onto a host, ready to be started as a replica again
version_added: 0.1.0
description:
  - Reads where this host's server keeps its files (option files, unit, binary, disk) and lays the files of the set into
    those directories, wherever they were on the server that the set was made from. Separate directories for redo logs,
    undo tablespaces, relay logs, binary logs and so on are followed on both sides.
  - The set is laid down beside what is there, every byte compared with the manifest's SHA-256 on the way. Only when all
    of it is proven are the files exchanged, by renames. What was there is moved aside, as C(DATADIR.before-ID), and
    never deleted. A mount point cannot be renamed; there the old files go into C(.before-ID) inside it.
  - Until the exchange begins every error leaves the host as it was, a running server included. Interrupted during the
    exchange, the same restore run again goes on; until then nothing of this collection starts the server.
  - Indexes of logs, relay-log.info, C(.isl) files and symbolic links are made to name this host's paths. Option files
    are not laid down; they are the host's own and stay in the set.
  - The server is not started. That does M(mysql_ops.replica_backup.mysql_replica_resume), without replication first.
author:
  - mysql_ops contributors (@mysql-ops)
options:
  src:
    description:
      - Which set. A path of its directory, with its C(manifest.json); on the controller, unless O(remote_src) is set.
      - V(latest) is the newest complete set of O(host), V(HOST/latest) that of another one, V(HOST/ID) a certain one,
        all of them below O(sets_dir).
      - V(REMOTE:PATH/HOST/ID) names an object store or anything else that C(rclone) on the replica can read.
    type: str
    required: true
  host:
    description: Whose sets V(latest) in O(src) means, usually C(inventory_hostname).
    type: str
    default: ""
  sets_dir:
    description: Directory with the sets as C(HOST/ID), where O(src) is no path.
    type: str
    default: ""
  remote_src:
    description: The set lies on the replica, in a directory that may be mounted.
    type: bool
    default: false
  rclone_config:
    description: Configuration file of C(rclone) on the replica, for a O(src) of the form C(REMOTE:PATH).
    type: path
  timeout:
    description:
      - Seconds for which nothing may arrive of a set that comes from the controller or through C(rclone). Then the
        restore gives up and removes what it has laid down, so that a controller that died leaves nothing behind.
    type: int
    default: 300
  identity:
    description:
      - With V(same) the server takes its old identity back, C(auto.cnf) and all. Its C(server_id) must be the old one.
      - With V(clone) it becomes another replica of the same source. It makes a C(server_uuid) of its own, and its
        C(server_id) must be neither that of the set's server nor that of the source. Persisted settings and C(SQL_LOAD)
        files are left out.
    type: str
    choices: [same, clone]
    default: same
  force:
    description: Stop a server that runs on the data directory, once the set is laid down and proven.
    type: bool
    default: false
  allow_upgrade:
    description: Also when this host's server is of a newer series and will upgrade the files for good.
    type: bool
    default: false
  check_space:
    description: Whether to compare the sizes in the manifest with the free space. Files with large holes need less.
    type: bool
    default: true
  directories:
    description:
      - For directories that no setting names (of tablespaces, of keys) where they go on this host, old path to new
        path, with everything below. By default they go to the same path.
      - MySQL 8.0 and newer find tablespaces only there if C(innodb_directories) names the new path.
    type: dict
    default: {}
  datadir:
    description: The server's data directory, when its option files do not say it.
    type: path
  server_binary:
    description: The server's program. By default that of the service, else the one in the usual places.
    type: path
  defaults_file:
    description: The only option file that the server reads, as with its option C(--defaults-file).
    type: path
  defaults_group_suffix:
    description: Appended to the groups in the option files, as with the server's option C(--defaults-group-suffix).
    type: str
  service_manager:
    description: What stops a running server. See O(force).
    type: str
    choices: [auto, systemd, sysvinit, mysqld_safe, none]
    default: auto
  service_name:
    description: The unit, script or start command of the server, when the host has several or an unusual one.
    type: str
  shutdown_timeout:
    description: Seconds that a running server may take to stop.
    type: int
    default: 1800
  state_dir:
    description: Directory of the lock and of the restore's journal, as for the backup.
    type: path
    default: /var/lib/mysql-replica-backup
  request:
    description: Questions of the action plugin to its other half. Not for use in tasks.
    type: dict
attributes:
  check_mode:
    description: Returns where everything would go; refuses what would be refused. Nothing is written.
    support: full
  diff_mode:
    description: There is no text to compare.
    support: none
  platform:
    description: Platforms the module works on.
    platforms: posix
    support: full
requirements:
  - The tool that unpacks the set (zstd, lz4, xz) on the managed node
seealso:
  - module: mysql_ops.replica_backup.mysql_replica_resume
  - module: mysql_ops.replica_backup.replica_archive_verify
"""

EXAMPLES = r"""
- name: Lay a set of this host down again
  mysql_ops.replica_backup.replica_restore:
    src: /backups/db2/20260102T030405Z

- name: Make another replica of it
  mysql_ops.replica_backup.replica_restore:
    src: /mnt/backups/db2/20260102T030405Z
    remote_src: true
    identity: clone
"""

RETURN = r"""
set:
  description: The set, as C(HOST/ID).
  returned: success
  type: str
  sample: db2/20260102T030405Z
identity:
  description: As asked for.
  returned: success, except in check mode
  type: str
  sample: same
restore_id:
  description: UTC time that names what was moved aside.
  returned: success, except in check mode
  type: str
  sample: 20260103T040506Z
phase:
  description: V(laid) when the files are in place; further when the server was started already.
  returned: success, except in check mode
  type: str
  sample: laid
datadir:
  description: The data directory on this host.
  returned: success
  type: str
  sample: /var/lib/mysql
files:
  description: Names that were, or would be, laid down.
  returned: success
  type: int
  sample: 6218
bytes:
  description: Bytes written, or in check mode the size of all files.
  returned: success
  type: int
  sample: 2684354560
seconds:
  description: Seconds that it took until everything was proven.
  returned: success, except in check mode
  type: float
  sample: 12.5
moved_aside:
  description: Where the old files lie now.
  returned: success, except in check mode
  type: list
  elements: dict
  sample: [{"path": "/var/lib/mysql", "before": "/var/lib/mysql.before-20260103T040506Z"}]
relay_logs_unusable:
  description: Why the restored relay logs cannot be gone on with; empty when they can.
  returned: success, except in check mode
  type: str
  sample: ""
directories:
  description: Directories that files would go to, how each is exchanged, and its bytes.
  returned: in check mode
  type: list
  elements: dict
  sample: [{"path": "/var/lib/mysql", "style": "rename", "bytes": 2684354560}]
not_laid:
  description: Places of the set that would not be laid down, with their number of names.
  returned: in check mode
  type: dict
  sample: {"config": 2}
"""

import typing as t

from ansible.module_utils.basic import AnsibleModule

from ansible_collections.mysql_ops.replica_backup.plugins.module_utils._installed import Hints
from ansible_collections.mysql_ops.replica_backup.plugins.module_utils._module import (
    run,
    service_argument_spec,
    state_argument_spec,
)
from ansible_collections.mysql_ops.replica_backup.plugins.module_utils._restore import job
from ansible_collections.mysql_ops.replica_backup.plugins.module_utils._restore.answers import answer
from ansible_collections.mysql_ops.replica_backup.plugins.module_utils._restore.carry_out import to_data
from ansible_collections.mysql_ops.replica_backup.plugins.module_utils._restore.choose import choose_set


def request_of(params: t.Mapping[str, t.Any]) -> job.Request:
    return job.Request(
        state_dir=params["state_dir"],
        identity=params["identity"],
        hints=Hints(
            service_name=params["service_name"] or "",
            datadir=params["datadir"] or "",
            defaults_file=params["defaults_file"] or "",
            defaults_group_suffix=params["defaults_group_suffix"] or "",
            server_binary=params["server_binary"] or "",
        ),
        force=params["force"],
        allow_upgrade=params["allow_upgrade"],
        check_space=params["check_space"],
        moves=params["directories"],
        service_manager=params["service_manager"],
        service_name=params["service_name"],
        shutdown_timeout=float(params["shutdown_timeout"]),
    )


def main() -> None:
    module = AnsibleModule(
        argument_spec={
            **state_argument_spec(),
            **service_argument_spec(),
            "src": {"type": "str", "required": True},
            "host": {"type": "str", "default": ""},
            "sets_dir": {"type": "str", "default": ""},
            "remote_src": {"type": "bool", "default": False},
            "rclone_config": {"type": "path"},
            "timeout": {"type": "int", "default": 300},
            "request": {"type": "dict"},
            "identity": {"type": "str", "choices": ["same", "clone"], "default": "same"},
            "force": {"type": "bool", "default": False},
            "allow_upgrade": {"type": "bool", "default": False},
            "check_space": {"type": "bool", "default": True},
            "directories": {"type": "dict", "default": {}},
            "datadir": {"type": "path"},
            "server_binary": {"type": "path"},
            "defaults_file": {"type": "path"},
            "defaults_group_suffix": {"type": "str"},
            "shutdown_timeout": {"type": "int", "default": 1800},
        },
        supports_check_mode=True,
    )
    params = module.params

    wanted = request_of(params)

    def work() -> dict[str, t.Any]:
        src = params["src"]
        if params["remote_src"]:
            src = choose_set(src, params["sets_dir"], params["host"])
        return answer(
            params["request"],
            state_dir=params["state_dir"],
            src=src,
            rclone_config=params["rclone_config"],
            timeout=float(params["timeout"]),
            entry="_restore.carry_out:carry_out",
            request=to_data(wanted),
            plan=lambda feed: job.restore(wanted, feed, check=True),
        )

    run(module, work, needs_pymysql=False)


if __name__ == "__main__":
    main()
