# Copyright (c) 2026, mysql_ops contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Archive the files of a server that this run has stopped."""

from __future__ import annotations

DOCUMENTATION = r"""
module: replica_archive
short_description: Archive the files of a stopped replica and prove the result
description:
  - Streams the files that M(mysql_ops.replica_backup.replica_files_discover) has found into one archive in the spool
    of the replica, while the server is down. Every file is hashed as it is read.
  - Where M(mysql_ops.replica_backup.mysql_replica_stop) or M(mysql_ops.replica_backup.replica_snapshot) has made a
    clone of them, the clone is archived, while the server serves, and removed then.
  - The list is taken again from disk first, because logs rotate at a shutdown. A file that vanishes or changes while it
    is archived fails the module with its name; at the end all files are compared once more.
  - Publishing reads the archive back from disk, compares every member with what was read from the server, and writes
    C(manifest.json) last. A set without it is not a backup.
  - Without a clone it refuses while the server runs and fails when the dead-man starts it meanwhile. What was written
    by then is removed.
  - Memory does not grow with the data.
version_added: 0.1.0
author:
  - mysql_ops contributors (@mysql-ops)
options:
  state:
    description:
      - V(captured) archives, without manifest. Needs the stopped server, and this is the part that costs downtime; or
        the clone of this run.
      - V(published) proves what was captured and writes the manifest. The server may run again.
      - V(present) does both.
      - V(absent) removes the set from the spool, finished or not.
    type: str
    choices: [captured, published, present, absent]
    default: present
  format:
    description:
      - V(tar) is a plain pax tar with owners, times in nanoseconds, links and holes.
      - V(zip) is for tools that read nothing else; it keeps neither hard links nor holes, and whole seconds only.
      - V(copy) is a directory with the same names; it is not compressed.
    type: str
    choices: [tar, zip, copy]
    default: tar
  compression:
    description:
      - How a tar is compressed. The tool of that name must be installed; V(gzip) takes C(pigz) when it is there. For
        V(zstd) the C(zstandard) package of the host's Python does too, or Python 3.14.
      - A zip is deflated whatever is chosen here, and stored with V(none).
    type: str
    choices: [none, gzip, zstd, lz4, xz]
    default: zstd
  compression_level:
    description:
      - Level of the compressor. The quickest sensible one by default, because the server is away meanwhile.
      - For V(zstd) 1 to 19, or -1 to -50 for its C(--fast) levels.
    type: int
  compression_threads:
    description:
      - Threads of the compressor where it has any; 0 takes one for each CPU.
      - Shards (O(shards)) share them.
    type: int
    default: 0
  shards:
    description:
      - Into how many tar files the data go, C(data.0.tar.zst), C(data.1.tar.zst) and so on, up to 32; 0 takes one for
        each CPU. They are written, proven and restored at the same time, each by its own compressor.
      - Each is a tar by itself; together they hold every file once. Only for O(format=tar).
    type: int
    default: 1
  start_server:
    description:
      - Start the server the moment the capture stands, or has failed, with threads as before (O(state=captured) and
        O(state=present)). M(mysql_ops.replica_backup.mysql_replica_start) then only waits for catch-up.
      - Needs PyMySQL; logs in as M(mysql_ops.replica_backup.mysql_replica_stop) did.
    type: bool
    default: false
  throttle:
    description:
      - MiB per second that a clone may be read with at most; 0 for no limit. An archive from a clone runs at the lowest
        priority for CPU and disk in any case. Has no effect on a stopped server's files.
    type: int
    default: 0
  times:
    description:
      - Start and end (UTC) of further steps, for the manifest, used with O(state=published) and O(state=present).
      - A key C(downtime_seconds) sets that value of the manifest.
    type: dict
    default: {}
extends_documentation_fragment:
  - mysql_ops.replica_backup.run
attributes:
  check_mode:
    support: full
    description: Refuses what can be refused without reading a file, and changes nothing.
  diff_mode:
    support: none
    description: There is no text to compare.
"""

