# Copyright (c) 2026, mysql_ops contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What a restore must never do: leave its directories, follow links, take a foreign byte, hide a full disk."""

from __future__ import annotations

import io
import os
import subprocess
import typing as t
from dataclasses import replace
from pathlib import Path

import pytest

from ansible_collections.mysql_ops.replica_backup.plugins.module_utils._archive import extract, proof
from ansible_collections.mysql_ops.replica_backup.plugins.module_utils._archive.records import FileRecord
from ansible_collections.mysql_ops.replica_backup.plugins.module_utils._errors import RefusedError, ReplicaBackupError
from ansible_collections.mysql_ops.replica_backup.tests.unit.plugins.module_utils._archive.archive_support import (
    PLACE,
    archive,
    look,
    restore,
)

root_only = pytest.mark.skipif(os.geteuid() != 0, reason="mounts a file system")


def record(path: str, **more: t.Any) -> FileRecord:
    values: dict[str, t.Any] = {
        "place": PLACE, "path": path, "type": "file", "size": 0, "mode": 0o640, "uid": os.geteuid(),
        "gid": os.getegid(), "owner": "", "group": "", "mtime_ns": 1_600_000_000_123_456_789, "sha256": "0" * 64,
        "role": None,
    }  # fmt: skip
    return FileRecord(**{**values, **more})


@pytest.fixture
def landing(tmp_path: Path) -> t.Iterator[extract.Directories]:
    (tmp_path / "place").mkdir()
    made = extract.Directories({PLACE: str(tmp_path / "place")}, extract.Owners())
    yield made
    made.close()


@pytest.mark.parametrize("path", ["../out", "a/../../out", "/etc/passwd", "a//b", "a/./b", "", "..", "a\0b", "a/.."])
def test_names_that_lead_out(landing: extract.Directories, tmp_path: Path, path: str) -> None:
    with pytest.raises(RefusedError, match="outside of its places"):
        landing.begin(record(path))
    with pytest.raises(RefusedError, match="outside of its places"):
        landing.plain(record(path, type="directory", sha256=None))
    with pytest.raises(RefusedError, match="outside of its places"):
        extract.names_by_place([record("good"), record(path)])
    with pytest.raises(RefusedError, match="outside of its places"):
        extract.names_by_place([record("good", link=f"{PLACE}/{path}")])
    assert look(tmp_path / "place").keys() == {"."}


def test_a_link_laid_down_earlier_is_not_followed(landing: extract.Directories, tmp_path: Path) -> None:
    (tmp_path / "elsewhere").mkdir()
    landing.plain(record("d", type="symlink", target=str(tmp_path / "elsewhere"), sha256=None))
    with pytest.raises(ReplicaBackupError, match="something is in the way"):
        landing.begin(record("d/file"))
    landing.plain(record("f", type="symlink", target=str(tmp_path / "elsewhere" / "file"), sha256=None))
    with pytest.raises(ReplicaBackupError, match="something is in the way"):
        landing.begin(record("f"))
    assert list((tmp_path / "elsewhere").iterdir()) == []


def test_a_root_that_is_a_link_is_refused(tmp_path: Path) -> None:
    (tmp_path / "real").mkdir()
    (tmp_path / "place").symlink_to("real")
    with pytest.raises(ReplicaBackupError, match="in the way"):
        extract.Directories({PLACE: str(tmp_path / "place")}, extract.Owners())


def test_a_link_to_a_place_that_is_left_out(landing: extract.Directories) -> None:
    with pytest.raises(ReplicaBackupError, match="which is not restored"):
        landing.plain(record("b", link="tablespaces/a"))


def test_places_left_out_are_hashed_and_not_written(tree: Path, tmp_path: Path) -> None:
    made = archive(tree, tmp_path / "set", "tar")
    (tmp_path / "place").mkdir()
    landing = extract.Directories({"binlog": str(tmp_path / "place")}, extract.Owners())
    opened = made.reader()
    assert proof.prove(opened, made.records, made.part, lander=landing) == len(made.records)
    landing.finish()
    landing.close()
    assert (landing.files, landing.bytes) == (0, 0)
    assert look(tmp_path / "place").keys() == {"."}


def test_a_wrong_byte_stops_at_that_file(tree: Path, tmp_path: Path) -> None:
    made = archive(tree, tmp_path / "set", "tar")
    raw = bytearray(made.path.read_bytes())
    raw[raw.index(b"page" * 100)] ^= 1
    made.path.write_bytes(raw)
    with pytest.raises(ReplicaBackupError, match=r"datadir/db/t1\.ibd, SHA-256"):
        restore(made, tmp_path)


def test_owners_go_by_name(monkeypatch: pytest.MonkeyPatch) -> None:
    owners = extract.Owners(user=111, group=222)
    assert owners.of(record("a", owner="root", group="daemon", uid=5000, gid=5000)) == (0, 1)
    assert owners.of(record("a", owner="nobody-has-this-name", group="nor-this", uid=7, gid=8)) == (111, 222)
    assert owners.of(record("a", owner="", group="", uid=7, gid=8)) == (111, 222)
    assert owners.unknown == {"nobody-has-this-name", "nor-this"}
    assert extract.Owners().of(record("a", owner="nobody-has-this-name", group="", uid=7, gid=8)) == (7, 8)


@root_only
def test_a_full_disk(tree: Path, tmp_path: Path) -> None:
    made = archive(tree, tmp_path / "set", "tar")
    small = tmp_path / "small"
    small.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=256k", "none", str(small)], check=True)
    try:
        with pytest.raises(ReplicaBackupError, match=r"No room for .*ENOSPC") as caught:
            restore(made, small)
        assert caught.value.facts["errno"] == "ENOSPC"
        assert caught.value.facts["free_bytes"] < 65536
    finally:
        subprocess.run(["umount", str(small)], check=True)


@root_only
def test_further_names_on_another_file_system_become_copies(tmp_path: Path) -> None:
    """Two places that were one file system where the set was made."""
    first, second = tmp_path / "first", tmp_path / "second"
    first.mkdir()
    second.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=1m", "none", str(second)], check=True)
    landing = extract.Directories({PLACE: str(first), "tablespaces": str(second)}, extract.Owners())
    try:
        original = record("t.ibd", size=5)
        landing.begin(original)
        landing.write(0, memoryview(b"abcde"))
        landing.end(original)
        landing.plain(replace(original, place="tablespaces", path="sub/t.ibd", link=f"{PLACE}/t.ibd"))
        landing.finish()
        assert (second / "sub" / "t.ibd").read_bytes() == b"abcde"
        assert (second / "sub" / "t.ibd").stat().st_mtime_ns == original.mtime_ns
        assert oct((second / "sub" / "t.ibd").stat().st_mode)[-3:] == "640"
    finally:
        landing.close()
        subprocess.run(["umount", str(second)], check=True)


def test_the_buffer_is_only_borrowed(landing: extract.Directories, tmp_path: Path) -> None:
    """A reader uses its buffer again: what was written must not depend on it."""
    buffer = io.BytesIO(b"x" * 10).getbuffer()
    landing.begin(record("a", size=20))
    landing.write(0, buffer)
    buffer[:] = b"y" * 10
    landing.write(10, buffer)
    landing.end(record("a", size=20))
    assert (tmp_path / "place" / "a").read_bytes() == b"x" * 10 + b"y" * 10
