# Copyright (c) 2026, mysql_ops contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Every file that replication keeps, wherever settings put it, on real servers: listed, and true after the stop."""

from __future__ import annotations

import shutil
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from ansible_collections.mysql_ops.replica_backup.plugins.module_utils import _connection, _discovery, _observe
from ansible_collections.mysql_ops.replica_backup.plugins.module_utils._connection import Login
from ansible_collections.mysql_ops.replica_backup.plugins.module_utils._coordinates import (
    check_coordinates,
    refuse_differences,
)
from ansible_collections.mysql_ops.replica_backup.plugins.module_utils._errors import RefusedError, ReplicaBackupError
from ansible_collections.mysql_ops.replica_backup.plugins.module_utils._filelist import read_list
from ansible_collections.mysql_ops.replica_backup.tests.lab.flavors import Flavor, MariaDB, MySQL56
from ansible_collections.mysql_ops.replica_backup.tests.lab.local import (
    REPLICATION_PASSWORD,
    REPLICATION_USER,
    Server,
    Topology,
)
from ansible_collections.mysql_ops.replica_backup.tests.lab.scratch import CHECKOUT
from ansible_collections.mysql_ops.replica_backup.tests.lab.window import Window

ROLES = ("relay_log", "relay_log_index", "status_file")
# Settings, and the names beside which another server's files of the same kind lie.
DEFAULTS: dict[str, str] = {"relay_log": ""}
SCATTERED = {
    "relay_log": "{}/logs/my.relay.log",
    "relay_log_index": "{}/index/names.txt",
    "relay_log_info_file": "{}/info/applier.of.mine",
    "master_info_file": "{}/info/connection",
}
INDEX_ALONE = {"relay_log": "", "relay_log_index": "{}/index/names", "relay_log_info_file": "info/rli.info"}
FOREIGN = (
    *("logs/my-relay.000001", "logs/my-foreign.000001", "logs/my.state", "index/names-foreign.txt", "index/other.txt"),
    *("info/applier.of-foreign.mine", "info/connection-foreign", "info/multi-other", "info/master.info"),
)


@pytest.fixture
def topologies() -> Iterator[Callable[[Flavor], Topology]]:
    opened: list[Topology] = []

    def make(flavor: Flavor) -> Topology:
        topology = Topology(CHECKOUT / ".test" / "lab" / uuid.uuid4().hex[:8], replicas=0, flavor=flavor)
        opened.append(topology)
        return topology.__enter__()

    yield make
    for topology in opened:
        topology.close()


def add(topology: Topology, settings: dict[str, str]) -> Server:
    replica = topology.add("replica")
    base = replica.directory
    replica.extra_settings = {name: value.format(base) for name, value in settings.items() if value}
    for name in ("logs", "index", "info", "data/info"):
        (base / name).mkdir()
    for name in FOREIGN:
        (base / name).write_text("not ours\n")
    for path in (base / "data" / "info", *(base / name for name in ("logs", "index", "info", *FOREIGN))):
        shutil.chown(path, replica.datadir.stat().st_uid, replica.datadir.stat().st_gid)
    replica.write_config()
    lines = replica.config.read_text().splitlines()
    if "relay_log" not in replica.extra_settings:
        lines = [line for line in lines if not line.startswith("relay_log =")]
    replica.config.write_text("\n".join(lines) + "\n")
    replica.start()
    return replica


def on_disk(replica: Server) -> set[Path]:
    """What a person who knows the settings finds: by the names that this test has given, no code of the collection."""
    found = set()
    for path in replica.directory.rglob("*"):
        name, folder = path.name, path.parent.name
        kinds = ("relay-bin" in name, "info" in name and folder == "data", folder in ("logs", "index", "info"))
        if path.is_file() and any(kinds) and str(path.relative_to(replica.directory)) not in FOREIGN:
            found.add(path)
    return found - {replica.datadir / "mysql_upgrade_info"}


def listed(replica: Server, spool: Path) -> dict[Path, str]:
    spool.mkdir(exist_ok=True)
    with _connection.connect(login(replica)) as session:
        request = _discovery.Request(str(spool), "replica", "20260101T000000Z")
        result = _discovery.discover(session, request)
    discovery, entries = read_list(result["list"]["path"])
    places = {place.name: Path(place.path) for place in discovery.places}
    found = {places[entry.place] / entry.path: entry.role or "" for entry in entries if entry.type == "file"}
    kept = {path for path in map(Path, discovery.required) if found.get(path) in ROLES}
    assert {path for path, role in found.items() if role == "relay_log_index"} <= kept
    return found


def login(replica: Server) -> Login:
    return Login(user="root", unix_socket=str(replica.socket))


