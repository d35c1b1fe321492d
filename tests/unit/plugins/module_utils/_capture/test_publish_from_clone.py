# Copyright (c) 2026, mysql_ops contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The publication of a set that was made from a clone, while the server serves."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import typing as t
from pathlib import Path

import jsonschema
import pytest

from ansible_collections.mysql_ops.replica_backup.plugins.module_utils._archive import job
from ansible_collections.mysql_ops.replica_backup.plugins.module_utils._capture import (
    cleanup,
    plan,
    throttle,
    tools,
    window,
)
from ansible_collections.mysql_ops.replica_backup.plugins.module_utils._capture.plan import Choice
from ansible_collections.mysql_ops.replica_backup.tests.lab import disks
from ansible_collections.mysql_ops.replica_backup.tests.unit.plugins.module_utils._archive.set_support import (
    Site,
    discovery,
    make_site,
)

_SCHEMA = Path(__file__).parents[5] / "docs" / "manifest.schema.json"


def cloned(site: Site, choice: Choice) -> None:
    ledger = site.ledger()
    ledger.data["clone"] = plan.to_clone(choice, site.paths)
    ledger.save()
    window.take(site.request())
    ledger = site.ledger()
    ledger.begin("serving")
    ledger.end("serving")


def test_the_manifest_tells_how_the_files_were_captured(site: Site) -> None:
    choice = Choice(plan.STAGED, "asked for")
    ledger = site.ledger()
    copied = {"files": 9, "bytes": 90, "rounds": [80, 10], "left": 0, "seconds": 1.5}
    ledger.data.update(capture=choice.to_dict(), precopied=copied)
    ledger.save()
    cloned(site, choice)
    made = job.present(site.request())
    assert made.manifest is not None
    value = json.loads(Path(site.paths.manifest).read_text(encoding="utf-8"))
    jsonschema.validate(value, json.loads(_SCHEMA.read_text(encoding="utf-8")))
    told = value["capture"]
    assert (told["kind"], told["why"], told["precopy"]) == ("staged", "asked for", copied)
    # Without a copy from before the stop everything was copied in the window, which had closed before the archive.
    assert (told["reused"], told["patched"]) == (0, 0)
    assert told["copied"] > 0
    assert told["end"] <= value["times"]["archive"]["start"]
    assert 0 < told["seconds"] <= value["times"]["capture"]["seconds"]


@pytest.mark.skipif(os.geteuid() != 0, reason="mounting a file system takes root")
def test_a_clone_that_cannot_be_removed_does_not_cost_the_backup(
    tree: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with disks.mounted("btrfs", tmp_path / "disk") as mount:
        data = mount / "data"
        subprocess.run(["btrfs", "subvolume", "create", data], check=True, capture_output=True)
        shutil.copytree(tree, data, symlinks=True, dirs_exist_ok=True)
        (mount / "work").mkdir()
        site = make_site(data, mount / "work/spool", mount / "work/state")
        means = plan.look(discovery(data), {}, site.paths, size_percent=20)
        assert [one.by for one in means] == ["btrfs"]
        cloned(site, Choice(plan.SNAPSHOT, "asked for", means))
        monkeypatch.setattr(tools, "_WAIT", 0.0)
        real = shutil.which("btrfs")
        (tmp_path / "bin").mkdir()
        fake = tmp_path / "bin" / "btrfs"
        fake.write_text(f'#!/bin/sh\n[ "$2" = delete ] && exit 1\nexec {real} "$@"\n', encoding="utf-8")
        fake.chmod(0o755)
        with monkeypatch.context() as patched:
            patched.setenv("PATH", f"{tmp_path / 'bin'}:{os.environ['PATH']}")
            assert any("could not be removed" in words for words in job.capture(site.request()).warnings)
            for changed in (True, False):
                made = job.publish(site.request())
                assert (made.manifest is not None, made.changed) == (True, changed)
                assert any("takes room until it is removed" in words for words in made.warnings)
        # Nothing but the snapshot is left, and the work directory goes with it.
        assert len(os.listdir(site.paths.work)) == 1
        assert cleanup.remove(site.ledger())
        assert not os.path.exists(site.paths.work)


@pytest.mark.parametrize("wishes", [{}, {"shards": 2}, {"form": "zip"}, {"form": "copy"}], ids=str)
@pytest.mark.parametrize("capture", ["copy", "cold"])
def test_the_proof_reads_no_faster_than_the_archive_while_the_server_serves(
    site: Site, monkeypatch: pytest.MonkeyPatch, capture: str, wishes: dict[str, t.Any]
) -> None:
    if capture == "copy":
        cloned(site, Choice(plan.COPY, "asked for"))
    request = site.request(bytes_per_second=1e12, **wishes)
    job.capture(request)
    spent: list[int] = []
    spend = throttle.Pace.spend

    def noted(pace: throttle.Pace, size: int) -> None:
        if pace._rate:
            spent.append(size)
        spend(pace, size)

    monkeypatch.setattr(throttle.Pace, "spend", noted)
    job.publish(request)
    data = sum(path.stat().st_blocks * 512 for path in site.tree.rglob("*") if path.is_file())
    assert (sum(spent) > 0) == (capture == "copy")
    if capture == "copy":
        assert sum(spent) >= data // 2
