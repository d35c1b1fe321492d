# Copyright (c) 2026, mysql_ops contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The list of files: taken from disk by a plan, written and read as JSON lines, proven complete."""

from __future__ import annotations

import contextlib
import grp
import hashlib
import json
import os
import pwd
import re
import stat
import typing as t
from dataclasses import dataclass, field

from ansible_collections.mysql_ops.replica_backup.plugins.module_utils import _fspath as fs
from ansible_collections.mysql_ops.replica_backup.plugins.module_utils._errors import (
    RefusedError,
    ReplicaBackupError,
)
from ansible_collections.mysql_ops.replica_backup.plugins.module_utils._places import Discovery, Located, Locator
from ansible_collections.mysql_ops.replica_backup.plugins.module_utils._planted import OnlyOwn

FORMAT = 1
# Named in a message at most; the count is always exact.
_SHOWN = 20
# Open while the server runs and removed or renamed by itself at a clean stop: not on disk afterwards means not needed.
_GONE_AFTER_STOP = re.compile(
    r"ddl_recovery(?:-backup)?\.log|#ib_redo\d+(?:_tmp)?|#ib_\d+_\d+\.b?dblwr|innodb_status\.\d+|tc\.log"
    r"|aria_log\.\d+|undo_\d+_trunc\.log|[^/]*\.~rec~|ib_buffer_pool(?:\.incomplete)?",
    re.DOTALL,
)


@dataclass(frozen=True)
class Entry:
    """One name. ``path`` is relative to its place ("." for the place's own directory), any byte by surrogateescape.

    ``type`` is "file", "directory" or "symlink" (``target`` is its text). A further name of an inode that is already in
    the list has ``link``, the archive name of the first. ``size`` and ``allocated`` are bytes, 0 unless a file.
    """

    place: str
    path: str
    type: str
    size: int
    allocated: int
    mode: int
    uid: int
    gid: int
    owner: str
    group: str
    mtime_ns: int
    role: str | None = None
    target: str | None = None
    link: str | None = None

    @property
    def name(self) -> str:
        """Name inside the archive."""
        return self.place if self.path == "." else f"{self.place}/{self.path}"


@dataclass
class PlaceSummary:
    path: str
    count: int = 0
    bytes: int = 0


@dataclass
class Summary:
    """Of a list: ``bytes`` is what reading every file once gives, ``allocated`` what they take on disk."""

    path: str | None = None
    sha256: str = ""
    count: int = 0
    bytes: int = 0
    allocated: int = 0
    places: dict[str, PlaceSummary] = field(default_factory=dict)

    def add(self, entry: Entry) -> None:
        place = self.places[entry.place]
        self.count += 1
        place.count += 1
        if entry.link is None:
            self.bytes += entry.size
            self.allocated += entry.allocated
            place.bytes += entry.size


class _Names:
    """User and group names, each looked up once."""

    def __init__(self) -> None:
        self._users: dict[int, str] = {}
        self._groups: dict[int, str] = {}

    def user(self, uid: int) -> str:
        if uid not in self._users:
            try:
                self._users[uid] = pwd.getpwuid(uid).pw_name
            except KeyError:
                self._users[uid] = ""
        return self._users[uid]

    def group(self, gid: int) -> str:
        if gid not in self._groups:
            try:
                self._groups[gid] = grp.getgrgid(gid).gr_name
            except KeyError:
                self._groups[gid] = ""
        return self._groups[gid]


def _vanished(path: str) -> ReplicaBackupError:
    return ReplicaBackupError(
        f"{fs.printable(path)} vanished while the file list was taken",
        found="no such file",
        expected="a stopped server",
        file=fs.printable(path),
    )


class _Walk:
    def __init__(self, discovery: Discovery, live: bool) -> None:
        self._locator = Locator(discovery)
        self._live = live
        self._names = _Names()
        self._first_names: dict[tuple[int, int], str] = {}

    def entries(self) -> t.Iterator[Entry]:
        for located in self._locator.located:
            status = fs.lstat(located.root)
            if status is None:
                if self._live:
                    continue
                raise _vanished(located.root)
            yield self._entry(located, located.root, ".", status)
            yield from self._directory(located, located.root, "")

    def _directory(self, located: Located, directory: str, prefix: str) -> t.Iterator[Entry]:
        try:
            found = fs.names(directory)
        except (FileNotFoundError, NotADirectoryError):
            if self._live:
                return
            raise _vanished(directory) from None
        except OSError as error:
            raise _unreadable(directory, error) from error
        for name in found:
            relative, path = prefix + name, f"{directory}/{name}"
            if not located.takes(relative):
                continue
            status = fs.lstat(path)
            if status is None:
                if self._live:
                    continue
                raise _vanished(path)
            if self._locator.exclusion(path, regular=stat.S_ISREG(status.st_mode)) is not None:
                continue
            is_directory = stat.S_ISDIR(status.st_mode)
            if not is_directory and located.pattern is not None and self._locator.place(path, before=located):
                continue
            yield self._entry(located, path, relative, status)
            if is_directory:
                yield from self._directory(located, path, relative + "/")

    def _entry(self, located: Located, path: str, relative: str, status: os.stat_result) -> Entry:
        kind, size, target, link = "directory", 0, None, None
        if stat.S_ISREG(status.st_mode):
            kind, size = "file", status.st_size
        elif stat.S_ISLNK(status.st_mode):
            kind, target = "symlink", fs.readlink(path)
        elif not stat.S_ISDIR(status.st_mode):
            raise _special(path, status.st_mode)
        name = located.place.name if relative == "." else f"{located.place.name}/{relative}"
        if kind == "file" and status.st_nlink > 1:
            first = self._first_names.setdefault((status.st_dev, status.st_ino), name)
            link = None if first == name else first
        return Entry(
            place=located.place.name,
            path=relative,
            type=kind,
            size=size,
            allocated=status.st_blocks * 512 if kind == "file" else 0,
            mode=stat.S_IMODE(status.st_mode),
            uid=status.st_uid,
            gid=status.st_gid,
            owner=self._names.user(status.st_uid),
            group=self._names.group(status.st_gid),
            mtime_ns=status.st_mtime_ns,
            role=(self._locator.role(f"{located.named}/{relative}") or None) if kind != "directory" else None,
            target=target,
            link=link,
        )


