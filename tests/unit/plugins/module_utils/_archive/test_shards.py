# Copyright (c) 2026, mysql_ops contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""A set in several tar files: together the same as one, each a tar by itself, and no failure of one goes unnoticed."""

from __future__ import annotations

import json
import os
import random
import shutil
import subprocess
import tempfile
import typing as t
from dataclasses import replace
from pathlib import Path

import jsonschema
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ansible_collections.mysql_ops.replica_backup.plugins.module_utils._archive import (
    compress,
    job,
    manifest,
    shards,
    verify,
)
from ansible_collections.mysql_ops.replica_backup.plugins.module_utils._errors import RefusedError, ReplicaBackupError
from ansible_collections.mysql_ops.replica_backup.plugins.module_utils._restore.feed import LocalFeed
from ansible_collections.mysql_ops.replica_backup.tests.unit.plugins.module_utils._archive.archive_support import (
    PLACE,
    State,
    look,
)
from ansible_collections.mysql_ops.replica_backup.tests.unit.plugins.module_utils._archive.set_support import (
    Site,
    discovery,
    make_site,
    write_list,
)
from ansible_collections.mysql_ops.replica_backup.tests.unit.plugins.module_utils._archive.test_archive_job import (
    SCHEMA,
    children,
    during,
    flip,
    mounted,
    rewrite,
    root_only,
)
from ansible_collections.mysql_ops.replica_backup.tests.unit.plugins.module_utils._archive.test_archive_round_trip import (  # noqa: E501
    NODES,
    Node,
    build,
)
from ansible_collections.mysql_ops.replica_backup.tests.unit.plugins.module_utils._restore.stream_support import (
    land_parts,
)


def names(directory: str) -> list[str]:
    return sorted(name for name in os.listdir(directory) if name.startswith("data"))


def by_hand(directory: str, order: t.Iterable[str], target: Path) -> None:
    """As the documentation says."""
    target.mkdir()
    for name in order:
        tool = "zstd -dc" if name.endswith(".zst") else "cat"
        text = f'set -o pipefail; {tool} "$1" | tar -C "$2" -xp'
        subprocess.run(["bash", "-c", text, "bash", f"{directory}/{name}", str(target)], check=True)
    subprocess.run(["sha256sum", "--strict", "--quiet", "-c", f"{directory}/SHA256SUMS"], cwd=target, check=True)


def without_times_of_directories(found: dict[str, State]) -> dict[str, State]:
    """A directory that gets another file gets another time; no server looks at it."""
    return {name: replace(state, mtime_ns=0) if state.kind == "directory" else state for name, state in found.items()}


def rewrite_manifest(directory: str, change: t.Callable[[dict[str, t.Any]], object]) -> None:
    path = Path(directory, "manifest.json")
    value = json.loads(path.read_text())
    change(value)
    path.write_text(json.dumps(value))


@settings(max_examples=25, deadline=None)
@given(nodes=NODES, shards=st.integers(2, 4), compression=st.sampled_from(["none", "zstd"]), seed=st.integers(0, 99))
def test_any_tree(nodes: list[Node], shards: int, compression: str, seed: int) -> None:
    scratch = Path(tempfile.mkdtemp(prefix="shards-"))
    try:
        build(scratch / "tree", nodes)
        site = make_site(scratch / "tree", scratch / "spool", scratch / "state")
        whole = make_site(scratch / "tree", scratch / "spool1", scratch / "state1")
        made = job.present(site.request(shards=shards, compression=compression))
        other = job.present(whole.request(compression="none"))
        parts = names(made.set_dir)
        assert [part["name"] for part in made.parts] == parts and len(parts) == shards
        assert (made.files, made.bytes, made.places) == (other.files, other.bytes, other.places)
        # The list is the same as that of one archive, and says where each file is.
        head, records = manifest.read(site.paths.manifest)
        assert [replace(record, part=None) for record in records] == list(manifest.read(whole.paths.manifest)[1])
        jsonschema.validate(json.loads(Path(site.paths.manifest).read_text()), SCHEMA)
        assert Path(site.paths.sums).read_bytes() == Path(whole.paths.sums).read_bytes()
        assert head["parts"] == list(made.parts)
        before = look(site.tree)
        if made.files > sum(state.kind != "file" for state in before.values()):
            random.Random(seed).shuffle(parts)
            by_hand(made.set_dir, parts, scratch / "by-hand")
            found = look(scratch / "by-hand" / PLACE)
            assert without_times_of_directories(found) == without_times_of_directories(before)
        assert verify.verify(made.set_dir).files == made.files
        feed = LocalFeed(made.set_dir)
        land_parts(feed, scratch / "restored")
        assert look(scratch / "restored" / PLACE) == before
    finally:
        shutil.rmtree(scratch)


