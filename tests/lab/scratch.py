# Copyright (c) 2026, mysql_ops contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Scratch directories that the servers can reach and that a later run can recognise as ours."""

from __future__ import annotations

import contextlib
import json
import os
import pwd
import shutil
import stat
import subprocess
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from ansible_collections.mysql_ops.replica_backup.tests.lab import processes

CHECKOUT = Path(__file__).resolve().parents[2]

_OWNER = "owner.json"
_ELSEWHERE = Path("/var/tmp")
_ELSEWHERE_PREFIX = "replica-backup-lab."
# sun_path holds 108 bytes; the longest name below a scratch directory is NAME/mysqld.sock.
_LONGEST_ROOT = 75


@dataclass(frozen=True)
class Account:
    """The system account that servers of the lab run as."""

    name: str
    uid: int
    gid: int


def server_account() -> Account:
    """Return ``mysql`` for root, as on a production host, and the caller's own account otherwise."""
    entry = pwd.getpwnam("mysql") if os.geteuid() == 0 else pwd.getpwuid(os.geteuid())
    return Account(entry.pw_name, entry.pw_uid, entry.pw_gid)


def create(wanted: Path, *, region: Path | None = None) -> Path:
    """Make a scratch directory for servers at ``wanted``, or elsewhere with a link at ``wanted``.

    Whatever names a path below ``region`` (default: the directory itself) is ended when this is removed.

    Elsewhere (below /var/tmp) when the account of the servers may not pass through ``wanted``, as in root's
    home, or when the path is too long for a socket.
    """
    remove(wanted)
    wanted.parent.mkdir(parents=True, exist_ok=True)
    account = server_account()
    if len(str(wanted)) <= _LONGEST_ROOT and may_pass(wanted.parent, account):
        root = wanted
        root.mkdir()
    else:
        root = Path(tempfile.mkdtemp(prefix=_ELSEWHERE_PREFIX, dir=_ELSEWHERE))
        wanted.symlink_to(root)
    root.chmod(0o755)
    pid = os.getpid()
    owner = {
        "checkout": str(CHECKOUT),
        "pid": pid,
        "start_ticks": processes.start_ticks(pid),
        "region": str(region or root),
    }
    (root / _OWNER).write_text(json.dumps(owner), encoding="utf-8")
    return root


def remove(path: Path) -> None:
    """End every process that names the directory (or the one it links to), unmount and delete it."""
    target = path.resolve()
    regions = [path, target]
    with contextlib.suppress(OSError, ValueError, KeyError):
        regions.append(Path(json.loads((target / _OWNER).read_text(encoding="utf-8"))["region"]))
    # Again until nothing is found: what brings servers back may have started one in between.
    while found := [pid for region in regions for pid in processes.naming(region)]:
        processes.end(found)
    for mount_point in _mounts_below(target):
        subprocess.run(["umount", "--lazy", str(mount_point)], check=False)
    if path.is_symlink():
        path.unlink()
    if target.exists() and (target / _OWNER).exists():
        shutil.rmtree(target, ignore_errors=True)
    if target.exists() and target == path:
        shutil.rmtree(target)


def abandoned(*, everything: bool) -> Iterator[Path]:
    """Yield scratch directories of this checkout, or of one that is gone, which no living run uses.

    With ``everything`` also those of this checkout that a living run uses.
    """
    candidates = [*(CHECKOUT / ".test" / "lab").glob("*"), CHECKOUT / ".demo" / "servers"]
    candidates += _ELSEWHERE.glob(_ELSEWHERE_PREFIX + "*")
    for path in candidates:
        try:
            owner = json.loads((path / _OWNER).read_text(encoding="utf-8"))
        except (OSError, ValueError):
            if path.is_symlink() and not path.exists():
                path.unlink()
            continue
        mine = owner["checkout"] == str(CHECKOUT)
        if not mine and Path(owner["checkout"]).exists():
            continue
        if living_owner(path) is None or (mine and everything):
            yield path


def living_owner(path: Path) -> int | None:
    """Return the process that made a scratch directory and still runs, None when there is none."""
    try:
        owner = json.loads((path / _OWNER).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    ticks = processes.start_ticks(owner["pid"])
    return owner["pid"] if ticks is not None and ticks == owner["start_ticks"] else None


def may_pass(directory: Path, account: Account) -> bool:
    for parent in (directory, *directory.parents):
        facts = parent.stat()
        if facts.st_uid == account.uid:
            bit = stat.S_IXUSR
        elif facts.st_gid == account.gid:
            bit = stat.S_IXGRP
        else:
            bit = stat.S_IXOTH
        if not facts.st_mode & bit:
            return False
    return True


def _mounts_below(directory: Path) -> list[Path]:
    prefix = f"{directory}/"
    found = []
    for line in Path("/proc/self/mounts").read_text(encoding="utf-8").splitlines():
        mount_point = line.split()[1].replace("\\040", " ")
        if mount_point.startswith(prefix):
            found.append(Path(mount_point))
    return sorted(found, reverse=True)
