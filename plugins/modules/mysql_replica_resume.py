# Copyright (c) 2026, mysql_ops contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
from __future__ import annotations

DOCUMENTATION = r"""
module: mysql_replica_resume
short_description: Start a restored server and let it replicate again
version_added: 0.1.0
description:
  - Goes on where M(mysql_ops.replica_backup.replica_restore) ends, with the files of a set in place and the server
    down.
  - Starts the server without replication threads, for this once; the next start by anybody is a normal one.
  - Then looks at what came up, before any thread starts. It has to be the server of the set (or, for a clone, one with
    a C(server_uuid) and C(server_id) of its own), on the restored data directory, with the channels and the executed
    coordinates that the set recorded; the error log of this start has to be free of crash recovery and corruption, and
    every table has to open.
  - Each channel then goes on as O(resume) says, with exactly the threads that ran when the backup was made. Channels
    that were stopped stay stopped. At the end it waits until the replica has caught up, and closes the restore.
  - On any failure the threads that were not started yet stay stopped, the restore stays open, and the message says in
    what state the server is and what to do next. A second call goes on where the first one ended.
  - Settings that were made at run time when the backup was made are not part of a set. The server comes up as its
    option files say.
attributes:
  check_mode:
    support: full
    description: Returns how the server would be started and how each channel would go on. Changes nothing.
  diff_mode:
    support: none
    description: The actions in the result say what changed.
  platform:
    description: Platforms the module works on.
    platforms: posix
    support: full
extends_documentation_fragment:
  - mysql_ops.replica_backup.login
  - mysql_ops.replica_backup.service
options:
  resume:
    description:
      - How channels go on whose threads ran when the backup was made.
      - V(auto) takes the restored relay logs when they are usable. Otherwise it takes GTIDs where the channel uses
        them, else the recorded coordinates. The result says which it was, and why.
      - V(relay_logs) goes on with the restored relay logs, or refuses when they cannot be used on this host.
      - V(reposition) throws the relay logs away and reads the source again from the coordinates of the set. A channel
        that uses GTIDs finds its place by them.
      - V(auto_position) throws the relay logs away and fetches by GTID what is missing. Refused for channels by file
        and position.
      - V(none) leaves all threads stopped and returns the statements that start them.
      - MariaDB drops the relay logs of a channel by GTID whenever its threads start, and fetches what was not applied
        once more. With C(relay_log_recovery=ON) in its option files every server does so by itself at its start.
    type: str
    choices: [auto, relay_logs, reposition, auto_position, none]
    default: auto
  source_login_user:
    description:
      - Account on the sources, whose host and port are those of the channels.
      - With it the sources are asked whether they are the right servers, still have what comes next, and know another
        replica with the C(server_id) of a clone.
      - It needs REPLICATION CLIENT and REPLICATION SLAVE (MariaDB 10.5 and newer, BINLOG MONITOR, REPLICATION SLAVE and
        REPLICATION MASTER ADMIN).
      - Without it nothing is read again by file and position.
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
    description: Directory of the lock and of the restore's journal, as for M(mysql_ops.replica_backup.replica_restore).
    type: path
    default: /var/lib/mysql-replica-backup
notes:
  - The login has to be one of the restored server, so an account of the set.
  - The service manager and the start command are found as C(replica_restore) has found the server. A server without a
    service is started by its own command line, as the account that owns its data directory.
requirements:
  - PyMySQL on the managed node
  - On the replica REPLICATION CLIENT (REPLICA MONITOR), REPLICATION_SLAVE_ADMIN, RELOAD and SELECT on all tables
    (MariaDB 10.5 and newer, REPLICATION SLAVE ADMIN; older servers, SUPER)
author:
  - mysql_ops contributors (@mysql-ops)
seealso:
  - module: mysql_ops.replica_backup.replica_restore
  - module: mysql_ops.replica_backup.mysql_replica_reposition
"""

EXAMPLES = r"""
- name: Start the restored server and let it catch up
  mysql_ops.replica_backup.mysql_replica_resume:
    login_unix_socket: /run/mysqld/mysqld.sock

- name: Let the source be asked, so that lost relay logs can be read again
  mysql_ops.replica_backup.mysql_replica_resume:
    login_unix_socket: /run/mysqld/mysqld.sock
    source_login_user: monitor
    source_login_password: "{{ vaulted_monitor_password }}"

- name: Only start it, and look at it
  mysql_ops.replica_backup.mysql_replica_resume:
    login_unix_socket: /run/mysqld/mysqld.sock
    resume: none
"""

