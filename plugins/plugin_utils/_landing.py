# Copyright (c) 2026, mysql_ops contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The controller's half of a transfer: files that land, are hashed, and get their name only when the hash is right."""

from __future__ import annotations

import contextlib
import errno
import fcntl
import json
import os
import re
import shutil
import stat
import typing as t
from dataclasses import dataclass

from ansible_collections.mysql_ops.replica_backup.plugins.module_utils._archive.formats import COPY
from ansible_collections.mysql_ops.replica_backup.plugins.module_utils._archive.output import remove_tree
from ansible_collections.mysql_ops.replica_backup.plugins.module_utils._errors import RefusedError, ReplicaBackupError
from ansible_collections.mysql_ops.replica_backup.plugins.module_utils._handoff import (
    DATA_NAME,
    Item,
    hash_file,
    published_parts,
    quote,
    read_sums,
    safe_parts,
    unquote,
)
from ansible_collections.mysql_ops.replica_backup.plugins.module_utils._layout import (
    BACKUP_ID_PATTERN,
    MANIFEST_NAME,
    SUMS_NAME,
    SetPaths,
)
from ansible_collections.mysql_ops.replica_backup.plugins.module_utils._ledger import sync_directory

_PRIVATE = 0o700
_WORK = ".work"
_ANY_ID = "20000101T000000Z"
# Whatever a transfer fails of, the server is not in its hands.
UNTOUCHED = "as the steps before it left it; a transfer does not touch it"
_READY = MANIFEST_NAME + ".partial"
# All that a transfer ever puts into the directory of a set.
_OURS = re.compile(r"data(\.[0-9]+)?(\.(tar|zip)(\.[a-z0-9]+)?)?|SHA256SUMS|manifest\.json\.partial|\.work")


def check_destination(paths: SetPaths, *, may_write: bool) -> None:
    """Refuse a destination that cannot take a new set of this name.

    With ``may_write`` its directories are made and a file is written there and removed; without, nothing changes.
    """
    if os.path.lexists(paths.directory):
        raise RefusedError(
            f"Backup id {paths.backup_id} exists at the destination",
            found=paths.directory,
            expected="an id that is not in use; variable replica_backup_id",
            server_state="not touched",
            next_command="take another id, or none, and start the backup again",
        )
    try:
        if may_write:
            parent = os.path.dirname(paths.directory)
            make_private(parent)
            _close(parent)
            probe = os.path.join(parent, f".{paths.backup_id}.probe")
            with open(os.open(probe, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_NOFOLLOW, 0o600), "wb") as handle:
                handle.write(b"0" * 4096)
                os.fsync(handle.fileno())
            os.unlink(probe)
            return
        existing = os.path.dirname(paths.directory)
        while not os.path.lexists(existing):
            existing = os.path.dirname(existing)
        if not os.path.isdir(existing):
            raise NotADirectoryError(20, "Not a directory", existing)
        if not os.access(existing, os.W_OK | os.X_OK, effective_ids=os.access in os.supports_effective_ids):
            raise PermissionError(13, "not writable", existing)
    except OSError as error:
        raise RefusedError(
            f"The destination {paths.root} on the controller is not writable",
            found=f"{error.strerror}: {error.filename}",
            expected="a directory that this user can write to or make; variable replica_backup_dest",
            server_state="not touched",
            next_command="mend its rights or set replica_backup_dest to another directory, and start the backup again",
        ) from error


def _close(directory: str) -> None:
    """Keep others out of a host's directory that was there. Raises OSError when they could still write in it."""
    descriptor = os.open(directory, os.O_RDONLY | os.O_DIRECTORY)
    try:
        mode = os.fstat(descriptor).st_mode
        # File systems without modes do not take one.
        with contextlib.suppress(*() if mode & 0o022 else (PermissionError,)):
            if mode & 0o077:
                os.fchmod(descriptor, _PRIVATE)
    finally:
        os.close(descriptor)


def make_private(path: str) -> None:
    """Make a directory and what is missing above it, each with mode 0700."""
    if not os.path.isdir(path):
        make_private(os.path.dirname(path))
        with contextlib.suppress(FileExistsError):
            os.mkdir(path, _PRIVATE)


def clear_unfinished(root: str, host: str, keep: t.Collection[str]) -> list[str]:
    """Remove what interrupted transfers of this host left below ``root``; returns the directories.

    Left alone: whatever has a manifest, the backup ids in ``keep`` (the replica still has those: their transfer can go
    on), one that another process is bringing over right now, and directories with anything in them that is not ours.
    """
    parent = os.path.dirname(SetPaths(root, host, _ANY_ID).directory)
    try:
        names = sorted(os.listdir(parent))
    except OSError:
        return []
    cleared = []
    for name in names:
        path = os.path.join(parent, name)
        if not BACKUP_ID_PATTERN.match(name) or name in keep or not _is_unfinished(path):
            continue
        # What cannot be removed is no set all the same, and must not be in the way of a backup.
        with contextlib.suppress(OSError, ReplicaBackupError), held(path):
            remove_tree(path)
            cleared.append(path)
    return cleared


