# Copyright (c) 2026, mysql_ops contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Compare a backup set with its manifest, byte by byte."""

from __future__ import annotations

DOCUMENTATION = r"""
module: replica_archive_verify
short_description: Compare a backup set with its manifest, byte by byte
description:
  - Reads the archive of a set once from front to back, hashes every file inside, and compares every member with the
    manifest - name, type, size, owner, mode, time, link and SHA-256 - then the archive as a whole, and C(SHA256SUMS).
  - Fails at the first difference and names the file; a flipped bit, a file cut short, a missing or an additional
    member, another set's archive.
  - Needs neither a server nor PyMySQL; runs wherever the set can be read, the controller or a host that mounts it.
  - Nothing is written. Check mode does the same.
  - Without this collection, C(sha256sum -c SHA256SUMS) in the extracted tree proves the contents of all regular files.
version_added: 0.1.0
author:
  - mysql_ops contributors (@mysql-ops)
options:
  path:
    description: Directory of the set, the one that holds C(manifest.json).
    type: path
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
verified:
  description: Whether every byte is as the manifest says; false together with a failure.
  returned: always, except when there is no set
  type: bool
  sample: true
file:
  description: The file that differs, a name inside the archive or of the set itself.
  returned: failure
  type: str
  sample: datadir/shop/orders.ibd
part_sha256_matches:
  description: Whether the archive as a whole has the hash of the manifest.
  returned: when a member of the archive differs
  type: bool
  sample: false
set_dir:
  description: Directory of the set.
  returned: always
  type: str
  sample: /srv/backups/db2/20260101T030000Z
host:
  description: The replica that the set was made of.
  returned: always
  type: str
  sample: db2
backup_id:
  description: When it was made (UTC).
  returned: always
  type: str
  sample: 20260101T030000Z
server:
  description: Family, version, UUID and server_id of the replica.
  returned: success
  type: dict
  sample: {family: mysql, version: 9.7.4, uuid: 3e11fa47-71ca-11e1-9e33-c80aa9429562, server_id: 2}
files:
  description: Number of members that were compared.
  returned: success
  type: int
  sample: 412
bytes:
  description: Size of the archive.
  returned: success
  type: int
  sample: 26843545
seconds:
  description: How long it took.
  returned: success
  type: float
  sample: 1.7
"""

import typing as t

from ansible.module_utils.basic import AnsibleModule

from ansible_collections.mysql_ops.replica_backup.plugins.module_utils import _module
from ansible_collections.mysql_ops.replica_backup.plugins.module_utils._archive.verify import verify


def main() -> None:
    module = AnsibleModule(argument_spec={"path": {"type": "path", "required": True}}, supports_check_mode=True)

    def work() -> dict[str, t.Any]:
        return {"changed": False, **verify(module.params["path"]).to_result()}

    _module.run(module, work, needs_pymysql=False)


if __name__ == "__main__":
    main()
