# Copyright (c) 2026, mysql_ops contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Clone the files of a server that this run has stopped, or remove the clone."""

from __future__ import annotations

DOCUMENTATION = r"""
module: replica_snapshot
short_description: Clone the files of a stopped replica, so that it can be started at once
description:
  - Clones all files that M(mysql_ops.replica_backup.replica_files_discover) has found, by the capture that
    M(mysql_ops.replica_backup.mysql_replica_stop) was given and has planned.
    M(mysql_ops.replica_backup.replica_archive) archives from the clone while the server serves, and removes it.
  - The list is taken again from disk first, and all originals are looked at once more in the end. A file that vanishes
    or changes meanwhile fails the module with its name.
  - M(mysql_ops.replica_backup.mysql_replica_stop) does the same by itself with its option C(capture_now); this module
    is for playbooks that do something of their own between the stop and the start.
version_added: 0.1.0
author:
  - mysql_ops contributors (@mysql-ops)
options:
  state:
    description:
      - V(present) clones. Needs the stopped server.
      - V(absent) removes the clone of this run, finished or not.
    type: str
    choices: [present, absent]
    default: present
  start_server:
    description:
      - With O(state=present), start the server the moment the clone stands, or has failed, with threads as before.
      - Logs in as M(mysql_ops.replica_backup.mysql_replica_stop) did.
    type: bool
    default: false
extends_documentation_fragment:
  - mysql_ops.replica_backup.run
attributes:
  check_mode:
    support: full
    description: Says what is planned, or what would be removed. Changes nothing.
  diff_mode:
    support: none
    description: There is no text to compare.
"""

EXAMPLES = r"""
- name: Stop the replica and plan a clone
  mysql_ops.replica_backup.mysql_replica_stop:
    login_unix_socket: /run/mysqld/mysqld.sock
    host: "{{ inventory_hostname }}"
    backup_id: 20260101T000000Z
    capture: snapshot

- name: Clone its files and start it again
  mysql_ops.replica_backup.replica_snapshot:
    host: "{{ inventory_hostname }}"
    backup_id: 20260101T000000Z
    start_server: true

- name: Archive the clone, at 50 MiB per second at most
  mysql_ops.replica_backup.replica_archive:
    host: "{{ inventory_hostname }}"
    backup_id: 20260101T000000Z
    state: captured
    throttle: 50

- name: Give the clone up
  mysql_ops.replica_backup.replica_snapshot:
    host: "{{ inventory_hostname }}"
    backup_id: 20260101T000000Z
    state: absent
"""

RETURN = r"""
capture:
  description: The capture that was planned.
  returned: with O(state=present)
  type: str
  sample: snapshot
why:
  description: Why it was chosen.
  returned: with O(state=present)
  type: str
  sample: /var/lib/mysql (xfs) by reflink
files:
  description: Number of names in the clone, directories and links included.
  returned: with O(state=present) outside of check mode
  type: int
bytes:
  description: Bytes of all files.
  returned: with O(state=present) outside of check mode
  type: int
seconds:
  description: Seconds that it took.
  returned: with O(state=present) outside of check mode
  type: float
removed:
  description: What was removed, or would be.
  returned: with O(state=absent)
  type: list
  elements: str
server_restored:
  description: Whether the server runs again, threads as before.
  returned: with O(start_server=true)
  type: bool
  sample: true
start_error:
  description: Why it does not; empty when it does.
  returned: with O(start_server=true)
  type: str
  sample: ""
"""

import typing as t

from ansible.module_utils.basic import AnsibleModule

from ansible_collections.mysql_ops.replica_backup.plugins.module_utils import _handover, _module
from ansible_collections.mysql_ops.replica_backup.plugins.module_utils._archive.request import Request
from ansible_collections.mysql_ops.replica_backup.plugins.module_utils._capture import window
from ansible_collections.mysql_ops.replica_backup.plugins.module_utils._layout import SetPaths


def argument_spec() -> dict[str, t.Any]:
    return {
        **_module.run_argument_spec(),
        "state": {"type": "str", "choices": ["present", "absent"], "default": "present"},
        "start_server": {"type": "bool", "default": False},
    }


def work(params: t.Mapping[str, t.Any], check_mode: bool) -> dict[str, t.Any]:
    request = Request(
        paths=SetPaths(params["spool_dir"], params["host"], params["backup_id"]), state_dir=params["state_dir"]
    )
    if params["state"] == "absent":
        removed = window.remove(request, check=check_mode)
        return {"changed": bool(removed), "removed": removed}
    if check_mode:
        return window.plan(request)
    if params["start_server"]:
        taken, started = _handover.capture_then_start(lambda: window.take(request), request.state_dir)
        return {**taken.to_result(), **started}
    return window.take(request).to_result()


def main() -> None:
    module = AnsibleModule(argument_spec=argument_spec(), supports_check_mode=True)
    _module.run(module, lambda: work(module.params, module.check_mode), needs_pymysql=module.params["start_server"])


if __name__ == "__main__":
    main()
