# Copyright (c) 2026, mysql_ops contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The replica's half of the replica_fetch action, and its documentation."""

from __future__ import annotations

DOCUMENTATION = r"""
module: replica_fetch
short_description: Bring a backup set from a replica to the controller
version_added: 0.1.0
description:
  - Brings C(SPOOL_DIR/HOST/BACKUP_ID/) to C(DEST/HOST/BACKUP_ID/) on the controller, over any connection
    plugin.
  - Files are never held in memory on either side, whatever their size, and also when the login user is not the one
    who owns the set (become).
  - Every file is hashed after it has landed and compared with the hash that was taken while it was archived. Files that
    are there already with the right hash are not moved again, so that an interrupted transfer goes on where it was.
  - SSH is told not to compress what is compressed already, on a connection of its own.
  - C(manifest.json) lands last. A set without it is incomplete.
options:
  spool_dir:
    description: Work space on the replica, below which the set was written.
    type: path
    required: true
  state_dir:
    description: Directory on the replica with its lock and ledger.
    type: path
    required: true
  host:
    description: Name of the set's first directory. Not needed with O(state=released).
    type: str
  backup_id:
    description: Name of the set's second directory, UTC time as C(YYYYMMDDTHHMMSSZ). Not needed with O(state=released).
    type: str
  dest:
    description:
      - Directory on the controller. It is created with mode 0700, with what is missing above it.
      - Needed with O(state=fetched). Without it O(state=ready) looks at the replica alone.
    type: path
  state:
    description:
      - V(fetched) brings the set over.
      - V(ready) checks that a new set of this name could be written and brought over. The destination must be
        writable, and the name unused there and in the spool.
      - V(released) clears what an interrupted transfer has left on the replica.
      - Both also remove what interrupted transfers of this host have left at O(dest), unless the replica still has the
        set; then its transfer can go on.
    type: str
    choices: [fetched, ready, released]
    default: fetched
  publish:
    description:
      - Whether to complete the set. When its files have landed, the replica reads the archive back and writes the
        manifest, the manifest is brought over, and the set is removed from the spool.
      - Without it the files are brought over and verified, and nothing else happens.
    type: bool
    default: true
  request:
    description: Questions of the action plugin to its other half. Not for use in tasks.
    type: dict
attributes:
  check_mode:
    support: full
    description: Says whether something would be brought over; changes nothing on either side.
  diff_mode:
    support: none
    description: There is no difference to show; a set is there or not.
  idempotent:
    support: full
    description: A set that is complete at O(dest) is verified and not moved again.
  platform:
    support: full
    platforms: posix
    description: Both the replica and the controller run a POSIX system.
author:
  - mysql_ops contributors (@mysql-ops)
seealso:
  - module: mysql_ops.replica_backup.replica_archive
notes:
  - Runs on the controller and cannot be used with C(async).
  - With become, the set is handed over through hard links in a directory of the login user beside O(spool_dir). Where
    that is not possible (the spool is a file system of its own, its parent is closed to others) it goes in bounded
    pieces, which is slower; a warning says why.
"""

EXAMPLES = r"""
- name: Bring a set over, publish it and clear the spool
  mysql_ops.replica_backup.replica_fetch:
    spool_dir: /var/backups/mysql-replica
    state_dir: /var/lib/mysql-replica-backup
    host: "{{ inventory_hostname }}"
    backup_id: 20261122T020000Z
    dest: /srv/backups
  become: true
"""

RETURN = r"""
cleared:
  description: Directories of unfinished sets at the destination that were removed.
  type: list
  elements: str
  returned: with O(state=ready) and O(state=released)
  sample: ["/srv/backups/db2/20261122T020000Z"]
set_dir:
  description: Directory of the set on the controller.
  type: str
  returned: with O(state=fetched)
  sample: /srv/backups/db2/20261122T020000Z
bytes:
  description: Size of the set's files.
  type: int
  returned: with O(state=fetched)
  sample: 1073741824
moved:
  description: Bytes of it that had to be moved by this call.
  type: int
  returned: with O(state=fetched)
  sample: 1073741824
seconds:
  description: Duration of the transfer including hashing.
  type: float
  returned: with O(state=fetched)
  sample: 9.81
method:
  description: How the files were handed over, V(direct), V(link), V(piece) or V(chunk); V(none) when nothing was moved.
  type: str
  returned: with O(state=fetched)
  sample: link
verified:
  description: Whether every file at the destination was read and has the hash that it had on the replica.
  type: bool
  returned: with O(state=fetched)
  sample: true
published:
  description: Whether the set at the destination is complete.
  type: bool
  returned: with O(state=fetched)
  sample: true
"""

import contextlib
import os
import typing as t

from ansible.module_utils.basic import AnsibleModule

from ansible_collections.mysql_ops.replica_backup.plugins.module_utils import _downtime, _handoff, _ledger
from ansible_collections.mysql_ops.replica_backup.plugins.module_utils._archive import job
from ansible_collections.mysql_ops.replica_backup.plugins.module_utils._errors import RefusedError, ReplicaBackupError
from ansible_collections.mysql_ops.replica_backup.plugins.module_utils._layout import BACKUP_ID_PATTERN, SetPaths
from ansible_collections.mysql_ops.replica_backup.plugins.module_utils._module import run

