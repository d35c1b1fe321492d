# Copyright (c) 2026, mysql_ops contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Whatever is archived comes out again: by GNU tar, Python, unzip and cp, and by our own reader."""

from __future__ import annotations

import os
import shutil
import subprocess
import tarfile
import tempfile
import typing as t
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from ansible_collections.mysql_ops.replica_backup.tests.unit.plugins.module_utils._archive.archive_support import (
    PLACE,
    Archived,
    State,
    archive,
    look,
    restore,
    unpack,
)

ROOT = os.geteuid() == 0


def by_tar(made: Archived, target: Path) -> None:
    tool = {".zst": "--zstd", ".gz": "--gzip", ".lz4": "--use-compress-program=lz4", ".xz": "--xz"}
    option = tool.get(made.path.suffix)
    subprocess.run(["tar", "-xp", *([option] if option else []), "-f", str(made.path), "-C", str(target)], check=True)


def by_unzip(made: Archived, target: Path) -> None:
    # -K and -X keep mode bits and owners, -^ keeps control characters in names.
    subprocess.run(
        ["unzip", "-q", "-K", "-X", "-V", "-^", str(made.path), "-d", str(target)],
        check=True,
        env={"PATH": os.environ["PATH"], "TZ": "UTC", "LC_ALL": "C.UTF-8"},
    )


def by_cp(made: Archived, target: Path) -> None:
    subprocess.run(["cp", "-a", "--sparse=auto", f"{made.path}/{PLACE}", str(target)], check=True)


def by_reader(made: Archived, target: Path) -> None:
    opened = made.reader()
    try:
        unpack(opened, target)
    finally:
        opened.close()


def check_sums(made: Archived, target: Path) -> None:
    sums = made.directory / "SHA256SUMS"
    if sums.stat().st_size:
        subprocess.run(["sha256sum", "--strict", "--quiet", "-c", str(sums)], cwd=target, check=True)


def without_times(state: dict[str, State]) -> dict[str, State]:
    return {name: replace(entry, mtime_ns=0) for name, entry in state.items()}


def zip_seconds(nanoseconds: int) -> int:
    """Whole seconds up to 2038; later only the old field of two seconds is left."""
    seconds = nanoseconds // 1_000_000_000
    return seconds if seconds < 1 << 31 else seconds // 2 * 2


def as_zip_keeps(state: dict[str, State]) -> dict[str, State]:
    """Without what the format has no room for: parts of a second, further names, times and owners of links."""
    return {
        name: replace(
            entry,
            mtime_ns=0 if entry.kind == "symlink" else zip_seconds(entry.mtime_ns),
            same_as="",
            owner=(0, 0) if entry.kind == "symlink" else entry.owner,
        )
        for name, entry in state.items()
    }


FORMS = (("tar", "none"), ("tar", "zstd"), ("zip", "zstd"), ("copy", "none"))
WAYS: list[tuple[str, str, t.Callable[[Archived, Path], None]]] = [
    ("tar", "none", by_tar),
    ("tar", "none", by_reader),
    ("tar", "zstd", by_tar),
    ("tar", "zstd", by_reader),
    ("tar", "gzip", by_tar),
    ("tar", "gzip", by_reader),
    ("tar", "lz4", by_tar),
    ("tar", "lz4", by_reader),
    ("tar", "xz", by_tar),
    ("tar", "xz", by_reader),
    ("zip", "zstd", by_unzip),
    ("zip", "none", by_unzip),
    ("zip", "zstd", by_reader),
    ("copy", "none", by_cp),
    ("copy", "none", by_reader),
    *((form, compression, restore) for form, compression in FORMS),
]


@pytest.mark.parametrize(("form", "compression", "way"), WAYS, ids=[f"{a}-{b}-{c.__name__}" for a, b, c in WAYS])
def test_everything_comes_out_again(
    tree: Path, tmp_path: Path, form: str, compression: str, way: t.Callable[[Archived, Path], None]
) -> None:
    made = archive(tree, tmp_path / "set", form, compression)
    out = tmp_path / "out"
    out.mkdir()
    way(made, out)
    if way is restore:
        # With the manifest beside it no format loses anything.
        assert look(out / PLACE) == look(tree)
    else:
        compare(tree, out, form, way is by_reader)
    check_sums(made, out)
    assert made.prove() == made.totals.count == len(look(tree))


def compare(tree: Path, out: Path, form: str, own: bool) -> None:
    before, after = look(tree), look(out / PLACE)
    if form == "zip":
        before, after = as_zip_keeps(before), as_zip_keeps(after)
        if own:
            # The reader leaves times to the manifest.
            before, after = without_times(before), without_times(after)
    assert after == before


