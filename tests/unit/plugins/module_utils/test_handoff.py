# Copyright (c) 2026, mysql_ops contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The replica's half of a transfer, on real files, users and file systems."""

from __future__ import annotations

import base64
import hashlib
import json
import os
import pwd
import subprocess
import tempfile
import typing as t
from collections.abc import Iterator
from pathlib import Path

import pytest

from ansible_collections.mysql_ops.replica_backup.plugins.module_utils import _handoff
from ansible_collections.mysql_ops.replica_backup.plugins.module_utils._archive.records import sums_line
from ansible_collections.mysql_ops.replica_backup.plugins.module_utils._errors import ReplicaBackupError
from ansible_collections.mysql_ops.replica_backup.plugins.module_utils._layout import SetPaths

BACKUP_ID = "20260101T000000Z"
NOBODY = pwd.getpwnam("nobody").pw_uid
needs_root = pytest.mark.skipif(os.geteuid() != 0, reason="gives files to another user")


class Fixture(t.NamedTuple):
    paths: SetPaths
    state: str


@pytest.fixture
def place() -> Iterator[Path]:
    """A directory that every user can reach; pytest's own are closed."""
    with tempfile.TemporaryDirectory(dir="/var/tmp") as name:
        os.chmod(name, 0o755)
        yield Path(name)


def captured(place: Path, form: str = "tar") -> Fixture:
    paths = SetPaths(str(place / "spool"), "db1", BACKUP_ID)
    os.makedirs(paths.work)
    os.chmod(paths.root, 0o700)
    root = Path(paths.directory)
    name = "data.tar" if form == "tar" else "data"
    if form == "tar":
        (root / name).write_bytes(b"archive")
        sums = b"whatever\n"
    else:
        (root / "data" / "datadir" / "d").mkdir(parents=True)
        (root / "data" / "datadir" / "ibdata1").write_bytes(b"content")
        (root / "data" / "datadir" / "a\\b\nc").write_bytes(b"odd")
        os.symlink("ibdata1", root / "data" / "datadir" / "link")
        sums = b"".join(
            sums_line(hashlib.sha256(data).hexdigest(), f"datadir/{file}")
            for file, data in {"ibdata1": b"content", "a\\b\nc": b"odd"}.items()
        )
    (root / "SHA256SUMS").write_bytes(sums)
    data = b"archive" if form == "tar" else sums
    entry = {"name": name, "bytes": len(data), "sha256": hashlib.sha256(data).hexdigest(), "format": form}
    (root / ".work" / "head.json").write_text(json.dumps({"parts": [entry]}))
    for path in root.iterdir():
        if path.is_file():
            os.chmod(path, 0o600)
    return Fixture(paths, str(place / "state"))


def reads_as(uid: int, path: str) -> bytes:
    command = ["cat", path]
    return subprocess.run(command, user=uid, group=uid, extra_groups=[], capture_output=True, check=True).stdout


# -- what there is -------------------------------------------------------------------------------------------------


def test_contents_of_a_captured_archive(place: Path) -> None:
    made = captured(place)
    found = _handoff.contents(made.paths)
    assert [item.name for item in found.items] == ["data.tar", "SHA256SUMS"]
    assert (found.bytes, found.tree, found.manifest) == (7, False, None)


def test_contents_of_a_published_set_come_from_its_manifest(place: Path) -> None:
    made = captured(place)
    head = json.loads(Path(made.paths.head).read_text())
    Path(made.paths.manifest).write_text(json.dumps({"format": 1, **head, "files": []}))
    os.unlink(made.paths.head)
    found = _handoff.contents(made.paths)
    assert found.manifest is not None
    assert found.manifest.sha256 == hashlib.sha256(Path(made.paths.manifest).read_bytes()).hexdigest()
    assert [item.name for item in found.items] == ["data.tar", "SHA256SUMS"]


def test_no_archive_is_said(place: Path) -> None:
    made = captured(place)
    os.unlink(made.paths.head)
    with pytest.raises(ReplicaBackupError, match="no finished archive"):
        _handoff.contents(made.paths)


