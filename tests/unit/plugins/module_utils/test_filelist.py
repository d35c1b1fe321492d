# Copyright (c) 2026, mysql_ops contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The list: odd names, links, special files, and what must not be missing."""

from __future__ import annotations

import json
import os
import resource
import stat
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from ansible_collections.mysql_ops.replica_backup.plugins.module_utils import _fspath as fs
from ansible_collections.mysql_ops.replica_backup.plugins.module_utils._errors import RefusedError, ReplicaBackupError
from ansible_collections.mysql_ops.replica_backup.plugins.module_utils._filelist import (
    Checked,
    incomplete,
    missing_required,
    read_list,
    retake,
    summarize,
    walk,
    write_list,
)
from ansible_collections.mysql_ops.replica_backup.plugins.module_utils._places import Discovery, Exclusion, Place

ODD = [
    b"with space",
    b"new\nline",
    b"hash#name",
    "ünï cödé 数".encode(),
    b"\xff\xfe raw",
    b"-dash",
    b"tab\t",
    b"\\back",
]


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    root = tmp_path / "data"
    (root / "db").mkdir(parents=True)
    for name in ODD:
        with open(os.path.join(os.fsencode(root), b"db", name), "wb") as handle:
            handle.write(name)
    return root


def plan(root: Path, **changes: object) -> Discovery:
    return replace(Discovery(str(root), (Place("datadir", str(root)),)), **changes)  # type: ignore[arg-type]


def test_any_name_survives_the_journey(tree: Path, tmp_path: Path) -> None:
    path = str(tmp_path / "list")
    summary = write_list(path, plan(tree), walk(plan(tree)))
    discovery, entries = read_list(path)
    taken = list(entries)
    assert discovery == plan(tree)
    assert [entry.path for entry in taken[:2]] == [".", "db"]
    assert taken[0].name == "datadir" and taken[1].name == "datadir/db"
    assert [fs.encode(entry.path) for entry in taken[2:]] == [b"db/" + name for name in sorted(ODD)]
    for entry in taken[2:]:
        with open(os.path.join(os.fsencode(tree), fs.encode(entry.path)), "rb") as handle:
            assert b"db/" + handle.read() == fs.encode(entry.path)
    assert summary.count == len(taken) and summary.bytes == sum(map(len, ODD))
    assert summary.places["datadir"].count == len(taken)
    assert taken == list(walk(plan(tree)))


def test_the_locale_does_not_matter(tree: Path, tmp_path: Path) -> None:
    write_list(str(tmp_path / "list"), plan(tree), walk(plan(tree)))
    code = (
        "import sys; sys.path.insert(0, sys.argv[1])\n"
        "from ansible_collections.mysql_ops.replica_backup.plugins.module_utils._filelist import read_list, walk\n"
        "discovery, entries = read_list(sys.argv[2])\n"
        "assert list(entries) == list(walk(discovery))\n"
    )
    environment = {**os.environ, "LC_ALL": "C", "PYTHONCOERCECLOCALE": "0", "PYTHONUTF8": "0"}
    collections = next(path for path in sys.path if path.endswith(".ansible/collections"))
    subprocess.run([sys.executable, "-c", code, collections, str(tmp_path / "list")], check=True, env=environment)


def test_metadata_links_and_holes(tmp_path: Path) -> None:
    root = tmp_path / "data"
    root.mkdir()
    (root / "a").write_bytes(b"12345")
    os.link(root / "a", root / "b")
    (root / "s").symlink_to("../outside")
    (root / "secret").write_bytes(b"")
    (root / "secret").chmod(0o600)
    os.utime(root / "secret", ns=(1, 1_234_567_891_234_567_891))
    with open(root / "sparse", "wb") as handle:
        handle.truncate(10 << 20)
    if os.geteuid() == 0:
        os.chown(root / "secret", 54321, 54322)
    summary = summarize(plan(root), walk(plan(root)))
    listed = {entry.path: entry for entry in walk(plan(root))}
    assert listed["a"].link is None and listed["b"].link == "datadir/a"
    assert (listed["s"].type, listed["s"].target, listed["s"].size) == ("symlink", "../outside", 0)
    assert (listed["secret"].mode, listed["secret"].mtime_ns) == (0o600, 1_234_567_891_234_567_891)
    if os.geteuid() == 0:
        assert (listed["secret"].uid, listed["secret"].gid) == (54321, 54322)
        assert (listed["secret"].owner, listed["secret"].group) == ("", "")
        assert listed["a"].owner == "root"
    assert summary.bytes == 5 + (10 << 20)
    assert summary.allocated < 1 << 20
    assert summary.path is None and len(summary.sha256) == 64


