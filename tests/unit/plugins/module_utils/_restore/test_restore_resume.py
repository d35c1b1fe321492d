# Copyright (c) 2026, mysql_ops contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Restored servers that go on as replicas, on real servers: every way ends with the rows of the source, or in a refusal
that leaves all threads stopped and the journal open."""

from __future__ import annotations

import dataclasses
import shutil
import time
import typing as t
from collections.abc import Iterator
from pathlib import Path

import pytest

from ansible_collections.mysql_ops.replica_backup.plugins.module_utils._connection import Login
from ansible_collections.mysql_ops.replica_backup.plugins.module_utils._errors import RefusedError, ReplicaBackupError
from ansible_collections.mysql_ops.replica_backup.plugins.module_utils._installed import Hints
from ansible_collections.mysql_ops.replica_backup.plugins.module_utils._restore import job, journal, resume
from ansible_collections.mysql_ops.replica_backup.plugins.module_utils._restore.feed import LocalFeed
from ansible_collections.mysql_ops.replica_backup.tests.integration.conftest import lab_root
from ansible_collections.mysql_ops.replica_backup.tests.lab.flavors import Flavor, MariaDB, MySQL56
from ansible_collections.mysql_ops.replica_backup.tests.lab.local import Server, Topology
from ansible_collections.mysql_ops.replica_backup.tests.lab.window import Window

# Long enough for the backup to find transactions that were downloaded and not applied.
_DELAY = 6


@dataclasses.dataclass(frozen=True)
class Kind:
    """One way to replicate. ``change`` brings a replica there that follows as the lab does."""

    flavor: t.Callable[[], Flavor]
    change: str = ""
    by_gtid: bool = False
    settings: t.Mapping[str, str] = dataclasses.field(default_factory=dict)


KINDS = {
    "mariadb-position": Kind(MariaDB, "CHANGE MASTER TO MASTER_USE_GTID = no"),
    "mariadb-gtid": Kind(MariaDB, by_gtid=True),
    "mysql56-file": Kind(MySQL56),
    "mysql56-table": Kind(lambda: MySQL56(repositories="TABLE")),
    "mysql56-gtid": Kind(
        MySQL56,
        "CHANGE MASTER TO MASTER_AUTO_POSITION = 1",
        by_gtid=True,
        settings={"gtid_mode": "ON", "enforce_gtid_consistency": "ON"},
    ),
}


@dataclasses.dataclass
class Site:
    """A source, a replica, and a set of it with transactions that were downloaded and not applied."""

    name: str
    topology: Topology
    kind: Kind
    backup: Path

    @property
    def source(self) -> Server:
        return self.topology.source

    @property
    def replica(self) -> Server:
        return self.topology.replicas[0]

    def write(self, rows: int = 10) -> None:
        for _number in range(rows):
            # A row applied twice, or one left out, changes the sum.
            self.source.query("UPDATE d.sum SET n = n + 1")
            self.source.query("INSERT INTO d.t (a) VALUES (NULL)")

    def lay(self, server: Server | None = None, **changes: t.Any) -> None:
        """Restore the set's files onto a server; a running one is stopped for it."""
        server = server or self.replica
        made = job.Request(
            state_dir=state(server),
            hints=Hints(defaults_file=str(server.config), server_binary=str(server.flavor.server)),
            force=True,
            service_manager="none",
        )
        job.restore(dataclasses.replace(made, **changes), LocalFeed(str(self.backup)))
        assert not server.is_running()

    def in_step(self, server: Server | None = None) -> None:
        """The server applies what is written now, and has the rows of its source; the restore is finished."""
        server = server or self.replica
        # MySQL 5.6 tells a place before the one it has reached while a delayed applier is between two relay logs.
        self.topology.wait_caught_up(server)
        for statement in ("STOP SLAVE", "CHANGE MASTER TO MASTER_DELAY = 0", "START SLAVE"):
            server.query(statement)
        self.write(2)
        self.topology.wait_caught_up(server)
        assert server.checksums() == self.source.checksums()
        assert journal.load(state(server)) is None
        assert journal.load_last(state(server)) is not None


def wait_for_threads(server: Server) -> None:
    deadline = time.monotonic() + 20
    while threads(server) != ("Yes", "Yes"):
        assert time.monotonic() < deadline, server.query("SHOW SLAVE STATUS")
        time.sleep(0.1)


def state(server: Server) -> str:
    return str(server.directory / "state")


def threads(server: Server) -> tuple[str, str]:
    row = server.query("SHOW SLAVE STATUS")[0]
    return row["Slave_IO_Running"], row["Slave_SQL_Running"]


