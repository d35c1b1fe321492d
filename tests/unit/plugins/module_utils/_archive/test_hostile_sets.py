# Copyright (c) 2026, mysql_ops contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Sets that no backup of ours ever was, and somebody who works in the directories while a set is laid down."""

from __future__ import annotations

import contextlib
import io
import os
import tarfile
import typing as t
import zipfile
from dataclasses import replace
from pathlib import Path

import pytest

from ansible_collections.mysql_ops.replica_backup.plugins.module_utils._archive import extract, proof
from ansible_collections.mysql_ops.replica_backup.plugins.module_utils._archive.reader import (
    CopyArchive,
    TarArchive,
    ZipArchive,
)
from ansible_collections.mysql_ops.replica_backup.plugins.module_utils._archive.records import FileRecord
from ansible_collections.mysql_ops.replica_backup.plugins.module_utils._errors import ReplicaBackupError
from ansible_collections.mysql_ops.replica_backup.tests.unit.plugins.module_utils._archive.archive_support import (
    PLACE,
    look,
)
from ansible_collections.mysql_ops.replica_backup.tests.unit.plugins.module_utils._archive.test_extract import (
    landing,
    record,
)

__all__ = ["landing"]

MEMBERS: dict[str, t.Callable[[tarfile.TarInfo], None]] = {
    "character device": lambda info: setattr(info, "type", tarfile.CHRTYPE),
    "block device": lambda info: setattr(info, "type", tarfile.BLKTYPE),
    "fifo": lambda info: setattr(info, "type", tarfile.FIFOTYPE),
    "contiguous file": lambda info: setattr(info, "type", tarfile.CONTTYPE),
    "long name of GNU tar": lambda info: setattr(info, "type", tarfile.GNUTYPE_LONGNAME),
    "global header": lambda info: setattr(info, "type", tarfile.XGLTYPE),
}


@pytest.mark.parametrize("kind", MEMBERS)
def test_members_that_no_set_has(landing: extract.Directories, tmp_path: Path, kind: str) -> None:
    info = tarfile.TarInfo(f"{PLACE}/f")
    MEMBERS[kind](info)
    raw = io.BytesIO()
    with tarfile.open(fileobj=raw, mode="w", format=tarfile.USTAR_FORMAT) as made:
        made.addfile(info)
    (tmp_path / "data.tar").write_bytes(raw.getvalue())
    archive = TarArchive(str(tmp_path / "data.tar"), None)
    try:
        with pytest.raises(ReplicaBackupError):
            proof.prove(archive, [record("f")], None, attributes=False, lander=landing)
    finally:
        archive.close()
    assert look(tmp_path / "place").keys() == {"."}


@pytest.mark.parametrize("kind", ["character", "fifo", "socket", "", "file\0"])
def test_kinds_that_no_manifest_has(landing: extract.Directories, tmp_path: Path, kind: str) -> None:
    with pytest.raises(ReplicaBackupError):
        landing.plain(record("f", type=kind, sha256=None))
    assert look(tmp_path / "place").keys() == {"."}


def test_a_name_given_twice_is_laid_down_once(landing: extract.Directories, tmp_path: Path) -> None:
    for number in (1, 2):
        with pytest.raises(ReplicaBackupError, match="in the way") if number == 2 else contextlib.nullcontext():
            landing.begin(record("f", size=3))
            landing.write(0, memoryview(b"one" if number == 1 else b"two"))
            landing.end(record("f", size=3))
    assert (tmp_path / "place" / "f").read_bytes() == b"one"
    (tmp_path / "twice.zip").touch()
    with zipfile.ZipFile(tmp_path / "twice.zip", "w") as made, pytest.warns(UserWarning, match="Duplicate name"):
        for data in (b"1", b"2"):
            info = zipfile.ZipInfo(f"{PLACE}/g")
            info.external_attr = 0o100600 << 16
            made.writestr(info, data)
    archive = ZipArchive(str(tmp_path / "twice.zip"))
    try:
        twice = record("g", size=1, sha256="6b86b273ff34fce19d6b804eff5a3f5747ada4eaa22f1d49c01e52ddb7875b4b")
        with pytest.raises(ReplicaBackupError):
            proof.prove(archive, [twice, twice], None, attributes=False, lander=landing)
    finally:
        archive.close()


