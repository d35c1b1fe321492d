# Copyright (c) 2026, mysql_ops contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The controller's half of a transfer, on real files."""

from __future__ import annotations

import hashlib
import io
import json
import os
import stat
import typing as t
from pathlib import Path

import pytest

from ansible_collections.mysql_ops.replica_backup.plugins.module_utils._errors import RefusedError, ReplicaBackupError
from ansible_collections.mysql_ops.replica_backup.plugins.module_utils._handoff import Item, quote
from ansible_collections.mysql_ops.replica_backup.plugins.module_utils._layout import SetPaths
from ansible_collections.mysql_ops.replica_backup.plugins.plugin_utils import _landing

BACKUP_ID = "20260101T000000Z"


def item(name: str, data: bytes) -> Item:
    return Item(name, len(data), hashlib.sha256(data).hexdigest())


@pytest.fixture
def landing(tmp_path: Path) -> _landing.Landing:
    made = _landing.Landing(SetPaths(str(tmp_path / "dest"), "db1", BACKUP_ID))
    made.prepare(0)
    return made


def land(landing: _landing.Landing, name: str, data: bytes, *, announced: bytes | None = None) -> None:
    path = landing.incoming()
    Path(path).write_bytes(data)
    landing.place(path, item(name, data if announced is None else announced))


def test_a_file_lands_private_and_is_known_afterwards(landing: _landing.Landing) -> None:
    expected = item("data.tar", b"abc")
    assert not landing.has(expected)
    land(landing, "data.tar", b"abc")
    assert landing.has(expected)
    path = Path(landing.paths.directory, "data.tar")
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    for directory in (path.parent, path.parent.parent, path.parent.parent.parent):
        assert stat.S_IMODE(directory.stat().st_mode) == 0o700
    assert landing.moved == 3


@pytest.mark.parametrize("arrived", [b"", b"abd", b"abcd"])
def test_what_arrived_otherwise_gets_no_name(landing: _landing.Landing, arrived: bytes) -> None:
    with pytest.raises(ReplicaBackupError, match="did not arrive as it was archived"):
        land(landing, "data.tar", arrived, announced=b"abc")
    assert not os.path.exists(os.path.join(landing.paths.directory, "data.tar"))


def test_a_damaged_file_is_not_taken_for_the_one_wanted(landing: _landing.Landing) -> None:
    land(landing, "data.tar", b"abc")
    Path(landing.paths.directory, "data.tar").write_bytes(b"abd")
    assert not landing.has(item("data.tar", b"abc"))


@pytest.mark.parametrize("name", ["../x", "/etc/x", "a//b", "a/./b", "", "a/../../b", "a\0b"])
def test_names_cannot_leave_the_set(landing: _landing.Landing, name: str) -> None:
    with pytest.raises(ReplicaBackupError, match="leaves the directory"):
        land(landing, name, b"abc")


def test_links_on_the_way_are_not_followed(landing: _landing.Landing, tmp_path: Path) -> None:
    (tmp_path / "elsewhere").mkdir()
    os.symlink(tmp_path / "elsewhere", os.path.join(landing.paths.directory, "data"))
    with pytest.raises(OSError):
        land(landing, "data/x", b"abc")
    assert list((tmp_path / "elsewhere").iterdir()) == []


def test_no_room_is_said_before_anything_moves(landing: _landing.Landing) -> None:
    with pytest.raises(ReplicaBackupError, match="Too little room"):
        landing.prepare(1 << 60)


def test_the_manifest_is_last_and_the_work_directory_gone(landing: _landing.Landing) -> None:
    data = b'{"parts": []}'
    path = landing.incoming()
    Path(path).write_bytes(data)
    landing.publish(path, item("manifest.json", data))
    assert os.listdir(landing.paths.directory) == ["manifest.json"]


def test_a_wrong_manifest_publishes_nothing(landing: _landing.Landing) -> None:
    path = landing.incoming()
    Path(path).write_bytes(b"{}")
    with pytest.raises(ReplicaBackupError):
        landing.publish(path, item("manifest.json", b"[]"))
    assert not os.path.exists(landing.paths.manifest)


# -- destination -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("may_write", [True, False])
def test_a_used_backup_id_is_refused(tmp_path: Path, may_write: bool) -> None:
    paths = SetPaths(str(tmp_path), "db1", BACKUP_ID)
    os.makedirs(paths.directory)
    with pytest.raises(RefusedError, match=f"Backup id {BACKUP_ID} exists at the destination"):
        _landing.check_destination(paths, may_write=may_write)


