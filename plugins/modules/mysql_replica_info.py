# Copyright (c) 2026, mysql_ops contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
from __future__ import annotations

DOCUMENTATION = r"""
module: mysql_replica_info
short_description: Facts about a MySQL or MariaDB replica
version_added: 0.1.0
description:
  - Reads what the other modules of this collection build on. It changes nothing.
attributes:
  check_mode:
    support: full
    description: Changes nothing in either mode.
  diff_mode:
    support: none
    description: There is nothing to compare.
extends_documentation_fragment:
  - mysql_ops.replica_backup.login
  - mysql_ops.replica_backup.service
author:
  - mysql_ops contributors (@mysql-ops)
seealso:
  - module: mysql_ops.replica_backup.mysql_replica_stop
"""

EXAMPLES = r"""
- name: Look at the replica
  mysql_ops.replica_backup.mysql_replica_info:
    login_unix_socket: /run/mysqld/mysqld.sock
  register: replica
"""

RETURN = r"""
server:
  description: Family, version, identity, data directory and the settings that a restore needs.
  returned: success
  type: dict
  sample: {"family": "mariadb", "version": [10, 11, 18], "datadir": "/var/lib/mysql/", "server_id": 2}
channels:
  description:
    - Every channel (MySQL) or connection (MariaDB), in the same words for every server.
  returned: success
  type: list
  elements: dict
  contains:
    name:
      description: Name of the channel; empty for the default one.
      type: str
      sample: ""
    source_host:
      description: Host that it replicates from.
      type: str
      sample: db1
    source_port:
      description: Port of the source.
      type: int
      sample: 3306
    source_user:
      description: Account that it logs in to the source with.
      type: str
      sample: repl
    source_uuid:
      description: The source's C(server_uuid); empty on MariaDB, and until the channel has connected once.
      type: str
      sample: 3e11fa47-71ca-11e1-9e33-c80aa9429562
    source_server_id:
      description: The source's C(server_id); 0 until the channel has connected.
      type: int
      sample: 1
    positioning:
      description: V(gtid) when missing transactions are asked for by GTID, V(file) when by file and position.
      type: str
      sample: gtid
    source_log_file:
      description: The source's binary log up to which everything is executed.
      type: str
      sample: binlog.000001
    source_log_pos:
      description: Position in that binary log up to which everything is executed.
      type: int
      sample: 1416
    read_log_file:
      description: The source's binary log that is being downloaded.
      type: str
      sample: binlog.000001
    read_log_pos:
      description: Position up to which it is downloaded.
      type: int
      sample: 1416
    relay_log_file:
      description: Relay log that is being executed.
      type: str
      sample: db2-relay-bin.000002
    relay_log_pos:
      description: Position up to which it is executed.
      type: int
      sample: 1627
    gtid:
      description:
        - The server's GTID columns.
        - On MySQL C(auto_position), C(executed) and C(retrieved), on MariaDB C(using), C(io_pos) and C(replica_pos).
      type: dict
      sample: {"auto_position": "1", "retrieved": "3e11fa47-71ca-11e1-9e33-c80aa9429562:1-5"}
    delay:
      description: Seconds that it is meant to stay behind its source.
      type: int
      sample: 0
    lag:
      description: Seconds that it is behind, the delay included; null when a thread does not run.
      type: int
      sample: 0
    filters:
      description: Filters that are set, by name; where they were set makes no difference.
      type: dict
      sample: {"replicate_ignore_db": "scratch"}
    io:
      description: Whether the receiver runs, V(Yes), V(No) or V(Connecting).
      type: str
      sample: 'Yes'
    io_state:
      description: What the receiver does, in the server's own words.
      type: str
      sample: Waiting for source to send event
    applier:
      description: Whether the applier runs, V(Yes) or V(No).
      type: str
      sample: 'Yes'
    applier_state:
      description: What the applier does, in the server's own words.
      type: str
      sample: Replica has read all relay log; waiting for more updates
    io_error:
      description: Number and text of the receiver's last error, or empty.
      type: str
      sample: ""
    applier_error:
      description: Number and text of the applier's last error, or empty.
      type: str
      sample: ""
    repository:
      description: Where the C(connection) settings and the C(applier) position are kept, each V(FILE) or V(TABLE).
      type: dict
      sample: {"connection": "TABLE", "applier": "TABLE"}
    parallel:
      description:
        - How it applies. C(workers) is the number of applier threads, 0 without parallel ones; on MariaDB all
          connections share them.
        - C(mode) is V(none), V(minimal), V(conservative), V(optimistic) or V(aggressive) on MariaDB, V(database) or
          V(logical_clock) on MySQL.
        - C(keeps_commit_order) says whether transactions become visible in the source's order.
      type: dict
      sample: {"workers": 4, "mode": "logical_clock", "keeps_commit_order": true}
    threads_before:
      description: Which threads are started; those that mysql_replica_start starts again after a stop.
      type: dict
      sample: {"io": true, "applier": true}
run_time_settings:
  description:
    - Names of variables about replication that were set at run time and are in no option file; null when the server
      cannot say (MySQL 5.6 and 5.7). A restart loses them; mysql_replica_start puts them back.
  returned: success
  type: list
  elements: str
  sample: ["replica_parallel_workers"]
connected_replicas:
  description: Servers that replicate from this one; null when the account may not see other sessions.
  returned: success
  type: list
  elements: str
  sample: ["repl@db3:50122"]
cluster:
  description: Galera or group replication when the server is a member, else null.
  returned: success
  type: str
  sample: null
paths:
  description: The server's variables that name places on disk.
  returned: success
  type: dict
  sample: {"datadir": "/var/lib/mysql/", "tmpdir": "/tmp"}
process:
  description: The server's process.
  returned: success
  type: dict
  sample: {"pid": 812, "exe": "/usr/sbin/mariadbd"}
service:
  description: What stops and starts the server, with warnings about it.
  returned: success
  type: dict
  sample: {"manager": "systemd", "name": "mariadb.service", "warnings": []}
"""

import typing as t

from ansible.module_utils.basic import AnsibleModule

from ansible_collections.mysql_ops.replica_backup.plugins.module_utils import _connection, _observe, _service
from ansible_collections.mysql_ops.replica_backup.plugins.module_utils._module import (
    login_argument_spec,
    login_from_params,
    run,
    service_argument_spec,
)


def main() -> None:
    module = AnsibleModule(argument_spec={**login_argument_spec(), **service_argument_spec()}, supports_check_mode=True)
    login = login_from_params(module.params)

    def work() -> dict[str, t.Any]:
        with _connection.connect(login, read_timeout=60) as session:
            observed = _observe.observe(session, login)
        manager = _service.detect(
            process=observed.process,
            requested=module.params["service_manager"],
            name=module.params["service_name"],
            variables=observed.variables,
            own_options=observed.dialect.own_start_options,
            state_dir="/",
        )
        changed = observed.run_time.changed
        server = observed.server_facts()
        process = server.pop("process")
        return {
            "changed": False,
            "server": server,
            "channels": observed.channel_facts(observed.channels),
            "run_time_settings": None if changed is None else list(changed),
            "connected_replicas": None if observed.connected_replicas is None else list(observed.connected_replicas),
            "cluster": observed.cluster,
            "paths": {name: observed.variables[name] for name in _observe.PATH_SETTINGS if name in observed.variables},
            "process": {"pid": process["pid"], "exe": process["exe"]},
            "service": {"manager": manager.kind, "name": manager.name, "warnings": list(manager.warnings)},
        }

    run(module, work)


if __name__ == "__main__":
    main()
