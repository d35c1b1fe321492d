# Copyright (c) 2026, mysql_ops contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Start a private server on every set, check its pages, tables and coordinates, and remove everything."""

from __future__ import annotations

DOCUMENTATION = r"""
module: replica_drill
short_description: Find out whether backup sets become servers, and how long that takes
description:
  - Lays every set down in a scratch directory, each byte compared with the manifest, starts a private server of the
    same family on it - without network, replication or accounts -, checks the checksums of all InnoDB pages, runs
    C(CHECK TABLE) on every table, compares what the server says of itself and its channels with the manifest, and
    reports the seconds that each step took.
  - Removes the server and the directory in every outcome, also when it is told to end. What a run that was killed has
    left is found and removed by the next one with the same O(scratch_dir).
  - With O(attach) the private server then follows the sources of the set until it has caught up, as a replica of its
    own (new server_uuid, O(server_id), read-only), and is stopped again. The sources forget it within seconds.
  - All sets are looked at before the first bad one fails the task. The sets themselves are only read.
  - Pages are checked by the C(innochecksum) of the server's own package. Without it (MySQL) their checksums are
    computed here, except those of compressed tables; what was not checked is named in a warning.
version_added: 0.1.0
author:
  - mysql_ops contributors (@mysql-ops)
options:
  path:
    description:
      - Directories of sets on this host, those that hold a C(manifest.json), or globs of them.
      - What a glob names without a manifest is an unfinished set and passed over; no set at all is an error.
    type: list
    elements: path
    required: true
  scratch_dir:
    description:
      - Directory for one extracted set at a time, on a disk with room for it. Its name must be short enough for a
        socket below it (about 80 bytes).
      - When the module runs as root the private server runs as V(mysql), or V(nobody) where there is no such account,
        which must be able to reach the directory.
    type: path
    default: /var/tmp
  server_binary:
    description:
      - C(mysqld) or C(mariadbd) of the family and the release series of the sets, not older than they are (a MySQL 8.4
        or MariaDB server also opens sets of a newer release of its own series).
      - Without it the one server that this host has.
    type: path
  server_settings:
    description:
      - Lines for the private server's option file, which win over all others - for example a plugin that reads
        encrypted tables (C(plugin_load_add) and C(file_key_management_filename)).
    type: dict
    default: {}
  buffer_pool_mib:
    description: Memory for the private server's InnoDB buffer pool, in MiB.
    type: int
    default: 128
  start_timeout:
    description: Seconds for the private server to answer.
    type: int
    default: 600
  check_timeout:
    description: Seconds for the check of all pages of a set, and again for that of all its tables.
    type: int
    default: 14400
  stop_timeout:
    description: Seconds for the private server to end by itself, before it is killed.
    type: int
    default: 60
  keep:
    description:
      - Leave the scratch directories, without a server, to look at. Nothing removes them.
    type: bool
    default: false
  attach:
    description:
      - Let the private server follow the sources of the set and catch up, after it has passed everything else.
    type: bool
    default: false
  source_user:
    description:
      - Account at every source for O(attach), with C(REPLICATION SLAVE), on MariaDB 10.5 and newer also
        C(REPLICATION MASTER ADMIN), to learn which server_ids are taken.
    type: str
  source_password:
    description: Its password.
    type: str
  source_ca_cert:
    description:
      - File with the authority of the sources' certificates. With it they are asked over TLS; the channels themselves
        connect as the set has it.
      - Accounts of MySQL 8.0 and newer (C(caching_sha2_password)) need it, or python3-cryptography on this host.
    type: path
  server_id:
    description: The C(server_id) of the attached private server; nobody else at these sources may have it.
    type: int
  attach_timeout:
    description: Seconds without progress after which catching up has failed.
    type: int
    default: 600
  attach_max_lag:
    description: Seconds behind its sources that count as caught up.
    type: int
    default: 10
attributes:
  check_mode:
    support: full
    description: Looks at the manifests, the binary, the room and, with O(attach), the server_id; starts nothing.
  diff_mode:
    support: none
    description: There is no text to compare.
  platform:
    description: Platforms the module works on.
    platforms: posix
    support: full
requirements:
  - PyMySQL
  - A server program of the family and series of the sets
  - The tool that the archive was compressed with (V(zstd), V(gzip), V(lz4) or V(xz))
seealso:
  - module: mysql_ops.replica_backup.replica_archive_verify
"""

EXAMPLES = r"""
- name: Would last night's set serve?
  mysql_ops.replica_backup.replica_drill:
    path: /srv/backups/db2/20260101T030000Z
    scratch_dir: /srv/scratch
  delegate_to: localhost

- name: And does it catch up with its source?
  mysql_ops.replica_backup.replica_drill:
    path: /srv/backups/db2/20260101T030000Z
    scratch_dir: /srv/scratch
    attach: true
    source_user: drill
    source_password: "{{ vault_drill_password }}"
    server_id: 90001
"""