def _is_unfinished(path: str) -> bool:
    try:
        if not stat.S_ISDIR(os.lstat(path).st_mode):
            return False
        inside = set(os.listdir(path))
    except OSError:
        return False
    marked = not inside or not inside.isdisjoint({_WORK, _READY})
    return MANIFEST_NAME not in inside and marked and all(_OURS.fullmatch(name) for name in inside)


def remove_if_empty(path: str) -> None:
    with contextlib.suppress(OSError):
        os.rmdir(path)


@contextlib.contextmanager
def held(path: str) -> t.Iterator[None]:
    """Keep others out of the directory of a set that is on its way; the kernel lets go when this process dies.

    Raises ReplicaBackupError when another process holds it. A file system without locks keeps nobody out.
    """
    descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            if error.errno in (errno.EAGAIN, errno.EACCES):
                raise ReplicaBackupError(
                    f"Somebody else is bringing this set over: {path}",
                    found="another process that holds its directory",
                    expected="one transfer of a set at a time",
                    server_state=UNTOUCHED,
                    next_command="wait for the other one to end, then run this again",
                ) from None
        yield
    finally:
        os.close(descriptor)


@dataclass(frozen=True)
class TreeFile:
    """One line of the index of a directory tree, a regular file."""

    item: Item
    mtime_ns: int


class Landing:
    """One set on its way. Nothing here trusts names that the replica sent."""

    def __init__(self, paths: SetPaths) -> None:
        self.paths = paths
        self.moved = 0

    def prepare(self, needed: int) -> None:
        """Make the directories; refuse when there is no room for ``needed`` bytes."""
        make_private(self.paths.work)
        space = os.statvfs(self.paths.work)
        free = space.f_bavail * space.f_frsize
        if free < needed:
            raise ReplicaBackupError(
                f"Too little room in {self.paths.root} on the controller",
                found=f"{free} bytes free",
                expected=f"{needed} bytes for what is still to come",
                server_state=UNTOUCHED,
                next_command="make room there, or set replica_backup_dest to another directory, then ansible-playbook"
                f" mysql_ops.replica_backup.recover --limit {self.paths.host}, which brings over what the run has left",
            )

    def has(self, item: Item) -> bool:
        """Whether the file is there with the right size and hash."""
        path = os.path.join(self.paths.directory, *safe_parts(item.name))
        try:
            if os.lstat(path).st_size != item.bytes:
                return False
            with self._parent(item.name) as (descriptor, name):
                return hash_file(f"/proc/self/fd/{descriptor}/{name}") == (item.bytes, item.sha256)
        except OSError:
            return False

    def incoming(self) -> str:
        """Path for a connection plugin to write to: an empty private file, so that nothing widens its mode."""
        path = os.path.join(self.paths.work, "incoming.partial")
        with contextlib.suppress(FileNotFoundError):
            os.unlink(path)
        os.close(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600))
        return path

    def place(self, path: str, item: Item) -> None:
        """Prove a file that has landed and give it its name."""
        size, digest = hash_file(path)
        self._compare(item, size, digest)
        descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW)
        try:
            os.fchmod(descriptor, 0o600)
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
        with self._parent(item.name) as (parent, name):
            os.rename(path, name, dst_dir_fd=parent)
            os.fsync(parent)
        self.moved += size

    def _compare(self, item: Item, size: int, digest: str) -> None:
        if (size, digest) != (item.bytes, item.sha256):
            raise ReplicaBackupError(
                f"{quote(item.name)} did not arrive as it was archived",
                found=f"{size} bytes, sha256 {digest}",
                expected=f"{item.bytes} bytes, sha256 {item.sha256}",
                server_state=UNTOUCHED,
                next_command="run it again, or ansible-playbook mysql_ops.replica_backup.recover --limit"
                f" {self.paths.host}; what has arrived whole is kept",
            )

    @contextlib.contextmanager
    def _parent(self, name: str) -> t.Iterator[tuple[int, str]]:
        """The open directory that holds ``name``, made where it is missing; links are never followed."""
        parts = safe_parts(name)
        descriptor = os.open(self.paths.directory, os.O_RDONLY | os.O_DIRECTORY)
        try:
            for part in parts[:-1]:
                with contextlib.suppress(FileExistsError):
                    os.mkdir(part, _PRIVATE, dir_fd=descriptor)
                below = os.open(part, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW, dir_fd=descriptor)
                os.close(descriptor)
                descriptor = below
            yield descriptor, parts[-1]
        finally:
            os.close(descriptor)

    def set_mtime(self, file: TreeFile) -> None:
        with self._parent(file.item.name) as (parent, name):
            os.utime(name, ns=(file.mtime_ns, file.mtime_ns), dir_fd=parent, follow_symlinks=False)

    def finish_tree(self, index: str) -> None:
        """Directories and, after everything else, symbolic links."""
        for line in read_index(index):
            if line["t"] == "d":
                with (
                    self._parent(f"{DATA_NAME}/{unquote(line['n'])}") as (parent, name),
                    contextlib.suppress(FileExistsError),
                ):
                    os.mkdir(name, _PRIVATE, dir_fd=parent)
        for line in read_index(index):
            if line["t"] == "l":
                with self._parent(f"{DATA_NAME}/{unquote(line['n'])}") as (parent, name):
                    with contextlib.suppress(FileNotFoundError):
                        os.unlink(name, dir_fd=parent)
                    os.symlink(unquote(line["to"]), name, dir_fd=parent)

    def publish(self, path: str, manifest: Item) -> None:
        """The manifest gets its name when nothing else of this transfer is left to do."""
        ready = os.path.join(self.paths.directory, _READY)
        os.rename(path, ready)
        shutil.rmtree(self.paths.work)
        self._compare(manifest, *hash_file(ready))
        with open(ready, "rb") as handle:
            os.fsync(handle.fileno())
        os.rename(ready, self.paths.manifest)
        sync_directory(self.paths.directory)
        sync_directory(os.path.dirname(self.paths.directory))


