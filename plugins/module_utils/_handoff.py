# Copyright (c) 2026, mysql_ops contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The replica's half of a transfer: says what a set consists of, and lets the login user read it for a while.

A set belongs to root, but a connection plugin moves files as the login user. Ways, quickest first:

direct  the login user is the one who owns the set: files are read where they are
link    hard links in a hand-off directory of the login user, next to the spool
piece   a bounded piece of the set at a time, written into a hand-off directory
chunk   a bounded piece of the set at a time, inside a module result

``STATE_DIR/handoff.json`` names the hand-off that exists and the owners to put back, so that one which an
interrupted run left behind is found again.
"""

from __future__ import annotations

import base64
import contextlib
import errno
import hashlib
import json
import os
import pwd
import stat
import tempfile
import typing as t
import urllib.parse
from dataclasses import asdict, dataclass

from ansible_collections.mysql_ops.replica_backup.plugins.module_utils import _ledger
from ansible_collections.mysql_ops.replica_backup.plugins.module_utils._archive.formats import COPY
from ansible_collections.mysql_ops.replica_backup.plugins.module_utils._archive.manifest import read as read_manifest
from ansible_collections.mysql_ops.replica_backup.plugins.module_utils._errors import ReplicaBackupError
from ansible_collections.mysql_ops.replica_backup.plugins.module_utils._layout import MANIFEST_NAME, SUMS_NAME, SetPaths

DATA_NAME = "data"
INDEX_NAME = "@index"
PIECE_NAME = "piece"
# Bytes of one piece: little enough for any temporary file system, enough that the cost of a call does not show.
PIECE_BYTES = 64 * 1024 * 1024
CHUNK_BYTES = 4 * 1024 * 1024
_RECORD = "handoff.json"
_INDEX_FILE = "fetch-index.jsonl"
_PREFIX = ".replica-fetch-"
_BUFFER = 1024 * 1024
# Where pieces may lie when the directory of the spool is closed to the login user.
_PIECE_PLACES = ("/var/tmp", "/tmp")


@dataclass(frozen=True)
class Item:
    """One file of a set. ``name`` is relative to the set's directory; ``bytes`` its size; ``sha256`` in hex."""

    name: str
    bytes: int
    sha256: str


@dataclass(frozen=True)
class Contents:
    """What a set consists of. ``tree`` says that it also has a directory tree, whose files the index lists.

    ``bytes`` is the size of its parts, the tree among them.
    """

    bytes: int
    items: tuple[Item, ...]
    tree: bool
    manifest: Item | None


def quote(name: str) -> str:
    """A file name as plain ASCII, for module parameters and results."""
    return urllib.parse.quote_from_bytes(os.fsencode(name), safe="/@")


def unquote(text: str) -> str:
    return os.fsdecode(urllib.parse.unquote_to_bytes(text))


def safe_parts(name: str) -> list[str]:
    """The components of a relative name. Raises ReplicaBackupError for one that could leave its directory."""
    parts = name.split("/")
    if any(part in ("", ".", "..") for part in parts) or "\0" in name:
        raise ReplicaBackupError("A name leaves the directory of its set", found=quote(name))
    return parts


def hash_file(path: str) -> tuple[int, str]:
    """Bytes and SHA-256 (hex) of a regular file; links are not followed."""
    digest = hashlib.sha256()
    size = 0
    buffer = bytearray(_BUFFER)
    view = memoryview(buffer)
    with open(os.open(path, os.O_RDONLY | os.O_NOFOLLOW), "rb", buffering=0) as handle:
        while True:
            count = handle.readinto(buffer)
            if not count:
                break
            digest.update(view[:count])
            size += count
    return size, digest.hexdigest()