RETURN = r"""
sets:
  description: Every set that was looked at.
  returned: always, except when there is none
  type: list
  elements: dict
  contains:
    set_dir:
      description: Directory of the set.
      type: str
    passed:
      description: Whether a server came up from it with good pages, good tables and the recorded coordinates.
      type: bool
    problems:
      description:
        - What is wrong, each with C(what) (V(refused), V(extract), V(server), V(page), V(table), V(coordinate) or
          V(attach)), C(name) (the file, the table, the channel) and C(detail). The first hundred.
      type: list
      elements: dict
    problems_found:
      description: How many there are.
      type: int
    seconds:
      description:
        - How long C(extract), C(pages), C(start), C(check) and C(attach) took. C(recover) is C(extract) and C(start) -
          the time from this set to a server.
      type: dict
    pages:
      description:
        - How pages were checked (C(checked_by), number of files), C(bytes), and what was not (C(unchecked), each with
          C(why), the C(number) of files and the names of the first hundred).
      type: dict
    tables:
      description: Tables C(checked), C(bad), and names of those whose engine has no check (C(without_check)).
      type: dict
    compared:
      description: Each comparison with the manifest, with C(name), C(verdict) and C(detail).
      type: list
      elements: dict
    attached:
      description: With O(attach), the C(server_id) and the C(catch_up_seconds).
      type: dict
    kept:
      description: The scratch directory, with O(keep).
      type: str
    host:
      description: The replica that the set was made of.
      type: str
    backup_id:
      description: When it was made (UTC).
      type: str
    bytes:
      description: Size of the extracted files.
      type: int
    server:
      description: Family, version, UUID and server_id of the replica.
      type: dict
    server_binary:
      description: The program that was started.
      type: str
    server_version:
      description: Its version.
      type: str
  sample:
    - set_dir: /srv/backups/db2/20260101T030000Z
      passed: true
      problems: []
      seconds: {extract: 61.2, pages: 12.1, start: 2.4, check: 70.3, recover: 63.6}
      pages: {checked_by: {innochecksum: 412}, bytes: 26843545600, unchecked: []}
      tables: {checked: 431, bad: 0, without_check: []}
leftovers_removed:
  description: Scratch directories of killed runs that were removed.
  returned: always, except when there is no set
  type: list
  elements: str
"""

import typing as t

from ansible.module_utils.basic import AnsibleModule

from ansible_collections.mysql_ops.replica_backup.plugins.module_utils import _module
from ansible_collections.mysql_ops.replica_backup.plugins.module_utils._restore.attach import Attach
from ansible_collections.mysql_ops.replica_backup.plugins.module_utils._restore.drill import Request, drill_all


def _request(params: t.Mapping[str, t.Any]) -> Request:
    attach = None
    if params["attach"]:
        attach = Attach(
            user=params["source_user"],
            password=params["source_password"],
            server_id=params["server_id"],
            timeout=params["attach_timeout"],
            max_lag=params["attach_max_lag"],
            ca_cert=params["source_ca_cert"],
        )
    return Request(
        scratch_dir=params["scratch_dir"],
        server_binary=params["server_binary"] or "",
        start_timeout=params["start_timeout"],
        check_timeout=params["check_timeout"],
        stop_timeout=params["stop_timeout"],
        memory=params["buffer_pool_mib"] << 20,
        settings={str(name).replace("-", "_"): str(value) for name, value in params["server_settings"].items()},
        keep=params["keep"],
        attach=attach,
    )


def main() -> None:
    module = AnsibleModule(
        argument_spec={
            "path": {"type": "list", "elements": "path", "required": True},
            "scratch_dir": {"type": "path", "default": "/var/tmp"},
            "server_binary": {"type": "path"},
            "server_settings": {"type": "dict", "default": {}},
            "buffer_pool_mib": {"type": "int", "default": 128},
            "start_timeout": {"type": "int", "default": 600},
            "check_timeout": {"type": "int", "default": 14400},
            "stop_timeout": {"type": "int", "default": 60},
            "keep": {"type": "bool", "default": False},
            "attach": {"type": "bool", "default": False},
            "source_user": {"type": "str"},
            "source_password": {"type": "str", "no_log": True},
            "source_ca_cert": {"type": "path"},
            "server_id": {"type": "int"},
            "attach_timeout": {"type": "int", "default": 600},
            "attach_max_lag": {"type": "int", "default": 10},
        },
        required_if=[("attach", True, ("source_user", "source_password", "server_id"))],
        supports_check_mode=True,
    )

    def work() -> dict[str, t.Any]:
        result = drill_all(module.params["path"], _request(module.params), check=module.check_mode)
        warnings = [warning for one in result["sets"] for warning in one.pop("warnings", ())]
        return {"changed": False, **result, "warnings": warnings}

    _module.run(module, work)


if __name__ == "__main__":
    main()
