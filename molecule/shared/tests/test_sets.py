# Copyright (c) 2026, mysql_ops contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Every set is complete, closed to others, and says what is in it. Read here with foreign tools only."""

from __future__ import annotations

import json
import stat
import subprocess
from pathlib import Path

import jsonschema
import pytest

from ansible_collections.mysql_ops.replica_backup.tests.lab.hosts import (
    REPLICAS,
    BackupSet,
    Host,
    settings_of,
    words_of,
)

_CHECKOUT = Path(__file__).resolve().parents[3]


@pytest.fixture(scope="module", params=REPLICAS)
def backup(request: pytest.FixtureRequest, sets: dict[str, BackupSet]) -> BackupSet:
    """Each set in turn."""
    return sets[request.param]


@pytest.fixture(scope="module")
def tree(backup: BackupSet, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the set extracted with zstd and tar."""
    target = tmp_path_factory.mktemp("tree")
    with subprocess.Popen(["zstd", "-dc", str(backup.directory / "data.tar.zst")], stdout=subprocess.PIPE) as zstd:
        subprocess.run(["tar", "-x", "-C", str(target)], stdin=zstd.stdout, check=True)
    assert zstd.returncode == 0
    return target


def test_only_what_belongs_to_a_set(backup: BackupSet) -> None:
    assert {entry.name for entry in backup.directory.iterdir()} == {"manifest.json", "data.tar.zst", "SHA256SUMS"}


def test_nobody_else_can_read_it(backup: BackupSet) -> None:
    assert stat.S_IMODE(backup.directory.stat().st_mode) == 0o700
    assert {stat.S_IMODE(entry.stat().st_mode) for entry in backup.directory.iterdir()} == {0o600}


def test_manifest_keeps_its_schema(backup: BackupSet) -> None:
    (schema_file,) = [
        path for folder in ("docs", "plugins", "meta") for path in (_CHECKOUT / folder).rglob("*.schema.json")
    ]
    schema = json.loads(schema_file.read_text(encoding="utf-8"))
    jsonschema.Draft202012Validator.check_schema(schema)
    jsonschema.Draft202012Validator(schema).validate(backup.manifest)


def test_parts_are_what_the_manifest_says(backup: BackupSet) -> None:
    for part in backup.manifest["parts"]:
        path = backup.directory / part["name"]
        assert path.stat().st_size == part["bytes"]
        printed = subprocess.run(["sha256sum", str(path)], stdout=subprocess.PIPE, text=True, check=True).stdout
        assert printed.split()[0] == part["sha256"]


def test_sha256sum_agrees(backup: BackupSet, tree: Path) -> None:
    checked = subprocess.run(
        ["sha256sum", "--check", "--strict", "--quiet", str(backup.directory / "SHA256SUMS")],
        cwd=tree,
        capture_output=True,
        text=True,
        check=False,
    )
    assert (checked.returncode, checked.stdout, checked.stderr) == (0, "", "")
    sums = (backup.directory / "SHA256SUMS").read_text(encoding="utf-8").splitlines()
    files = [path for path in tree.rglob("*") if path.is_file() and not path.is_symlink()]
    assert len(sums) == len(files)


def test_manifest_lists_the_tree(backup: BackupSet, tree: Path) -> None:
    listed = {
        f"{entry['place']}/{entry['path']}": entry for entry in backup.manifest["files"] if entry["type"] == "file"
    }
    present = {str(path.relative_to(tree)) for path in tree.rglob("*") if path.is_file() and not path.is_symlink()}
    assert set(listed) == present
    assert all((tree / name).stat().st_size == entry["size"] for name, entry in listed.items())


def test_a_restore_finds_what_a_replica_needs(backup: BackupSet, tree: Path) -> None:
    data = tree / "datadir"
    host = backup.manifest["host"]
    for name in settings_of(host).get("lab_needed_files", words_of(host)["lab_needed_files"]):
        assert (data / name).is_file(), name
    relay_log = backup.channel["relay_log_file"]
    assert list(tree.rglob(relay_log)), relay_log
    assert not (data / "ibtmp1").exists()


def test_places_outside_the_data_directory(backup: BackupSet, tree: Path) -> None:
    elsewhere = settings_of(backup.manifest["host"]).get("lab_elsewhere", {})
    places = {place["name"] for place in backup.manifest["places"]}
    assert places & {"binlog", "relay_log", "tablespaces", "tablespaces-2"} == set(elsewhere)
    for place, pattern in elsewhere.items():
        assert list((tree / place).glob(pattern)), pattern


def test_the_stop_was_clean_and_the_time_away_is_known(backup: BackupSet) -> None:
    assert backup.manifest["clean_stop"]["clean"] is True
    assert 0 < backup.manifest["times"]["downtime_seconds"] < 120


def test_it_records_a_position_of_the_source(backup: BackupSet, hosts: dict[str, Host]) -> None:
    channel = backup.channel
    source = hosts[hosts[backup.manifest["host"]].source]
    logs = dict(line.split("\t")[:2] for line in source.sql("SHOW BINARY LOGS").splitlines())
    assert 4 < int(channel["source_log_pos"]) <= int(logs[channel["source_log_file"]])
