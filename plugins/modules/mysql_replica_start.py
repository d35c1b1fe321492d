# Copyright (c) 2026, mysql_ops contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
from __future__ import annotations

DOCUMENTATION = r"""
module: mysql_replica_start
short_description: Start a replica that a backup stopped, everything as before
version_added: 0.1.0
description:
  - Starts the server if it is down, puts every channel's threads and the read-only flags back as the ledger says
    they were, calls the dead-man off, and waits until the replica has caught up.
  - A thread that was stopped before the backup is not started, not for a moment.
  - With O(recover=true) it finishes a run that died. Server and threads come back, then an archive that had been
    captured whole is proven and published in the spool, an unfinished one is removed, the ledger is closed. Safe to
    call at any time.
attributes:
  check_mode:
    support: full
    description: Says what would be done. Changes nothing.
  diff_mode:
    support: none
    description: The actions in the result say what changed.
extends_documentation_fragment:
  - mysql_ops.replica_backup.login
options:
  state_dir:
    description: Directory of the ledger on the replica.
    type: path
    default: /var/lib/mysql-replica-backup
  run_id:
    description: The run that the call belongs to. Without it, whatever ledger is open is taken.
    type: str
  host:
    description:
      - Name of the host in the inventory. The ledger of another server is refused, whose state directory this must be
        by mistake; a server that is down is told apart by this name alone.
    type: str
  shutdown_timeout:
    description: Seconds to wait for a shutdown that is still under way.
    type: int
    default: 1800
  start_timeout:
    description: Seconds that the server may take to answer.
    type: int
    default: 600
  catch_up:
    description: Wait until the replica has caught up. Not done with O(recover=true).
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
  warm_timeout:
    description:
      - Seconds that the buffer pool may take to be loaded, after the replica has caught up, before it counts as
        returned. When they are over that is a warning and no failure.
      - 0 does not wait.
    type: int
    default: 0
  recover:
    description: Finish a run that died.
    type: bool
    default: false
  take_over:
    description: With O(recover=true), do not wait until the other run is known to be dead.
    type: bool
    default: false
  only_own:
    description: With O(recover=true), finish the open ledger only if it is of O(run_id); leave another run's alone.
    type: bool
    default: false
  close:
    description: Only close the ledger of a run that is complete. Refused while its server is not back.
    type: bool
    default: false
  lock_timeout:
    description: Seconds to wait for another run on this server to end.
    type: int
    default: 120
author:
  - mysql_ops contributors (@mysql-ops)
seealso:
  - module: mysql_ops.replica_backup.mysql_replica_stop
"""

EXAMPLES = r"""
- name: Start the replica again
  mysql_ops.replica_backup.mysql_replica_start:
    login_unix_socket: /run/mysqld/mysqld.sock

- name: Finish whatever an earlier run left
  mysql_ops.replica_backup.mysql_replica_start:
    login_unix_socket: /run/mysqld/mysqld.sock
    recover: true
"""