def test_the_file_appears_whole_and_private(tree: Path, tmp_path: Path) -> None:
    path = tmp_path / "list"
    (tmp_path / "list.partial").symlink_to(tmp_path / "victim")
    summary = write_list(str(path), plan(tree), walk(plan(tree)))
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert not (tmp_path / "victim").exists()
    before = path.read_bytes()

    def refuse() -> None:
        raise RefusedError("no")

    with pytest.raises(RefusedError):
        write_list(str(path), plan(tree), iter(()), accept=refuse)
    assert path.read_bytes() == before
    assert sorted(item.name for item in tmp_path.iterdir()) == ["data", "list"]
    assert write_list(str(path), plan(tree), walk(plan(tree))).sha256 == summary.sha256


@pytest.mark.parametrize("kind", ["fifo", "socket", "device"])
def test_special_files_are_refused_by_name(tree: Path, kind: str) -> None:
    path = tree / "db" / "special"
    if kind == "device" and os.geteuid() != 0:
        pytest.skip("only root makes devices")
    mode = {"fifo": stat.S_IFIFO, "socket": stat.S_IFSOCK, "device": stat.S_IFCHR}[kind]
    os.mknod(path, mode | 0o600, os.makedev(1, 3) if kind == "device" else 0)
    with pytest.raises(ReplicaBackupError, match="special is a") as caught:
        list(walk(plan(tree)))
    assert caught.value.facts["file"] == str(path)
    rule = Exclusion(str(path), "socket", "the server's own")
    assert "db/special" not in {entry.path for entry in walk(plan(tree, exclusions=(rule,)))}


def test_rules_by_pattern_spare_directories(tree: Path) -> None:
    (tree / "#sqldir").mkdir()
    (tree / "#sqlfile").touch()
    rule = Exclusion(f"{tree}/#sql[^/]*", "temporary_table", "gone with the session", "pattern")
    names = {entry.path for entry in walk(plan(tree, exclusions=(rule,)))}
    assert "#sqldir" in names and "#sqlfile" not in names


def test_vanishing_names(tree: Path) -> None:
    (tree / "later").mkdir()
    (tree / "later" / "x").touch()

    def run(live: bool) -> list[str]:
        found = []
        for entry in walk(plan(tree), live=live):
            found.append(entry.path)
            if entry.path == "db":
                (tree / "db" / "with space").unlink(missing_ok=True)
            if entry.path == "later":
                (tree / "later" / "x").unlink(missing_ok=True)
                (tree / "later").rmdir()
        return found

    assert "later/x" not in run(True)
    (tree / "later").mkdir()
    with pytest.raises(ReplicaBackupError, match="later vanished"):
        run(False)
    gone = plan(tree, places=(Place("datadir", str(tree)), Place("binlog", "/nonexistent/x", "patterns", ("a",))))
    assert {entry.place for entry in walk(gone, live=True)} == {"datadir"}
    with pytest.raises(ReplicaBackupError, match="vanished"):
        list(walk(gone))


def test_a_directory_that_may_not_be_listed_is_an_error(tree: Path) -> None:
    if os.geteuid() != 0:
        pytest.skip("only root can become somebody else")
    for directory in [tree, *tree.parents][:4]:
        directory.chmod(0o755)
    (tree / "db").chmod(0o700)
    os.seteuid(65534)
    try:
        with pytest.raises(ReplicaBackupError, match="db cannot be listed"):
            list(walk(plan(tree)))
    finally:
        os.seteuid(0)


def test_what_is_required_must_be_listed(tree: Path) -> None:
    inside, gone, outside = f"{tree}/db/with space", f"{tree}/db/gone.ibd", "/etc/hostname"
    discovery = plan(tree, required=(inside, gone, outside))
    assert missing_required(discovery, walk(discovery)) == sorted((gone, outside))
    assert set(missing_required(discovery, ())) == {inside, gone, outside}
    error = incomplete([f"/x/{number}\udcff" for number in range(30)], stopped=False)
    assert isinstance(error, RefusedError)
    assert error.facts["missing_count"] == 30 and len(error.facts["missing"]) == 20
    json.dumps(error.to_result()).encode()
    assert "\udcff" not in str(error)