RETURN = r"""
set:
  description: The set that was restored, as C(HOST/ID).
  returned: success
  type: str
  sample: db2/20260102T030405Z
restore_id:
  description: The restore.
  returned: always, once there is one
  type: str
  sample: 20260103T101112Z
identity:
  description: C(same) or C(clone).
  returned: success
  type: str
  sample: same
phase:
  description: How far the restore is, C(done) at its end.
  returned: always, once there is one
  type: str
  sample: done
plan:
  description: How the server would be started, and how each channel would go on.
  returned: in check mode
  type: dict
  sample:
    start: true
    service_manager: systemd
    service_name: mariadb.service
    start_options: [--skip-slave_start]
    channels:
      - {"name": "", "how": "relay_logs", "why": "the restored relay logs are usable", "io": true, "applier": true}
server_started:
  description: Whether this call started the server.
  returned: success, not in check mode
  type: bool
  sample: true
datadir:
  description: The data directory of the restored server.
  returned: success, not in check mode
  type: str
  sample: /var/lib/mysql
checks:
  description: What was looked at before the threads were started. V(null) as verdict is not known, or worth a warning.
  returned: when the server came up, not in check mode
  type: list
  elements: dict
  sample: [{"name": "tables", "verdict": true, "detail": "212 of 212 tables opened"}]
actions:
  description: What was done, in order.
  returned: success, not in check mode
  type: list
  elements: str
  sample: ["started the server through systemd mariadb.service with --skip-slave_start, this once"]
channels:
  description:
    - Every channel of the set as it stands now, as M(mysql_ops.replica_backup.mysql_replica_info) returns it.
    - In addition RV(channels[].resumed) and RV(channels[].why) say how it goes on, RV(channels[].source_answer) what
      its source said, and RV(channels[].start_statements) what starts it after O(resume=none).
  returned: success, not in check mode
  type: list
  elements: dict
  contains:
    resumed:
      description: C(relay_logs), C(relay_log_recovery), C(reposition), C(auto_position), C(stopped) or C(none).
      type: str
    why:
      description: Why this way.
      type: str
    source_answer:
      description: What the source said when it was asked whether it has what comes next.
      type: str
    start_statements:
      description: Statements that start its threads, after O(resume=none).
      type: list
      elements: str
  sample:
    - name: ""
      io: "Yes"
      applier: "Yes"
      resumed: relay_logs
      why: the restored relay logs are usable
      source_answer: "not asked: no login for the source"
      start_statements: []
caught_up:
  description: Whether the replica has caught up; null when that was not waited for.
  returned: success, not in check mode
  type: bool
  sample: true
catch_up_seconds:
  description: Seconds that it took.
  returned: success, not in check mode
  type: float
  sample: 2.5
restore_seconds:
  description: Seconds from the first file laid down until the end of this call.
  returned: success, not in check mode
  type: float
  sample: 93.4
moved_aside:
  description: Where the files lie that were there before. They are not needed any more, and never removed.
  returned: always, once there is a restore
  type: list
  elements: dict
  sample: [{"path": "/var/lib/mysql", "before": "/var/lib/mysql.before-20260103T101112Z"}]
times:
  description: When each phase of the restore began, UTC.
  returned: success, not in check mode
  type: dict
  sample: {"laid": "2026-01-03T10:12:13.000000Z", "done": "2026-01-03T10:12:45.000000Z"}
"""

from ansible.module_utils.basic import AnsibleModule

from ansible_collections.mysql_ops.replica_backup.plugins.module_utils._connection import Login
from ansible_collections.mysql_ops.replica_backup.plugins.module_utils._module import (
    login_argument_spec,
    login_from_params,
    run,
    service_argument_spec,
    state_argument_spec,
)
from ansible_collections.mysql_ops.replica_backup.plugins.module_utils._restore import choice
from ansible_collections.mysql_ops.replica_backup.plugins.module_utils._restore.resume import Request, resume


def main() -> None:
    module = AnsibleModule(
        argument_spec={
            **login_argument_spec(),
            **service_argument_spec(),
            **state_argument_spec(),
            "resume": {"type": "str", "choices": list(choice.REQUESTS), "default": "auto"},
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
    source = None
    if params["source_login_user"] is not None:
        source = Login(
            user=params["source_login_user"],
            password=params["source_login_password"],
            config_file=None,
            connect_timeout=params["connect_timeout"],
            ca_cert=params["source_ca_cert"],
        )
    request = Request(
        login=login_from_params(params),
        state_dir=params["state_dir"],
        resume=params["resume"],
        service_manager=params["service_manager"],
        service_name=params["service_name"],
        source_login=source,
        start_timeout=params["start_timeout"],
        catch_up=params["catch_up"],
        catch_up_timeout=params["catch_up_timeout"],
        catch_up_max_lag=params["catch_up_max_lag"],
        lock_timeout=params["lock_timeout"],
    )
    run(module, lambda: resume(request, check=module.check_mode))


if __name__ == "__main__":
    main()
