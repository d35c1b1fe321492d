# Copyright (c) 2026, mysql_ops contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Sets in an object store, read by rclone on this host: bounded retries, and never a short file taken as whole.

Credentials stay in rclone's own configuration file; nothing secret is in an argument or in the environment.
"""

from __future__ import annotations

import json
import os
import pwd
import re
import select
import shutil
import subprocess
import tempfile
import threading
import time
import typing as t
from dataclasses import dataclass

from ansible_collections.mysql_ops.replica_backup.plugins.module_utils._errors import RefusedError, ReplicaBackupError

ATTEMPTS = 5
_SEARCH = os.pathsep.join(("/usr/local/sbin", "/usr/local/bin", "/usr/sbin", "/usr/bin", "/sbin", "/bin"))
# rclone's names of remotes; a connection string (":s3,key=...:bucket") would carry secrets in an argument.
_REMOTE = re.compile(r"([A-Za-z0-9_][A-Za-z0-9_.+@ -]*):(?!//)(.*)", re.DOTALL)
_PROXIES = ("http_proxy", "https_proxy", "no_proxy", "HTTP_PROXY", "HTTPS_PROXY", "NO_PROXY")
_STDERR_LIMIT = 4096
_LONGEST_PAUSE = 30.0


def is_remote(text: str) -> bool:
    """Whether ``text`` is REMOTE:PATH rather than a path."""
    return _REMOTE.fullmatch(text) is not None


@dataclass(frozen=True)
class Remote:
    """``path`` is REMOTE:PATH/HOST/ID. ``config`` is rclone's configuration file, None for its default. ``timeout``
    in seconds is how long nothing may arrive."""

    path: str
    config: str | None = None
    timeout: float = 60.0

    def join(self, name: str) -> str:
        return f"{self.path.rstrip('/')}/{name}"


def check(remote: Remote) -> str:
    """The path of rclone. Raises RefusedError when it is missing here, or ``remote`` is none of its configuration."""
    if not is_remote(remote.path):
        raise RefusedError(
            "This is no remote of rclone's configuration",
            found=remote.path.split(",")[0],
            expected="REMOTE:PATH/HOST/ID, with REMOTE as rclone's configuration file on this host names it",
            rule="remote",
        )
    if remote.config is not None and not os.path.isfile(remote.config):
        raise RefusedError(
            "rclone's configuration file is missing on this host",
            found=remote.config,
            expected="a file that names the remote; option rclone_config",
            rule="remote",
        )
    found = shutil.which("rclone", path=os.environ.get("PATH", "") + os.pathsep + _SEARCH)
    if found is None:
        raise RefusedError(
            "rclone is missing on this host: it is what reads a set from an object store",
            found=f"not in {_SEARCH}",
            expected="package rclone installed",
            next_command="install the package rclone and its configuration file on this host,"
            " or bring the set over and restore it from a path",
            rule="remote",
            package="rclone",
        )
    return found


def list_names(remote: Remote) -> dict[str, int]:
    """Names and sizes of the files directly in the set's directory."""
    answer = _call(remote, "lsjson", "--files-only", remote.path)
    try:
        return {str(entry["Name"]): int(entry["Size"]) for entry in json.loads(answer)}
    except (ValueError, KeyError, TypeError) as problem:
        raise ReplicaBackupError(f"The answer of rclone lsjson cannot be read: {problem}") from problem


def _call(remote: Remote, *arguments: str) -> bytes:
    command = _command(check(remote), remote, *arguments)
    words = ""
    for attempt in range(1, ATTEMPTS + 1):
        try:
            done = subprocess.run(
                command,
                stdin=subprocess.DEVNULL,
                capture_output=True,
                timeout=4 * remote.timeout,
                env=_environment(),
                check=False,
            )
        except subprocess.TimeoutExpired:
            words = f"no answer within {4 * remote.timeout:g} seconds"
        except OSError as problem:
            raise ReplicaBackupError(f"rclone cannot be started: {problem.strerror}") from problem
        else:
            if done.returncode == 0:
                return done.stdout
            words = f"exit code {done.returncode}: {_tail(done.stderr)}"
            if done.returncode in (3, 4):  # directory, or file, not found: asking again does not help
                break
        if attempt < ATTEMPTS:
            time.sleep(min(_LONGEST_PAUSE, 0.5 * 2**attempt))
    raise RefusedError(
        f"{remote.path} cannot be read by rclone",
        found=words,
        expected="the directory of a set, readable with rclone's configuration on this host",
        next_command=f"try: rclone lsl {remote.path}",
        rule="remote",
    )