@pytest.mark.parametrize("name", ["plain", "Ünï", os.fsdecode(b"\xff\xfe"), "a%b", "new\nline", "@index"])
def test_names_survive_the_way_through_json(name: str) -> None:
    assert _handoff.quote(name).isascii()
    assert _handoff.unquote(json.loads(json.dumps(_handoff.quote(name)))) == name


# -- ways ----------------------------------------------------------------------------------------------------------


def test_the_same_user_reads_directly(place: Path) -> None:
    made = captured(place)
    offer = _handoff.offer(made.paths, _handoff.contents(made.paths), made.state, os.geteuid())
    assert offer.method == "direct"
    assert Path(offer.sources[0]).read_bytes() == b"archive"
    assert not _handoff.release(made.state)


@needs_root
def test_another_user_gets_links_and_loses_them_again(place: Path) -> None:
    made = captured(place)
    offer = _handoff.offer(made.paths, _handoff.contents(made.paths), made.state, NOBODY)
    assert offer.method == "link"
    assert offer.directory is not None
    assert reads_as(NOBODY, offer.sources[0]) == b"archive"
    assert (os.stat(offer.directory).st_mode & 0o777, os.stat(offer.directory).st_uid) == (0o700, NOBODY)
    assert _handoff.release(made.state)
    part = os.stat(os.path.join(made.paths.directory, "data.tar"))
    assert (part.st_uid, part.st_nlink) == (0, 1)
    assert not os.path.exists(offer.directory)
    assert sorted(path.name for path in place.iterdir()) == ["spool", "state"]


@needs_root
def test_a_hand_off_left_behind_is_cleared_by_the_next(place: Path) -> None:
    made = captured(place)
    found = _handoff.contents(made.paths)
    first = _handoff.offer(made.paths, found, made.state, NOBODY)
    second = _handoff.offer(made.paths, found, made.state, NOBODY)
    assert first.directory is not None
    assert not os.path.exists(first.directory)
    assert second.directory != first.directory
    _handoff.release(made.state)
    assert os.stat(os.path.join(made.paths.directory, "data.tar")).st_uid == 0


@needs_root
def test_release_follows_nothing_that_the_user_put_there(place: Path) -> None:
    made = captured(place)
    offer = _handoff.offer(made.paths, _handoff.contents(made.paths), made.state, NOBODY)
    assert offer.directory is not None
    (place / "precious").write_text("keep")
    os.symlink(place / "precious", os.path.join(offer.directory, "trap"))
    os.symlink(place, os.path.join(offer.directory, "trap2"))
    _handoff.release(made.state)
    assert (place / "precious").read_text() == "keep"
    assert not os.path.exists(offer.directory)


@needs_root
def test_a_directory_in_the_hand_off_is_left_to_a_person(place: Path) -> None:
    made = captured(place)
    offer = _handoff.offer(made.paths, _handoff.contents(made.paths), made.state, NOBODY)
    assert offer.directory is not None
    os.mkdir(os.path.join(offer.directory, "sub"))
    with pytest.raises(ReplicaBackupError, match="cannot be removed"):
        _handoff.release(made.state)
    assert os.stat(os.path.join(made.paths.directory, "data.tar")).st_uid == 0
    os.rmdir(os.path.join(offer.directory, "sub"))
    assert _handoff.release(made.state)


@needs_root
def test_a_closed_parent_leads_to_pieces_elsewhere(place: Path) -> None:
    made = captured(place)
    os.chmod(place, 0o700)
    offer = _handoff.offer(made.paths, _handoff.contents(made.paths), made.state, NOBODY)
    assert offer.method == "piece"
    assert "cannot reach" in offer.reason
    path = _handoff.write_piece(made.state, NOBODY, [b"ab", b"c"])
    assert reads_as(NOBODY, path) == b"abc"
    assert reads_as(NOBODY, _handoff.write_piece(made.state, NOBODY, [b"next"])) == b"next"
    assert _handoff.release(made.state)
    assert not os.path.exists(os.path.dirname(path))