def kind(path: Path) -> str:
    if path.suffix[1:].isdigit() and "worker" not in path.name:
        return "relay_log"
    return "relay_log_index" if path.parent.name == "index" or path.suffix == ".index" else "status_file"


@pytest.mark.parametrize(
    ("flavor", "settings"),
    [
        pytest.param(MySQL56, DEFAULTS, id="mysql56-file"),
        pytest.param(MySQL56, {**SCATTERED, "slave_parallel_workers": "4"}, id="mysql56-file-scattered-workers"),
        pytest.param(
            MySQL56,
            {"relay_log": "", "master_info_repository": "TABLE", "relay_log_info_repository": "TABLE"},
            id="mysql56-table",
        ),
        pytest.param(MariaDB, SCATTERED, id="mariadb-scattered"),
        pytest.param(MariaDB, INDEX_ALONE, id="mariadb-index-alone"),
    ],
)
def test_every_file_of_every_channel(
    topologies: Callable[[Flavor], Topology], tmp_path: Path, flavor: Callable[[], Flavor], settings: dict[str, str]
) -> None:
    topology = topologies(flavor())
    replica = add(topology, settings)
    topology.flavor.forget_history(replica.query)
    topology.follow(replica)
    if topology.flavor.family == "mariadb":
        follow_by_name(topology, replica)
    topology.source.query("CREATE DATABASE x")
    topology.source.query("CREATE TABLE x.t (a LONGTEXT)")
    # Long positions, then short ones in a new log: the files on disk keep the end of the longer lines.
    topology.source.query("INSERT INTO x.t VALUES (REPEAT('x', 1100000))")
    topology.source.query("FLUSH LOGS")
    topology.source.query("INSERT INTO x.t VALUES ('y')")
    topology.wait_caught_up(replica)
    replica.query("STOP ALL SLAVES" if topology.flavor.family == "mariadb" else "STOP SLAVE")

    expected = on_disk(replica)
    found = listed(replica, tmp_path / "spool")
    assert {path: role for path, role in found.items() if role in ROLES} == {path: kind(path) for path in expected}
    assert not {
        str(path.relative_to(replica.directory)) for path in found if path.is_relative_to(replica.directory)
    } & {*FOREIGN}

    with _connection.connect(login(replica)) as session:
        observed = _observe.observe(session, login(replica))
    channels, server = observed.channel_facts(observed.channels), observed.server_facts()
    replica.stop()
    compared = check_coordinates(channels, server)
    tables = settings.get("relay_log_info_repository") == "TABLE"
    coordinates = [item.verdict for item in compared if item.name.startswith("coordinates")]
    assert coordinates == [None if tables else True] * len(channels), compared
    assert all(item.verdict is not False for item in compared), compared
    refuse_differences(compared)
    if tables:
        return
    # Another position on disk, no file at all, a relay log gone: each is found.
    (info,) = [path for path in expected if path.name in ("relay-log.info", "applier.of.mine", "rli.info")]
    content = info.read_bytes()
    position = str(channels[0]["source_log_pos"]).encode()
    assert content.count(position) == 1
    for change in (content.replace(position, b"4"), content[:10], None):
        info.unlink()
        if change is not None:
            info.write_bytes(change)
        with pytest.raises(ReplicaBackupError, match="coordinates of the default channel"):
            refuse_differences(check_coordinates(channels, server))
        info.write_bytes(content)
    refuse_differences(check_coordinates(channels, server))
    (log,) = [path for path in expected if path.name == channels[0]["relay_log_file"]]
    log.unlink()
    with pytest.raises(ReplicaBackupError, match=f"{log.name} is not there"):
        refuse_differences(check_coordinates(channels, server))


def follow_by_name(topology: Topology, replica: Server) -> None:
    """Two more connections: one that replicates by file and position, one that never ran, both with odd names."""
    second = topology.add("second", settings={"server_id": "77", "gtid_domain_id": "2"})
    second.start()
    second.query("RESET MASTER")
    second.query(f"CREATE USER {REPLICATION_USER}@'127.0.0.1' IDENTIFIED BY '{REPLICATION_PASSWORD}'")
    second.query(f"GRANT REPLICATION SLAVE ON *.* TO {REPLICATION_USER}@'127.0.0.1'")
    second.query("FLUSH LOGS")
    status = second.query("SHOW MASTER STATUS")[0]
    name = "The 'Other' \"Source\"/ü-1"
    replica.query(
        "CHANGE MASTER %s TO MASTER_HOST='127.0.0.1', MASTER_PORT=%s, MASTER_USER=%s, MASTER_PASSWORD=%s,"
        " MASTER_USE_GTID=no, MASTER_LOG_FILE=%s, MASTER_LOG_POS=%s",
        (name, second.port, REPLICATION_USER, REPLICATION_PASSWORD, status["File"], status["Position"]),
    )
    replica.query("CHANGE MASTER %s TO MASTER_HOST='127.0.0.9'", ("Never Ran",))
    replica.query("START SLAVE %s", (name,))
    second.query("CREATE DATABASE two")
    second.query("CREATE TABLE two.t (a INT)")
    second.query("INSERT INTO two.t VALUES (1)")
    second.query("FLUSH LOGS")
    second.query("INSERT INTO two.t VALUES (2)")
    status = second.query("SHOW MASTER STATUS")[0]
    waited = replica.query(
        "SELECT MASTER_POS_WAIT(%s, %s, 30, %s) AS events", (status["File"], status["Position"], name)
    )
    assert waited[0]["events"] is not None and waited[0]["events"] >= 0