def contents(paths: SetPaths) -> Contents:
    """What the set at ``paths`` consists of, as the archive recorded it.

    Raises ReplicaBackupError when there is no finished archive.
    """
    published = None
    try:
        if os.path.exists(paths.manifest):
            published = Item(MANIFEST_NAME, *hash_file(paths.manifest))
            parts = published_parts(paths)
        else:
            with open(paths.head, encoding="utf-8") as handle:
                parts = json.load(handle)["parts"]
        sums = Item(SUMS_NAME, *hash_file(paths.sums))
    except FileNotFoundError as error:
        raise ReplicaBackupError(
            f"There is no finished archive of backup {paths.backup_id}",
            found=f"no {error.filename}",
            expected="an archive that replica_archive has written",
        ) from error
    tree = any(part["format"] == COPY for part in parts)
    items = [] if tree else [Item(str(part["name"]), int(part["bytes"]), str(part["sha256"])) for part in parts]
    return Contents(sum(int(part["bytes"]) for part in parts), (*items, sums), tree, published)


def published_parts(paths: SetPaths) -> list[dict[str, t.Any]]:
    """The parts that a complete set's manifest names."""
    head, files = read_manifest(paths.manifest)
    close = getattr(files, "close", None)
    if close is not None:
        close()
    return list(head["parts"])


def write_index(paths: SetPaths, target: str) -> None:
    """List the tree below ``data/``: regular files from SHA256SUMS with their sizes, then directories and links."""
    root = os.path.join(paths.directory, DATA_NAME)
    listed = 0
    with open(os.open(target, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_NOFOLLOW, 0o600), "wb") as out:
        for digest, name in read_sums(paths.sums):
            status = os.lstat(os.path.join(root, *safe_parts(name)))
            if not stat.S_ISREG(status.st_mode):
                raise ReplicaBackupError("A listed file is not a regular file", found=f"{DATA_NAME}/{quote(name)}")
            listed += 1
            out.write(_line({"t": "f", "n": quote(name), "s": status.st_size, "m": status.st_mtime_ns, "h": digest}))
        seen = 0
        for directory, subdirectories, files in os.walk(root, onerror=_raise):
            subdirectories.sort()
            for entry in [*subdirectories, *sorted(files)]:
                path = os.path.join(directory, entry)
                name = os.path.relpath(path, root)
                mode = os.lstat(path).st_mode
                if stat.S_ISDIR(mode):
                    out.write(_line({"t": "d", "n": quote(name)}))
                elif stat.S_ISLNK(mode):
                    out.write(_line({"t": "l", "n": quote(name), "to": quote(os.readlink(path))}))
                elif stat.S_ISREG(mode):
                    seen += 1
        if seen != listed:
            raise ReplicaBackupError(
                "The tree and its SHA256SUMS do not agree", found=f"{seen} files", expected=f"{listed} files"
            )


def _raise(error: OSError) -> t.NoReturn:
    raise error


def _line(value: dict[str, t.Any]) -> bytes:
    return json.dumps(value, separators=(",", ":")).encode("ascii") + b"\n"


def read_sums(path: str) -> t.Iterator[tuple[str, str]]:
    """(sha256, name) of every line that ``sha256sum`` would read."""
    with open(path, "rb") as handle:
        for raw in handle:
            line = raw.rstrip(b"\n")
            escaped = line.startswith(b"\\")
            if escaped:
                line = line[1:]
            digest, _sep, name = line.partition(b"  ")
            if escaped:
                name = name.replace(b"\\\\", b"\0").replace(b"\\n", b"\n").replace(b"\0", b"\\")
            yield digest.decode("ascii"), os.fsdecode(name)


@dataclass(frozen=True)
class Offer:
    """Answer to the controller: ``method`` as in the head of this file; ``sources`` one path per item, or empty."""

    method: str
    reason: str
    directory: str | None
    sources: tuple[str, ...]

    def to_result(self) -> dict[str, t.Any]:
        return asdict(self)