def test_somebody_works_in_the_directories_meanwhile(landing: extract.Directories, tmp_path: Path) -> None:
    """The owner of the data directory exchanges what was laid down, for links that lead elsewhere."""
    place, elsewhere = tmp_path / "place", tmp_path / "elsewhere"
    elsewhere.mkdir()
    landing.begin(record("d/first"))
    landing.end(record("d/first"))
    (place / "d").rename(place / "moved")
    (place / "d").symlink_to(elsewhere)
    # The directory that is open stays the one it was.
    landing.begin(record("d/second"))
    landing.end(record("d/second"))
    assert {path.name for path in (place / "moved").iterdir()} == {"first", "second"}
    landing.begin(record("e/other"))
    landing.end(record("e/other"))
    # Opened again by its name, it is a link.
    with pytest.raises(ReplicaBackupError, match="in the way"):
        landing.begin(record("d/third"))
    for name, make in (("fifo", os.mkfifo), ("link", lambda path: os.symlink(elsewhere / "made", path))):
        make(place / name)
        with pytest.raises(ReplicaBackupError, match="in the way"):
            landing.begin(record(name))
    # Directories get owner and mode in the end, by name: never what a link leads to.
    landing.plain(record("g", type="directory", sha256=None, mode=0o777))
    os.rmdir(place / "g")
    (place / "g").symlink_to(elsewhere)
    before = elsewhere.stat()
    with pytest.raises(ReplicaBackupError):
        landing.finish()
    after = elsewhere.stat()
    assert (before.st_mode, before.st_uid, before.st_mtime_ns) == (after.st_mode, after.st_uid, after.st_mtime_ns)
    assert list(elsewhere.iterdir()) == []


def test_a_first_name_that_became_a_link(landing: extract.Directories, tmp_path: Path) -> None:
    secret = tmp_path / "secret"
    secret.write_text("root's")
    (tmp_path / "place" / "a").symlink_to(secret)
    landing.plain(record("b", link=f"{PLACE}/a"))
    # The link itself has a second name; the file that it leads to has none.
    assert (tmp_path / "place" / "b").is_symlink()
    assert secret.stat().st_nlink == 1


def test_no_rights_come_with_a_file(landing: extract.Directories, tmp_path: Path) -> None:
    landing.begin(record("f", mode=0o6755))
    landing.end(record("f", mode=0o6755))
    assert (tmp_path / "place" / "f").stat().st_mode & 0o7777 == 0o755


@pytest.mark.parametrize("size", [-1, 1 << 62])
def test_sizes_that_no_file_has(landing: extract.Directories, tmp_path: Path, size: int) -> None:
    landing.begin(record("f", size=size))
    with pytest.raises(ReplicaBackupError):
        landing.end(record("f", size=size))


OUTSIDE: dict[str, FileRecord] = {
    "dots": record("../../outside", sha256="0" * 64),
    "absolute": record("/etc/passwd"),
    "by the place": replace(record("outside"), place=".."),
    "the place is a path": replace(record("passwd"), place="/etc"),
    "by a link": record("link/outside"),
    "not a name": record("a/."),
}


@pytest.mark.parametrize("case", OUTSIDE)
def test_a_plain_copy_is_not_read_outside_of_itself(tmp_path: Path, case: str) -> None:
    """Not even hashed: what does not match would be told with its hash."""
    (tmp_path / "outside").write_text("not part of it")
    copy = tmp_path / "set" / "data"
    (copy / PLACE / "a").mkdir(parents=True)
    (copy / PLACE / "link").symlink_to(tmp_path)
    archive = CopyArchive(str(copy), [OUTSIDE[case]])
    with pytest.raises(ReplicaBackupError, match="leads out of the copy"):
        proof.prove(archive, [OUTSIDE[case]], None, attributes=False)
