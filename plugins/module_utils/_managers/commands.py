# Copyright (c) 2026, mysql_ops contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Short commands: as lists, in the C locale, bounded in time, with their stderr in the error."""

from __future__ import annotations

import os
import shlex
import subprocess
import typing as t

from ansible_collections.mysql_ops.replica_backup.plugins.module_utils._errors import ReplicaBackupError

# There while systemd runs the host; its run-time units are in it.
SYSTEMD = "/run/systemd/system"
PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
_TIMEOUT = 60.0


def environment(home: str = "/") -> dict[str, str]:
    """What a command of ours gets: nothing of the caller's."""
    return {"PATH": PATH, "LANG": "C", "LC_ALL": "C", "HOME": home}


def run(argv: t.Sequence[str], timeout: float = _TIMEOUT) -> subprocess.CompletedProcess[str]:
    """Run a short command; its output as text. Raises ReplicaBackupError when it cannot run or hangs."""
    try:
        return subprocess.run(
            list(argv),
            stdin=subprocess.DEVNULL,
            capture_output=True,
            env={**environment(), "PATH": os.environ.get("PATH", PATH)},
            timeout=timeout,
            check=False,
            encoding="utf-8",
            errors="surrogateescape",
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        raise ReplicaBackupError(f"'{shlex.join(argv)}' did not work", found=str(error)) from error


def must(argv: t.Sequence[str], timeout: float = _TIMEOUT) -> str:
    """The output of a command. Raises ReplicaBackupError when it fails as well."""
    done = run(argv, timeout)
    if done.returncode != 0:
        raise ReplicaBackupError(
            f"'{shlex.join(argv)}' failed",
            found=f"exit code {done.returncode}: {(done.stderr or done.stdout).strip()[-500:]}",
            expected="exit code 0",
        )
    return done.stdout