def test_shards_are_about_equal(tmp_path: Path) -> None:
    """Also beside one file that is larger than all others together."""
    tree = tmp_path / "mysql"
    tree.mkdir()
    rng = random.Random(4)
    sizes = [rng.randrange(1000, 90_000) for _number in range(300)]
    for number, size in enumerate(sizes):
        (tree / f"t{number}.ibd").write_bytes(rng.randbytes(size))
    site = make_site(tree, tmp_path / "spool", tmp_path / "state")
    made = [part["bytes"] for part in job.present(site.request(shards=4)).parts]
    assert max(made) - min(made) < 2 * 90_000
    job.remove(site.request())
    (tree / "m.ibd").write_bytes(rng.randbytes(sum(sizes)))
    write_list(site, discovery(tree))
    made = sorted(part["bytes"] for part in job.present(site.request(shards=3)).parts)
    assert made[1] - made[0] < 2 * 90_000 and made[2] < sum(sizes) + 1_000_000


def test_threads_are_shared(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: set(range(8)))
    for wishes, count, option in (
        ({"shards": 2}, 2, "-T4"),
        ({"shards": 0}, 8, "-T1"),
        ({"shards": 3, "threads": 7}, 3, "-T2"),
        ({"shards": 12}, 12, "-T1"),
        ({"shards": 1}, 1, "-T8"),
    ):
        request = site.request(compression="zstd", **wishes)
        found = request.compressor()
        assert found is not None and option in found.pack and request.shard_count == count
    assert 8 * compress.chunk_of(8) == compress.CHUNK and compress.chunk_of(32) == compress.chunk_of(8)


@pytest.mark.parametrize(("form", "shards"), [("zip", 2), ("copy", 2), ("zip", 0), ("tar", -1), ("tar", 33)])
def test_refused(site: Site, form: str, shards: int) -> None:
    for act in (job.capture, job.present, lambda request: job.plan(request, "present")):
        with pytest.raises(RefusedError, match="shards") as caught:
            act(site.request(form=form, shards=shards))
        assert form == "tar" or "replica_backup_shards" in str(caught.value)
    assert site.left() == []


def test_another_number_is_another_capture(site: Site) -> None:
    first = job.capture(site.request(shards=2))
    assert job.capture(site.request(shards=2)).parts == first.parts
    with pytest.raises(RefusedError, match="captured already in another way"):
        job.capture(site.request(shards=3))


# --- what goes wrong while they are written -----------------------------------------------------------------------


CHANGES: dict[str, tuple[str, t.Callable[[Path], object], str]] = {
    "vanishes": ("ibdata1", lambda tree: (tree / "ibdata1").unlink(), "ibdata1 vanished"),
    "grows": ("ibdata1", lambda tree: (tree / "ibdata1").open("ab").write(b"x"), r"ibdata1 changed .*\(size\)"),
}


@pytest.mark.parametrize("case", CHANGES)
def test_a_change_meanwhile_fails_with_the_name(site: Site, monkeypatch: pytest.MonkeyPatch, case: str) -> None:
    at, act, message = CHANGES[case]
    during(monkeypatch, at, lambda: act(site.tree))
    with pytest.raises(ReplicaBackupError, match=message):
        job.capture(site.request(compression="zstd", shards=3))
    assert site.left() == []


