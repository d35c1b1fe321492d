# Copyright (c) 2026, mysql_ops contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Files of a set that name other files, on disk."""

from __future__ import annotations

from pathlib import Path

from ansible_collections.mysql_ops.replica_backup.plugins.module_utils._restore.layout import layout_of
from ansible_collections.mysql_ops.replica_backup.plugins.module_utils._restore.mapping import Mapping
from ansible_collections.mysql_ops.replica_backup.plugins.module_utils._restore.origin import origin_of
from ansible_collections.mysql_ops.replica_backup.plugins.module_utils._restore.rewrite import rewrite
from ansible_collections.mysql_ops.replica_backup.plugins.module_utils._restore.roots import (
    SHARED,
    Located,
    Root,
    Special,
)
from ansible_collections.mysql_ops.replica_backup.plugins.module_utils._server_facts import ServerFacts


def test_binary_logs_of_the_source_may_have_the_names_of_relay_logs(tmp_path: Path) -> None:
    origin = origin_of(
        {
            "server": {
                "family": "mysql",
                "version": "5.6.24",
                "uuid": "u",
                "server_id": 2,
                "settings": {"datadir": "/old/", "relay_log": "bin"},
            },
            "places": [{"name": "datadir", "path": "/old"}],
            "channels": [],
        }
    )
    mapping = Mapping(origin, layout_of(ServerFacts({"datadir": "/new/", "relay_log": "/relay/bin"})))
    root = Root("r0", "/new", SHARED, str(tmp_path), "")
    (tmp_path / "bin.index").write_text("./bin.000004\n", encoding="ascii")
    (tmp_path / "relay-log.info").write_text("7\n./bin.000004\n120\nbin.000004\n900\n0\n", encoding="ascii")
    specials = [
        Special("relay_log_index", "/old/bin.index", Located(root, "bin.index")),
        Special("status_file", "/old/relay-log.info", Located(root, "relay-log.info")),
    ]
    done = rewrite(mapping, specials)
    assert done.relay_logs == {"./bin.000004": "/relay/bin.000004"}
    assert (tmp_path / "bin.index").read_text(encoding="ascii") == "/relay/bin.000004\n"
    info = (tmp_path / "relay-log.info").read_text(encoding="ascii").split()
    assert info == ["7", "/relay/bin.000004", "120", "bin.000004", "900", "0"]