RETURN = r"""
server_restored:
  description: Whether the server runs, threads as before.
  returned: when a run was open
  type: bool
  sample: true
caught_up:
  description: Whether the replica has caught up; null when that was not waited for.
  returned: when a run was open
  type: bool
  sample: true
catch_up_seconds:
  description: Seconds that it took.
  returned: when waited for
  type: float
  sample: 2.5
warm_seconds:
  description: Seconds that were waited for the buffer pool.
  returned: with O(warm_timeout), when catching up was waited for
  type: float
  sample: 12.5
shutdown_waited_for:
  description: What the shutdown waited for, as M(mysql_ops.replica_backup.mysql_replica_stop) returns it.
  returned: when a run was open
  type: list
  elements: str
  sample: ["stop 0.2 s", "32 dirty pages to write (0 MiB)", "the server wrote 0 MiB during it"]
downtime_seconds:
  description: Seconds from the request to stop until the server answered again; null when not known.
  returned: when a run was open
  type: float
  sample: 4.2
downtime_parts:
  description:
    - Seconds of it by what they went for, C(stop), C(capture), C(fetch) and C(start), as far as there were any, and the
      rest as C(between). Together they are RV(downtime_seconds). Empty when that is not known.
  returned: when a run was open
  type: dict
  sample: {"stop": 0.2, "capture": 0.1, "start": 3.8, "between": 0.1}
deadman_fired:
  description: Whether the dead-man had started the server.
  returned: when a run was open
  type: bool
  sample: false
actions:
  description: What was done, in order.
  returned: always
  type: list
  elements: str
  sample: ["started the server through systemd mariadb.service"]
explanation:
  description: What the ledger says happened, in words.
  returned: always
  type: list
  elements: str
  sample: ["No unfinished run."]
channels:
  description: Every channel as it stands now.
  returned: when a run was open
  type: list
  elements: dict
  sample: [{"name": "", "io": "Yes", "applier": "Yes", "lag": 0}]
set_dir:
  description: Directory of the complete set that the finished run has left in the spool; empty when there is none.
  returned: when a run was finished with O(recover=true)
  type: str
  sample: /var/backups/mysql-replica/db2/20260101T000000Z
kept_sets:
  description: Complete sets that runs which failed have left on this host, and nobody has brought away since.
  returned: with O(recover=true)
  type: list
  elements: dict
  sample:
    - {"spool_dir": "/var/backups/mysql-replica", "host": "db2", "backup_id": "20260101T000000Z",
       "set_dir": "/var/backups/mysql-replica/db2/20260101T000000Z"}
times:
  description: Start, end and seconds of every step.
  returned: when a run was open
  type: dict
  sample: {"start": {"start": "2026-01-01T03:01:01.000000Z", "end": "2026-01-01T03:01:02.000000Z", "seconds": 1.0}}
"""

from ansible.module_utils.basic import AnsibleModule

from ansible_collections.mysql_ops.replica_backup.plugins.module_utils._module import (
    login_argument_spec,
    login_from_params,
    run,
    state_argument_spec,
)
from ansible_collections.mysql_ops.replica_backup.plugins.module_utils._start import StartRequest, start


def main() -> None:
    module = AnsibleModule(
        argument_spec={
            **login_argument_spec(),
            **state_argument_spec(),
            "run_id": {"type": "str"},
            "host": {"type": "str"},
            "shutdown_timeout": {"type": "int", "default": 1800},
            "start_timeout": {"type": "int", "default": 600},
            "catch_up": {"type": "bool", "default": True},
            "catch_up_timeout": {"type": "int", "default": 3600},
            "catch_up_max_lag": {"type": "int", "default": 1},
            "warm_timeout": {"type": "int", "default": 0},
            "recover": {"type": "bool", "default": False},
            "take_over": {"type": "bool", "default": False},
            "only_own": {"type": "bool", "default": False},
            "close": {"type": "bool", "default": False},
            "lock_timeout": {"type": "int", "default": 120},
        },
        required_if=[("only_own", True, ("run_id",))],
        mutually_exclusive=[("recover", "close")],
        supports_check_mode=True,
    )
    params = module.params
    request = StartRequest(
        login=login_from_params(params),
        state_dir=params["state_dir"],
        run_id=params["run_id"],
        host=params["host"],
        shutdown_timeout=params["shutdown_timeout"],
        start_timeout=params["start_timeout"],
        catch_up=params["catch_up"],
        catch_up_timeout=params["catch_up_timeout"],
        catch_up_max_lag=params["catch_up_max_lag"],
        warm_timeout=params["warm_timeout"],
        recover=params["recover"],
        take_over=params["take_over"],
        only_own=params["only_own"],
        close=params["close"],
        lock_timeout=params["lock_timeout"],
    )
    run(module, lambda: start(request, check=module.check_mode))


if __name__ == "__main__":
    main()