def test_a_change_after_the_last_byte(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    real = shards.write_shards

    def then(*arguments: t.Any) -> t.Any:
        totals = real(*arguments)
        rewrite(site.tree / "ibdata1")
        return totals

    monkeypatch.setattr(job, "write_shards", then)
    with pytest.raises(ReplicaBackupError, match=r"ibdata1 changed .*\(ctime_ns\)"):
        job.capture(site.request(shards=3))
    assert site.left() == []


def test_the_dead_man_ends_the_capture(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    during(monkeypatch, "link", lambda: (site.state / "deadman.fired").write_text('{"fired": "now"}'))
    with pytest.raises(ReplicaBackupError, match="dead-man has started the server"):
        job.capture(site.request(shards=2))
    assert site.left() == []


def test_a_killed_compressor_is_named(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    """One of three; the others are not waited for."""
    (site.tree / "zz").write_bytes(os.urandom(20 << 20))
    (site.tree / "zzz").write_bytes(os.urandom(20 << 20))
    write_list(site, discovery(site.tree))
    during(monkeypatch, "ibdata1", lambda: os.kill(children()[1], 9))
    with pytest.raises(ReplicaBackupError, match=r"zstd was killed by signal 9 \(SIGKILL\)"):
        job.capture(site.request(compression="zstd", shards=3))
    assert site.left() == []
    assert children() == []


def test_one_that_stands_still_does_not_hold_up_the_rest(
    site: Site, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """A failure elsewhere wakes a thread that waits for its compressor."""
    (site.tree / "a").write_bytes(os.urandom(30 << 20))
    write_list(site, discovery(site.tree))
    tools = tmp_path / "tools"
    tools.mkdir()
    (tools / "zstd").write_text(f"#!/bin/sh\nmkdir {tools}/first && exec sleep 600\nexec cat\n")
    (tools / "zstd").chmod(0o755)
    monkeypatch.setenv("PATH", f"{tools}:{os.environ['PATH']}")
    during(monkeypatch, "ibdata1", (site.tree / "sparse.ibd").unlink)
    with pytest.raises(ReplicaBackupError, match=r"sparse.ibd vanished"):
        job.capture(site.request(compression="zstd", shards=2))
    assert site.left() == []
    assert children() == []


@root_only
def test_a_full_disk(site: Site, tmp_path: Path) -> None:
    small = tmp_path / "small"
    small.mkdir()
    for number in range(8):
        (site.tree / f"random{number}").write_bytes(os.urandom(1 << 20))
    with mounted(small, "size=2m,mode=0700"):
        site.spool = small
        write_list(site, discovery(site.tree))
        with pytest.raises(ReplicaBackupError, match="file system is full") as caught:
            job.capture(site.request(compression="zstd", shards=2))
        assert caught.value.facts["errno"] == "ENOSPC"
        assert site.left() == []


# --- what goes wrong with them afterwards -------------------------------------------------------------------------


def no_part(value: dict[str, t.Any]) -> None:
    value["files"][-1].pop("part")


def odd_part(value: dict[str, t.Any]) -> None:
    value["files"][-1]["part"] = 2


def other_part(value: dict[str, t.Any]) -> None:
    value["files"][-1]["part"] ^= 1


def test_damage_to_one_part(site: Site) -> None:
    request = site.request(compression="zstd", shards=2)
    captured = job.capture(request)
    second = Path(captured.set_dir, captured.parts[1]["name"])
    whole = second.read_bytes()
    flip(second, 100_000)
    with pytest.raises(ReplicaBackupError):
        job.publish(request)
    assert not os.path.exists(site.paths.manifest)
    second.write_bytes(whole)
    assert job.publish(request).changed
    flip(second, 100_000)
    with pytest.raises(ReplicaBackupError, match=r"data\.1\.tar\.zst is not the archive that was written") as caught:
        verify.verify(captured.set_dir)
    assert caught.value.facts["part_sha256_matches"] is False
    second.write_bytes(whole[:-1])
    with pytest.raises(ReplicaBackupError, match=r"data\.1\.tar\.zst is cut short"):
        verify.verify(captured.set_dir)
    second.unlink()
    with pytest.raises(RefusedError, match=r"data\.1\.tar\.zst is missing"):
        verify.verify(captured.set_dir)
    second.write_bytes(whole)
    Path(captured.set_dir, "data.2.tar.zst").touch()
    with pytest.raises(ReplicaBackupError, match="more than one archive"):
        verify.verify(captured.set_dir)


@pytest.mark.parametrize(
    ("change", "words"),
    [(no_part, "its part"), (odd_part, "its part"), (other_part, "a member is missing|an additional member|, name")],
)
def test_a_list_that_does_not_fit_the_parts(
    site: Site, change: t.Callable[[dict[str, t.Any]], None], words: str
) -> None:
    made = job.present(site.request(shards=2))
    rewrite_manifest(made.set_dir, change)
    with pytest.raises(ReplicaBackupError, match=words):
        verify.verify(made.set_dir)
