# Copyright (c) 2026, mysql_ops contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Servers whose files lie everywhere: all of it is in the set, nothing of others, and a restore by hand goes on.

What is expected comes from a listing of the directories and of the server's open files that the collection had no
part in, taken before the backup.
"""

from __future__ import annotations

import base64
import re
import typing as t
from collections.abc import Mapping

import pytest

from ansible_collections.mysql_ops.replica_backup.tests.lab.hosts import (
    REPLICAS,
    BackupSet,
    Host,
    assert_stands_where_recorded,
    assert_started_without_recovery,
    log_of_this_start,
)

_ROOT = "/srv/scattered"
# What a server makes anew at every start, and what is no data.
_LEFT_OUT = re.compile(
    r".*/ibtmp1|.*/temp_\d+\.ibt|.*\.pid|.*/ddl_recovery\.log|.*/#ib_redo\d+(_tmp)?|/var/log/.*"
    r"|.* \(deleted\)|(socket|pipe|anon_inode):.*|/(dev|proc|sys|run|usr)/.*",
    re.DOTALL,
)
_COMMON_ROLES = {
    r"logs/Primary #1\.0\d+": "binlog",
    r"indexes/primary\.list": "binlog_index",
    r"logs/Relay #1\.0\d+": "relay_log",
    # MySQL replaces the extension that the option gives.
    r"indexes/relayed\.(list|index)": "relay_log_index",
    r"load/SQL_LOAD-.*": "load_data",
    r"tls/server-key\.pem": "key",
    r"in no db/ibdata1": "innodb_system",
    r"extra one\.cnf": "config",
}
_ROLES = {
    "mariadb": {
        r"logs/Primary #1\.state": "binlog_state",
        r"in no db/more/ibdata2": "innodb_system",
        r"redo/ib_logfile0": "innodb_redo",
        r"undo/undo003": "innodb_undo",
        r"aria/aria_log_control": "aria_log",
        r"state/connection\.info": "status_file",
        r"state/multi-connection\.info": "status_file",
        r"/var/lib/mysql/state/applied\.info": "status_file",
        r"keys/keys\.enc": "key",
        r"keys/pass": "key",
        r"extra\.d/tls\.cnf": "config",
        r"/etc/mysql/my\.cnf": "config",
        r"/etc/mysql/mariadb\.conf\.d/95-scattered\.cnf": "config",
    },
    "mysql": {
        r"in no db/ibdata2": "innodb_system",
        r"redo/#innodb_redo/#ib_redo\d+": "innodb_redo",
        r"undo/undo_002": "innodb_undo",
        r"doublewrite/#ib_16384_0\.dblwr": "doublewrite",
        r"keys/keyring": "key",
        r"/usr/sbin/mysqld\.my": "key",
        r"/usr/lib/mysql/plugin/component_keyring_file\.cnf": "key",
        r"/var/lib/mysql/mysqld-auto\.cnf": "persisted_settings",
        r"/var/lib/mysql/auto\.cnf": "identity",
        r"/etc/mysql/my\.cnf": "config",
        r"/etc/mysql/mysql\.conf\.d/zz-scattered\.cnf": "config",
    },
}
_ENCRYPTED = {
    "mariadb": "SELECT COUNT(*) FROM information_schema.INNODB_TABLESPACES_ENCRYPTION WHERE ENCRYPTION_SCHEME = 1",
    "mysql": "SELECT COUNT(*) FROM information_schema.INNODB_TABLESPACES WHERE ENCRYPTION = 'Y'",
}
# Directories of which nothing is in a set, because all that is in them is made anew.
_EMPTY = ("temporary", "files")


def _listing(host: Host, command: str) -> set[str]:
    """Return the names that a command of the host prints, each ended by a NUL, any byte in them."""
    raw = base64.b64decode(host.run(f"{command} | base64 --wrap=0"))
    return {os_name.decode("utf-8", "surrogateescape") for os_name in raw.split(b"\0") if os_name}


def _recorded(backup: BackupSet) -> dict[str, dict[str, t.Any]]:
    """Return everything in the set but directories, by the path that it had."""
    roots = {place["name"]: place["path"] for place in backup.manifest["places"]}
    return {
        f"{roots[entry['place']]}/{entry['path']}": entry
        for entry in backup.manifest["files"]
        if entry["type"] != "directory"
    }


def _checksums(host: Host) -> dict[str, str]:
    """Return CHECKSUM TABLE of every table that is not the server's own, by its name in hexadecimal digits."""
    names = [
        line.split("\t")
        for line in host.sql(
            "SELECT HEX(table_schema), HEX(table_name) FROM information_schema.tables WHERE table_type = 'BASE TABLE'"
            " AND table_schema NOT IN ('mysql', 'sys', 'performance_schema', 'information_schema') ORDER BY 1, 2"
        ).splitlines()
    ]
    quoted = [".".join("`" + bytes.fromhex(part).decode().replace("`", "``") + "`" for part in name) for name in names]
    found: dict[str, str] = {}
    for start in range(0, len(names), 500):
        part = slice(start, start + 500)
        # Without --raw a newline in a name stays in its line.
        lines = host.run(
            f"{host.words['lab_client']} --default-character-set=utf8mb4 --batch --skip-column-names --execute %s",
            f"CHECKSUM TABLE {', '.join(quoted[part])}",
        ).splitlines()
        assert len(lines) == len(names[part])
        found.update((".".join(name), line.rpartition("\t")[2]) for name, line in zip(names[part], lines))
    return found