EXAMPLES = r"""
- name: Archive the stopped server
  mysql_ops.replica_backup.replica_archive:
    host: "{{ inventory_hostname }}"
    backup_id: 20260101T000000Z
    state: captured

- name: Prove the archive and write the manifest, while the server serves again
  mysql_ops.replica_backup.replica_archive:
    host: "{{ inventory_hostname }}"
    backup_id: 20260101T000000Z
    state: published

- name: Remove the set from the spool
  mysql_ops.replica_backup.replica_archive:
    host: "{{ inventory_hostname }}"
    backup_id: 20260101T000000Z
    state: absent
"""

RETURN = r"""
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
set_dir:
  description: Directory of the set on the replica.
  returned: success
  type: str
  sample: /var/backups/mysql-replica/db2/20260101T000000Z
parts:
  description:
    - What holds the data. For a plain directory C(sha256) is that of C(SHA256SUMS), C(bytes) that of all its files.
    - Empty in check mode and with O(state=absent).
  returned: success
  type: list
  elements: dict
  contains:
    name:
      description: Name in the set's directory.
      type: str
      sample: data.tar.zst
    bytes:
      description: Size in bytes.
      type: int
    sha256:
      description: SHA-256 in hex.
      type: str
    format:
      description: V(tar), V(zip) or V(copy).
      type: str
    compression:
      description: What the data were really compressed with.
      type: str
files:
  description: Number of names in the archive, directories and links included.
  returned: success
  type: int
bytes:
  description: Bytes of all files before compression.
  returned: success
  type: int
places:
  description: Number of names and bytes of each place.
  returned: after a capture
  type: dict
manifest:
  description: Name, size and SHA-256 of the manifest; none before the set is published.
  returned: success
  type: dict
  contains:
    name:
      description: Always C(manifest.json).
      type: str
    bytes:
      description: Size in bytes.
      type: int
    sha256:
      description: SHA-256 in hex.
      type: str
times:
  description: Start and end (UTC) of the steps known so far, and C(downtime_seconds) once it is known.
  returned: success
  type: dict
"""

import typing as t

from ansible.module_utils.basic import AnsibleModule

from ansible_collections.mysql_ops.replica_backup.plugins.module_utils import _handover, _module
from ansible_collections.mysql_ops.replica_backup.plugins.module_utils._archive import job
from ansible_collections.mysql_ops.replica_backup.plugins.module_utils._layout import SetPaths

_WORK: dict[str, t.Callable[[job.Request], job.Outcome]] = {
    "captured": job.capture,
    "published": job.publish,
    "present": job.present,
    "absent": job.remove,
}


def argument_spec() -> dict[str, t.Any]:
    return {
        **_module.run_argument_spec(),
        "state": {"type": "str", "choices": ["captured", "published", "present", "absent"], "default": "present"},
        "format": {"type": "str", "choices": ["tar", "zip", "copy"], "default": "tar"},
        "compression": {"type": "str", "choices": ["none", "gzip", "zstd", "lz4", "xz"], "default": "zstd"},
        "compression_level": {"type": "int"},
        "compression_threads": {"type": "int", "default": 0},
        "shards": {"type": "int", "default": 1},
        "start_server": {"type": "bool", "default": False},
        "throttle": {"type": "int", "default": 0},
        "times": {"type": "dict", "default": {}},
    }


def work(params: t.Mapping[str, t.Any], check_mode: bool) -> dict[str, t.Any]:
    request = job.Request(
        paths=SetPaths(params["spool_dir"], params["host"], params["backup_id"]),
        state_dir=params["state_dir"],
        form=params["format"],
        compression=params["compression"],
        level=params["compression_level"],
        threads=params["compression_threads"],
        shards=params["shards"],
        bytes_per_second=max(0, params["throttle"]) * 1024 * 1024,
        times=params["times"] or {},
    )
    state = params["state"]
    if check_mode:
        return job.plan(request, state).to_result()
    if state != "absent":
        job.stand_back_for_the_server(request)
    if params["start_server"] and state in ("captured", "present"):
        captured, started = _handover.capture_then_start(lambda: job.capture(request), request.state_dir)
        outcome = captured if state == "captured" else job.publish(request)
        return {**outcome.to_result(), **started}
    return _WORK[state](request).to_result()


def main() -> None:
    module = AnsibleModule(argument_spec=argument_spec(), supports_check_mode=True)
    _module.run(module, lambda: work(module.params, module.check_mode), needs_pymysql=module.params["start_server"])


if __name__ == "__main__":
    main()
