# Copyright (c) 2026, mysql_ops contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Real trees, and the archive of one, for the tests of the archive."""

from __future__ import annotations

import hashlib
import os
import stat
import typing as t
from dataclasses import dataclass
from pathlib import Path

import pytest

from ansible_collections.mysql_ops.replica_backup.plugins.module_utils._archive import (
    compress,
    extract,
    formats,
    proof,
    reader,
)
from ansible_collections.mysql_ops.replica_backup.plugins.module_utils._archive.output import HashedFile, Part
from ansible_collections.mysql_ops.replica_backup.plugins.module_utils._archive.records import (
    FileRecord,
    ListedFile,
    read_records,
    to_bytes,
    to_text,
)
from ansible_collections.mysql_ops.replica_backup.plugins.module_utils._archive.source import Source
from ansible_collections.mysql_ops.replica_backup.plugins.module_utils._archive.writer import (
    Notes,
    Totals,
    Watch,
    write_files,
)
from ansible_collections.mysql_ops.replica_backup.plugins.module_utils._filelist import walk
from ansible_collections.mysql_ops.replica_backup.plugins.module_utils._places import Discovery, Place

PLACE = "datadir"


@dataclass(frozen=True)
class State:
    """Everything about a name that an archive may keep. ``same_as`` is the first name of the same inode."""

    kind: str
    mode: int
    owner: tuple[int, int]
    mtime_ns: int
    content: str
    same_as: str


def look(root: str | Path) -> dict[str, State]:
    """All names below ``root``, the root itself as ``.``."""
    top = os.fsencode(root)
    result: dict[str, State] = {}
    first: dict[tuple[int, int], str] = {}

    def add(path: bytes, name: str) -> None:
        status = os.lstat(path)
        content, same = "", ""
        if stat.S_ISREG(status.st_mode):
            kind = "file"
            with open(path, "rb") as stream:
                content = f"{status.st_size} {hashlib.sha256(stream.read()).hexdigest()}"
            known = first.setdefault((status.st_dev, status.st_ino), name)
            same = "" if known == name else known
        elif stat.S_ISLNK(status.st_mode):
            kind, content = "symlink", to_text(os.readlink(path))
        else:
            kind = "directory"
        result[name] = State(
            kind, stat.S_IMODE(status.st_mode), (status.st_uid, status.st_gid), status.st_mtime_ns, content, same
        )
        if kind == "directory":
            for child in sorted(os.listdir(path)):
                add(os.path.join(path, child), to_text(child) if name == "." else f"{name}/{to_text(child)}")

    add(top, ".")
    return result


@dataclass
class Archived:
    """An archive made of one tree."""

    directory: Path
    form: str
    part: Part | None
    totals: Totals
    compressor: compress.Compressor | None

    @property
    def path(self) -> Path:
        suffix = self.compressor.suffix if self.compressor is not None else ""
        return self.directory / formats.part_name(self.form, suffix)

    @property
    def records(self) -> list[FileRecord]:
        return list(read_records(str(self.directory / "files.jsonl")))

    def reader(self) -> reader.Reader:
        if self.form == formats.COPY:
            return reader.CopyArchive(str(self.path), self.records)
        if self.form == formats.ZIP:
            return reader.ZipArchive(str(self.path))
        return reader.TarArchive(str(self.path), self.compressor)

    def prove(self) -> int:
        opened = self.reader()
        try:
            return proof.prove(opened, self.records, self.part)
        finally:
            opened.close()


def entries_of(root: str | Path) -> t.Iterator[ListedFile]:
    return t.cast("t.Iterator[ListedFile]", walk(Discovery(datadir=str(root), places=(Place(PLACE, str(root)),))))


def nothing() -> None:
    """A check that never objects."""


