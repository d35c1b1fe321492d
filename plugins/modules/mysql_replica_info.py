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
  description: Every channel in neutral words; C(source_log_file) and C(source_log_pos) are what was executed.
  returned: success
  type: list
  elements: dict
  sample: [{"name": "", "source_host": "db1", "source_log_file": "binlog.000001", "source_log_pos": 1416, "lag": 0}]
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
        server = observed.server_facts()
        process = server.pop("process")
        return {
            "changed": False,
            "server": server,
            "channels": observed.channel_facts(observed.channels),
            "connected_replicas": None if observed.connected_replicas is None else list(observed.connected_replicas),
            "cluster": observed.cluster,
            "paths": {name: observed.variables[name] for name in _observe.PATH_SETTINGS if name in observed.variables},
            "process": {"pid": process["pid"], "exe": process["exe"]},
            "service": {"manager": manager.kind, "name": manager.name, "warnings": list(manager.warnings)},
        }

    run(module, work)


if __name__ == "__main__":
    main()