@pytest.mark.parametrize("may_write", [True, False])
def test_a_destination_below_a_file_is_refused(tmp_path: Path, may_write: bool) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(RefusedError, match="is not writable"):
        _landing.check_destination(SetPaths(str(tmp_path / "file" / "dest"), "db1", BACKUP_ID), may_write=may_write)


@pytest.mark.parametrize("may_write", [True, False])
def test_a_destination_that_can_be_made_is_taken(tmp_path: Path, may_write: bool) -> None:
    paths = SetPaths(str(tmp_path / "a" / "b"), "db1", BACKUP_ID)
    _landing.check_destination(paths, may_write=may_write)
    left = [path.relative_to(tmp_path).as_posix() for path in tmp_path.rglob("*")]
    assert left == (["a", "a/b", "a/b/db1"] if may_write else [])


def test_a_place_that_only_looks_writable_is_found_by_writing() -> None:
    with pytest.raises(RefusedError, match="is not writable"):
        _landing.check_destination(SetPaths("/proc/dest", "db1", BACKUP_ID), may_write=True)


# -- pieces --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("sizes", "limit", "names", "expected"),
    [
        ([], 10, 10, []),
        ([0], 10, 10, [[("0", 0, 0)]]),
        ([4, 4], 10, 10, [[("0", 0, 4), ("1", 0, 4)]]),
        ([4, 6, 1], 10, 10, [[("0", 0, 4), ("1", 0, 6)], [("2", 0, 1)]]),
        ([25], 10, 10, [[("0", 0, 10)], [("0", 10, 10)], [("0", 20, 5)]]),
        ([4, 12, 0], 10, 10, [[("0", 0, 4), ("1", 0, 6)], [("1", 6, 6), ("2", 0, 0)]]),
        ([1, 1, 1], 10, 2, [[("0", 0, 1), ("1", 0, 1)], [("2", 0, 1)]]),
    ],
)
def test_files_are_cut_into_bounded_pieces(
    sizes: list[int], limit: int, names: int, expected: list[list[_landing.Run]]
) -> None:
    items = [Item(str(number), size, "") for number, size in enumerate(sizes)]
    assert list(_landing.pieces(items, limit, names)) == expected


@pytest.mark.parametrize("limit", [1, 3, 7, 1000])
def test_pieces_become_the_same_files_again(landing: _landing.Landing, limit: int) -> None:
    contents = {"data/a": b"0123456789", "data/empty": b"", "data/deep/er/b": b"xyz", "c": b"1"}
    items = {name: item(name, data) for name, data in contents.items()}
    slicer = _landing.Slicer(landing)
    done: list[Item] = []
    for runs in _landing.pieces(items.values(), limit):
        piece = b"".join(contents[name][offset : offset + length] for name, offset, length in runs)
        done += slicer.take(io.BytesIO(piece), runs, items)
    assert done == list(items.values())
    for name, data in contents.items():
        assert Path(landing.paths.directory, name).read_bytes() == data


def test_a_short_piece_is_an_error(landing: _landing.Landing) -> None:
    wanted = item("a", b"0123")
    with pytest.raises(ReplicaBackupError, match="arrived short"):
        _landing.Slicer(landing).take(io.BytesIO(b"01"), [("a", 0, 4)], {"a": wanted})


def test_a_piece_from_the_middle_needs_its_beginning(landing: _landing.Landing) -> None:
    with pytest.raises(ReplicaBackupError, match="no file was begun"):
        _landing.Slicer(landing).take(io.BytesIO(b"01"), [("a", 2, 2)], {"a": item("a", b"0101")})


# -- trees and whole sets ------------------------------------------------------------------------------------------


def write_index(path: Path, *lines: dict[str, t.Any]) -> str:
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    return str(path)


def test_directories_links_and_times_of_a_tree(landing: _landing.Landing, tmp_path: Path) -> None:
    raw = os.fsdecode(b"n\xff\n")
    index = write_index(
        tmp_path / "index",
        {"t": "f", "n": quote(f"datadir/{raw}"), "s": 1, "m": 1_500_000_000_123_456_789, "h": "00"},
        {"t": "d", "n": "datadir/empty"},
        {"t": "l", "n": "datadir/link", "to": "/outside"},
    )
    (file,) = _landing.tree_files(index)
    assert file.item.name == f"data/datadir/{raw}"
    land(landing, file.item.name, b"1")
    landing.set_mtime(file)
    for _attempt in range(2):
        landing.finish_tree(index)
    root = Path(landing.paths.directory, "data", "datadir")
    assert sorted(os.listdir(root)) == sorted(["empty", "link", raw])
    assert os.readlink(root / "link") == "/outside"
    assert (root / raw).stat().st_mtime_ns == 1_500_000_000_123_456_789