def test_retake_sees_the_disk_of_now(tree: Path) -> None:
    removed_by_a_stop = [
        f"{tree}/{name}" for name in ("ddl_recovery.log", "#innodb_redo/#ib_redo7", "aria_log.00000001")
    ]
    discovery = plan(tree, required=(f"{tree}/db/with space", *removed_by_a_stop))
    (tree / "rotated.000002").touch()
    assert "rotated.000002" in {entry.path for entry in retake(discovery)}
    with pytest.raises(ReplicaBackupError, match="lost") as caught:
        retake(plan(tree, required=(f"{tree}/lost",)))
    assert not isinstance(caught.value, RefusedError)
    hidden = plan(tree, exclusions=(Exclusion(f"{tree}/db", "x", "y", "tree"),), required=(f"{tree}/db/with space",))
    with pytest.raises(ReplicaBackupError, match="with space"):
        retake(hidden)


def test_retake_notices_a_file_that_goes_while_it_runs(tree: Path) -> None:
    entries = retake(plan(tree, required=(f"{tree}/db/with space",)))
    (tree / "db" / "with space").unlink()
    with pytest.raises(ReplicaBackupError, match="with space"):
        list(entries)


@pytest.mark.parametrize("way", ["symlink", "isl"])
def test_retake_refuses_what_leads_out_of_all_places(tree: Path, tmp_path: Path, way: str) -> None:
    outside = tmp_path / "outside.ibd"
    outside.touch()
    if way == "symlink":
        (tree / "new.ibd").symlink_to(outside)
    else:
        (tree / "new.isl").write_text(f"{outside}\n")
    with pytest.raises(ReplicaBackupError, match=r"outside\.ibd"):
        list(retake(plan(tree)))
    more = Place("tablespaces", str(tmp_path), "patterns", (r"outside\.ibd",))
    covered = plan(tree, places=(Place("datadir", str(tree)), more))
    assert "tablespaces/outside.ibd" in {entry.name for entry in retake(covered)}


def test_retake_bears_links_that_lead_nowhere_or_inside(tree: Path, tmp_path: Path) -> None:
    (tree / "dangling").symlink_to(tmp_path / "nowhere")
    (tree / "inside").symlink_to("db")
    (tree / "device").symlink_to("/dev/null")
    (tree / "place").symlink_to(tree)
    (tree / "empty.isl").touch()
    assert len(list(retake(plan(tree)))) == len(ODD) + 7


@pytest.mark.parametrize(
    "spoil",
    [
        lambda text: "",
        lambda text: "not json\n",
        lambda text: text.replace('"format":1', '"format":9', 1),
        lambda text: "[]\n",
        lambda text: text.rpartition("{")[0],
        lambda text: text.replace('{"end":', '{"end":1', 1),
        lambda text: text.replace('"place":', '"plaice":', 1) if '"place":' in text else "",
        lambda text: text.replace('"required":1', '"required":99', 1),
    ],
)
def test_a_damaged_list_is_an_error(tree: Path, tmp_path: Path, spoil: object) -> None:
    path = tmp_path / "list"
    discovery = plan(tree, required=(f"{tree}/db/with space",))
    write_list(str(path), discovery, walk(discovery))
    path.write_text(spoil(path.read_text()))  # type: ignore[operator]
    with pytest.raises(ReplicaBackupError, match="damaged"):
        list(read_list(str(path))[1])


def test_a_missing_list_says_what_to_do(tmp_path: Path) -> None:
    with pytest.raises(ReplicaBackupError, match="run replica_files_discover"):
        read_list(str(tmp_path / "absent"))


def test_checked_lets_entries_pass(tree: Path) -> None:
    checked = Checked(plan(tree, required=(f"{tree}/db/with space",)))
    assert checked.missing == [f"{tree}/db/with space"]
    assert len(list(checked(walk(plan(tree))))) == len(ODD) + 2
    assert checked.missing == []


def test_memory_does_not_grow_with_the_entries(tmp_path: Path) -> None:
    """A list of 200,000 entries is written and read in the memory of a few of them."""
    root = tmp_path / "data"
    root.mkdir()
    (root / "one").touch()
    template = list(walk(plan(root)))[-1]
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    many = (replace(template, path=f"a-rather-long-name-of-a-table-{number}") for number in range(200_000))
    write_list(str(tmp_path / "list"), plan(root), many)
    assert sum(1 for _entry in read_list(str(tmp_path / "list"))[1]) == 200_000
    # 200,000 entries would take more than 100 MiB (KiB here).
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 20 * 1024
