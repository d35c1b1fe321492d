# Copyright (c) 2026, mysql_ops contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The proof of a clean stop, on a server that was stopped cleanly, one that did not flush, and one that was killed.

It looks from outside into the host that the restores were made on. No checkpoint happens between start and stop: then
the two numbers that InnoDB keeps still agree, and only the log itself tells.
"""

from __future__ import annotations

import pytest

from ansible_collections.mysql_ops.replica_backup.plugins.module_utils import _clean_stop, _server
from ansible_collections.mysql_ops.replica_backup.plugins.module_utils._dialect import Dialect
from ansible_collections.mysql_ops.replica_backup.tests.lab.hosts import BARE, Host

# Its process belongs to another host; the files are what is looked at.
_GONE = _server.ServerProcess(2**22 + 1, 1, "", (), "", 0, 0, 1)
# What is run on the host, with its words, and whether that stop is clean.
_WAYS = {
    "clean": ("systemctl stop {lab_unit}", True),
    "not flushed": ("{lab_client} -e 'SET GLOBAL innodb_fast_shutdown = 2' && systemctl stop {lab_unit}", False),
    # Without the mask systemd starts a killed server again.
    "killed": ("systemctl mask --runtime -q {lab_unit} && kill -9 $(pidof {lab_server}) && sleep 1", False),
}


@pytest.fixture(params=BARE)
def server(request: pytest.FixtureRequest, hosts: dict[str, Host]) -> Host:
    """Return the host with a server that started from a clean stop."""
    host = hosts[request.param]
    unit = host.words["lab_unit"]
    host.run(f"systemctl unmask --runtime -q {unit}; systemctl reset-failed {unit}")
    host.run(f"systemctl start {unit} && systemctl restart {unit}")
    return host


@pytest.mark.parametrize("way", _WAYS)
def test_only_a_clean_stop_is_proven(server: Host, way: str) -> None:
    server.sql("CREATE TABLE lab.last_words (n INT PRIMARY KEY); DROP TABLE lab.last_words")
    command, clean = _WAYS[way]
    variables = dict(line.split("\t") for line in server.sql("SHOW GLOBAL VARIABLES LIKE 'innodb%'").splitlines())
    major, minor, patch = (int(part) for part in server.sql("SELECT VERSION()").split("-")[0].split("."))
    server.run(command.format_map(server.words))
    stop = _clean_stop.prove_clean_stop(
        dialect=Dialect(server.words["lab_dialect"], (major, minor, patch)),
        process=_GONE,
        variables={**variables, "datadir": f"{server.root}/var/lib/mysql/"},
        error_log=None,
    )
    verdicts = {proof.name: proof for proof in stop.proofs}
    assert verdicts["redo_log"].verdict is clean, verdicts["redo_log"].detail
    assert stop.clean is clean, stop.summary
