# Copyright (c) 2026, mysql_ops contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Where the files of a set go on a host that keeps its own elsewhere."""

from __future__ import annotations

import dataclasses
import typing as t

import pytest

from ansible_collections.mysql_ops.replica_backup.plugins.module_utils._archive.records import FileRecord
from ansible_collections.mysql_ops.replica_backup.plugins.module_utils._errors import RefusedError
from ansible_collections.mysql_ops.replica_backup.plugins.module_utils._restore.layout import Layout, layout_of
from ansible_collections.mysql_ops.replica_backup.plugins.module_utils._restore.mapping import Mapping
from ansible_collections.mysql_ops.replica_backup.plugins.module_utils._restore.origin import Origin, origin_of
from ansible_collections.mysql_ops.replica_backup.plugins.module_utils._restore.rewrite import log_name
from ansible_collections.mysql_ops.replica_backup.plugins.module_utils._server_facts import ServerFacts

CHANNEL = "Kanal a/b"
ESCAPED = "kanal@0020a@002fb"
PLACES = {
    "datadir": "/old/data",
    "relay_log": "/old/relay",
    "innodb_redo": "/old/redo",
    "innodb_undo": "/old/undo",
    "tablespaces": "/old/tables",
    "tablespaces-2": "/old/more/tables",
    "load_data": "/tmp",
    "config": "/etc/mysql",
    "keys": "/etc/mysql/keys",
    "replica_status": "/old/status",
}
SETTINGS = {
    "datadir": "/old/data/",
    "log_bin_basename": "/old/data/binlog",
    "log_bin_index": "/old/data/binlog.index",
    "relay_log_basename": "/old/relay/db2-relay-bin",
    "relay_log_index": "/old/relay/db2-relay-bin.index",
    "innodb_log_group_home_dir": "/old/redo",
    "innodb_undo_directory": "/old/undo/",
    "relay_log_info_file": "relay-log.info",
    "tmpdir": "/tmp",
}


def origin(**settings: str) -> Origin:
    return origin_of(
        {
            "server": {
                "family": "mysql",
                "version": "9.7.0",
                "uuid": "u",
                "server_id": 2,
                "settings": {**SETTINGS, **settings},
            },
            "places": [{"name": name, "path": path} for name, path in PLACES.items()],
            "channels": [{"name": CHANNEL}],
        }
    )


def target(**settings: str) -> Layout:
    here = {
        "datadir": "/new/data/",
        "log_bin_basename": "/new/bl/bin",
        "log_bin_index": "/new/bl/bin.index",
        "relay_log_basename": "/new/data/db9-relay-bin",
        "relay_log_index": "/new/data/db9-relay-bin.index",
        "relay_log_info_file": "applier.info",
        "tmpdir": "/new/tmp",
    }
    return layout_of(ServerFacts({**here, **settings}))


def record(name: str, role: str | None = None, kind: str = "file") -> FileRecord:
    place, _slash, path = name.partition("/")
    return FileRecord(place, path or ".", kind, 0, 0o640, 1, 1, "mysql", "mysql", 0, None, role)