def offer(paths: SetPaths, found: Contents, state_dir: str, login_uid: int, *, worse_than: str = "") -> Offer:
    """Make the set readable for the login user, in the quickest way that works after ``worse_than``."""
    release(state_dir)
    _ledger.prepare_state_dir(state_dir)
    if found.tree:
        write_index(paths, os.path.join(state_dir, _INDEX_FILE))
    items = [*found.items, *([found.manifest] if found.manifest else [])]
    ways = ["direct", "link", "piece", "chunk"]
    ways = ways[ways.index(worse_than) + 1 :] if worse_than else ways
    reason = f"{worse_than} did not work over this connection" if worse_than else ""
    same_user = os.geteuid() == login_uid
    if "direct" in ways and same_user and not found.tree:
        return Offer("direct", reason, None, tuple(os.path.join(paths.directory, item.name) for item in items))
    if not same_user and os.geteuid() != 0:
        return Offer("chunk", "neither root nor the login user runs this", None, ())
    if "link" in ways and not same_user and not found.tree:
        try:
            directory, sources = _link(paths, items, state_dir, login_uid)
            return Offer("link", reason, directory, sources)
        except _NotThisWay as problem:
            reason = str(problem)
    if "piece" in ways:
        for parent in (os.path.dirname(os.path.abspath(paths.root)), *_PIECE_PLACES):
            try:
                return Offer("piece", reason, _open_directory(parent, state_dir, login_uid, room=PIECE_BYTES), ())
            except _NotThisWay as problem:
                reason = reason or str(problem)
    return Offer("chunk", reason, None, ())


class _NotThisWay(Exception):
    """This way of handing over is closed; the text says why."""


def _open_directory(parent: str, state_dir: str, login_uid: int, *, room: int = 0) -> str:
    """A directory of the login user below ``parent`` that he can really reach; noted in the state directory."""
    try:
        space = os.statvfs(parent)
        if space.f_bavail * space.f_frsize < 2 * room:
            raise _NotThisWay(f"too little room in {parent}")
        directory = tempfile.mkdtemp(prefix=_PREFIX, dir=parent)
    except OSError as error:
        raise _NotThisWay(f"no directory can be made in {parent}: {error.strerror}") from error
    _note(state_dir, directory, [])
    if login_uid != os.geteuid():
        os.chown(directory, login_uid, -1)
    if not reachable(directory, login_uid):
        release(state_dir, keep_index=True)
        raise _NotThisWay(f"the login user cannot reach {parent}")
    return directory


def _link(paths: SetPaths, items: t.Sequence[Item], state_dir: str, login_uid: int) -> tuple[str, tuple[str, ...]]:
    directory = _open_directory(os.path.dirname(os.path.abspath(paths.root)), state_dir, login_uid)
    owners = []
    for item in items:
        path = os.path.join(paths.directory, item.name)
        status = os.lstat(path)
        owners.append({"path": path, "uid": status.st_uid, "gid": status.st_gid, "inode": status.st_ino})
    _note(state_dir, directory, owners)
    sources = []
    descriptor = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW)
    try:
        for number, owner in enumerate(owners):
            name = f"part-{number}"
            os.link(str(owner["path"]), name, dst_dir_fd=descriptor, follow_symlinks=False)
            os.chown(str(owner["path"]), login_uid, -1, follow_symlinks=False)
            sources.append(os.path.join(directory, name))
    except OSError as error:
        release(state_dir, keep_index=True)
        raise _NotThisWay(f"hard links beside {paths.root} are not possible: {error.strerror}") from error
    finally:
        os.close(descriptor)
    return directory, tuple(sources)


def _note(state_dir: str, directory: str, owners: list[dict[str, t.Any]]) -> None:
    text = json.dumps({"directory": directory, "owners": owners})
    _ledger.write_durably(os.path.join(state_dir, _RECORD), text)


def reachable(directory: str, uid: int) -> bool:
    """Whether the user can really get there; asked by a child that is this user, so that ACLs count too."""
    if uid == os.geteuid():
        return True
    child = os.fork()
    if child == 0:  # pragma: no cover - another process
        status = 1
        try:
            try:
                entry = pwd.getpwuid(uid)
                os.initgroups(entry.pw_name, entry.pw_gid)
                os.setgid(entry.pw_gid)
            except KeyError:
                os.setgroups([])
                os.setgid(uid)
            os.setuid(uid)
            os.listdir(directory)
            status = 0
        finally:
            os._exit(status)
    return os.waitpid(child, 0)[1] == 0