def _command(rclone: str, remote: Remote, *arguments: str) -> list[str]:
    # rclone's own retries cannot go on in the middle of a file, ours can.
    options = ["--retries", "1", "--low-level-retries", "2", "--contimeout", f"{min(remote.timeout, 30):g}s"]
    options += ["--timeout", f"{remote.timeout:g}s", "--stats", "0", "--ask-password=false"]
    if remote.config is not None:
        options += ["--config", remote.config]
    return [rclone, *options, *arguments]


def _environment() -> dict[str, str]:
    """Nothing of ours: RCLONE_* would change what is read, and AWS_CA_BUNDLE ends rclone 1.60."""
    kept = {name: os.environ[name] for name in _PROXIES if name in os.environ}
    try:
        home = pwd.getpwuid(os.geteuid()).pw_dir
    except KeyError:
        home = "/"
    return {**kept, "PATH": os.environ.get("PATH", _SEARCH), "HOME": home, "LC_ALL": "C.UTF-8"}


def _tail(words: bytes) -> str:
    return words[-_STDERR_LIMIT:].decode("utf-8", "replace").strip() or "it said nothing"


class RcloneStream:
    """The :class:`~.stream.ByteStream` of one file of ``size`` bytes.

    When rclone fails, or nothing arrives for the remote's ``timeout``, it is started again where it stopped; after
    :data:`ATTEMPTS` times in a row without a byte that is an error.
    """

    def __init__(self, remote: Remote, name: str, size: int) -> None:
        self.name = remote.join(name)
        self._remote = remote
        self._size = size
        self._position = 0
        self._failures = 0
        self._cancelled = threading.Event()
        self._process: subprocess.Popen[bytes] | None = None
        self._words: t.IO[bytes] = tempfile.TemporaryFile()  # noqa: SIM115 - closed in close()
        self._rclone = check(remote)

    def readinto(self, view: memoryview) -> int:
        while True:
            if self._process is None:
                if self._position == self._size and self._size:
                    return 0
                self._process = self._start()
            count = self._read(self._process, view)
            if count:
                self._position += count
                self._failures = 0
                return count
            trouble = self._end(stalled=count is None)
            if self._position == self._size:
                return 0
            self._again(trouble)

    def cancel(self) -> None:
        self._cancelled.set()

    def close(self) -> None:
        self._cancelled.set()
        if self._process is not None:
            self._end(stalled=True)
        self._words.close()

    def _start(self) -> subprocess.Popen[bytes]:
        self._words.seek(0)
        self._words.truncate()
        offset = ["--offset", str(self._position)] if self._position else []
        try:
            return subprocess.Popen(
                _command(self._rclone, self._remote, "cat", *offset, self.name),
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=self._words,
                env=_environment(),
                bufsize=0,
            )
        except OSError as problem:
            raise ReplicaBackupError(f"rclone cannot be started: {problem.strerror}") from problem

    def _read(self, process: subprocess.Popen[bytes], view: memoryview) -> int | None:
        """Bytes read, 0 at the end of the output, None when nothing came for too long."""
        descriptor = t.cast(t.IO[bytes], process.stdout).fileno()
        waiting = select.poll()
        waiting.register(descriptor, select.POLLIN)
        # rclone gives up by itself first, and says why.
        deadline = time.monotonic() + 2 * self._remote.timeout
        while not waiting.poll(500):
            if self._cancelled.is_set():
                raise ReplicaBackupError(f"{self.name} is not read any further")
            if time.monotonic() >= deadline:
                return None
        return os.readv(descriptor, [view])

    def _end(self, *, stalled: bool) -> str:
        process, self._process = t.cast("subprocess.Popen[bytes]", self._process), None
        if stalled:
            process.kill()
        t.cast(t.IO[bytes], process.stdout).close()
        code = process.wait()
        if stalled:
            return f"nothing arrived for {2 * self._remote.timeout:g} seconds"
        self._words.seek(0, os.SEEK_END)
        self._words.seek(max(0, self._words.tell() - _STDERR_LIMIT))
        return f"rclone ended with exit code {code}: {_tail(self._words.read())}"

    def _again(self, trouble: str) -> None:
        self._failures += 1
        if self._position > self._size or self._failures >= ATTEMPTS:
            raise ReplicaBackupError(
                f"{self.name} was interrupted",
                found=f"{self._position} bytes; {trouble}",
                expected=f"{self._size} bytes",
                next_command="look at the store and the network, then run the restore again",
            )
        if self._cancelled.wait(min(_LONGEST_PAUSE, 0.5 * 2**self._failures)):
            raise ReplicaBackupError(f"{self.name} is not read any further")
