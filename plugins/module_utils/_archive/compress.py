# Copyright (c) 2026, mysql_ops contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Compressors: which tool, which arguments, and a pipe through it in which no failure goes unnoticed."""

from __future__ import annotations

import fcntl
import hashlib
import os
import shutil
import signal
import subprocess
import threading
import typing as t
from dataclasses import dataclass

from ansible_collections.mysql_ops.replica_backup.plugins.module_utils._archive import pythonzstd
from ansible_collections.mysql_ops.replica_backup.plugins.module_utils._archive.output import HashedFile
from ansible_collections.mysql_ops.replica_backup.plugins.module_utils._archive.stream import ByteStream, FileStream
from ansible_collections.mysql_ops.replica_backup.plugins.module_utils._errors import (
    RefusedError,
    ReplicaBackupError,
)

NONE = "none"
CHUNK = 1024 * 1024
_SMALLEST_CHUNK = 128 * 1024
_F_SETPIPE_SZ = 1031  # fcntl.F_SETPIPE_SZ has a name from Python 3.10 on only
_STDERR_LIMIT = 64 * 1024
_MAX_THREADS = 32
_SEARCH = os.pathsep.join(("/usr/local/sbin", "/usr/local/bin", "/usr/sbin", "/usr/bin", "/sbin", "/bin"))


@dataclass(frozen=True)
class _Tool:
    """One compression: the commands that do it (the first one found is taken), its file suffix, package and levels."""

    commands: tuple[str, ...]
    suffix: str
    package: str
    default_level: int
    lowest: int
    highest: int
    thread_option: str | None


_TOOLS: t.Final[t.Mapping[str, _Tool]] = {
    "zstd": _Tool(("zstd",), ".zst", "zstd", 1, -50, 19, "-T{}"),
    "gzip": _Tool(("pigz", "gzip"), ".gz", "gzip", 1, 1, 9, None),
    "lz4": _Tool(("lz4",), ".lz4", "lz4", 1, 1, 12, None),
    "xz": _Tool(("xz",), ".xz", "xz-utils (xz on Red Hat systems)", 1, 0, 9, "-T{}"),
}
COMPRESSIONS = (NONE, *_TOOLS)


@dataclass(frozen=True)
class Compressor:
    """Commands of one compression on this machine; ``pack`` and ``unpack`` go from stdin to stdout."""

    name: str
    suffix: str
    pack: tuple[str, ...]
    unpack: tuple[str, ...]