def release(state_dir: str, *, keep_index: bool = False) -> bool:
    """Take a hand-off back: owners as before, links and pieces gone. False when there was none."""
    if not keep_index:
        _unlink(os.path.join(state_dir, _INDEX_FILE))
    record = os.path.join(state_dir, _RECORD)
    try:
        with open(os.open(record, os.O_RDONLY | os.O_NOFOLLOW), encoding="utf-8") as handle:
            noted = json.load(handle)
    except (FileNotFoundError, NotADirectoryError):
        return False
    for owner in noted["owners"]:
        with contextlib.suppress(FileNotFoundError):
            status = os.lstat(owner["path"])
            if status.st_ino == owner["inode"] and status.st_uid != owner["uid"]:
                os.chown(owner["path"], owner["uid"], owner["gid"], follow_symlinks=False)
    remove_directory(noted["directory"])
    _unlink(record)
    return True


def remove_directory(directory: str) -> None:
    """Its owner may have put anything in: only names are unlinked, nothing is followed or descended into."""
    try:
        descriptor = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW)
    except (FileNotFoundError, NotADirectoryError):
        return
    try:
        for name in os.listdir(descriptor):
            with contextlib.suppress(IsADirectoryError, FileNotFoundError):
                os.unlink(name, dir_fd=descriptor)
    finally:
        os.close(descriptor)
    try:
        os.rmdir(directory)
    except OSError as error:
        raise ReplicaBackupError(
            f"The hand-off directory {directory} cannot be removed",
            found=error.strerror,
            next_command=f"look into it, then rm -r {directory}",
        ) from error


def _unlink(path: str) -> None:
    with contextlib.suppress(FileNotFoundError, NotADirectoryError):
        os.unlink(path)


@dataclass(frozen=True)
class Range:
    """``length`` bytes from ``offset`` of one file of the set."""

    name: str
    offset: int
    length: int


def read_ranges(paths: SetPaths, state_dir: str, ranges: t.Iterable[Range]) -> t.Iterator[bytes]:
    """The bytes of the ranges one after the other, in buffers. A file that is too short raises ReplicaBackupError."""
    for wanted in ranges:
        with open(_open_source(paths, state_dir, wanted.name), "rb", buffering=0) as handle:
            handle.seek(wanted.offset)
            left = wanted.length
            while left > 0:
                data = handle.read(min(left, _BUFFER))
                if not data:
                    raise ReplicaBackupError(
                        "A file of the set is shorter than recorded",
                        found=f"{quote(wanted.name)} ends {left} bytes early",
                    )
                left -= len(data)
                yield data


def _open_source(paths: SetPaths, state_dir: str, name: str) -> int:
    """Open for reading without following a link anywhere below the set's directory."""
    if name == INDEX_NAME:
        return os.open(os.path.join(state_dir, _INDEX_FILE), os.O_RDONLY | os.O_NOFOLLOW)
    parts = safe_parts(name)
    directory = os.open(paths.directory, os.O_RDONLY | os.O_DIRECTORY)
    try:
        for part in parts[:-1]:
            below = os.open(part, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW, dir_fd=directory)
            os.close(directory)
            directory = below
        return os.open(parts[-1], os.O_RDONLY | os.O_NOFOLLOW, dir_fd=directory)
    finally:
        os.close(directory)


def index_size(state_dir: str) -> int:
    return os.stat(os.path.join(state_dir, _INDEX_FILE)).st_size


def write_piece(state_dir: str, login_uid: int, data: t.Iterable[bytes]) -> str:
    """Write a piece into the open hand-off directory, in place of the one before; returns its path."""
    with open(os.path.join(state_dir, _RECORD), encoding="utf-8") as handle:
        directory = json.load(handle)["directory"]
    descriptor = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW)
    try:
        with contextlib.suppress(FileNotFoundError):
            os.unlink(PIECE_NAME, dir_fd=descriptor)
        flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW
        with open(os.open(PIECE_NAME, flags, 0o600, dir_fd=descriptor), "wb") as out:
            if login_uid != os.geteuid():
                os.fchown(out.fileno(), login_uid, -1)
            for block in data:
                out.write(block)
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            raise ReplicaBackupError(f"No room for a piece in {directory}", found=error.strerror) from error
        raise
    finally:
        os.close(descriptor)
    return os.path.join(directory, PIECE_NAME)


def encode_chunk(data: t.Iterable[bytes]) -> str:
    return base64.b64encode(b"".join(data)).decode("ascii")