def test_holes_stay_holes(tree: Path, tmp_path: Path) -> None:
    for form, way in (("tar", by_tar), ("copy", by_cp), ("copy", by_reader)):
        made = archive(tree, tmp_path / f"set-{form}-{way.__name__}", form)
        out = tmp_path / f"out-{form}-{way.__name__}"
        out.mkdir()
        way(made, out)
        for name in ("sparse.ibd", "hole"):
            assert (out / PLACE / name).stat().st_blocks <= (tree / name).stat().st_blocks
    assert (tmp_path / "set-tar-by_tar" / "data.tar").stat().st_size < 2_000_000


def test_python_reads_the_tar(tree: Path, tmp_path: Path) -> None:
    made = archive(tree, tmp_path / "set", "tar")
    out = tmp_path / "out"
    with tarfile.open(made.path) as opened:
        opened.extractall(out, filter="fully_trusted")  # type: ignore[call-arg,unused-ignore]
    before, after = look(tree), look(out / PLACE)
    # tarfile keeps times as floats, and none of links.
    assert {n: replace(s, mtime_ns=0) for n, s in after.items()} == {
        n: replace(s, mtime_ns=0) for n, s in before.items()
    }
    for name, entry in before.items():
        if entry.kind == "file":
            assert abs(after[name].mtime_ns - entry.mtime_ns) < 1000


NAMES = (
    st.binary(min_size=1, max_size=24)
    .map(lambda raw: raw.replace(b"/", b"_").replace(b"\0", b"0"))
    .filter(lambda raw: raw not in (b".", b".."))
)
MOMENTS = st.integers(min_value=0, max_value=4_000_000_000_000_000_000)
CONTENT: st.SearchStrategy[list[tuple[int, bytes]]] = st.one_of(
    st.just([]),
    st.lists(st.tuples(st.integers(0, 300_000), st.binary(min_size=1, max_size=3000)), min_size=1, max_size=4),
)


class Node(t.NamedTuple):
    names: list[bytes]
    kind: str
    content: list[tuple[int, bytes]]
    tail: int
    mode: int
    moment: int
    other: int


NODES = st.lists(
    st.builds(
        Node,
        names=st.lists(NAMES, min_size=1, max_size=3),
        kind=st.sampled_from(["file", "file", "directory", "symlink", "hardlink"]),
        content=CONTENT,
        tail=st.sampled_from([0, 0, 1, 511, 70_000]),
        mode=st.integers(0, 0o777).map(lambda mode: mode | 0o600),
        moment=MOMENTS,
        other=st.integers(0, 100),
    ),
    max_size=12,
)


def build(root: Path, nodes: list[Node]) -> None:
    """The tree that the nodes describe; what contradicts what is there already is left out."""
    top = os.fsencode(root)
    os.mkdir(top)
    files: list[bytes] = []
    times: list[tuple[bytes, int]] = []
    for node in nodes:
        path = os.path.join(top, *node.names)
        try:
            os.makedirs(os.path.dirname(path), exist_ok=True)
            if os.path.lexists(path):
                continue
            if node.kind == "directory":
                os.mkdir(path, node.mode | 0o700)
            elif node.kind == "symlink":
                os.symlink(node.names[-1], path)
            elif node.kind == "hardlink" and files:
                os.link(files[node.other % len(files)], path)
            else:
                with open(path, "wb") as stream:
                    for offset, data in node.content:
                        stream.seek(offset)
                        stream.write(data)
                    stream.truncate(max((offset + len(data) for offset, data in node.content), default=0) + node.tail)
                os.chmod(path, node.mode)
                files.append(path)
        except OSError:
            continue
        times.append((path, node.moment))
    for path, moment in reversed(times):
        os.utime(path, ns=(moment, moment), follow_symlinks=False)


@settings(max_examples=100, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(nodes=NODES, form=st.sampled_from(["tar", "zip", "copy"]))
def test_any_tree(nodes: list[Node], form: str) -> None:
    scratch = Path(tempfile.mkdtemp(prefix="archive-"))
    try:
        tree = scratch / "tree"
        build(tree, nodes)
        made = archive(tree, scratch / "set", form)
        ways = {"tar": by_tar, "zip": by_unzip, "copy": by_cp}
        for name, way in (("tool", ways[form]), ("own", by_reader)):
            out = scratch / name
            out.mkdir()
            way(made, out)
            compare(tree, out, form, way is by_reader)
            check_sums(made, out)
        restored = scratch / "restored"
        restored.mkdir()
        restore(made, restored)
        assert look(restored / PLACE) == look(tree)
        assert made.prove() == len(look(tree))
    finally:
        shutil.rmtree(scratch)