def go_on(server: Server, *, check: bool = False, **changes: t.Any) -> dict[str, t.Any]:
    made = resume.Request(
        login=Login(user="root", unix_socket=str(server.socket), config_file=None),
        state_dir=state(server),
        source_login=Login(user="looker", password="looks", config_file=None),
        start_timeout=60,
        catch_up_timeout=60,
    )
    return resume.resume(dataclasses.replace(made, **changes), check=check)


def refused_with_threads_stopped(server: Server, rule: str, **changes: t.Any) -> RefusedError:
    """The server came up, nothing of it replicates, and the restore is still open."""
    with pytest.raises(RefusedError) as refused:
        go_on(server, **changes)
    error = refused.value
    assert error.facts["rule"] == rule
    assert threads(server) == ("No", "No")
    record = journal.load(state(server))
    assert record is not None
    assert record.phase in ("starting", "serving")
    assert "threads stopped" in str(error.server_state)
    assert error.next_command
    return error


@pytest.fixture(scope="module")
def site(request: pytest.FixtureRequest) -> Iterator[Site]:
    kind = KINDS[request.param]
    flavor = kind.flavor()
    with (
        pytest.MonkeyPatch.context() as patch,
        Topology(lab_root(), replicas=1, flavor=flavor, settings=kind.settings) as topology,
    ):
        # As whoever runs the restore would have it for a server that was unpacked somewhere.
        for name, value in flavor.environment.items():
            patch.setenv(name, value)
        source, replica = topology.source, topology.replicas[0]
        rights = "BINLOG MONITOR, REPLICATION MASTER ADMIN" if flavor.family == "mariadb" else "REPLICATION CLIENT"
        source.query("CREATE USER looker@'127.0.0.1' IDENTIFIED BY 'looks'")
        source.query(f"GRANT {rights}, REPLICATION SLAVE ON *.* TO looker@'127.0.0.1'")
        source.query("CREATE DATABASE d")
        source.query("CREATE TABLE d.t (a INT PRIMARY KEY AUTO_INCREMENT)")
        source.query("CREATE TABLE d.sum (n INT NOT NULL)")
        source.query("INSERT INTO d.sum VALUES (0)")
        topology.wait_caught_up()
        replica.query("STOP SLAVE")
        if kind.change:
            replica.query(kind.change)
        replica.query(f"CHANGE MASTER TO MASTER_DELAY = {_DELAY}")
        replica.query("START SLAVE")
        made = Site(request.param, topology, kind, Path())
        made.write()
        # What was downloaded is in another binary log of the source than what was executed.
        source.query("FLUSH LOGS")
        made.write()
        newest = source.query("SHOW MASTER STATUS")[0]
        deadline = time.monotonic() + 20
        while True:
            row = replica.query("SHOW SLAVE STATUS")[0]
            if (row["Master_Log_File"], row["Read_Master_Log_Pos"]) == (newest["File"], newest["Position"]):
                break
            assert time.monotonic() < deadline, row
            time.sleep(0.05)
        window = Window(replica, topology.root / "window")
        window.root.mkdir()
        window.stop()
        (channel,) = window.archive()["channels"]
        made.backup = Path(window.paths.directory)
        window.start()
        assert (channel["source_log_file"], channel["read_log_file"]) == ("binlog.000001", "binlog.000002")
        assert channel["delay"] == _DELAY
        yield made


def kinds(*names: str) -> pytest.MarkDecorator:
    """Each of these takes seconds; kinds that add nothing are left out."""
    return pytest.mark.parametrize("site", names, indirect=True, scope="module")


@kinds("mariadb-position", "mariadb-gtid", "mysql56-file", "mysql56-table")
def test_a_plan_changes_nothing_and_there_has_to_be_a_restore(site: Site) -> None:
    with pytest.raises(RefusedError, match="no restored server here"):
        go_on(site.replica)
    assert site.replica.is_running()
    site.lay()
    before = Path(state(site.replica), "restore.json").read_bytes()
    planned = go_on(site.replica, check=True)
    assert planned["plan"]["start"] is True
    (channel,) = planned["plan"]["channels"]
    assert (channel["how"], channel["io"], channel["applier"]) == ("relay_logs", True, True)
    assert any(option.startswith("--skip-") for option in planned["plan"]["start_options"])
    assert Path(state(site.replica), "restore.json").read_bytes() == before
    assert not site.replica.is_running()
    done = go_on(site.replica)
    assert done["server_started"]
    assert done["caught_up"]
    assert done["restore_seconds"] > 0
    assert [Path(entry["before"]).exists() for entry in done["moved_aside"]] == [True]
    verdicts = {check["name"]: check["verdict"] for check in done["checks"]}
    # The source may not have noticed yet that the connection of the server before is gone.
    assert verdicts.pop("server_id") is not False
    assert verdicts == dict.fromkeys(
        ("version", "datadir", "server_uuid", "the default channel", "error_log", "tables"), True
    )
    assert threads(site.replica) == ("Yes", "Yes")
    assert site.replica.query("SHOW SLAVE STATUS")[0]["SQL_Delay"] == _DELAY
    if site.name == "mysql56-file":
        # The next start by anybody is a normal one.
        site.replica.stop()
        site.replica.start()
        wait_for_threads(site.replica)
    site.in_step()


