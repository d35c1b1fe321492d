# Copyright (c) 2026, mysql_ops contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Discovery against a real MariaDB whose files lie all over the disk."""

from __future__ import annotations

import dataclasses
import json
import os
import pwd
import shutil
import signal
import socket
import stat
import subprocess
import time
import typing as t
from dataclasses import dataclass
from pathlib import Path

import pytest

from ansible_collections.mysql_ops.replica_backup.plugins.module_utils import _discovery, _place_plan, _server
from ansible_collections.mysql_ops.replica_backup.plugins.module_utils._connection import Login, Session, connect
from ansible_collections.mysql_ops.replica_backup.plugins.module_utils._errors import RefusedError, ReplicaBackupError
from ansible_collections.mysql_ops.replica_backup.plugins.module_utils._filelist import Entry, read_list, retake
from ansible_collections.mysql_ops.replica_backup.plugins.module_utils._installed import Hints
from ansible_collections.mysql_ops.replica_backup.plugins.module_utils._layout import SetPaths
from ansible_collections.mysql_ops.replica_backup.plugins.module_utils._places import Discovery, Place

MARIADBD = shutil.which("mariadbd") or "/usr/sbin/mariadbd"
BACKUP_ID = "20260101T000000Z"
DATABASES = ("plain", "Ünï cödé", "new\nline", "with space#hash")

pytestmark = pytest.mark.skipif(not os.path.exists(MARIADBD), reason="needs mariadbd")


@dataclass
class Server:
    """A server with every kind of file in a directory of its own."""

    root: Path
    process: subprocess.Popen[bytes]

    @property
    def login(self) -> Login:
        return Login(user="root", unix_socket=str(self.root / "run" / "s.sock"), config_file=None)

    def session(self) -> Session:
        return connect(self.login)

    def stop(self) -> None:
        self.process.send_signal(signal.SIGTERM)
        self.process.wait(60)


def _start(root: Path, *, before: tuple[str, ...] = ()) -> Server:
    user = pwd.getpwuid(os.geteuid()).pw_name
    config = root / "etc" / "my.cnf"
    arguments = [*before, MARIADBD, f"--defaults-file={config}", f"--user={user}"]
    with open(root / "log" / "error.log", "ab") as log:
        process = subprocess.Popen(arguments, stdin=subprocess.DEVNULL, stdout=log, stderr=log)
    server = Server(root, process)
    for _attempt in range(300):
        try:
            server.session().close()
        except ReplicaBackupError:
            assert process.poll() is None, (root / "log" / "error.log").read_text()
            time.sleep(0.1)
        else:
            return server
    raise AssertionError((root / "log" / "error.log").read_text())