@pytest.mark.parametrize(
    ("name", "role", "expected"),
    [
        ("datadir", None, "/new/data"),
        ("datadir/shop/orders.ibd", None, "/new/data/shop/orders.ibd"),
        ("datadir/ibdata1", "innodb_system", "/new/data/ibdata1"),
        ("innodb_redo/#innodb_redo/#ib_redo7", "innodb_redo", "/new/data/#innodb_redo/#ib_redo7"),
        ("innodb_redo", None, "/new/data"),
        ("innodb_undo/undo_001", "innodb_undo", "/new/data/undo_001"),
        ("datadir/binlog.000007", "binlog", "/new/bl/binlog.000007"),
        ("datadir/binlog.000007.idx", None, "/new/bl/binlog.000007.idx"),
        ("datadir/binlog.index", "binlog_index", "/new/bl/bin.index"),
        ("datadir/binlog.state", "binlog_state", "/new/bl/bin.state"),
        ("relay_log/db2-relay-bin.000003", "relay_log", "/new/data/db2-relay-bin.000003"),
        ("relay_log/older-name.000003", "relay_log", "/new/data/older-name.000003"),
        ("relay_log/db2-relay-bin.index", "relay_log_index", "/new/data/db9-relay-bin.index"),
        (f"relay_log/db2-relay-bin-{ESCAPED}.index", "relay_log_index", f"/new/data/db9-relay-bin-{ESCAPED}.index"),
        ("datadir/relay-log.info", "status_file", "/new/data/applier.info"),
        ("datadir/relay-log-x.info", "status_file", "/new/data/applier-x.info"),
        ("datadir/worker-relay-log.info.3", "status_file", "/new/data/worker-applier.info.3"),
        ("datadir/master.info", "status_file", "/new/data/master.info"),
        ("replica_status/conn.info", "status_file", "/new/data/conn.info"),
        ("tablespaces/shop/t.ibd", None, "/old/tables/shop/t.ibd"),
        ("tablespaces-2/t.ibd", None, "/fast/tables/t.ibd"),
        ("load_data/SQL_LOAD-u-1-2.data", "load_data", "/new/tmp/SQL_LOAD-u-1-2.data"),
        ("keys/keyring", "key", "/etc/mysql/keys/keyring"),
        ("config/my.cnf", "config", None),
    ],
)
def test_where_it_goes(name: str, role: str | None, expected: str | None) -> None:
    mapping = Mapping(origin(), target(), {"/old/more": "/fast"})
    assert mapping.path(record(name, role)) == expected


def test_a_host_with_the_same_directories_keeps_every_path() -> None:
    same = origin()
    mapping = Mapping(same, same.layout)
    for name in ("datadir/a/b.ibd", "innodb_redo/#innodb_redo/#ib_redo7", "tablespaces/x.ibd"):
        place, _slash, path = name.partition("/")
        assert mapping.path(record(name)) == f"{PLACES[place]}/{path}"


def test_redo_logs_leave_the_data_directory_where_the_host_has_one_for_them() -> None:
    here = dataclasses.replace(origin(), layout=layout_of(ServerFacts({**SETTINGS, "innodb_log_group_home_dir": "./"})))
    mapping = Mapping(here, target(innodb_log_group_home_dir="/new/redo"))
    assert mapping.path(record("datadir/#innodb_redo", None, "directory")) == "/new/redo/#innodb_redo"
    assert mapping.path(record("datadir/#innodb_redo/#ib_redo7", "innodb_redo")) == "/new/redo/#innodb_redo/#ib_redo7"


def test_a_clone_leaves_the_old_identity_behind() -> None:
    mapping = Mapping(origin(), target(), clone=True)
    assert mapping.path(record("datadir/auto.cnf", "identity")) is None
    assert mapping.path(record("load_data/SQL_LOAD-u-1-2.data", "load_data")) is None
    assert Mapping(origin(), target()).path(record("datadir/auto.cnf", "identity")) == "/new/data/auto.cnf"


@pytest.mark.parametrize(
    ("kind", "line", "expected"),
    [
        ("relay_log", "/old/relay/db2-relay-bin.000003", "./db2-relay-bin.000003"),
        ("binlog", "./binlog.000007", "/new/bl/binlog.000007"),
        ("binlog", "/old/data/binlog.000007", "/new/bl/binlog.000007"),
        ("relay_log", "./db2-relay-bin.000003", "./db2-relay-bin.000003"),
    ],
)
def test_lines_of_an_index(kind: str, line: str, expected: str) -> None:
    assert log_name(Mapping(origin(), target()), kind, line) == expected


def test_texts_of_links() -> None:
    mapping = Mapping(origin(), target(), {"/old/more": "/fast"})
    assert mapping.text("/old/more/tables/t.MYD") == "/fast/tables/t.MYD"
    assert mapping.text("/old/data/shop/t.MYD") == "/new/data/shop/t.MYD"
    assert mapping.text("/elsewhere") == "/elsewhere"


@pytest.mark.parametrize("harm", [{"server": None}, {"places": []}, {"channels": None}])
def test_a_manifest_that_says_too_little(harm: dict[str, t.Any]) -> None:
    head: dict[str, t.Any] = {
        "server": {"family": "mysql", "version": "9.7.0", "settings": {}},
        "places": [{"name": "datadir", "path": "/d"}],
        "channels": [],
    }
    assert origin_of(head).channels == ("",)
    with pytest.raises(RefusedError, match="does not say what a restore needs"):
        origin_of({**head, **harm})
