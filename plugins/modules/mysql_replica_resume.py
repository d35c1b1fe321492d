# Copyright (c) 2026, mysql_ops contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Module mysql_replica_resume: a server whose files were restored becomes a replica again."""

from __future__ import annotations

DOCUMENTATION = r"""
module: mysql_replica_resume
short_description: Starts a restored server without replication, looks at it, and lets it replicate again
version_added: 0.1.0
description:
  - Follows M(mysql_ops.replica_backup.replica_restore). Starts the server with its replication threads kept stopped for
    this one start, and compares what came up with the set. Identity, version, data directory, channels and their
    coordinates, tables, and what the server logged all have to be as promised before any thread starts.
  - Then every channel goes on as it did when the backup was made; one that was stopped stays stopped. With O(catch_up)
    it waits until the replica has caught up. At the end the restore is finished and its journal closed.
  - Interrupted or failed, it can be called again and goes on where it stands.
author:
  - mysql_ops contributors (@mysql-ops)
options:
  resume:
    description:
      - V(relay_logs) goes on with the restored relay logs.
      - V(reposition) reads the source's binary logs again from where the applier stood when the backup was made.
      - V(auto_position) lets channels that use GTIDs fetch what is missing by GTID; refused for others.
      - V(none) leaves all threads stopped and returns the statements that start them.
      - V(auto) takes the relay logs where they are usable, else the GTIDs, else the position.
    type: str
    choices: [auto, relay_logs, reposition, auto_position, none]
    default: auto
  source_login_user:
    description:
      - Account on the sources, whose hosts and ports are those of the channels.
      - With it they are asked whether they still have what comes next, and which C(server_id) their replicas have.
        V(reposition) needs it in O(resume).
    type: str
  source_login_password:
    description: Its password.
    type: str
  source_ca_cert:
    description: File of the certificate authority for TLS to the sources.
    type: path
  start_timeout:
    description: Seconds that the server may take to answer.
    type: int
    default: 600
  catch_up:
    description: Wait until the replica has caught up.
    type: bool
    default: true
  catch_up_timeout:
    description: Seconds without progress after which catching up has failed.
    type: int
    default: 3600
  catch_up_max_lag:
    description: Seconds of lag, beyond the configured delay, that count as caught up.
    type: int
    default: 1
  lock_timeout:
    description: Seconds to wait for another run on this server to end.
    type: int
    default: 120
  state_dir:
    description: Directory of the restore's journal.
    type: path
    default: /var/lib/mysql-replica-backup
extends_documentation_fragment:
  - mysql_ops.replica_backup.login
  - mysql_ops.replica_backup.service
attributes:
  check_mode:
    support: full
    description: Says how the server would be started, and how each channel would go on.
  diff_mode:
    support: none
    description: The actions in the result say what changed.
  platform:
    description: Platforms the module works on.
    platforms: posix
    support: full
requirements:
  - PyMySQL on the managed node
  - An account of the restored server, which are those of the set, with the rights that
    M(mysql_ops.replica_backup.mysql_replica_start) needs, and SELECT on the tables for the look into each
seealso:
  - module: mysql_ops.replica_backup.replica_restore
  - module: mysql_ops.replica_backup.mysql_replica_reposition
"""

EXAMPLES = r"""
- name: Start what was restored, and let it replicate
  mysql_ops.replica_backup.mysql_replica_resume:
    login_unix_socket: /run/mysqld/mysqld.sock

- name: The same, after asking the source
  mysql_ops.replica_backup.mysql_replica_resume:
    login_unix_socket: /run/mysqld/mysqld.sock
    source_login_user: monitor
    source_login_password: "{{ vaulted_monitor_password }}"
"""