@needs_root
def test_a_spool_of_its_own_file_system_leads_to_pieces_beside_it(place: Path) -> None:
    (place / "spool").mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=4m", "tmpfs", str(place / "spool")], check=True)
    try:
        made = captured(place)
        offer = _handoff.offer(made.paths, _handoff.contents(made.paths), made.state, NOBODY)
        assert offer.method == "piece"
        assert "hard links" in offer.reason
        assert offer.directory is not None
        assert os.path.dirname(offer.directory) == str(place)
        assert os.stat(os.path.join(made.paths.directory, "data.tar")).st_uid == 0
        _handoff.release(made.state)
    finally:
        subprocess.run(["umount", str(place / "spool")], check=True)


@needs_root
@pytest.mark.parametrize(("worse_than", "method"), [("link", "piece"), ("piece", "chunk")])
def test_a_slower_way_on_demand(place: Path, worse_than: str, method: str) -> None:
    made = captured(place)
    found = _handoff.contents(made.paths)
    assert _handoff.offer(made.paths, found, made.state, NOBODY, worse_than=worse_than).method == method
    _handoff.release(made.state)


def test_no_hand_off_no_release(place: Path) -> None:
    assert not _handoff.release(str(place / "nowhere"))


# -- bytes ---------------------------------------------------------------------------------------------------------


def test_ranges_are_read_one_after_the_other(place: Path) -> None:
    made = captured(place)
    ranges = [_handoff.Range("data.tar", 2, 3), _handoff.Range("data.tar", 0, 2), _handoff.Range("SHA256SUMS", 0, 0)]
    assert base64.b64decode(_handoff.encode_chunk(_handoff.read_ranges(made.paths, made.state, ranges))) == b"chiar"


def test_a_file_that_got_shorter_is_an_error(place: Path) -> None:
    made = captured(place)
    with pytest.raises(ReplicaBackupError, match="shorter"):
        list(_handoff.read_ranges(made.paths, made.state, [_handoff.Range("data.tar", 0, 8)]))


@pytest.mark.parametrize("name", ["../../x", "/etc/passwd", "data/../SHA256SUMS", ""])
def test_ranges_stay_inside_the_set(place: Path, name: str) -> None:
    made = captured(place)
    with pytest.raises(ReplicaBackupError, match="leaves the directory"):
        list(_handoff.read_ranges(made.paths, made.state, [_handoff.Range(name, 0, 1)]))


def test_ranges_do_not_follow_links(place: Path) -> None:
    made = captured(place, "copy")
    with pytest.raises(OSError):
        list(_handoff.read_ranges(made.paths, made.state, [_handoff.Range("data/datadir/link", 0, 1)]))


def test_a_tree_is_listed_with_everything_in_it(place: Path) -> None:
    made = captured(place, "copy")
    found = _handoff.contents(made.paths)
    assert found.tree
    assert [item.name for item in found.items] == ["SHA256SUMS"]
    offer = _handoff.offer(made.paths, found, made.state, os.geteuid())
    assert offer.method == "piece"
    size = _handoff.index_size(made.state)
    text = b"".join(_handoff.read_ranges(made.paths, made.state, [_handoff.Range(_handoff.INDEX_NAME, 0, size)]))
    lines = [json.loads(line) for line in text.splitlines()]
    assert [(line["t"], _handoff.unquote(line["n"])) for line in lines] == [
        ("f", "datadir/ibdata1"),
        ("f", "datadir/a\\b\nc"),
        ("d", "datadir"),
        ("d", "datadir/d"),
        ("l", "datadir/link"),
    ]
    _handoff.release(made.state)
    assert os.listdir(made.state) == []


def test_a_tree_with_a_file_too_many_is_refused(place: Path) -> None:
    made = captured(place, "copy")
    Path(made.paths.directory, "data", "datadir", "stray").write_text("")
    with pytest.raises(ReplicaBackupError, match="do not agree"):
        _handoff.write_index(made.paths, str(place / "index"))


def test_a_tree_whose_file_became_a_link_is_refused(place: Path) -> None:
    made = captured(place, "copy")
    path = Path(made.paths.directory, "data", "datadir", "ibdata1")
    path.unlink()
    path.symlink_to("/etc/hostname")
    with pytest.raises(ReplicaBackupError, match="not a regular file"):
        _handoff.write_index(made.paths, str(place / "index"))
