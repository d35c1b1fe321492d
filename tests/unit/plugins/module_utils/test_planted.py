# Copyright (c) 2026, mysql_ops contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What the account of the server could not read itself is not read for it, and nobody exchanges our directories."""

from __future__ import annotations

import os
import pwd
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from ansible_collections.mysql_ops.replica_backup.plugins.module_utils import _exposed, _filelist
from ansible_collections.mysql_ops.replica_backup.plugins.module_utils._archive.output import make_private_directory
from ansible_collections.mysql_ops.replica_backup.plugins.module_utils._archive.source import Source
from ansible_collections.mysql_ops.replica_backup.plugins.module_utils._errors import RefusedError, ReplicaBackupError
from ansible_collections.mysql_ops.replica_backup.plugins.module_utils._places import Discovery, Place
from ansible_collections.mysql_ops.replica_backup.plugins.module_utils._planted import OnlyOwn

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="acts as several users")


@pytest.fixture
def mysql() -> pwd.struct_passwd:
    return pwd.getpwnam("mysql")


@pytest.fixture
def place(mysql: pwd.struct_passwd) -> Iterator[Path]:
    """A place outside of the data directory, which belongs to the account of the server."""
    with tempfile.TemporaryDirectory(dir="/var/tmp") as made:
        os.chmod(made, 0o755)
        for name in ("data", "place"):
            Path(made, name).mkdir()
            os.chown(Path(made, name), mysql.pw_uid, mysql.pw_gid)
        yield Path(made, "place")


def plan(place: Path, name: str = "tablespaces") -> Discovery:
    return Discovery(
        str(place.parent / "data"), (Place("datadir", str(place.parent / "data")), Place(name, str(place)))
    )


def passed(discovery: Discovery, *, live: bool = True) -> list[str]:
    own = OnlyOwn(discovery.datadir, discovery.places, live=live)
    return [entry.path for entry in own(_filelist.walk(discovery)) if entry.type == "file"]


@pytest.mark.parametrize(
    ("owner", "group", "mode", "parent", "may"),
    [
        ("mysql", "mysql", 0o600, 0o755, True),
        # Its own, though closed for the moment: it could open it.
        ("mysql", "mysql", 0o000, 0o755, True),
        ("root", "root", 0o644, 0o755, True),
        ("root", "mysql", 0o640, 0o755, True),
        ("root", "root", 0o640, 0o755, False),
        ("root", "mysql", 0o600, 0o755, False),
        # Open for all, in a directory that is not.
        ("root", "root", 0o644, 0o700, False),
        ("mysql", "mysql", 0o644, 0o700, False),
    ],
)
def test_only_what_the_server_can_read(
    place: Path, mysql: pwd.struct_passwd, owner: str, group: str, mode: int, parent: int, may: bool
) -> None:
    ids = {"mysql": (mysql.pw_uid, mysql.pw_gid), "root": (0, 0)}
    (place / "below").mkdir()
    file = place / "below" / "file"
    file.write_text("text")
    os.chown(file, ids[owner][0], ids[group][1])
    file.chmod(mode)
    (place / "below").chmod(parent)
    if may:
        assert passed(plan(place)) == ["below/file"]
        return
    with pytest.raises(RefusedError, match="none of this server's files") as refused:
        passed(plan(place))
    assert refused.value.facts == {"file": str(file), "rule": "foreign_file"}
    with pytest.raises(ReplicaBackupError) as late:
        passed(plan(place), live=False)
    assert not isinstance(late.value, RefusedError)
    # Option files are read by root before the server is anybody else.
    assert passed(plan(place, "config")) == ["below/file"]


def test_a_link_that_takes_the_place_of_a_directory_after_the_discovery(place: Path, mysql: pwd.struct_passwd) -> None:
    """The list is taken again at the stop, by the same path: which may lead elsewhere by then."""
    (place / "t.ibd").write_text("rows")
    os.chown(place / "t.ibd", mysql.pw_uid, mysql.pw_gid)
    discovery = plan(place)
    assert [entry.path for entry in _filelist.retake(discovery) if entry.type == "file"] == ["t.ibd"]
    secret = place.parent / "secret"
    secret.mkdir(mode=0o700)
    (secret / "key").write_text("root's")
    place.rename(place.parent / "aside")
    place.symlink_to(secret)
    with pytest.raises(ReplicaBackupError, match="none of this server's files"):
        list(_filelist.retake(discovery))


def test_another_file_of_the_same_name_size_and_time_is_noticed(place: Path, mysql: pwd.struct_passwd) -> None:
    file = place / "t.ibd"
    file.write_text("rows")
    os.chown(file, mysql.pw_uid, mysql.pw_gid)
    (entry,) = (entry for entry in _filelist.walk(plan(place)) if entry.type == "file")
    moment = file.stat().st_mtime_ns
    with Source({"tablespaces": str(place)}) as source:
        os.close(source.open(entry)[0])
    file.unlink()
    file.write_text("keys")
    file.chmod(0o600)
    os.utime(file, ns=(moment, moment))
    with Source({"tablespaces": str(place)}) as source, pytest.raises(ReplicaBackupError, match=r"changed.*uid"):
        source.open(entry)


@pytest.mark.parametrize(
    ("owner", "mode", "who"),
    [
        ("root", 0o755, None),
        ("root", 0o1777, None),
        ("root", 0o777, "everybody"),
        ("mysql", 0o755, "its owner"),
        ("mysql", 0o1777, "its owner"),
        ("group", 0o775, "its group"),
        ("group", 0o755, None),
    ],
)
def test_who_may_exchange_a_directory(mysql: pwd.struct_passwd, owner: str, mode: int, who: str | None) -> None:
    with tempfile.TemporaryDirectory(dir="/var/tmp") as made:
        parent = Path(made, "parent")
        parent.mkdir()
        os.chown(parent, mysql.pw_uid if owner == "mysql" else 0, mysql.pw_gid if owner == "group" else 0)
        parent.chmod(mode)
        (parent / "ours").mkdir(mode=0o700)
        os.chmod(made, 0o755)
        by_link = Path(made, "link")
        by_link.symlink_to(parent)
        for path in (parent / "ours", by_link / "ours", parent / "ours" / "deeper" / "still"):
            if who is None:
                _exposed.refuse(str(path), "replica_backup_state_dir")
                continue
            with pytest.raises(
                RefusedError, match=rf"put another directory.*{who}.*replica_backup_state_dir"
            ) as refused:
                _exposed.refuse(str(path), "replica_backup_state_dir")
            assert refused.value.facts["rule"] == "exposed_directory"
        # What holds the entries of others must be ours as well.
        (parent / "ours").chmod(0o777)
        with pytest.raises(RefusedError, match="everybody"):
            _exposed.refuse(str(parent / "ours"), "replica_backup_spool_dir", itself=True)


def test_a_directory_of_somebody_else_is_not_taken_for_ours(tmp_path: Path, mysql: pwd.struct_passwd) -> None:
    (tmp_path / "set").mkdir(mode=0o777)
    os.chown(tmp_path / "set", mysql.pw_uid, mysql.pw_gid)
    with pytest.raises(ReplicaBackupError, match=f"a directory of user {mysql.pw_uid}"):
        make_private_directory(str(tmp_path / "set"))
