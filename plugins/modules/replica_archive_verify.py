# Copyright (c) 2026, mysql_ops contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Compare a backup set with its manifest, byte by byte."""

from __future__ import annotations

DOCUMENTATION = r"""
module: replica_archive_verify
short_description: Compare backup sets with their manifests, byte by byte
description:
  - Reads the archive of a set once from front to back, hashes every file inside, and compares every member with the
    manifest - name, type, size, owner, mode, time, link and SHA-256 - then the archive as a whole, and C(SHA256SUMS).
  - Fails when a set is bad and names the file of the first difference - a flipped bit, a file cut short, a missing or
    an additional member, another set's archive - after all sets have been read.
  - Needs neither a server nor PyMySQL; runs wherever the set can be read, the controller or a host that mounts it.
  - Nothing is written. Check mode does the same.
  - Without this collection, C(sha256sum -c SHA256SUMS) in the extracted tree proves the contents of all regular files.
version_added: 0.1.0
author:
  - mysql_ops contributors (@mysql-ops)
options:
  path:
    description:
      - Directories of sets, those that hold a C(manifest.json), or globs of them.
      - What a glob names without a manifest is an unfinished set and passed over; no set at all is an error.
    type: list
    elements: path
    required: true
attributes:
  check_mode:
    support: full
    description: Nothing is ever changed.
  diff_mode:
    support: none
    description: There is no text to compare.
  platform:
    description: Platforms the module works on.
    platforms: posix
    support: full
requirements:
  - The tool that the archive was compressed with (V(zstd), V(gzip), V(lz4) or V(xz))
seealso:
  - module: mysql_ops.replica_backup.replica_archive
"""

EXAMPLES = r"""
- name: Is last night's set what it was when it was made?
  mysql_ops.replica_backup.replica_archive_verify:
    path: /srv/backups/db2/20260101T030000Z
  delegate_to: localhost
"""

RETURN = r"""
sets:
  description: Every set that was read.
  returned: always, except when there is none
  type: list
  elements: dict
  contains:
    set_dir:
      description: Directory of the set.
      type: str
    verified:
      description: Whether every byte is as the manifest says.
      type: bool
    msg:
      description: What differs; only for a bad set.
      type: str
    file:
      description: The file that differs, a name inside the archive or of the set itself; only for a bad set.
      type: str
    part_sha256_matches:
      description: Whether the archive as a whole has the hash of the manifest; where a member of the archive differs.
      type: bool
    host:
      description: The replica that the set was made of.
      type: str
    backup_id:
      description: When it was made (UTC).
      type: str
    server:
      description: Family, version, UUID and server_id of the replica.
      type: dict
    files:
      description: Number of members that were compared.
      type: int
    bytes:
      description: Size of the archive.
      type: int
    seconds:
      description: How long it took.
      type: float
  sample:
    - set_dir: /srv/backups/db2/20260101T030000Z
      verified: true
      host: db2
      backup_id: 20260101T030000Z
      server: {family: mysql, version: 9.7.4, uuid: 3e11fa47-71ca-11e1-9e33-c80aa9429562, server_id: 2}
      files: 412
      bytes: 26843545
      seconds: 1.7
"""

import typing as t

from ansible.module_utils.basic import AnsibleModule

from ansible_collections.mysql_ops.replica_backup.plugins.module_utils import _module
from ansible_collections.mysql_ops.replica_backup.plugins.module_utils._archive.verify import verify_all


def main() -> None:
    module = AnsibleModule(
        argument_spec={"path": {"type": "list", "elements": "path", "required": True}}, supports_check_mode=True
    )

    def work() -> dict[str, t.Any]:
        results = verify_all(module.params["path"])
        warnings = [warning for result in results for warning in result.pop("warnings")]
        return {"changed": False, "sets": results, "warnings": warnings}

    _module.run(module, work, needs_pymysql=False)


if __name__ == "__main__":
    main()
