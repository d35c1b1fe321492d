# Copyright (c) 2026, mysql_ops contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Module replica_files_discover: the classified list of what must be copied."""

from __future__ import annotations

DOCUMENTATION = r"""
module: replica_files_discover
short_description: Lists every file that a raw backup of a replica must contain
version_added: 0.1.0
description:
  - Asks a live MySQL or MariaDB server for its variables, its channels and its InnoDB dictionary, follows its option
    files, looks at the files that it holds open and at the disk, and writes the list of all files that a backup needs.
  - Files inside the data directory stay under the place C(datadir). What lies outside becomes a place of its own, for
    example C(binlog), C(relay_log), C(tablespaces), C(load_data) or C(keys).
  - Only what the server makes anew is left out, such as the temporary tablespace, sockets and pid files. Each exclusion
    is returned with its reason.
  - Refuses when the list cannot be proven complete, that is when a tablespace of the dictionary or a file that the
    server holds open is not in it.
  - The list may be very long. It is written to a file below O(spool_dir); the result holds a summary only.
  - The server is only read. In check mode nothing is written at all.
  - Works without a server too, when that is down. The facts then come from its option files, its unit, its binary and
    the disk, and RV(unknown) names those that could not be learned. Nothing is started or changed; the binary is only
    asked for the values that it was built with, in an empty directory and as the account that owns the data.
options:
  spool_dir:
    description:
      - Work space for backup sets on the server's host, an absolute path outside the server's data.
      - It is created with mode V(0700) when it does not exist; its parent directory must exist.
    type: path
    required: true
  host:
    description: Name of the host inside O(spool_dir), usually C(inventory_hostname).
    type: str
    required: true
  backup_id:
    description: Name of the set, a time in UTC as C(YYYYMMDDTHHMMSSZ).
    type: str
    required: true
  include_binlogs:
    description: Whether the replica's own binary logs belong to the backup.
    type: bool
    default: true
  offline:
    description:
      - Whether the list is taken without the server.
      - V(auto) does so when nobody answers at the login and no process works on the data directory. A login that is
        refused is an error, and so is a process that does not answer.
      - V(always) does not log in at all, needs no PyMySQL, and leaves a server alone that a systemd socket would start
        at the first connection. V(never) fails when nobody answers.
    type: str
    choices: [auto, always, never]
    default: auto
  service_name:
    description:
      - For a server that is down. The unit (V(mariadb), V(mysql@second)), the script in C(/etc/init.d), or the command
        line, beginning with C(/), that starts it.
      - By default the unit or script that is installed, provided that none of O(server_binary), O(defaults_file) and
        O(defaults_group_suffix) is given.
    type: str
  server_binary:
    description: For a server that is down, its program. By default that of the service, else that in the usual places.
    type: path
  defaults_file:
    description: For a server that is down, the only option file that it reads, as with its option C(--defaults-file).
    type: path
  defaults_group_suffix:
    description:
      - For a server that is down, what is appended to the groups in its option files, as with its option
        C(--defaults-group-suffix). For the server V(2) of C(mysqld_multi) it is V(2).
    type: str
  datadir:
    description: For a server that is down, its data directory. By default what its option files say.
    type: path
extends_documentation_fragment:
  - mysql_ops.replica_backup.login
attributes:
  check_mode:
    description: Can run in check mode and return what would happen without changing anything.
    support: full
  diff_mode:
    description: Returns details on what has changed in diff mode.
    support: none
  platform:
    description: Platforms the module works on.
    platforms: posix
    support: full
requirements:
  - PyMySQL on the managed node, unless O(offline=always)
  - A server on the same host, and the right to read all of its files
  - A database account with the privileges PROCESS and REPLICATION CLIENT (MariaDB 10.5 and newer, REPLICA MONITOR)
seealso:
  - module: mysql_ops.replica_backup.mysql_replica_info
  - module: mysql_ops.replica_backup.mysql_replica_stop
  - module: mysql_ops.replica_backup.replica_archive
author:
  - mysql_ops contributors (@mysql-ops)
"""

EXAMPLES = r"""
- name: List what a backup of this replica must contain
  mysql_ops.replica_backup.replica_files_discover:
    login_unix_socket: /run/mysqld/mysqld.sock
    spool_dir: /var/backups/mysql-replica
    host: "{{ inventory_hostname }}"
    backup_id: 20260101T000000Z
  register: discovered

- name: List the files of a server that is down, on a host with several
  mysql_ops.replica_backup.replica_files_discover:
    offline: always
    service_name: mariadb@second
    spool_dir: /var/backups/mysql-replica
    host: "{{ inventory_hostname }}"
    backup_id: 20260101T000000Z
  register: discovered

- name: Show what could not be learned without the server
  ansible.builtin.debug:
    msg: "{{ discovered.unknown }}"

- name: Show how large the backup will be
  ansible.builtin.debug:
    msg: "{{ discovered.list.count }} files, {{ discovered.list.bytes }} bytes, {{ discovered.places | length }} places"
"""