# How slow a transfer may be before another run may take this one for dead; too generous would keep recover waiting.
_SLOW_BYTES_PER_SECOND = 2 * 1024 * 1024
_SPARE_SECONDS = 300.0


def answer(params: t.Mapping[str, t.Any]) -> dict[str, t.Any]:
    """What the action's request is answered with."""
    request = params["request"]
    if not request:
        raise RefusedError("replica_fetch was run without its action plugin")
    asked = request["ask"]
    state_dir = params["state_dir"]
    if asked == "release":
        if not os.path.isdir(state_dir):
            return {"changed": False, "backup_ids": _backup_ids(params)}
        with _ledger.locked(state_dir, "replica_fetch"):
            released = _handoff.release(state_dir)
            _arrived(state_dir)
        if request.get("clear"):
            released = job.remove(_request(params)).changed or released
        return {"changed": released, "backup_ids": _backup_ids(params)}
    paths = _request(params).paths
    if asked == "ready":
        return {**_ready(paths), "backup_ids": _backup_ids(params)}
    if asked == "offer":
        if request.get("publish"):
            archive = _request(params, request["publish"])
            job.stand_back_for_the_server(archive)
            job.publish(archive)
        return _offer(paths, state_dir, request)
    ranges = [_handoff.Range(_handoff.unquote(name), offset, length) for name, offset, length in request["ranges"]]
    data = _handoff.read_ranges(paths, state_dir, ranges)
    if asked == "piece":
        return {"changed": False, "path": _handoff.write_piece(state_dir, request["login_uid"], data)}
    return {"changed": False, "content": _handoff.encode_chunk(data)}


def _request(params: t.Mapping[str, t.Any], times: t.Mapping[str, t.Any] | None = None) -> job.Request:
    paths = SetPaths(params["spool_dir"], params["host"], params["backup_id"])
    return job.Request(paths=paths, state_dir=params["state_dir"], times=times or {})


def _backup_ids(params: t.Mapping[str, t.Any]) -> list[str]:
    """What of this host lies in the spool, finished or not; an interrupted transfer of it can go on."""
    with contextlib.suppress(OSError, TypeError):
        names = os.listdir(os.path.join(params["spool_dir"], params["host"]))
        return sorted(name for name in names if BACKUP_ID_PATTERN.match(name))
    return []


def _ready(paths: SetPaths) -> dict[str, t.Any]:
    if os.path.lexists(paths.directory):
        raise RefusedError(
            f"Backup id {paths.backup_id} exists on the replica",
            found=paths.directory,
            expected="an id that is not in use; variable replica_backup_id",
            server_state="not touched",
        )
    return {"changed": False}


def _offer(paths: SetPaths, state_dir: str, request: t.Mapping[str, t.Any]) -> dict[str, t.Any]:
    if not os.path.isdir(paths.directory):
        return {"changed": False, "there": False}
    found = _handoff.contents(paths)
    result: dict[str, t.Any] = {
        "changed": False,
        "there": True,
        "tree": found.tree,
        "items": [[_handoff.quote(item.name), item.bytes, item.sha256] for item in found.items],
        "manifest": found.manifest and [found.manifest.name, found.manifest.bytes, found.manifest.sha256],
    }
    if request.get("look"):
        return result
    with _ledger.locked(state_dir, "replica_fetch"):
        _stay_alive(paths, state_dir, found)
        made = _handoff.offer(paths, found, state_dir, request["login_uid"], worse_than=request.get("worse_than") or "")
    if found.tree:
        result["index_bytes"] = _handoff.index_size(state_dir)
    return {**result, "offer": made.to_result()}


def _stay_alive(paths: SetPaths, state_dir: str, found: _handoff.Contents) -> None:
    """No module runs here while a file is on its way, so the run's lease must last for as long as that may take."""
    ledger = _ledger.load_of(state_dir, paths)
    if ledger is not None:
        if ledger.server_is_down:
            _downtime.fetch_begins(ledger)
            ledger.wait_for_transfer()
            return
        seconds = _SPARE_SECONDS + found.bytes / _SLOW_BYTES_PER_SECOND
        ledger.save(lease=max(ledger.lease_left, seconds))


def _arrived(state_dir: str) -> None:
    """The transfer has ended: from now on the server waits for the next step, no longer for data on their way."""
    # What cannot be read or noted now is not what is asked here; the deadline stands.
    with contextlib.suppress(ReplicaBackupError):
        ledger = _ledger.load(state_dir)
        if ledger is not None and ledger.server_is_down and ledger.lease_left > _ledger.DEFAULT_LEASE:
            _downtime.fetch_ended(ledger)
            ledger.hand_on()


def main() -> None:
    module = AnsibleModule(
        argument_spec={
            "spool_dir": {"type": "path", "required": True},
            "state_dir": {"type": "path", "required": True},
            "host": {"type": "str"},
            "backup_id": {"type": "str"},
            "dest": {"type": "path"},
            "state": {"type": "str", "choices": ["fetched", "ready", "released"], "default": "fetched"},
            "publish": {"type": "bool", "default": True},
            "request": {"type": "dict"},
        },
        required_if=[("state", "fetched", ("host", "backup_id", "dest")), ("state", "ready", ("host", "backup_id"))],
        supports_check_mode=True,
    )
    run(module, lambda: answer(module.params), needs_pymysql=False)


if __name__ == "__main__":
    main()