@pytest.mark.parametrize("flavor", [MySQL56, MariaDB])
def test_a_channel_that_lives_in_memory_alone_is_refused(
    topologies: Callable[[Flavor], Topology], tmp_path: Path, flavor: Callable[[], Flavor]
) -> None:
    topology = topologies(flavor())
    replica = add(topology, DEFAULTS)
    topology.flavor.forget_history(replica.query)
    topology.follow(replica)
    topology.wait_caught_up(replica)
    replica.query("STOP SLAVE")
    replica.query("RESET SLAVE")
    with pytest.raises(RefusedError, match="a restart would lose the channel"):
        listed(replica, tmp_path / "spool")
    topology.follow(replica)
    assert (replica.datadir / "master.info") in listed(replica, tmp_path / "spool")


@pytest.mark.parametrize("flavor", [MySQL56, MariaDB])
def test_a_relay_log_that_only_a_restart_would_miss_is_refused(
    topologies: Callable[[Flavor], Topology], tmp_path: Path, flavor: Callable[[], Flavor]
) -> None:
    """It is executed and the applier does not look at it again; MariaDB aborts without it, MySQL 5.6 says 1872."""
    topology = topologies(flavor())
    replica = add(topology, {**DEFAULTS, "relay_log_purge": "OFF"})
    topology.flavor.forget_history(replica.query)
    topology.follow(replica)
    topology.wait_caught_up(replica)
    replica.query("FLUSH RELAY LOGS")
    topology.source.query("CREATE DATABASE z")
    topology.wait_caught_up(replica)
    first = min(path for path in on_disk(replica) if kind(path) == "relay_log")
    window = Window(replica, tmp_path)
    for folder in ("spool", "state"):
        (tmp_path / folder).mkdir(mode=0o700)
    pids = replica.pids()
    aside = first.rename(replica.directory / "aside")
    with pytest.raises(RefusedError, match=f"names files that are not there.*{first.name}"):
        window.stop()
    state = replica.channel()
    assert state is not None and state.replicating
    assert replica.pids() == pids
    aside.rename(first)
    window.stop()
    window.start()
    topology.source.query("DROP DATABASE z")
    topology.wait_caught_up(replica)


@pytest.mark.parametrize("flavor", [MySQL56, MariaDB])
def test_a_status_file_that_the_server_no_longer_writes_stops_the_backup(
    topologies: Callable[[Flavor], Topology], tmp_path: Path, flavor: Callable[[], Flavor]
) -> None:
    """A copy in the place of the file that the server holds open: at the next start it would apply again."""
    topology = topologies(flavor())
    replica = add(topology, DEFAULTS)
    topology.flavor.forget_history(replica.query)
    topology.follow(replica)
    window = Window(replica, tmp_path)
    for folder in ("spool", "state"):
        (tmp_path / folder).mkdir(mode=0o700)
    info = replica.datadir / "relay-log.info"
    topology.source.query("CREATE DATABASE x")
    topology.wait_caught_up(replica)
    aside = info.rename(replica.datadir / "aside")
    shutil.copy(aside, info)
    shutil.chown(info, replica.datadir.stat().st_uid, replica.datadir.stat().st_gid)
    topology.source.query("CREATE TABLE x.t (a INT)")
    topology.wait_caught_up(replica)
    pids = replica.pids()
    with pytest.raises(ReplicaBackupError, match="do not say what the server says") as caught:
        window.stop()
    assert caught.value.facts["rule"] == "coordinates"
    assert "recorded executed binlog" in str(caught.value)
    # Found before the shutdown: a restart is what would have done the harm.
    assert replica.pids() == pids
    assert not (tmp_path / "state" / "ledger.json").exists()
    assert not list((tmp_path / "spool").rglob("manifest.json"))
    channel = replica.channel()
    assert channel is not None and channel.io_running and channel.applier_running
    aside.rename(info)
    assert any("coordinates" in proof["name"] for proof in window.stop()["clean_stop"]["proofs"])
    window.start()
    topology.wait_caught_up(replica)
    assert topology.differences(replica) == {}