def read_index(path: str) -> t.Iterator[dict[str, t.Any]]:
    with open(path, encoding="ascii") as handle:
        for line in handle:
            yield json.loads(line)


def tree_files(path: str) -> t.Iterator[TreeFile]:
    """The regular files of an index, with their names in the set."""
    for line in read_index(path):
        if line["t"] == "f":
            yield TreeFile(Item(f"{DATA_NAME}/{unquote(line['n'])}", int(line["s"]), str(line["h"])), int(line["m"]))


# One request for bytes: (name, offset, length) of each run that makes up the piece.
Run = tuple[str, int, int]


def pieces(files: t.Iterable[Item], limit: int, names: int = 1000) -> t.Iterator[list[Run]]:
    """Cut files, laid one after the other, into requests of at most ``limit`` bytes and ``names`` files."""
    runs: list[Run] = []
    room = limit
    for item in files:
        offset = 0
        while True:
            length = min(room, item.bytes - offset)
            runs.append((item.name, offset, length))
            offset += length
            room -= length
            if room == 0 or len(runs) >= names:
                yield runs
                runs, room = [], limit
            if offset >= item.bytes:
                break
    if runs:
        yield runs


class Slicer:
    """Takes pieces apart again: writes each file beside its place, and places it when its last byte is there."""

    def __init__(self, landing: Landing) -> None:
        self._landing = landing
        self._handle: t.BinaryIO | None = None
        self._path = ""

    def take(self, piece: t.BinaryIO, runs: t.Iterable[Run], items: t.Mapping[str, Item]) -> list[Item]:
        """Consume one piece; returns the files that are complete now and have been placed."""
        done = []
        for name, offset, length in runs:
            if offset == 0:
                self.close()
                self._path = os.path.join(self._landing.paths.work, "file.partial")
                with contextlib.suppress(FileNotFoundError):
                    os.unlink(self._path)
                self._handle = open(os.open(self._path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb")  # noqa: SIM115 - stays open from piece to piece
            if self._handle is None:
                raise ReplicaBackupError("A piece goes on where no file was begun", found=quote(name))
            left = length
            while left:
                block = piece.read(min(left, 1024 * 1024))
                if not block:
                    raise ReplicaBackupError("A piece arrived short", found=f"{left} bytes of {quote(name)} missing")
                self._handle.write(block)
                left -= len(block)
            item = items[name]
            if offset + length >= item.bytes:
                self.close()
                self._landing.place(self._path, item)
                done.append(item)
        return done

    def close(self) -> None:
        if self._handle is not None:
            self._handle.close()
            self._handle = None


def verify_set(paths: SetPaths) -> int:
    """Hash the parts of a complete set against its own manifest; returns their size in bytes."""
    size = 0
    for part in published_parts(paths):
        item = Item(str(part["name"]), int(part["bytes"]), str(part["sha256"]))
        if part["format"] == COPY:
            # A tree is proven by its sums, and the sums by the manifest.
            _expect(paths, Item(SUMS_NAME, os.path.getsize(paths.sums), item.sha256))
            for digest, name in read_sums(paths.sums):
                path = os.path.join(paths.directory, item.name, *safe_parts(name))
                _expect(paths, Item(f"{item.name}/{name}", os.lstat(path).st_size, digest))
        else:
            _expect(paths, item)
        size += item.bytes
    return size


def _expect(paths: SetPaths, item: Item) -> None:
    found = hash_file(os.path.join(paths.directory, *safe_parts(item.name)))
    if found != (item.bytes, item.sha256):
        raise ReplicaBackupError(
            f"{quote(item.name)} of the set at the destination is damaged",
            found=f"{found[0]} bytes, sha256 {found[1]}",
            expected=f"{item.bytes} bytes, sha256 {item.sha256}",
        )