def chunk_of(parts: int) -> int:
    """Bytes of a buffer where so many parts are written or read at a time: together they take little more than one."""
    return max(_SMALLEST_CHUNK, CHUNK // parts)


def cpus() -> int:
    """How many this process may use."""
    return len(os.sched_getaffinity(0))


def find_compressor(name: str, *, level: int | None = None, threads: int = 0) -> Compressor | None:
    """The commands for ``name``, None for ``none``. zstd may be a library of Python where there is no tool.

    ``threads`` 0 means one for each CPU this process may use (not zstd's own guess, which counts physical cores and
    sees one where a virtual machine has two). Raises :class:`RefusedError` for an unknown name, a level out of
    range and a tool that is not installed.
    """
    if name == NONE:
        return None
    tool = _TOOLS.get(name)
    if tool is None:
        raise RefusedError("Unknown compression", found=repr(name), expected="one of " + ", ".join(COMPRESSIONS))
    chosen = tool.default_level if level is None else level
    if not tool.lowest <= chosen <= tool.highest or (name == "zstd" and chosen == 0):
        raise RefusedError(
            f"The compression level does not fit {name}",
            found=chosen,
            expected=f"{tool.lowest} to {tool.highest}" + (", not 0" if name == "zstd" else ""),
        )
    if threads < 0:
        raise RefusedError("The number of compressor threads is negative", found=threads, expected="0 or more")
    count = min(threads or cpus(), _MAX_THREADS)
    path = next(filter(None, (_which(command) for command in tool.commands)), None)
    library = pythonzstd.commands(chosen, count) if path is None and name == "zstd" else None
    if library is not None:
        return Compressor(name, tool.suffix, *library)
    if path is None:
        raise RefusedError(
            f"The tool for the chosen compression is missing on this host: {' or '.join(tool.commands)}",
            found=f"replica_backup_compression={name}, not in {_SEARCH}",
            expected=f"package {tool.package} installed",
            next_command=f"install the package {tool.package}, or set replica_backup_compression to another value",
            variable="replica_backup_compression",
            package=tool.package,
        )
    pack = [path, "-q", "-c", f"--fast={-chosen}" if chosen < 0 else f"-{chosen}"]
    if os.path.basename(path) == "pigz":
        pack += ["-p", str(count)]
    elif tool.thread_option is not None:
        pack.append(tool.thread_option.format(count))
    return Compressor(name, tool.suffix, tuple(pack), (path, "-q", "-d", "-c"))


def _which(command: str) -> str | None:
    return shutil.which(command, path=os.environ.get("PATH", "") + os.pathsep + _SEARCH)


def _widen(descriptor: int) -> None:
    """Larger pipes mean fewer switches between the processes; where the kernel says no, the default does."""
    try:
        fcntl.fcntl(descriptor, _F_SETPIPE_SZ, CHUNK)
    except OSError:
        return


def _spawn(argv: t.Sequence[str], **pipes: int) -> subprocess.Popen[bytes]:
    # Of the environment only PATH: ZSTD_CLEVEL, GZIP or XZ_DEFAULTS would change what is written.
    environment = {"PATH": os.environ.get("PATH", _SEARCH), "LC_ALL": "C"}
    try:
        return subprocess.Popen(argv, stderr=subprocess.PIPE, env=environment, bufsize=0, **pipes)  # type: ignore[call-overload,no-any-return]
    except OSError as problem:
        raise ReplicaBackupError(f"{argv[0]} cannot be started: {problem.strerror}") from problem


class _Thread(threading.Thread):
    """A thread whose exception is kept for the one who joins it."""

    def __init__(self, work: t.Callable[[], None]) -> None:
        super().__init__(daemon=True)
        self._work = work
        self.problem: BaseException | None = None

    def wait(self, watch: t.Callable[[], None]) -> None:
        """Until it ends, with ``watch`` called every second."""
        while self.is_alive():
            self.join(1.0)
            if self.is_alive():
                watch()

    def run(self) -> None:
        try:
            self._work()
        except BaseException as problem:
            self.problem = problem


class _Stage:
    """A running tool, the end of its error output, and what its end means."""

    def __init__(self, argv: t.Sequence[str], **pipes: int) -> None:
        self.process = _spawn(argv, **pipes)
        self._argv = argv
        self._stderr = bytearray()
        self._drain = _Thread(self._read_stderr)
        self._drain.start()

    def _read_stderr(self) -> None:
        stream = t.cast(t.IO[bytes], self.process.stderr)
        while chunk := stream.read(4096):
            self._stderr += chunk
            del self._stderr[:-_STDERR_LIMIT]

    def end(self) -> ReplicaBackupError | None:
        """Wait for the tool; None when it ended well."""
        code = self.process.wait()
        self._drain.join()
        if code == 0:
            return None
        tool = os.path.basename(self._argv[0])
        if code < 0:
            try:
                how = f"was killed by signal {-code} ({signal.Signals(-code).name})"
            except ValueError:
                how = f"was killed by signal {-code}"
        else:
            how = f"ended with exit code {code}"
        words = self._stderr.decode("utf-8", "replace").strip() or "nothing"
        return ReplicaBackupError(
            f"{tool} {how} before its work was done; it said: {words}",
            found=how,
            expected="exit code 0",
            tool=tool,
            exit_code=code,
            stderr=words,
        )

    def kill(self) -> None:
        """End the tool now; for failures elsewhere."""
        if self.process.poll() is None:
            self.process.kill()
        self.process.wait()
        self._drain.join()

    def close(self) -> None:
        """Give the pipes back. Only when no thread uses them any more: a closed number is soon another file's."""
        for stream in (self.process.stdin, self.process.stdout, self.process.stderr):
            if stream is not None:
                stream.close()


class PackedOutput:
    """Bytes in, compressed bytes into a :class:`HashedFile`; both sides run at the same time.

    Without a compressor the bytes go straight to the file, still in a thread of their own, so that the caller can read
    and hash the next buffer meanwhile. Buffers change hands: :meth:`exchange` takes a filled one and returns one that
    is free. ``watch`` is called every second in which none gets free: a compressor that stands still must not hold up
    its user for ever; what it raises ends the wait, and :meth:`abort` is then due.
    """

    def __init__(
        self,
        target: HashedFile,
        compressor: Compressor | None,
        *,
        buffers: int = 3,
        chunk: int = CHUNK,
        watch: t.Callable[[], None] = lambda: None,
    ) -> None:
        self._target = target
        self._watch = watch
        self._chunk = chunk
        self._stage: _Stage | None = None
        self._pump: _Thread | None = None
        self._failed: BaseException | None = None
        if compressor is not None:
            self._stage = _Stage(compressor.pack, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
            _widen(self._input.fileno())
            _widen(self._output.fileno())
            self._pump = _Thread(self._store)
            self._pump.start()
        self._free: list[bytearray] = [bytearray(chunk) for _count in range(buffers)]
        self._full: list[tuple[bytearray, int]] = []
        self._condition = threading.Condition()
        self._closing = False
        self._feeder = _Thread(self._feed)
        self._feeder.start()

    @property
    def _input(self) -> t.IO[bytes]:
        return t.cast(t.IO[bytes], t.cast(_Stage, self._stage).process.stdin)

    @property
    def _output(self) -> t.IO[bytes]:
        return t.cast(t.IO[bytes], t.cast(_Stage, self._stage).process.stdout)

    def first(self) -> bytearray:
        """A buffer to begin with."""
        with self._condition:
            return self._free.pop()

    def exchange(self, buffer: bytearray, length: int) -> bytearray:
        """Hand over ``length`` bytes of ``buffer``; waits for a free one when the other side is slower."""
        with self._condition:
            self._full.append((buffer, length))
            self._condition.notify_all()
            while not self._free and self._feeder.is_alive() and self._failed is None:
                if not self._condition.wait(1.0):
                    self._watch()
            if self._free and self._failed is None:
                return self._free.pop()
        self._raise()
        raise ReplicaBackupError("The writer of the archive ended early")  # pragma: no cover - _raise always knows

    def finish(self, watch: t.Callable[[], None] = lambda: None) -> None:
        """Everything handed over has passed the compressor and is in the file; raises whatever went wrong.

        A compressor may hold gigabytes when its input ends (xz -9 does), so ``watch`` is called every second of the
        wait; what it raises ends the wait, and :meth:`abort` is then due.
        """
        with self._condition:
            self._closing = True
            self._condition.notify_all()
        self._feeder.wait(watch)
        if self._pump is not None and self._feeder.problem is None and self._failed is None:
            self._input.close()
            self._pump.wait(watch)
        self._raise()

    def abort(self) -> None:
        """Stop all parts; for a failure elsewhere. Safe after :meth:`finish`."""
        with self._condition:
            self._closing = True
            self._failed = self._failed or ReplicaBackupError("aborted")
            self._condition.notify_all()
        if self._stage is not None:
            self._stage.kill()
        self._feeder.join()
        if self._pump is not None:
            self._pump.join()
        if self._stage is not None:
            self._stage.close()

    def _raise(self) -> None:
        """The first cause: a file that cannot be written comes before the pipe that broke because of it."""
        if self._pump is not None:
            if self._feeder.problem is None and self._failed is None:
                self._input.close()
            self._pump.join()
            if self._pump.problem is not None:
                t.cast(_Stage, self._stage).kill()
                raise self._pump.problem
        if self._stage is not None:
            problem = self._stage.end()
            if problem is not None:
                raise problem
        if self._feeder.problem is not None:
            raise self._feeder.problem

    def _feed(self) -> None:
        try:
            while True:
                with self._condition:
                    while not self._full and not self._closing:
                        self._condition.wait()
                    if self._failed is not None or not self._full:
                        return
                    buffer, length = self._full.pop(0)
                self._pass_on(memoryview(buffer)[:length])
                with self._condition:
                    self._free.append(buffer)
                    self._condition.notify_all()
        except BaseException as problem:
            with self._condition:
                self._failed = problem
                self._condition.notify_all()
            if self._stage is not None:
                # The pump ends when the tool's output ends; the tool ends when its input does.
                self._input.close()
            raise

    def _pass_on(self, view: memoryview) -> None:
        if self._stage is None:
            self._target.write(view)
            return
        descriptor = self._input.fileno()
        while view:
            view = view[os.write(descriptor, view) :]

    def _store(self) -> None:
        descriptor = self._output.fileno()
        buffer = bytearray(self._chunk)
        view = memoryview(buffer)
        try:
            while size := os.readv(descriptor, [view]):
                self._target.write(view[:size])
        except BaseException:
            # Whoever writes into the pipe must not wait for a reader that has gone.
            t.cast(_Stage, self._stage).process.kill()
            raise


class UnpackedInput:
    """Reads a file, or another stream, hashes it, and gives its decompressed bytes."""

    def __init__(self, path: str, compressor: Compressor | None, stream: ByteStream | None = None) -> None:
        self._source: ByteStream = FileStream(path) if stream is None else stream
        self._digest = hashlib.sha256()
        self.bytes = 0
        self._stage: _Stage | None = None
        self._feeder: _Thread | None = None
        if compressor is not None:
            self._stage = _Stage(compressor.unpack, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
            _widen(t.cast(t.IO[bytes], self._stage.process.stdin).fileno())
            _widen(t.cast(t.IO[bytes], self._stage.process.stdout).fileno())
            self._feeder = _Thread(self._feed)
            self._feeder.start()

    def readinto(self, view: memoryview) -> int:
        """Fill ``view`` from its start; returns the number of bytes, 0 at the end."""
        if self._stage is None:
            return self._take(view)
        return os.readv(t.cast(t.IO[bytes], self._stage.process.stdout).fileno(), [view])

    def _take(self, view: memoryview) -> int:
        size = self._source.readinto(view)
        self._digest.update(view[:size])
        self.bytes += size
        return size

    def finish(self) -> str:
        """SHA-256 of the file; raises what the tool or the disk complained about."""
        if self._stage is not None and self._feeder is not None:
            self._feeder.join()
            self._complain_about_source()
            problem = self._stage.end()
            if problem is not None:
                raise problem
        return self._digest.hexdigest()

    def complain(self) -> None:
        """Raise the failure of the source or of the tool, if that is why the data came to an end."""
        if self._stage is None or self._feeder is None:
            return
        code = self._stage.process.poll()
        if code is None:
            # Its output may end a moment before it does; one that goes on is not the cause.
            try:
                code = self._stage.process.wait(timeout=1.0)
            except subprocess.TimeoutExpired:
                return
        if code:
            # The tool also fails when its input was cut, which the feeder knows a moment later.
            self._feeder.join(1.0)
            self._complain_about_source()
            problem = self._stage.end()
            if problem is not None:
                raise problem

    def _complain_about_source(self) -> None:
        trouble = t.cast(_Thread, self._feeder).problem
        if isinstance(trouble, ReplicaBackupError):
            raise trouble
        if trouble is not None and not isinstance(trouble, BrokenPipeError):
            raise ReplicaBackupError(f"{self._source.name} cannot be read back: {trouble}") from trouble

    def cancel(self) -> None:
        """From any thread: a read that waits comes to its end."""
        self._source.cancel()
        if self._stage is not None:
            self._stage.kill()

    def close(self) -> None:
        """End everything; safe at any time."""
        self.cancel()
        if self._feeder is not None:
            self._feeder.join()
        if self._stage is not None:
            self._stage.close()
        self._source.close()

    def _feed(self) -> None:
        stdin = t.cast(t.IO[bytes], t.cast(_Stage, self._stage).process.stdin)
        buffer = bytearray(CHUNK)
        whole = memoryview(buffer)
        try:
            while size := self._take(whole):
                view = whole[:size]
                while view:
                    view = view[os.write(stdin.fileno(), view) :]
        finally:
            stdin.close()