def published_set(tmp_path: Path, form: str) -> SetPaths:
    paths = SetPaths(str(tmp_path), "db1", BACKUP_ID)
    root = Path(paths.directory)
    (root / "data" / "datadir").mkdir(parents=True)
    (root / "data" / "datadir" / "ibdata1").write_bytes(b"content")
    sums = f"{hashlib.sha256(b'content').hexdigest()}  datadir/ibdata1\n".encode()
    (root / "SHA256SUMS").write_bytes(sums)
    (root / "data.tar").write_bytes(b"tar")
    part = item("data", sums) if form == "copy" else item("data.tar", b"tar")
    entry = {"name": part.name, "bytes": part.bytes, "sha256": part.sha256, "format": form}
    (root / "manifest.json").write_text(json.dumps({"format": 1, "parts": [entry], "files": []}))
    return paths


@pytest.mark.parametrize(("form", "damaged"), [("tar", "data.tar"), ("copy", "data/datadir/ibdata1")])
def test_a_complete_set_is_proven_from_its_manifest(tmp_path: Path, form: str, damaged: str) -> None:
    paths = published_set(tmp_path, form)
    assert _landing.verify_set(paths) > 0
    with open(os.path.join(paths.directory, damaged), "r+b") as handle:
        handle.write(b"X")
    with pytest.raises(ReplicaBackupError, match="damaged"):
        _landing.verify_set(paths)


# -- what interrupted transfers have left --------------------------------------------------------------------------


def partial(root: Path, backup_id: str, *names: str) -> Path:
    """A directory of a set with these files, or directories where the name ends in a slash."""
    directory = root / "db1" / backup_id
    directory.mkdir(parents=True)
    for name in names:
        if name.endswith("/"):
            (directory / name).mkdir()
            (directory / name / "incoming.partial").write_text("half")
        else:
            (directory / name).write_text("x")
    return directory


UNFINISHED = {
    "begun": ("20250101T000000Z",),
    "on its way": ("20250102T000000Z", ".work/"),
    "all but its manifest": ("20250103T000000Z", ".work/", "data.tar.zst", "SHA256SUMS"),
    "manifest on its way": ("20250104T000000Z", "data.0.tar", "data.1.tar", "SHA256SUMS", "manifest.json.partial"),
    "a tree": ("20250105T000000Z", ".work/", "data/"),
}
OTHERS = {
    "complete": ("20250106T000000Z", "data.tar", "SHA256SUMS", "manifest.json"),
    "complete, the rest not cleared": ("20250107T000000Z", "data.tar", "manifest.json", ".work/"),
    "somebody's files": ("20250108T000000Z", ".work/", "notes.txt"),
    "somebody's tree": ("20250109T000000Z", "datadir/"),
    "no backup id": ("latest", ".work/"),
    "the replica still has it": ("20250110T000000Z", ".work/", "data.tar"),
}


def test_unfinished_sets_are_cleared_and_nothing_else(tmp_path: Path) -> None:
    for names in (*UNFINISHED.values(), *OTHERS.values()):
        partial(tmp_path, *names)
    (tmp_path / "db1" / "20250111T000000Z").symlink_to(tmp_path / "db1" / "20250101T000000Z")
    (tmp_path / "db1" / "20250112T000000Z").write_text("a file")
    before = sorted(path.name for path in (tmp_path / "db1").iterdir())
    cleared = _landing.clear_unfinished(str(tmp_path), "db1", ["20250110T000000Z"])
    expected = [names[0] for names in UNFINISHED.values()]
    assert [os.path.basename(path) for path in cleared] == expected
    assert sorted(path.name for path in (tmp_path / "db1").iterdir()) == sorted(set(before) - set(expected))
    assert (tmp_path / "db1" / "latest" / ".work" / "incoming.partial").exists()
    assert _landing.clear_unfinished(str(tmp_path), "db1", ["20250110T000000Z"]) == []
    assert _landing.clear_unfinished(str(tmp_path), "db2", []) == []
    with pytest.raises(RefusedError):
        _landing.clear_unfinished(str(tmp_path / "db1"), "..", [])


def test_a_set_on_its_way_is_not_cleared_and_not_brought_twice(tmp_path: Path) -> None:
    directory = partial(tmp_path, BACKUP_ID, ".work/")
    with _landing.held(str(directory)):
        assert _landing.clear_unfinished(str(tmp_path), "db1", []) == []
        with (
            pytest.raises(ReplicaBackupError, match="Somebody else is bringing this set over"),
            _landing.held(str(directory)),
        ):
            pass
    assert _landing.clear_unfinished(str(tmp_path), "db1", []) == [str(directory)]