RETURN = r"""
list:
  description: The list that was written.
  returned: success
  type: dict
  contains:
    path:
      description: Where the list lies on the host; null in check mode.
      type: str
    sha256:
      description: Checksum of the list.
      type: str
    count:
      description: Number of names, directories and links included.
      type: int
    bytes:
      description: Sum of the sizes of all files, each inode counted once.
      type: int
    allocated:
      description: Bytes that the files take on disk; less than C(bytes) for sparse and compressed files.
      type: int
    required:
      description: Number of files that the server's dictionary and its open files demand.
      type: int
  sample:
    path: /var/backups/mysql-replica/db2/20260101T000000Z/.work/discovered.jsonl
    sha256: 9f86d081884c7d659a2feaa0c55ad015a3bf4f1b2b0b822cd15d6c15b0f00a08
    count: 412
    bytes: 268435456
    allocated: 201326592
    required: 118
places:
  description: Path, number of names and bytes of every place, by the name of the place.
  returned: success
  type: dict
  sample:
    datadir:
      path: /var/lib/mysql
      count: 400
      bytes: 260046848
exclusions:
  description: What is left out, by which rule, and why.
  returned: success
  type: list
  elements: dict
  sample:
    - path: /var/lib/mysql/ibtmp1
      rule: innodb_temporary
      reason: temporary tablespace; made anew at every start
offline:
  description: Whether the list was taken without a server.
  returned: success
  type: bool
  sample: false
unknown:
  description:
    - Facts that only a running server tells, and what may be missing from the list for that reason.
    - Empty when the server was asked.
  returned: success
  type: list
  elements: dict
  sample:
    - fact: open_files
      why: Which files the server works with shows only while it runs.
service:
  description: The unit or script that would start the server, null when it was asked or when there is none.
  returned: success
  type: str
  sample: mariadb.service
clean_stop:
  description:
    - The marks that the last stop left on disk, null when the server was asked.
    - Unless C(clean) is true, the server may have crashed, and a copy of its files is no backup.
  returned: success
  type: dict
  contains:
    clean:
      description: Whether nothing speaks against a clean stop and enough speaks for it.
      type: bool
    proofs:
      description: Each sign with its name, its verdict (null where it cannot be told) and what was seen.
      type: list
      elements: dict
warnings:
  description: What a person should know about the list, such as option files that could not be read.
  returned: success
  type: list
  elements: str
  sample: []
"""

import typing as t

from ansible.module_utils.basic import AnsibleModule

from ansible_collections.mysql_ops.replica_backup.plugins.module_utils import _module
from ansible_collections.mysql_ops.replica_backup.plugins.module_utils._connection import (
    ServerUnreachableError,
    Session,
    connect,
)
from ansible_collections.mysql_ops.replica_backup.plugins.module_utils._discovery import (
    Request,
    discover,
    discover_offline,
)
from ansible_collections.mysql_ops.replica_backup.plugins.module_utils._installed import Hints

# Nobody at the socket, nobody at the port (MySQL manual, Client Error Message Reference). Anything else is an answer.
_NOBODY = (2002, 2003)


def work(params: t.Mapping[str, t.Any], check_mode: bool) -> dict[str, t.Any]:
    """Ask the server, or do without it. Errors as of ``discover`` and ``discover_offline``."""
    request = Request(
        spool_dir=params["spool_dir"],
        host=params["host"],
        backup_id=params["backup_id"],
        include_binlogs=params["include_binlogs"],
        check_mode=check_mode,
    )
    hints = Hints(
        service_name=params["service_name"] or "",
        datadir=params["datadir"] or "",
        defaults_file=params["defaults_file"] or "",
        defaults_group_suffix=params["defaults_group_suffix"] or "",
        server_binary=params["server_binary"] or "",
    )
    if params["offline"] == "always":
        return discover_offline(request, hints)
    login = _module.login_from_params(params)
    session: Session
    try:
        session = connect(login)
    except ServerUnreachableError as error:
        if params["offline"] == "never" or error.facts.get("error_code") not in _NOBODY:
            raise
        return discover_offline(request, hints, login=login, unanswered=f"{error.message}: {error.found}")
    with session:
        return discover(session, request)


def main() -> None:
    module = AnsibleModule(
        argument_spec={
            **_module.login_argument_spec(),
            "spool_dir": {"type": "path", "required": True},
            "host": {"type": "str", "required": True},
            "backup_id": {"type": "str", "required": True},
            "include_binlogs": {"type": "bool", "default": True},
            "offline": {"type": "str", "choices": ["auto", "always", "never"], "default": "auto"},
            "service_name": {"type": "str"},
            "server_binary": {"type": "path"},
            "defaults_file": {"type": "path"},
            "defaults_group_suffix": {"type": "str"},
            "datadir": {"type": "path"},
        },
        supports_check_mode=True,
    )
    offline = module.params["offline"] == "always"
    _module.run(module, lambda: work(module.params, module.check_mode), needs_pymysql=not offline)


if __name__ == "__main__":
    main()