@pytest.mark.parametrize("name", REPLICAS)
def test_every_file_of_the_server_is_in_the_set(hosts: dict[str, Host], sets: dict[str, BackupSet], name: str) -> None:
    host = hosts[name]
    found = _listing(host, "cat /var/tmp/lab-found")
    opened = _listing(host, "cat /var/tmp/lab-open")
    foreign = _listing(host, f"grep --recursive --files-with-matches --line-regexp --null foreign {_ROOT}")
    assert len(foreign) > 10
    expected = {path for path in found | opened if not _LEFT_OUT.fullmatch(path)} - foreign
    assert len(expected) > 1200
    recorded = _recorded(sets[name])
    assert expected - set(recorded) == set()
    assert foreign & set(recorded) == set()


@pytest.mark.parametrize("name", REPLICAS)
def test_names_are_as_odd_as_they_were(sets: dict[str, BackupSet], name: str) -> None:
    paths = set(_recorded(sets[name]))
    for odd in (
        f"{_ROOT}/new\nline/a@0020b/t@0020@00231@0020@0022q@0022@0020@0027x@0060y.ibd",
        f"{_ROOT}/tables #1/new@000aline/new@000aline.ibd",
        f"{_ROOT}/tables #1/@0023odd@0020@0027@0022@0060@005c@002f/new@000aline.ibd",
        f"{_ROOT}/links/linked/second.MYD",
    ):
        assert odd in paths, odd
    # MariaDB 10.11 takes an escaped slash for a directory of its own.
    assert [path for path in paths if path.endswith("/many/a@002fb@003bc.ibd")]
    assert "/var/lib/mysql/linked" in paths


@pytest.mark.parametrize("name", REPLICAS)
def test_roles_say_what_each_file_is(hosts: dict[str, Host], sets: dict[str, BackupSet], name: str) -> None:
    recorded = _recorded(sets[name])
    for pattern, role in {**_COMMON_ROLES, **_ROLES[hosts[name].words["lab_dialect"]]}.items():
        whole = pattern if pattern.startswith("/") else f"{_ROOT}/{pattern}"
        roles = {entry.get("role") for path, entry in recorded.items() if re.fullmatch(whole, path)}
        assert roles == {role}, whole


@pytest.fixture(scope="module", params=REPLICAS)
def restored(
    request: pytest.FixtureRequest, hosts: dict[str, Host], sets: dict[str, BackupSet]
) -> tuple[Host, BackupSet]:
    """Return a started server made of the set as the README says, its replication threads not started yet."""
    backup = sets[request.param]
    host = hosts[hosts[request.param].settings["lab_restored"]]
    host.run(f"systemctl stop {' '.join(reversed(host.words['lab_units']))}")
    host.run(f"rm -rf {_ROOT} /var/lib/mysql/* /var/log/mysql/*")
    backup.lay_down(host)
    for directory in _EMPTY:
        host.run("install -d -o mysql -g mysql %s", f"{_ROOT}/{directory}")
    # The original lives: the copy needs an identity of its own, and must not start to replicate by itself.
    host.run("rm -f /var/lib/mysql/auto.cnf")
    settings = host.words["lab_settings_file"].rpartition("/")[0] + "/zzz-restored.cnf"
    host.run("printf '[mysqld]\\nserver_id = 99\\nskip_slave_start = ON\\n' > %s", settings)
    host.run("systemctl start %s", host.words["lab_unit"])
    return host, backup


def test_it_starts_without_recovery(restored: tuple[Host, BackupSet]) -> None:
    host, _backup = restored
    assert_started_without_recovery(host, log_of_this_start(host))


def test_it_stands_where_the_manifest_says(restored: tuple[Host, BackupSet]) -> None:
    host, backup = restored
    assert_stands_where_recorded(host, backup)
    # From an included option file, or from mysqld-auto.cnf.
    assert host.sql("SELECT @@max_connections").strip() == "123"


def test_it_goes_on_and_every_table_equals_the_source(
    restored: tuple[Host, BackupSet], hosts: dict[str, Host], request: pytest.FixtureRequest
) -> None:
    host, backup = restored
    replica = hosts[backup.manifest["host"]]
    source = hosts[replica.source]
    assert host.checksums() != source.checksums(), "nothing was written since the backup: this proves nothing"
    quiet: Mapping[str, tuple[str, int]] = request.getfixturevalue("quiet")
    host.sql(host.words["lab_start_replica"])
    host.wait_for_source_position(*quiet[source.name])
    status = host.replication()
    assert status["Replica_IO_Running"] == status["Replica_SQL_Running"] == "Yes"
    assert status["Last_IO_Error"] == status["Last_SQL_Error"] == ""
    wanted = _checksums(source)
    assert len(wanted) >= 1000
    assert len(set(wanted.values())) > 10
    assert _checksums(host) == wanted
    query = _ENCRYPTED[host.words["lab_dialect"]]
    assert int(host.sql(query)) == int(replica.sql(query)) > 5
