# Copyright (c) 2026, mysql_ops contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Paths of any byte."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from ansible_collections.mysql_ops.replica_backup.plugins.module_utils import _fspath as fs


@pytest.mark.parametrize("raw", [b"plain", b"\xff\xfe", "ü".encode(), b"a\nb", b"\xed\xb3\xbf"])
def test_bytes_survive(raw: bytes) -> None:
    assert fs.encode(fs.decode(raw)) == raw


@pytest.mark.parametrize(
    ("path", "root", "relative"),
    [("/a/b", "/a", "b"), ("/a", "/a", "."), ("/ab", "/a", None), ("/x", "/", "x"), ("/a", "/a/b", None)],
)
def test_below(path: str, root: str, relative: str | None) -> None:
    assert fs.below(path, root) == relative


@pytest.mark.parametrize(
    ("path", "base", "result"),
    [("./a", "/d", "/d/a"), ("/x/../y/", "/d", "/y"), ("//x", "/d", "/x"), ("", "/d/", "/d"), ("../a", "/d", "/a")],
)
def test_absolute(path: str, base: str, result: str) -> None:
    assert fs.absolute(path, base) == result


def test_printable() -> None:
    assert fs.printable("/a ü\n\udcff") == "/a ü\\n\\xff"


def test_names_and_what_they_lead_to(tmp_path: Path) -> None:
    root = fs.real(str(tmp_path))
    (tmp_path / "file").touch()
    (tmp_path / "dir").mkdir()
    (tmp_path / "link").symlink_to("dir")
    (tmp_path / "loop").symlink_to("loop")
    assert fs.names(root) == ["dir", "file", "link", "loop"]
    assert fs.follow(f"{root}/loop") is None and fs.lstat(f"{root}/loop") is not None
    assert fs.follow(f"{root}/file/x") is None and fs.lstat(f"{root}/absent") is None
    assert fs.is_directory(f"{root}/link") and not fs.is_directory(f"{root}/file")
    assert fs.is_file(f"{root}/file") and not fs.is_file(f"{root}/absent")
    assert fs.readlink(f"{root}/link") == "dir"
    assert fs.real_name(f"{root}/link/") == f"{root}/link" and fs.real(f"{root}/link") == f"{root}/dir"
    assert fs.real_name(f"{root}/link/x") == f"{root}/dir/x" and fs.real_name("/") == "/"
    assert fs.readable(f"{root}/file") and not fs.readable(f"{root}/absent")
    with pytest.raises(OSError, match="too long"):
        fs.follow("/" + "x" * 5000)


def test_links_are_found_without_being_followed(tmp_path: Path) -> None:
    (tmp_path / "a" / "b").mkdir(parents=True)
    (tmp_path / "a" / "t.isl").touch()
    (tmp_path / "a" / "b" / "up").symlink_to(tmp_path)
    (tmp_path / "a" / "b" / "t.ibd").touch()
    found = fs.links_below(str(tmp_path))
    assert sorted(found) == [(f"{tmp_path}/a/b/up", True), (f"{tmp_path}/a/t.isl", False)]
    assert list(fs.links_below(str(tmp_path / "absent"))) == []


def test_text_is_read_up_to_a_limit(tmp_path: Path) -> None:
    (tmp_path / "x").write_bytes(b"\xff" + b"y" * 100)
    assert fs.read_text(str(tmp_path / "x"), 3) == "\udcffyy"
    assert os.path.exists(tmp_path / "x")