def _unreadable(path: str, error: OSError) -> ReplicaBackupError:
    return ReplicaBackupError(
        f"{fs.printable(path)} cannot be listed",
        found=error.strerror,
        expected="a directory that this module may read (run it with become)",
        file=fs.printable(path),
    )


def _special(path: str, mode: int) -> ReplicaBackupError:
    what = "socket" if stat.S_ISSOCK(mode) else "FIFO" if stat.S_ISFIFO(mode) else "device"
    return ReplicaBackupError(
        f"{fs.printable(path)} is a {what} that does not belong to this server",
        found=what,
        expected="only files, directories and links; remove it or move it elsewhere",
        file=fs.printable(path),
        rule="special_file",
    )


def walk(discovery: Discovery, *, live: bool = False) -> t.Iterator[Entry]:
    """All entries of a plan, place by place, names in the order of their bytes; links are never followed.

    ``live``: the server runs, so that names may vanish while we look. Otherwise that raises ReplicaBackupError, as
    do directories that may not be read and special files that no rule leaves out.
    """
    return _Walk(discovery, live).entries()


class Checked:
    """Entries that pass by, crossed off the required files."""

    def __init__(self, discovery: Discovery) -> None:
        self._locator = Locator(discovery)
        self._roots = {located.place.name: located.root for located in self._locator.located}
        self._open = set(discovery.required)

    def leads_out(self, entry: Entry) -> str | None:
        """The existing file or directory that a link or an ``.isl`` file leads to, when no place has it."""
        path = os.path.join(self._roots[entry.place], entry.path)
        if entry.target is not None:
            text = entry.target
        elif entry.type == "file" and path.endswith(".isl"):
            text = fs.read_text(path, 4096).strip("\n")
        else:
            return None
        target = fs.real_name(fs.absolute(text, os.path.dirname(path)))
        status = fs.lstat(target) if text else None
        if status is None or stat.S_IFMT(status.st_mode) not in (stat.S_IFREG, stat.S_IFDIR, stat.S_IFLNK):
            return None
        if self._locator.exclusion(target) or self._locator.place(target) or target in self._roots.values():
            return None
        return target

    def __call__(self, entries: t.Iterable[Entry]) -> t.Iterator[Entry]:
        for entry in entries:
            if entry.type != "directory":
                self._open.discard(f"{self._roots[entry.place]}/{entry.path}")
            yield entry

    @property
    def missing(self) -> list[str]:
        return sorted(self._open)


def missing_required(discovery: Discovery, entries: t.Iterable[Entry]) -> list[str]:
    """Required files that no entry covers, as absolute paths. Anything in doubt counts as missing."""
    checked = Checked(discovery)
    for _entry in checked(entries):
        pass
    return checked.missing


def incomplete(missing: t.Sequence[str], *, stopped: bool) -> ReplicaBackupError:
    """The error that names the missing files; a RefusedError as long as the server runs."""
    error = ReplicaBackupError if stopped else RefusedError
    shown = ", ".join(repr(path) for path in missing[:_SHOWN]) + (", ..." if len(missing) > _SHOWN else "")
    return error(
        f"The file list is not complete: {len(missing)} files that the server uses are not in it",
        found=shown,
        expected="every tablespace of the dictionary and every file that the server holds open"
        + (", still on disk after the stop" if stopped else ""),
        next_command="If a table was discarded or dropped meanwhile, run the backup again;"
        " otherwise report the paths: they are outside every known place",
        missing=[fs.printable(path) for path in missing[:_SHOWN]],
        missing_count=len(missing),
        rule="complete_list",
    )