@pytest.fixture(scope="module")
def template(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A fresh data directory to copy."""
    path = tmp_path_factory.mktemp("template") / "data"
    subprocess.run(
        [
            "mariadb-install-db",
            "--no-defaults",
            f"--user={pwd.getpwuid(os.geteuid()).pw_name}",
            f"--datadir={path}",
            "--auth-root-authentication-method=normal",
            "--skip-test-db",
        ],
        check=True,
        capture_output=True,
    )
    return path


@pytest.fixture
def scattered(template: Path, tmp_path: Path) -> t.Iterator[Server]:
    root = tmp_path / "srv"
    for name in ("run", "log", "etc/conf.d", "keys", "shared", "load", "innodb"):
        (root / name).mkdir(parents=True)
    for name in ("redo", "undo", "aria", "ext", "tmp", "status", "tables"):
        (root / name).mkdir()
    shutil.copytree(template, root / "data")
    (root / "data" / "ibdata1").rename(root / "innodb" / "ibdata1")
    (root / "data" / "ib_logfile0").rename(root / "redo" / "ib_logfile0")
    for path in (root / "data").glob("aria_log*"):
        path.rename(root / "aria" / path.name)
    (root / "etc" / "my.cnf").write_text(f"!includedir {root}/etc/conf.d\n[client]\nuser=root\n")
    subprocess.run(
        [
            *[
                "openssl",
                "req",
                "-x509",
                "-newkey",
                "ec",
                "-pkeyopt",
                "ec_paramgen_curve:P-256",
                "-nodes",
                "-subj",
                "/CN=x",
            ],
            "-keyout",
            str(root / "keys" / "key.pem"),
            "-out",
            str(root / "keys" / "cert.pem"),
        ],
        check=True,
        capture_output=True,
    )
    (root / "etc" / "conf.d" / "server.cnf").write_text(
        f"""[mysqld]
datadir={root}/data
socket={root}/run/s.sock
pid-file={root}/run/my.pid
skip-networking
skip-slave-start
server-id=71
log-bin={root}/shared/bin
relay-log={root}/shared/rel
relay-log-info-file={root}/status/applier.info
master-info-file={root}/status/source.info
slave-load-tmpdir={root}/load
tmpdir={root}/tmp
innodb-data-home-dir={root}/innodb
innodb-log-group-home-dir={root}/redo
innodb-undo-directory={root}/undo
aria-log-dir-path={root}/aria
general-log=1
general-log-file={root}/log/general.log
ssl-cert={root}/keys/cert.pem
ssl-key={root}/keys/key.pem
"""
    )
    server = _start(root)
    with server.session() as session:
        for database in DATABASES:
            session.execute(f"CREATE DATABASE `{database}` CHARACTER SET utf8mb4")
            session.execute(f"CREATE TABLE `{database}`.`tab le` (id INT PRIMARY KEY) ENGINE=InnoDB")
        session.execute(f"CREATE TABLE plain.far (id INT) ENGINE=InnoDB DATA DIRECTORY='{root}/ext'")
        session.execute(
            "CREATE TABLE plain.parts (id INT) PARTITION BY HASH(id)"
            f" (PARTITION p0 DATA DIRECTORY='{root}/ext', PARTITION p1)"
        )
        session.execute(
            "CREATE TABLE plain.isam (id INT) ENGINE=MyISAM"
            f" DATA DIRECTORY='{root}/tables' INDEX DIRECTORY='{root}/tables'"
        )
        session.execute(
            "CHANGE MASTER 'Up per/x' TO MASTER_HOST='192.0.2.1', MASTER_USER='u', MASTER_PASSWORD='p',"
            " MASTER_LOG_FILE='b.000001', MASTER_LOG_POS=4"
        )
        session.execute("CHANGE MASTER TO MASTER_HOST='192.0.2.2', MASTER_USER='u', MASTER_PASSWORD='p'")
    (root / "load" / "SQL_LOAD-71-1-1.data").write_text("ours")
    (root / "load" / "SQL_LOAD-72-1-1.data").write_text("of another server")
    (root / "shared" / "rel-other.txt").write_text("of another program")
    try:
        yield server
    finally:
        server.stop()


def _request(root: Path, **options: t.Any) -> _discovery.Request:
    return _discovery.Request(spool_dir=str(root / "spool"), host="db1", backup_id=BACKUP_ID, **options)


def _named(entries: t.Iterable[Entry]) -> dict[str, Entry]:
    return {entry.name: entry for entry in entries}


def test_everything_a_scattered_server_needs_is_listed_and_nothing_else(scattered: Server, tmp_path: Path) -> None:
    with scattered.session() as session:
        result = _discovery.discover(session, _request(tmp_path))
        again = _discovery.discover(session, _request(tmp_path))
    assert result["changed"] is True
    path = Path(result["list"]["path"])
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert {stat.S_IMODE(parent.stat().st_mode) for parent in list(path.parents)[:4]} == {0o700}
    assert [item.name for item in path.parent.iterdir()] == ["discovered.jsonl"]
    assert again["list"]["path"] == str(path)
    assert len(json.dumps(result)) < 10_000

    discovery, entries = read_list(str(path))
    listed = _named(entries)
    files = {name for name, entry in listed.items() if entry.type != "directory"}
    assert {place.name for place in discovery.places} == {
        "datadir",
        "innodb_home",
        "innodb_redo",
        "innodb_undo",
        "tablespaces",
        "tablespaces-2",
        "binlog",
        "relay_log",
        "replica_status",
        "load_data",
        "aria_log",
        "config",
        "keys",
    }
    assert len(listed) == result["list"]["count"]
    expected = {
        "innodb_home/ibdata1": "innodb_system",
        "innodb_redo/ib_logfile0": "innodb_redo",
        "aria_log/aria_log_control": "aria_log",
        "binlog/bin.000001": "binlog",
        "binlog/bin.index": "binlog_index",
        "relay_log/rel.000001": "relay_log",
        "relay_log/rel.index": "relay_log_index",
        "relay_log/rel-up@0020per@002fx.index": "relay_log_index",
        "replica_status/source.info": "status_file",
        "replica_status/source-up@0020per@002fx.info": "status_file",
        "replica_status/applier-up@0020per@002fx.info": "status_file",
        "load_data/SQL_LOAD-71-1-1.data": "load_data",
        "config/my.cnf": "config",
        "config/conf.d/server.cnf": "config",
        "keys/key.pem": "key",
        "keys/cert.pem": "key",
        "datadir/plain/far.isl": None,
        "datadir/plain/isam.MYD": None,
        "tablespaces/plain/far.ibd": None,
        "tablespaces/plain/parts#P#p0.ibd": None,
        "tablespaces-2/isam.MYD": None,
    }
    multi = [name for name in files if name.endswith("multi-source.info")]
    assert len(multi) == 1 and listed[multi[0]].role == "status_file"
    for name, role in expected.items():
        assert name in files, sorted(files)
        assert listed[name].role == role, name
    assert listed["datadir/plain/isam.MYD"].target == f"{scattered.root}/tables/isam.MYD"
    assert "load_data/SQL_LOAD-72-1-1.data" not in files
    assert not [
        name for name in files if name.endswith(("ibtmp1", "s.sock", "my.pid", "other.txt", "general.log", "error.log"))
    ]
    # Whatever lies below the data directory is in the list, by its own path.
    below = {
        f"datadir/{os.path.relpath(os.path.join(directory, name), scattered.root / 'data')}"
        for directory, _names, names in os.walk(scattered.root / "data")
        for name in names
    }
    assert below - files == set()
    assert {rule["rule"] for rule in result["exclusions"]} == {
        "innodb_temporary",
        "socket",
        "pid_file",
        "temporary_table",
    }


def test_the_list_is_taken_again_after_replicated_changes_and_after_the_stop(scattered: Server, tmp_path: Path) -> None:
    paths = SetPaths(str(tmp_path / "spool"), "db1", BACKUP_ID)
    with scattered.session() as session:
        _discovery.discover(session, _request(tmp_path))
        session.execute("DROP TABLE plain.far")
        session.execute(f"CREATE TABLE plain.fresh (id INT) ENGINE=InnoDB DATA DIRECTORY='{scattered.root}/undo'")
        session.execute("FLUSH BINARY LOGS")
        summary = _discovery.refresh(session, paths)
    scattered.stop()
    discovery, entries = read_list(paths.discovered)
    assert discovery.refreshed
    assert len(list(entries)) == summary.count
    listed = _named(retake(discovery))
    assert {"binlog/bin.000002", "binlog/bin.state", "datadir/ib_buffer_pool"} <= set(listed)
    assert not [name for name in listed if "far.ibd" in name]
    assert [name for name in listed if name.endswith("fresh.ibd")]
    # A required file that the stop cannot have removed is missed before anything is archived.
    (scattered.root / "innodb" / "ibdata1").rename(scattered.root / "innodb" / "gone")
    with pytest.raises(ReplicaBackupError, match="innodb/ibdata1"):
        retake(discovery)


def test_a_private_tmp_is_saved_before_the_stop(scattered: Server, tmp_path: Path) -> None:
    scattered.stop()
    (scattered.root / "load" / "SQL_LOAD-71-1-1.data").unlink()
    command = f"mount --make-rprivate / && mount -t tmpfs none '{scattered.root}/load' && exec \"$@\""
    if subprocess.run(["unshare", "--mount", "sh", "-c", command, "sh", "true"], check=False).returncode:
        pytest.skip("may not make a mount namespace")
    hidden = _start(scattered.root, before=("unshare", "--mount", "sh", "-c", command, "sh"))
    scattered.process = hidden.process
    name = "SQL_LOAD-71-9-9.data"
    Path(f"/proc/{hidden.process.pid}/root{scattered.root}/load/{name}").write_text("rows")
    with scattered.session() as session:
        _discovery.discover(session, _request(tmp_path))
        _discovery.refresh(session, SetPaths(str(tmp_path / "spool"), "db1", BACKUP_ID))
    scattered.stop()
    discovery, _entries = read_list(SetPaths(str(tmp_path / "spool"), "db1", BACKUP_ID).discovered)
    (place,) = (place for place in discovery.places if place.name == "load_data")
    assert place.path == f"{scattered.root}/load"
    assert Path(place.root(), name).read_text() == "rows"
    assert _named(retake(discovery))[f"load_data/{name}"].role == "load_data"


def test_without_the_server_the_list_is_the_same(scattered: Server, tmp_path: Path) -> None:
    hints = Hints(defaults_file=str(scattered.root / "etc" / "my.cnf"), server_binary=MARIADBD)
    for name in ("live", "down", "other", "crashed"):
        (tmp_path / name).mkdir()
    with scattered.session() as session:
        _discovery.discover(session, _request(tmp_path / "live"))
    with pytest.raises(RefusedError, match="works on") as refused:
        _discovery.discover_offline(_request(tmp_path / "down"), hints)
    assert "offline at 'auto'" in str(refused.value)
    scattered.stop()
    down = _discovery.discover_offline(_request(tmp_path / "down"), hints, login=scattered.login)
    assert {item["fact"] for item in down["unknown"]} == {"open_files", "dictionary"}
    assert (down["offline"], down["clean_stop"]["clean"]) == (True, True)
    lists = [set(_named(read_list(str(_request(tmp_path / name).paths.discovered))[1])) for name in ("live", "down")]
    assert lists[0] - lists[1] == {"datadir/ddl_recovery.log"}
    assert {name for name in lists[1] - lists[0] if "ib_buffer_pool" not in name} == {"binlog/bin.state"}
    for login in (Login(unix_socket="/nowhere"), Login(host="192.0.2.1"), Login(host="no such.invalid"), Login(port=1)):
        with pytest.raises(RefusedError, match="is another one"):
            _discovery.discover_offline(_request(tmp_path / "other"), hints, login=login)
    with pytest.raises(RefusedError, match="the directory is missing"):
        _discovery.discover_offline(_request(tmp_path / "other"), dataclasses.replace(hints, datadir="/no/such"))
    again = _start(scattered.root)
    again.process.kill()
    again.process.wait(60)
    crashed = _discovery.discover_offline(_request(tmp_path / "crashed", check_mode=True), hints)
    assert crashed["clean_stop"]["clean"] is False
    assert any("is no backup" in warning for warning in crashed["warnings"])


def test_the_result_stays_small_whatever_there_is(scattered: Server, tmp_path: Path) -> None:
    for number in range(3000):
        (scattered.root / "data" / "plain" / f"t{number}.frm").touch()
        # Its table is gone, so each of them is worth a warning.
        (scattered.root / "data" / "plain" / f"t{number}.isl").write_text(f"{scattered.root}/ext/plain/t{number}.ibd")
    with scattered.session() as session:
        result = _discovery.discover(session, _request(tmp_path))
    assert result["list"]["count"] > 6000
    assert len(result["warnings"]) == 51 and "2950 more warnings" in result["warnings"][-1]
    assert len(json.dumps({**result, "warnings": []})) < 10_000
    assert len(json.dumps(result)) < 30_000
    assert len(read_list(result["list"]["path"])[0].warnings) == 3000


def test_check_mode_writes_nothing(scattered: Server, tmp_path: Path) -> None:
    with scattered.session() as session:
        result = _discovery.discover(session, _request(tmp_path, check_mode=True, include_binlogs=False))
    assert result["list"]["path"] is None and result["changed"] is True
    assert result["list"]["count"] > 100
    assert not (tmp_path / "spool").exists()
    assert "binary_logs" in {rule["rule"] for rule in result["exclusions"]}
    assert any("left out on request" in warning for warning in result["warnings"])


def test_an_open_file_outside_every_place_is_refused(
    scattered: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    stranger = tmp_path / "stranger.db"
    stranger.touch()
    monkeypatch.setattr(_discovery, "_PAUSE_SECONDS", 0)
    real = _server.open_files
    monkeypatch.setattr(_server, "open_files", lambda process: (*(real(process) or ()), str(stranger)))
    with scattered.session() as session, pytest.raises(RefusedError) as caught:
        _discovery.discover(session, _request(tmp_path))
    assert caught.value.facts["missing"] == [str(stranger)]
    assert not (tmp_path / "spool" / "db1" / BACKUP_ID / ".work" / "discovered.jsonl").exists()


def test_an_index_that_is_just_being_written_is_looked_at_again(
    scattered: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(_discovery, "_PAUSE_SECONDS", 0)
    refusals = [RefusedError("no index", rule="status_files")]

    def plan(facts: t.Any, **options: t.Any) -> Discovery:
        if refusals:
            raise refusals.pop()
        return _place_plan.plan_places(facts, **options)

    monkeypatch.setattr(_discovery, "plan_places", plan)
    with scattered.session() as session:
        assert _discovery.discover(session, _request(tmp_path))["list"]["count"] > 100


def test_a_discarded_tablespace_does_not_count_and_a_lost_one_does(scattered: Server, tmp_path: Path) -> None:
    with scattered.session() as session:
        session.execute("CREATE TABLE plain.thrown (id INT) ENGINE=InnoDB")
        session.execute("ALTER TABLE plain.thrown DISCARD TABLESPACE")
        _discovery.discover(session, _request(tmp_path))
        (scattered.root / "data" / "plain" / "tab@0020le.ibd").rename(tmp_path / "lost")
        with pytest.raises(RefusedError, match=r"tab@0020le\.ibd"):
            _discovery.discover(session, _request(tmp_path))
        (tmp_path / "lost").rename(scattered.root / "data" / "plain" / "tab@0020le.ibd")


def test_a_foreign_socket_in_the_data_directory_is_refused(scattered: Server, tmp_path: Path) -> None:
    path = scattered.root / "data" / "x.sock"
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(path))
        with scattered.session() as session, pytest.raises(ReplicaBackupError, match=r"x\.sock is a socket"):
            _discovery.discover(session, _request(tmp_path))


def test_the_spool_may_not_lie_in_the_data(scattered: Server) -> None:
    with scattered.session() as session, pytest.raises(RefusedError, match="inside datadir"):
        _discovery.discover(session, _request(scattered.root / "data"))
    assert not (scattered.root / "data" / "spool").exists()


def test_a_server_elsewhere_is_refused(scattered: Server, tmp_path: Path) -> None:
    class Elsewhere(Session):
        """The same server, as if its data directory were on another machine."""

        datadir = ""

        def variables(self) -> dict[str, str]:
            return {**super().variables(), "datadir": self.datadir}

    with scattered.session() as session:
        session.__class__ = Elsewhere
        for datadir, message in (
            (str(tmp_path / "absent"), "does not exist here"),
            (str(tmp_path), "No server process"),
        ):
            Elsewhere.datadir = datadir
            with pytest.raises(RefusedError, match=message):
                _discovery.discover(session, _request(tmp_path))


def test_plan_module_is_pure_on_facts(scattered: Server) -> None:
    with scattered.session() as session:
        facts, warnings = _discovery.read_facts(session)
    assert warnings == ()
    assert facts.option_files == (
        str(scattered.root / "etc" / "my.cnf"),
        str(scattered.root / "etc" / "conf.d" / "server.cnf"),
    )
    assert _place_plan.plan_places(facts) == _place_plan.plan_places(facts)


def _plan_of(datadir: Path) -> Discovery:
    return Discovery(str(datadir), (Place("datadir", str(datadir)), Place("binlog", "/", "patterns", ("x",))))


def test_spool_directories_that_cannot_take_a_set(tmp_path: Path) -> None:
    (tmp_path / "data").mkdir()
    (tmp_path / "file").touch()
    (tmp_path / "link").symlink_to(tmp_path / "data")
    for spool, message in (
        ("relative/path", "a relative path"),
        (f"{tmp_path}/data/spool", "inside datadir"),
        (f"{tmp_path}/link", "inside datadir"),
        (f"{tmp_path}/absent/spool", "absent does not exist"),
        (f"{tmp_path}/file", "not a directory"),
    ):
        with pytest.raises(RefusedError, match=message) as caught:
            _discovery.check_spool(SetPaths(spool, "db1", BACKUP_ID), _plan_of(tmp_path / "data"))
        assert caught.value.facts["rule"] == "spool_dir"
    _discovery.check_spool(SetPaths(f"{tmp_path}/spool", "db1", BACKUP_ID), _plan_of(tmp_path / "data"))


def test_a_spool_on_a_read_only_file_system(tmp_path: Path) -> None:
    spool = tmp_path / "spool"
    spool.mkdir()
    if os.geteuid() == 0:
        # Permissions do not stop root, a read-only file system does.
        mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", "ro", "none", str(spool)], check=False)
        if mounted.returncode:
            pytest.skip("may not mount")
    else:
        spool.chmod(0o500)
    try:
        for root in (spool, spool / "below"):
            with pytest.raises(RefusedError, match="not writable"):
                _discovery.check_spool(SetPaths(str(root), "db1", BACKUP_ID), _plan_of(tmp_path / "data"))
    finally:
        if os.geteuid() == 0:
            subprocess.run(["umount", str(spool)], check=True)


def test_a_published_set_is_not_touched(tmp_path: Path) -> None:
    paths = SetPaths(str(tmp_path), "db1", BACKUP_ID)
    _discovery.make_work_directory(paths)
    Path(paths.manifest).touch()
    with pytest.raises(RefusedError, match="exists already"):
        _discovery.check_spool(paths, _plan_of(tmp_path / "data"))


def test_work_directories_are_ours_and_private(tmp_path: Path) -> None:
    paths = SetPaths(str(tmp_path / "spool"), "db1", BACKUP_ID)
    (tmp_path / "spool" / "db1").mkdir(parents=True, mode=0o755)
    _discovery.make_work_directory(paths)
    assert {stat.S_IMODE(os.stat(path).st_mode) for path in (f"{paths.root}/db1", paths.directory, paths.work)} == {
        0o700
    }
    _discovery.make_work_directory(paths)
    (tmp_path / "spool" / "db2").symlink_to(tmp_path / "spool" / "db1")
    with pytest.raises(RefusedError, match="somebody else's"):
        _discovery.make_work_directory(SetPaths(paths.root, "db2", BACKUP_ID))
    with pytest.raises(RefusedError, match="cannot be used"):
        _discovery.make_work_directory(SetPaths("/proc/spool", "db2", BACKUP_ID))
    if os.geteuid() == 0:
        os.chown(tmp_path / "spool" / "db1", 65534, -1)
        with pytest.raises(RefusedError, match="somebody else's"):
            _discovery.make_work_directory(paths)


def test_a_process_that_may_not_be_seen() -> None:
    assert _discovery._environment(2**22 + 1) == {}
    assert _discovery._standard_streams(2**22 + 1) == ()
    assert _discovery._environment(os.getpid())