def archive(
    root: str | Path,
    directory: Path,
    form: str,
    compression: str = "none",
    *,
    entries: t.Iterable[ListedFile] | None = None,
    places: t.Mapping[str, str] | None = None,
    check: t.Callable[[], None] = nothing,
) -> Archived:
    """Archive the tree at ``root`` into ``directory`` the way the job does it."""
    compressor = compress.find_compressor(compression) if form == formats.TAR else None
    directory.mkdir(exist_ok=True)
    notes = Notes(
        HashedFile(str(directory / "files.jsonl")),
        HashedFile(str(directory / "SHA256SUMS")),
        HashedFile(str(directory / "seen")),
    )
    output = formats.open_output(str(directory), form, compression, compressor, None)
    try:
        with Source(places or {PLACE: str(root)}) as source:
            totals = write_files(
                entries_of(root) if entries is None else entries, source, output, notes, Watch(check, 0.0)
            )
        for file in (notes.records, notes.sums, notes.seen):
            file.publish()
        part = output.finish()
    except BaseException:
        output.abort()
        for file in (notes.records, notes.sums, notes.seen):
            file.discard()
        raise
    return Archived(directory, form, part, totals, compressor)


def restore(made: Archived, target: Path) -> None:
    """Extract the way a restore does it: into the directory of the place, which exists."""
    place = target / PLACE
    place.mkdir()
    opened = made.reader()
    landing = extract.Directories({PLACE: str(place)}, extract.Owners())
    try:
        proof.prove(opened, made.records, made.part, lander=landing)
        landing.finish()
    finally:
        landing.close()
        opened.close()


def unpack(opened: reader.Reader, target: Path) -> None:
    """Extract with nothing but the reader's own interface."""
    directories = []
    for member in opened:
        path = os.path.join(os.fsencode(target), to_bytes(member.name))
        os.makedirs(os.path.dirname(path), exist_ok=True)
        if member.type == "directory":
            os.makedirs(path, exist_ok=True)
            directories.append((path, member))
            continue
        if member.type == "symlink":
            os.symlink(to_bytes(member.target or ""), path)
        elif member.link is not None:
            os.link(os.path.join(os.fsencode(target), to_bytes(member.link)), path, follow_symlinks=False)
            continue
        else:
            with open(path, "wb") as stream:
                for offset, view in opened.data():
                    stream.seek(offset)
                    stream.write(view)
                stream.truncate(member.size)
        _dress(path, member)
    opened.finish()
    for path, member in reversed(directories):
        _dress(path, member)


def _dress(path: bytes, member: reader.Member) -> None:
    if member.uid is not None and member.gid is not None and os.geteuid() == 0:
        os.chown(path, member.uid, member.gid, follow_symlinks=False)
    if member.type != "symlink":
        os.chmod(path, member.mode)
    if member.mtime_ns is not None:
        os.utime(path, ns=(member.mtime_ns, member.mtime_ns), follow_symlinks=False)


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    """A small datadir with one of everything, names with odd bytes among them."""
    root = tmp_path / "mysql"
    root.mkdir()
    (root / "ibdata1").write_bytes(os.urandom(300_000))
    (root / "empty").touch()
    (root / "db").mkdir(mode=0o750)
    (root / "db" / "t1.ibd").write_bytes(b"page" * 40_000)
    (root / "bare").mkdir(mode=0o700)
    os.link(root / "db" / "t1.ibd", root / "db" / "t2.ibd")
    (root / "link").symlink_to("db/t1.ibd")
    (root / "dangling").symlink_to("/nowhere/at all")
    with open(root / "sparse.ibd", "wb") as stream:
        stream.seek(1 << 20)
        stream.write(b"x" * 5000)
        stream.seek(5 << 20)
        stream.write(b"y" * 70_000)
        stream.truncate(9 << 20)
    with open(root / "hole", "wb") as stream:
        stream.truncate(3_000_000)
    for name in (b"new\nline", b"back\\slash", b"bad\xff\xfeutf8", "Grüße".encode(), b"cr\r", b"-dash", b"n" * 200):
        with open(os.path.join(os.fsencode(root), name), "wb") as stream:
            stream.write(name)
    os.chmod(root / "ibdata1", 0o640)
    for number, path in enumerate(sorted(os.listdir(os.fsencode(root)))):
        moment = 1_600_000_000_000_000_000 + number * 1_234_567_891
        os.utime(os.path.join(os.fsencode(root), path), ns=(moment, moment), follow_symlinks=False)
    if os.geteuid() == 0:
        os.chown(root / "ibdata1", 12345, 23456)
    return root