def retake(discovery: Discovery) -> t.Iterator[Entry]:
    """The list again from the disk of a *stopped* server: same places, patterns and exclusions.

    Before the first entry every required file is looked up: one that no place takes, or that is gone without being of
    the kind that a server removes at a clean stop, raises ReplicaBackupError, so that nothing is archived in vain.
    After the last entry the entries themselves are held against the required files once more.
    """
    locator = Locator(discovery)
    gone, missing = set(), []
    for path in discovery.required:
        present = fs.lstat(path) is not None
        if not present and _GONE_AFTER_STOP.fullmatch(os.path.basename(path)):
            gone.add(path)
        elif not present or not locator.covers(path):
            missing.append(path)
    if missing:
        raise incomplete(missing, stopped=True)

    def entries() -> t.Iterator[Entry]:
        checked = Checked(discovery)
        own = OnlyOwn(discovery.datadir, discovery.places, live=False)
        for entry in own(checked(walk(discovery))):
            lost = checked.leads_out(entry)
            if lost is not None:
                raise incomplete([lost], stopped=True)
            yield entry
        left = [path for path in checked.missing if path not in gone]
        if left:
            raise incomplete(left, stopped=True)

    return entries()


# One for all lines: json.dumps() with options makes a new one at every call.
_encode = json.JSONEncoder(separators=(",", ":"), sort_keys=True).encode


def _line(value: object) -> bytes:
    return _encode(value).encode("ascii") + b"\n"


def write_list(
    path: str, discovery: Discovery, entries: t.Iterable[Entry], *, accept: t.Callable[[], None] | None = None
) -> Summary:
    """Write a list: the plan, its required files, then the entries, one JSON value a line.

    The file appears whole or not at all, with mode 0600. Entries are streamed. ``accept`` is called before
    the list appears and keeps it from doing so by raising. Raises OSError for the disk's errors.
    """
    partial = path + ".partial"
    with contextlib.suppress(FileNotFoundError):
        os.unlink(fs.encode(partial))
    descriptor = os.open(fs.encode(partial), os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
    try:
        with open(descriptor, "wb") as handle:
            summary = _put(handle, discovery, entries)
            handle.flush()
            os.fsync(handle.fileno())
        if accept is not None:
            accept()
        os.rename(fs.encode(partial), fs.encode(path))
        _sync_directory(os.path.dirname(path))
    except BaseException:
        with contextlib.suppress(FileNotFoundError):
            os.unlink(fs.encode(partial))
        raise
    summary.path = path
    return summary


def summarize(discovery: Discovery, entries: t.Iterable[Entry]) -> Summary:
    """The summary that ``write_list`` would give, without a file."""
    return _put(None, discovery, entries)


def _put(handle: t.IO[bytes] | None, discovery: Discovery, entries: t.Iterable[Entry]) -> Summary:
    digest = hashlib.sha256()
    summary = Summary(places={place.name: PlaceSummary(place.path) for place in discovery.places})

    def put(value: object) -> None:
        line = _line(value)
        digest.update(line)
        if handle is not None:
            handle.write(line)

    put({"format": FORMAT, "required": len(discovery.required), **discovery.head()})
    for required in discovery.required:
        put(required)
    for entry in entries:
        summary.add(entry)
        put({key: value for key, value in vars(entry).items() if value is not None})
    put({"end": summary.count})
    summary.sha256 = digest.hexdigest()
    return summary


def _sync_directory(path: str) -> None:
    descriptor = os.open(fs.encode(path), os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def read_list(path: str) -> tuple[Discovery, t.Iterator[Entry]]:
    """The plan of a list and its entries, one at a time. Raises ReplicaBackupError when it is missing or damaged."""
    try:
        descriptor = os.open(fs.encode(path), os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC)
    except OSError as error:
        raise ReplicaBackupError(
            f"The file list cannot be read: {path}",
            found=error.strerror,
            expected="the list that replica_files_discover writes before the stop",
            next_command="run replica_files_discover while the server is up",
        ) from error
    handle = os.fdopen(descriptor, "rb")
    try:
        head = json.loads(handle.readline())
        if head.get("format") != FORMAT:
            raise ValueError(f"format {head.get('format')}")
        required = tuple(str(json.loads(handle.readline())) for _number in range(int(head["required"])))
        discovery = Discovery.from_head(head, required)
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        handle.close()
        raise _damaged(path, error) from error
    return discovery, _entries(path, handle)


def read_plan(path: str) -> Discovery:
    """The plan of a list alone. Errors as for ``read_list``."""
    discovery, entries = read_list(path)
    t.cast("t.Generator[Entry, None, None]", entries).close()
    return discovery


def _entries(path: str, handle: t.BinaryIO) -> t.Iterator[Entry]:
    count = 0
    with handle:
        try:
            for line in handle:
                value = json.loads(line)
                if "end" in value:
                    if value["end"] != count:
                        raise ValueError(f"{count} entries instead of {value['end']}")
                    return
                count += 1
                yield Entry(**value)
            raise ValueError("its last line is missing")
        except (ValueError, TypeError) as error:
            raise _damaged(path, error) from error


def _damaged(path: str, error: Exception) -> ReplicaBackupError:
    return ReplicaBackupError(
        f"The file list is damaged: {path}", found=str(error), expected=f"a list of format {FORMAT} with its last line"
    )