def remove_relay_logs(server: Server) -> None:
    for path in server.relay_log_directory.glob("relaylog*"):
        path.unlink()


@kinds("mariadb-position", "mariadb-gtid", "mysql56-table")
def test_relay_logs_that_are_lost_after_all_are_read_again(site: Site) -> None:
    site.lay()
    remove_relay_logs(site.replica)
    way = "auto_position" if site.kind.by_gtid else "reposition"
    done = go_on(site.replica)
    (channel,) = done["channels"]
    assert channel["resumed"] == way
    assert channel["delay"] == _DELAY
    assert channel["positioning"] == ("gtid" if site.kind.by_gtid else "file")
    assert any(action.startswith("CHANGE MASTER ") for action in done["actions"])
    # The password of the replication user does not stay in another place.
    assert not list(Path(state(site.replica)).glob("restore-*"))
    site.in_step()


@kinds("mysql56-gtid")
def test_relay_logs_that_are_well_are_left_alone_if_asked(site: Site) -> None:
    site.lay()
    way = "auto_position" if site.kind.by_gtid else "reposition"
    (channel,) = go_on(site.replica, resume=way)["channels"]
    assert (channel["resumed"], channel["why"]) == (way, "asked for")
    site.in_step()


@kinds("mariadb-position", "mysql56-table")
def test_going_on_with_relay_logs_that_are_lost_is_refused(site: Site) -> None:
    site.lay()
    remove_relay_logs(site.replica)
    with pytest.raises(RefusedError, match="is not there") as refused:
        go_on(site.replica, resume="relay_logs")
    assert "resume=" in str(refused.value.next_command)
    # A table tells only once the server runs.
    in_table = site.kind.flavor().settings.get("relay_log_info_repository") == "TABLE"
    assert site.replica.is_running() == in_table
    if in_table:
        assert threads(site.replica) == ("No", "No")
    # Asked otherwise, it goes on from there.
    go_on(site.replica)
    site.in_step()


@kinds("mariadb-gtid", "mysql56-file")
def test_without_a_login_for_the_source_only_gtids_may_be_read_again(site: Site) -> None:
    site.lay()
    remove_relay_logs(site.replica)
    if site.kind.by_gtid:
        assert go_on(site.replica, source_login=None)["channels"][0]["resumed"] == "auto_position"
    else:
        with pytest.raises(RefusedError, match="has to be asked first"):
            go_on(site.replica, source_login=None)
        go_on(site.replica)
    site.in_step()


@kinds("mariadb-position")
def test_none_leaves_all_stopped_and_says_how_to_start(site: Site) -> None:
    site.lay()
    with pytest.raises(RefusedError, match="by file and position, not by GTID"):
        go_on(site.replica, resume="auto_position")
    assert not site.replica.is_running()
    assert journal.load(state(site.replica)) is not None
    done = go_on(site.replica, resume="none")
    assert threads(site.replica) == ("No", "No")
    statements = done["channels"][0]["start_statements"]
    assert len(statements) == 2
    for statement in statements:
        site.replica.query(statement.rstrip(";"))
    site.in_step()


@kinds("mariadb-position")
def test_a_channel_that_was_stopped_stays_stopped(site: Site) -> None:
    """What the set says of the threads is all that differs from a backup of a replica with a stopped applier."""
    site.lay()
    record = journal.load(state(site.replica))
    assert record is not None
    record.head["channels"][0]["threads_before"] = {"io": False, "applier": False}
    record.write()
    done = go_on(site.replica)
    assert done["channels"][0]["resumed"] == "stopped"
    assert threads(site.replica) == ("No", "No")
    assert journal.load(state(site.replica)) is None
    site.replica.query("START SLAVE")
    site.in_step()