RETURN = r"""
restore_id:
  description: Name of the restore.
  returned: once there is one
  type: str
  sample: 20260103T040506Z
set:
  description: The set, as C(HOST/ID).
  returned: success
  type: str
  sample: db2/20260102T030405Z
identity:
  description: V(same) or V(clone).
  returned: success
  type: str
  sample: same
phase:
  description: V(done) when the restore is finished; otherwise where the next call goes on.
  returned: once there is a restore
  type: str
  sample: done
server_started:
  description: Whether this call started the server.
  returned: success, except in check mode
  type: bool
  sample: true
actions:
  description: What was done, in order.
  returned: success, except in check mode
  type: list
  elements: str
  sample: ["started the server through systemd mariadb.service with --skip-slave_start, this once"]
checks:
  description: What was looked at before any thread started; C(verdict) is null for what is not known.
  returned: success, except in check mode
  type: list
  elements: dict
  sample: [{"name": "tables", "verdict": true, "detail": "212 of 212 tables opened"}]
channels:
  description: Every channel as M(mysql_ops.replica_backup.mysql_replica_info) returns it, with how it went on and why.
  returned: success, except in check mode
  type: list
  elements: dict
  sample:
    - {"name": "", "io": "Yes", "applier": "Yes", "resumed": "relay_logs", "why": "the restored relay logs are usable"}
caught_up:
  description: Whether the replica has caught up; null when that was not waited for.
  returned: success, except in check mode
  type: bool
  sample: true
catch_up_seconds:
  description: Seconds that it took.
  returned: success, except in check mode
  type: float
  sample: 2.5
restore_seconds:
  description: Seconds from the first byte laid down until now.
  returned: success, except in check mode
  type: float
  sample: 61.2
moved_aside:
  description: Where the old files lie.
  returned: once there is a restore
  type: list
  elements: dict
  sample: [{"path": "/var/lib/mysql", "before": "/var/lib/mysql.before-20260103T040506Z"}]
plan:
  description: How the server would be started and each channel would go on.
  returned: in check mode
  type: dict
  sample: {"start": true, "service_manager": "systemd", "service_name": "mysql.service", "start_options": []}
"""

import typing as t

from ansible.module_utils.basic import AnsibleModule

from ansible_collections.mysql_ops.replica_backup.plugins.module_utils._connection import Login
from ansible_collections.mysql_ops.replica_backup.plugins.module_utils._module import (
    login_argument_spec,
    login_from_params,
    run,
    service_argument_spec,
    state_argument_spec,
)
from ansible_collections.mysql_ops.replica_backup.plugins.module_utils._restore import resume


def main() -> None:
    module = AnsibleModule(
        argument_spec={
            **login_argument_spec(),
            **state_argument_spec(),
            **service_argument_spec(),
            "resume": {
                "type": "str",
                "choices": ["auto", "relay_logs", "reposition", "auto_position", "none"],
                "default": "auto",
            },
            "source_login_user": {"type": "str"},
            "source_login_password": {"type": "str", "no_log": True},
            "source_ca_cert": {"type": "path"},
            "start_timeout": {"type": "int", "default": 600},
            "catch_up": {"type": "bool", "default": True},
            "catch_up_timeout": {"type": "int", "default": 3600},
            "catch_up_max_lag": {"type": "int", "default": 1},
            "lock_timeout": {"type": "int", "default": 120},
        },
        required_together=[("source_login_user", "source_login_password")],
        supports_check_mode=True,
    )
    params = module.params

    def work() -> dict[str, t.Any]:
        source = None
        if params["source_login_user"] is not None:
            source = Login(
                user=params["source_login_user"],
                password=params["source_login_password"],
                config_file=None,
                connect_timeout=params["connect_timeout"],
                ca_cert=params["source_ca_cert"],
            )
        request = resume.Request(
            login=login_from_params(params),
            state_dir=params["state_dir"],
            resume=params["resume"],
            service_manager=params["service_manager"],
            service_name=params["service_name"],
            source_login=source,
            start_timeout=float(params["start_timeout"]),
            catch_up=params["catch_up"],
            catch_up_timeout=float(params["catch_up_timeout"]),
            catch_up_max_lag=params["catch_up_max_lag"],
            lock_timeout=float(params["lock_timeout"]),
        )
        return resume.resume(request, check=module.check_mode)

    run(module, work)


if __name__ == "__main__":
    main()