@kinds("mysql56-file")
def test_a_server_that_somebody_has_started_is_looked_at_first(site: Site) -> None:
    site.lay()
    site.replica.start()
    wait_for_threads(site.replica)
    done = go_on(site.replica)
    assert not done["server_started"]
    assert any("Somebody else had started" in warning for warning in done["warnings"])
    site.in_step()


@kinds("mariadb-gtid")
def test_a_server_that_does_not_come_up_is_loud_and_a_second_call_goes_on(site: Site) -> None:
    site.lay()
    text = site.replica.config.read_text(encoding="utf-8")
    site.replica.config.write_text(text + "no_such_option = 1\n", encoding="utf-8")
    try:
        with pytest.raises(ReplicaBackupError, match="does not come up") as failed:
            go_on(site.replica)
    finally:
        site.replica.config.write_text(text, encoding="utf-8")
    assert "no_such_option" in str(failed.value.found) or "no-such-option" in str(failed.value.found)
    assert "not running" in str(failed.value.server_state)
    assert failed.value.facts["phase"] == "starting"
    record = journal.load(state(site.replica))
    assert record is not None
    assert record.phase == "starting"
    go_on(site.replica)
    site.in_step()


@kinds("mariadb-position")
def test_another_place_than_the_set_promises_is_refused(site: Site) -> None:
    """The set is that of another moment than the files: the coordinates differ."""
    site.lay()
    record = journal.load(state(site.replica))
    assert record is not None
    channel = record.head["channels"][0]
    channel["source_log_pos"] -= 1
    record.write()
    error = refused_with_threads_stopped(site.replica, "came_up")
    assert str(channel["source_log_pos"]) in str(error.found)
    channel["source_log_pos"] += 1
    # The record that the call has gone on with.
    now = journal.load(state(site.replica))
    assert now is not None
    now.head["channels"][0]["source_log_pos"] += 1
    now.write()
    go_on(site.replica)
    site.in_step()


@kinds("mysql56-table")
def test_another_identity_than_the_set_promises_is_refused(site: Site) -> None:
    site.lay()
    uuid, kept = site.replica.datadir / "auto.cnf", site.replica.directory / "kept.cnf"
    uuid.rename(kept)
    error = refused_with_threads_stopped(site.replica, "came_up")
    assert "server_uuid" in str(error.found)
    site.replica.stop()
    kept.rename(uuid)
    go_on(site.replica)
    site.in_step()


@kinds("mariadb-gtid", "mysql56-file")
def test_a_clone_replicates_beside_the_server_that_it_comes_from(site: Site) -> None:
    clone = site.topology.add("clone", settings={"read_only": "ON", **site.kind.settings})
    shutil.rmtree(clone.datadir)
    clone.datadir.mkdir()
    clone._give(clone.datadir)
    site.lay(clone, identity="clone")
    own = clone.server_id
    # Somebody edits the option file after the restore: first the server_id of the other one, then that of its source.
    for taken in (site.replica.server_id, site.source.server_id):
        clone.server_id = taken
        clone.write_config()
        error = refused_with_threads_stopped(clone, "came_up")
        assert f"server_id {taken}" in str(error.found)
        clone.stop()
    clone.server_id = own
    clone.write_config()
    done = go_on(clone)
    assert done["caught_up"]
    site.in_step(clone)
    site.topology.wait_caught_up(site.replica)
    assert threads(clone) == threads(site.replica) == ("Yes", "Yes")
    if site.topology.flavor.family == "mysql":
        uuids = {server.query("SELECT @@server_uuid AS u")[0]["u"] for server in [*site.topology.servers, clone]}
        assert len(uuids) == 3
    clone.stop()


@kinds("mariadb-gtid", "mysql56-gtid")
def test_a_source_that_has_purged_what_comes_next(site: Site) -> None:
    """What was downloaded is in the restored relay logs, and nowhere else any more."""
    site.lay()
    site.source.query("PURGE BINARY LOGS TO 'binlog.000002'")
    error = refused_with_threads_stopped(
        site.replica, "source", resume="auto_position" if site.kind.by_gtid else "reposition"
    )
    assert "binlog.000001" in str(error.found) or "purged" in str(error.found) or "oldest log" in str(error.found)
    if site.kind.by_gtid and site.topology.flavor.family == "mariadb":
        # Its relay logs go when its threads start: there is nothing left to go on with.
        refused_with_threads_stopped(site.replica, "source")
        done = go_on(site.replica, resume="none")
        assert done["phase"] == "done"
        assert threads(site.replica) == ("No", "No")
        return
    done = go_on(site.replica)
    assert done["channels"][0]["resumed"] == "relay_logs"
    site.in_step()
