# Copyright (c) 2026, mysql_ops contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The pieces of the archive one by one, where the whole cannot easily bring them to the case."""

from __future__ import annotations

import errno
import hashlib
import io
import json
import os
import signal
import subprocess
import sys
import tarfile
import typing as t
import zipfile
from dataclasses import replace
from pathlib import Path

import pytest
import yaml

from ansible_collections.mysql_ops.replica_backup.plugins.module_utils import _deadman
from ansible_collections.mysql_ops.replica_backup.plugins.module_utils._archive import (
    compress,
    formats,
    guard,
    manifest,
    output,
    proof,
    pythonzstd,
    source,
    tarformat,
    writer,
)
from ansible_collections.mysql_ops.replica_backup.plugins.module_utils._archive.output import HashedFile, Part
from ansible_collections.mysql_ops.replica_backup.plugins.module_utils._archive.reader import Member, ZipArchive
from ansible_collections.mysql_ops.replica_backup.plugins.module_utils._archive.records import (
    FileRecord,
    read_records,
    sums_line,
)
from ansible_collections.mysql_ops.replica_backup.plugins.module_utils._archive.source import Extents, Seen, Source
from ansible_collections.mysql_ops.replica_backup.plugins.module_utils._archive.tarformat import TarMember, TarReader
from ansible_collections.mysql_ops.replica_backup.plugins.module_utils._errors import RefusedError, ReplicaBackupError
from ansible_collections.mysql_ops.replica_backup.tests.unit.plugins.module_utils._archive.archive_support import (
    PLACE,
    archive,
    entries_of,
    nothing,
)

CHECKOUT = Path(__file__).parents[5]
END = bytes(1024)


def member(**more: t.Any) -> TarMember:
    plain = {
        "name": b"datadir/file",
        "type": tarformat.TYPE_FILE,
        "mode": 0o640,
        "uid": 1,
        "gid": 2,
        "owner": "mysql",
        "group": "mysql",
        "mtime_ns": 1_600_000_000_123_456_789,
    }
    return TarMember(**{**plain, **more})


def read(raw: bytes) -> TarReader:
    blocks = iter([memoryview(raw)])
    return TarReader(lambda: next(blocks, memoryview(b"")))


def extents(*pairs: tuple[int, int]) -> Extents:
    made = Extents()
    for offset, length in pairs:
        made.add(offset, length)
    return made


# --- tar headers ---------------------------------------------------------------------------------------------------


def theirs_of(raw: bytes) -> tarfile.TarInfo | None:
    with tarfile.open(fileobj=io.BytesIO(raw)) as opened:
        return opened.next()


EXTREMES: dict[str, TarMember] = {
    "large ids": member(uid=3_000_000_000, gid=2_500_000),
    "before 1970": member(mtime_ns=-1_500_000_000),
    "after 2242": member(mtime_ns=9_000_000_000 * 1_000_000_000 + 5),
    "whole second": member(mtime_ns=1_600_000_000_000_000_000),
    "odd owner": member(owner="jörg", group="a" * 40),
    "owner that is no text": member(owner="j\udcffrg"),
    "long name": member(name=b"datadir/" + b"x" * 250),
    "long link": member(type=tarformat.TYPE_SYMLINK, link=b"y" * 300),
    "bytes in a link": member(type=tarformat.TYPE_SYMLINK, link=b"\xff\xfe"),
    "hard link": member(type=tarformat.TYPE_HARDLINK, link=b"datadir/first"),
    "directory": member(type=tarformat.TYPE_DIRECTORY, name="datadir/bücher".encode()),
}


@pytest.mark.parametrize("case", EXTREMES)
def test_headers_of_extreme_members(case: str) -> None:
    wanted = EXTREMES[case]
    raw = tarformat.encode_header(wanted) + END
    assert list(read(raw)) == [wanted]
    theirs = theirs_of(raw)
    assert theirs is not None
    assert theirs.name.encode("utf-8", "surrogateescape") == wanted.name
    assert (theirs.uid, theirs.gid, theirs.uname, theirs.gname) == (
        wanted.uid,
        wanted.gid,
        wanted.owner,
        wanted.group,
    )
    assert abs(theirs.mtime - wanted.mtime_ns / 1e9) < 1e-5


HUGE = 20 << 30


@pytest.mark.parametrize("parts", [None, extents((0, HUGE - (1 << 30)))], ids=["plain", "sparse"])
def test_headers_of_huge_files(parts: Extents | None) -> None:
    raw = tarformat.encode_header(member(size=HUGE, extents=parts))
    ours = next(iter(read(raw)))
    assert ours.size == HUGE
    assert list(ours.extents or ()) == list(parts or ())
    theirs = theirs_of(raw)
    assert theirs is not None and theirs.size == HUGE


def test_the_map_of_many_ranges_takes_whole_blocks() -> None:
    many = extents(*((number * 8192, 4096) for number in range(500)))
    wanted = member(size=500 * 8192, extents=many)
    raw = tarformat.encode_header(wanted)
    assert len(raw) % 512 == 0
    ours = next(iter(read(raw)))
    assert ours.extents is not None and list(ours.extents) == list(many)


def with_field(raw: bytes, offset: int, value: bytes, base: int = 0) -> bytes:
    """The header block at ``base`` with other bytes somewhere, and its checksum made right again."""
    head = bytearray(raw[base : base + 512])
    head[offset : offset + len(value)] = value
    head[148:156] = b" " * 8
    head[148:156] = b"%06o\0 " % sum(head)
    return raw[:base] + bytes(head) + raw[base + 512 :]


PLAIN = tarformat.encode_header(member(mtime_ns=0))
PAX = tarformat.encode_header(member())
SPARSE = tarformat.encode_header(member(size=10_000, extents=extents((4096, 512))))

BROKEN: dict[str, tuple[bytes, str]] = {
    "empty": (b"", "ends in the middle"),
    "one end block": (bytes(512) + b"x" * 512, "one empty block"),
    "data after the end": (END + b"x" * 512, "data after its end"),
    "checksum": (PLAIN[:10] + b"?" + PLAIN[11:] + END, "checksum"),
    "type": (with_field(PLAIN, 156, b"7") + END, "unknown type"),
    "number": (with_field(PLAIN, 108, b"99x9999") + END, "number in a header"),
    "two extended headers": (PAX[:1024] + PAX + END, "none of ours"),
    "huge extended header": (with_field(PAX, 124, b"77777777777\0") + END, "none of ours"),
    "lone extended header": (PAX[:1024] + END, "without its file"),
    "no length": (PAX[:512] + b"x" + PAX[513:] + END, "cannot be read"),
    "no equals sign": (PAX[:1024].replace(b"mtime=", b"mtime ") + PAX[1024:] + END, "cannot be read"),
    "no line end": (PAX[:1024].replace(b"123456789\n", b"123456789 ") + PAX[1024:] + END, "cannot be read"),
    "sparse format": (SPARSE.replace(b"minor=0", b"minor=1") + END, "another format"),
    "map no number": (SPARSE.replace(b"\n4096\n512\n", b"\n4x96\n512\n") + END, "unreadable"),
    "map beyond the end": (SPARSE.replace(b"\n4096\n512\n", b"\n9900\n512\n") + END, "contradicts"),
    "map and data": (SPARSE.replace(b"\n4096\n512\n", b"\n4096\n511\n") + END, "does not fit"),
}


@pytest.mark.parametrize("case", BROKEN)
def test_a_broken_tar_is_refused(case: str) -> None:
    raw, message = BROKEN[case]
    with pytest.raises(ReplicaBackupError, match=message):
        list(read(raw))


def test_data_not_taken_are_skipped() -> None:
    first = tarformat.encode_header(member(size=700)) + b"a" * 700 + bytes(324)
    second = tarformat.encode_header(member(name=b"datadir/next"))
    assert [found.name for found in read(first + second + END)] == [b"datadir/file", b"datadir/next"]


# --- holes ---------------------------------------------------------------------------------------------------------


def holes(path: Path, count: int) -> int:
    """A file with ``count`` pages of data, each followed by a hole of growing size; returns the size."""
    position = 0
    with open(path, "wb") as stream:
        for number in range(count):
            stream.seek(position)
            stream.write(b"x" * 4096)
            position += 4096 * (2 + number % 8)
        stream.truncate(position)
    return position


def test_too_many_holes_are_filled_from_the_smallest(tmp_path: Path) -> None:
    size = holes(tmp_path / "file", 64)
    descriptor = os.open(tmp_path / "file", os.O_RDONLY)
    try:
        exact = source.find_extents(descriptor, size)
        fewer = source.find_extents(descriptor, size, limit=10)
    finally:
        os.close(descriptor)
    assert exact is not None and len(exact) == 64 and exact.stored == 64 * 4096
    assert fewer is not None and 0 < len(fewer) <= 10
    covered = [range(offset, offset + length) for offset, length in fewer]
    assert all(any(start in part for part in covered) for start, _length in exact)


def test_a_file_without_holes_has_no_ranges(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"x" * 10_000)
    descriptor = os.open(tmp_path / "file", os.O_RDONLY)
    try:
        assert source.find_extents(descriptor, 10_000) is None
    finally:
        os.close(descriptor)


def test_a_file_system_that_knows_no_holes_means_all_data() -> None:
    reading, writing = os.pipe()
    try:
        assert source.find_extents(reading, 4096) is None
    finally:
        os.close(reading)
        os.close(writing)


# --- files below their places --------------------------------------------------------------------------------------


class Listed(t.NamedTuple):
    place: str
    path: str
    type: str = "file"
    size: int = 0
    mtime_ns: int = 0
    owner: str = ""
    group: str = ""
    role: str | None = None
    target: str | None = None
    inode: int | None = None


@pytest.mark.parametrize("path", ["../etc/passwd", "db/../../x", "/etc/passwd", "db/..", "db//t1.ibd/x"])
def test_no_path_leaves_its_place(tree: Path, path: str) -> None:
    with Source({PLACE: str(tree)}) as opened, pytest.raises(ReplicaBackupError, match="leaves its place"):
        opened.open(Listed(PLACE, path))


def test_places_must_be_declared_and_there(tree: Path, tmp_path: Path) -> None:
    with Source({PLACE: str(tmp_path / "none")}) as opened:
        with pytest.raises(ReplicaBackupError, match="place that it does not declare"):
            opened.open(Listed("binlog", "x"))
        with pytest.raises(ReplicaBackupError, match="cannot be opened"):
            opened.open(Listed(PLACE, "x"))


@pytest.mark.parametrize("path", ["gone", "db/gone", "gone/file"])
def test_names_that_are_gone(tree: Path, path: str) -> None:
    entry = Listed(PLACE, path)
    with Source({PLACE: str(tree)}) as opened:
        for call in (opened.open, opened.stat, opened.read_link):
            with pytest.raises(ReplicaBackupError, match="vanished") as caught:
                call(entry)
            assert caught.value.facts["file"] == f"{tree}/{path}"


def test_what_the_list_says_must_hold(tree: Path) -> None:
    with Source({PLACE: str(tree)}) as opened:
        real = next(entry for entry in entries_of(tree) if entry.path == "ibdata1")
        base = Listed(PLACE, "ibdata1", "file", real.size, real.mtime_ns)
        os.close(opened.open(base)[0])
        for wrong, message in (
            (base._replace(size=1), "size"),
            (base._replace(mtime_ns=1), "mtime_ns"),
            (base._replace(inode=1), "inode"),
            (base._replace(type="directory"), "type"),
        ):
            with pytest.raises(ReplicaBackupError, match=rf"\({message}\)"):
                opened.open(wrong)
        with pytest.raises(ReplicaBackupError, match=r"\(target\)"):
            opened.read_link(Listed(PLACE, "link", "symlink", target="elsewhere"))
        with pytest.raises(ReplicaBackupError, match="cannot be read"):
            opened.read_link(base)
        with pytest.raises(ReplicaBackupError, match="cannot be read"):
            opened.stat(Listed(PLACE, "ibdata1/below"))


def test_a_fifo_does_not_hold_the_run_up(tree: Path) -> None:
    os.mkfifo(tree / "fifo")
    with Source({PLACE: str(tree)}) as opened, pytest.raises(ReplicaBackupError, match="a special file"):
        opened.open(Listed(PLACE, "fifo"))


def test_a_shared_directory_may_change(tree: Path) -> None:
    root = Listed(PLACE, ".", "directory")
    with Source({PLACE: str(tree)}, shared=[PLACE]) as opened:
        before = opened.stat(root)
        (tree / "new").touch()
        now = opened.stat(root)
        before.compare("x", now, times_of_directories=False)
        with pytest.raises(ReplicaBackupError, match="mtime_ns"):
            before.compare("x", now)
        assert opened.absolute(root) == str(tree)
        assert Seen.unpack(now.pack()) == now


def test_a_file_that_shrinks_while_it_is_read(tree: Path, tmp_path: Path) -> None:
    big = tree / "big"
    big.write_bytes(bytes(3 << 20))
    calls = []

    def cut() -> None:
        calls.append(1)
        if len(calls) > 1 and big.stat().st_size:
            os.truncate(big, 0)

    only = [entry for entry in entries_of(tree) if entry.path == "big"]
    with pytest.raises(ReplicaBackupError, match=r"big changed .*\(size\)"):
        archive(tree, tmp_path / "set", "tar", entries=only, check=cut)
    assert sorted(os.listdir(tmp_path / "set")) == []


def test_an_unknown_kind_of_entry_is_refused(tree: Path, tmp_path: Path) -> None:
    entry = Listed(PLACE, "ibdata1", "socket")
    with pytest.raises(ReplicaBackupError, match="type"):
        archive(tree, tmp_path / "set", "tar", entries=[entry])


def test_a_file_that_cannot_be_read(tree: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(_descriptor: int, _buffers: object, _offset: int) -> int:
        raise OSError(errno.EIO, os.strerror(errno.EIO))

    monkeypatch.setattr(os, "preadv", fail)
    with pytest.raises(ReplicaBackupError, match="cannot be read: Input/output error") as caught:
        archive(tree, tmp_path / "set", "tar")
    assert "at byte 0" in str(caught.value)


# --- the second look -----------------------------------------------------------------------------------------------


def second_look(tree: Path, made: Path, count: int | None = None) -> None:
    with Source({PLACE: str(tree)}) as opened:
        entries = list(entries_of(tree))[:count]
        writer.compare_again(
            entries, opened, read_records(str(made / "files.jsonl")), str(made / "seen"), writer.Watch(nothing, 0.0)
        )


def test_the_second_look(tree: Path, tmp_path: Path) -> None:
    archive(tree, tmp_path / "set", "tar")
    second_look(tree, tmp_path / "set")
    with pytest.raises(ReplicaBackupError, match="vanished"):
        second_look(tree, tmp_path / "set", -1)
    (tree / "db" / "zz").touch()
    with pytest.raises(ReplicaBackupError, match=r"db changed|zz appeared"):
        second_look(tree, tmp_path / "set")


def test_the_second_look_names_a_new_last_file(tree: Path, tmp_path: Path) -> None:
    archive(tree, tmp_path / "set", "tar")
    moment = tree.stat().st_mtime_ns
    (tree / "zzzz").touch()
    os.utime(tree, ns=(moment, moment))
    with Source({PLACE: str(tree)}, shared=[PLACE]) as opened, pytest.raises(ReplicaBackupError, match="zzzz appeared"):
        writer.compare_again(
            entries_of(tree),
            opened,
            read_records(str(tmp_path / "set" / "files.jsonl")),
            str(tmp_path / "set" / "seen"),
            writer.Watch(nothing),
        )


def test_the_watch_looks_now_and_then() -> None:
    calls: list[int] = []
    watch = writer.Watch(lambda: calls.append(1), 3600.0)
    watch.tick()
    watch.tick()
    assert calls == [1]


# --- output --------------------------------------------------------------------------------------------------------

STORAGE: list[tuple[int, str]] = [
    (errno.ENOSPC, "file system is full"),
    (errno.EDQUOT, "quota is used up"),
    (errno.EFBIG, "may not grow"),
    (errno.EROFS, "read-only"),
    (errno.EIO, "Input/output error"),
]


@pytest.mark.parametrize(("number", "words"), STORAGE)
def test_storage_errors_say_what_they_mean(tmp_path: Path, number: int, words: str) -> None:
    error = output.storage_error(OSError(number, os.strerror(number)), str(tmp_path / "file"), 17)
    assert words in str(error)
    assert error.facts["errno"] == errno.errorcode[number]
    assert error.facts["bytes_written"] == 17 and error.facts["free_bytes"] > 0
    gone = output.storage_error(OSError(number, "x"), "/nonexistent/file", 0)
    assert gone.facts["free_bytes"] is None


def test_a_file_of_a_set_never_replaces_another(tmp_path: Path) -> None:
    first = HashedFile(str(tmp_path / "file"))
    with pytest.raises(ReplicaBackupError, match="File exists"):
        HashedFile(str(tmp_path / "file"))
    (tmp_path / "link.partial").symlink_to(tmp_path / "target")
    with pytest.raises(ReplicaBackupError, match="File exists"):
        HashedFile(str(tmp_path / "link"))
    first.write_line(b"line\n")
    assert first.publish() == Part("file", 5, _sha(b"line\n"))
    first.discard()
    assert (tmp_path / "file").read_bytes() == b"line\n"


def _sha(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def test_a_large_file_is_pushed_out_on_the_way(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(output, "_WRITEBACK_STEP", 1000)
    file = HashedFile(str(tmp_path / "file"))
    file.write_line(b"x" * 70_000)
    file.write(b"y" * 3000)
    part = file.publish()
    assert part == Part("file", 73_000, _sha(b"x" * 70_000 + b"y" * 3000))


def test_private_directories(tmp_path: Path) -> None:
    wide = tmp_path / "wide"
    wide.mkdir(mode=0o755)
    output.make_private_directory(str(wide))
    assert wide.stat().st_mode & 0o777 == 0o700
    (tmp_path / "file").touch()
    (tmp_path / "link").symlink_to(wide)
    for name in ("file", "link"):
        with pytest.raises(ReplicaBackupError, match="in the way"):
            output.make_private_directory(str(tmp_path / name))
    with pytest.raises(ReplicaBackupError, match="No such file"):
        output.make_private_directory(str(tmp_path / "none" / "below"))


def test_only_a_real_directory_is_removed(tmp_path: Path) -> None:
    (tmp_path / "real").mkdir()
    (tmp_path / "link").symlink_to(tmp_path / "real")
    with pytest.raises(ReplicaBackupError, match="is not removed"):
        output.remove_tree(str(tmp_path / "link"))
    assert not output.remove_tree(str(tmp_path / "none"))
    assert output.remove_tree(str(tmp_path / "real"))


@pytest.mark.parametrize("form", ["zip", "copy", "tar"])
def test_an_output_never_replaces_another(tmp_path: Path, form: str) -> None:
    (tmp_path / "data").mkdir()
    (tmp_path / "data.tar.partial").touch()
    (tmp_path / "data.zip.partial").touch()
    with pytest.raises(ReplicaBackupError, match="File exists"):
        formats.open_output(str(tmp_path), form, "none", None, None)


def test_an_output_of_no_known_format(tmp_path: Path) -> None:
    with pytest.raises(KeyError):
        formats.open_output(str(tmp_path), "rar", "none", None, None)


def test_a_compressor_that_cannot_be_started_leaves_nothing(tmp_path: Path) -> None:
    missing = compress.Compressor("zstd", ".zst", ("/nonexistent/zstd",), ("/nonexistent/zstd",))
    with pytest.raises(ReplicaBackupError, match="cannot be started"):
        formats.open_output(str(tmp_path), "tar", "zstd", missing, None)
    assert os.listdir(tmp_path) == []


# --- compressors ---------------------------------------------------------------------------------------------------


def test_commands() -> None:
    found = compress.find_compressor("zstd", level=-5, threads=3)
    assert found is not None
    assert found.pack[1:] == ("-q", "-c", "--fast=5", "-T3") and found.suffix == ".zst"
    found = compress.find_compressor("xz", level=0, threads=99)
    assert found is not None and found.pack[1:] == ("-q", "-c", "-0", "-T32")
    assert compress.find_compressor("none") is None
    default = compress.find_compressor("zstd")
    assert default is not None and f"-T{len(os.sched_getaffinity(0))}" in default.pack


def test_pigz_is_taken_for_gzip_when_it_is_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "pigz").write_text("#!/bin/sh\n")
    (tmp_path / "pigz").chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path))
    found = compress.find_compressor("gzip", threads=2)
    assert found is not None
    assert found.pack == (str(tmp_path / "pigz"), "-q", "-c", "-1", "-p", "2") and found.suffix == ".gz"


@pytest.mark.parametrize(("level", "threads"), [(1, 2), (-5, 1), (19, 1)])
def test_zstd_without_its_tool(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, level: int, threads: int) -> None:
    """What the library of Python makes the tool reads, and the other way round."""
    tool = compress.find_compressor("zstd")
    monkeypatch.setattr(compress, "_which", lambda command: None)
    library = compress.find_compressor("zstd", level=level, threads=threads)
    assert tool is not None and library is not None
    assert library.pack[0] == library.unpack[0] == sys.executable and library.suffix == tool.suffix
    plain = b"".join(number.to_bytes(4, "big") + b"page" * 100 for number in range(9000)) + os.urandom(100_000)

    def through(argv: tuple[str, ...], data: bytes) -> bytes:
        return subprocess.run(argv, input=data, stdout=subprocess.PIPE, check=True).stdout

    packed = through(library.pack, plain)
    assert len(packed) < len(plain) // 2
    assert through(tool.unpack, packed) == through(library.unpack, packed) == plain
    # Two frames, one after the other, are one file to the tool.
    assert through(library.unpack, through(tool.pack, plain) * 2) == plain * 2
    for damaged in (b"nothing of the kind", packed[:1000] + bytes([packed[1000] ^ 1]) + packed[1001:]):
        done = subprocess.run(library.unpack, input=damaged, capture_output=True, check=False)
        assert done.returncode != 0 or done.stdout != plain


def test_zstd_without_tool_and_library(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(compress, "_which", lambda command: None)
    monkeypatch.setattr(pythonzstd, "_is_there", lambda: False)
    with pytest.raises(RefusedError, match="is missing on this host: zstd"):
        compress.find_compressor("zstd")


@pytest.mark.parametrize(
    ("name", "level", "threads", "words"),
    [
        ("rar", None, 0, "Unknown compression"),
        ("zstd", 0, 0, "does not fit zstd"),
        ("zstd", 20, 0, "does not fit"),
        ("gzip", 10, 0, "does not fit"),
        ("lz4", -1, 0, "does not fit"),
        ("zstd", 1, -1, "negative"),
    ],
)
def test_bad_wishes(name: str, level: int | None, threads: int, words: str) -> None:
    with pytest.raises(RefusedError, match=words):
        compress.find_compressor(name, level=level, threads=threads)


def test_a_signal_without_a_name() -> None:
    """Real-time signals have no name in Python."""
    stage = compress._Stage(("sh", "-c", f"kill -{signal.SIGRTMIN + 3} $$"), stdin=subprocess.DEVNULL)
    problem = stage.end()
    stage.close()
    assert problem is not None and f"signal {signal.SIGRTMIN + 3}" in problem.message


def test_only_the_end_of_a_long_complaint_is_kept() -> None:
    stage = compress._Stage(("sh", "-c", "yes | head -c 200000 >&2; echo last >&2; exit 3"), stdin=subprocess.DEVNULL)
    problem = stage.end()
    stage.close()
    assert problem is not None and problem.facts["stderr"].endswith("last")
    assert len(problem.facts["stderr"]) <= 64 * 1024


def test_a_compressor_that_digests_for_long_is_watched(tmp_path: Path) -> None:
    """What xz -9 does: it takes all of its input long before it has written anything."""
    file = output.HashedFile(str(tmp_path / "data"))
    packed = compress.PackedOutput(
        file, compress.Compressor("xz", ".xz", ("sh", "-c", "cat >/dev/null; exec sleep 60"), ())
    )

    def fired() -> None:
        raise ReplicaBackupError("The dead-man has started the server")

    try:
        with pytest.raises(ReplicaBackupError, match="dead-man"):
            packed.finish(fired)
    finally:
        packed.abort()
        file.discard()
    assert not list(tmp_path.iterdir())


def test_a_broken_archive_whose_tool_is_still_at_work(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"x")
    sleeper = compress.Compressor("zstd", ".zst", (), ("sleep", "30"))
    opened = compress.UnpackedInput(str(tmp_path / "file"), sleeper)
    try:
        opened.complain()
    finally:
        opened.close()


def test_a_disk_that_fails_while_reading_back(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file").write_bytes(b"x" * 10)
    whole = compress.Compressor("zstd", ".zst", (), ("cat",))
    real = os.readv
    seen: list[int] = []

    def fail(descriptor: int, buffers: t.Any) -> int:
        if os.readlink(f"/proc/self/fd/{descriptor}").endswith("/file"):
            seen.append(descriptor)
            raise OSError(errno.EIO, os.strerror(errno.EIO))
        return real(descriptor, buffers)

    monkeypatch.setattr(os, "readv", fail)
    opened = compress.UnpackedInput(str(tmp_path / "file"), whole)
    try:
        assert opened.readinto(memoryview(bytearray(10))) == 0
        with pytest.raises(ReplicaBackupError, match=r"cannot be read back: .*Input/output error"):
            opened.finish()
    finally:
        opened.close()
    assert seen


# --- the proof -----------------------------------------------------------------------------------------------------

RECORD = FileRecord(PLACE, "f", "file", 3, 0o640, 1, 2, "a", "b", 5, _sha(b"abc"), None)
MEMBER = Member("datadir/f", "file", 3, 0o640, 1, 2, 5)


class FakeReader:
    """Members that no writer of ours would make."""

    def __init__(self, *members: Member) -> None:
        self._members = members

    def __iter__(self) -> t.Iterator[Member]:
        return iter(self._members)

    def data(self) -> t.Iterator[tuple[int, memoryview]]:
        yield 0, memoryview(b"abc")

    def keep(self, give_back: t.Callable[[t.Callable[[], None]], None]) -> bool:
        return False

    def finish(self) -> Part:
        return Part("data.tar", 1, "00")

    def cancel(self) -> None:
        """Nobody waits for it."""

    def close(self) -> None:
        """Nothing is open."""


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"name": "datadir/g"}, "name"),
        ({"type": "directory"}, "type"),
        ({"mode": 0o644}, "mode"),
        ({"uid": 9}, "uid"),
        ({"gid": 9}, "gid"),
        ({"mtime_ns": 9}, "mtime_ns"),
        ({"size": 9}, "size"),
        ({"target": "x"}, "target"),
        ({"link": "datadir/e"}, "first name"),
    ],
)
def test_the_proof_compares_everything(change: dict[str, t.Any], words: str) -> None:
    assert proof.prove(FakeReader(MEMBER), [RECORD], None) == 1
    with pytest.raises(ReplicaBackupError, match=words):
        proof.prove(FakeReader(replace(MEMBER, **change)), [RECORD], None)
    with pytest.raises(ReplicaBackupError, match="SHA-256 of the part"):
        proof.prove(FakeReader(MEMBER), [RECORD], Part("data.tar", 1, "01"))


def test_a_zip_of_somebody_else_has_no_kinds(tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "data.zip", "w") as made:
        info = zipfile.ZipInfo("a")
        info.external_attr = 0o010644 << 16
        made.writestr(info, b"x")
    opened = ZipArchive(str(tmp_path / "data.zip"))
    with pytest.raises(ReplicaBackupError, match="unknown type"):
        list(opened)
    opened.close()


def test_a_zip_without_owners(tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "data.zip", "w") as made:
        info = zipfile.ZipInfo("a")
        info.external_attr = 0o100644 << 16
        info.extra = b"\x55\x54\x05\x00\x01\x00\x00\x00\x00"
        made.writestr(info, b"x")
    opened = ZipArchive(str(tmp_path / "data.zip"))
    assert [found.uid for found in opened] == [None]
    opened.close()


def test_a_copy_with_a_special_file(tree: Path, tmp_path: Path) -> None:
    made = archive(tree, tmp_path / "set", "copy")
    (made.path / PLACE / "empty").unlink()
    os.mkfifo(made.path / PLACE / "empty")
    moment = next(record.mtime_ns for record in made.records if record.path == ".")
    os.utime(made.path / PLACE, ns=(moment, moment))
    with pytest.raises(ReplicaBackupError, match="special file"):
        made.prove()


# --- manifest and sums ---------------------------------------------------------------------------------------------


def head() -> dict[str, t.Any]:
    return {
        **dict.fromkeys(manifest.HEAD_KEYS),
        "format": 1,
        "warnings": ["]}\n"],
        "server": {"files": 'x"files": [\n'},
    }


def write_manifest(path: Path, records: list[FileRecord]) -> None:
    file = HashedFile(str(path))
    manifest.compose(file, head(), [record.to_line() for record in records])
    file.publish()


@pytest.mark.parametrize("count", [0, 1, 3])
def test_a_manifest_is_read_as_it_was_written(tmp_path: Path, count: int) -> None:
    records = [replace(RECORD, path=f"f{number}\udcff\n") for number in range(count)]
    path = tmp_path / "manifest.json"
    write_manifest(path, records)
    found, files = manifest.read(str(path))
    assert (found, list(files)) == (head(), records)
    whole = json.loads(path.read_text())
    assert whole["files"] == [record.to_dict() for record in records]

    path.write_text(json.dumps(whole))
    found, files = manifest.read(str(path))
    assert (found, list(files)) == (head(), records)


def test_a_manifest_that_is_none(tmp_path: Path) -> None:
    path = tmp_path / "manifest.json"
    with pytest.raises(ReplicaBackupError, match="cannot be read"):
        manifest.read(str(path))
    for text in ("", "[]", "{}", '{"files": 1}', '{"files": [{}]}'):
        path.write_text(text)
        with pytest.raises(ReplicaBackupError, match="is no manifest"):
            manifest.read(str(path))
    path.write_text('{"files": [], "format": 2}')
    with pytest.raises(ReplicaBackupError, match="does not know"):
        manifest.read(str(path))


def test_a_manifest_that_is_damaged(tmp_path: Path) -> None:
    path = tmp_path / "manifest.json"
    write_manifest(path, [RECORD, RECORD])
    text = path.read_text()
    path.write_text(text[: text.rindex("]}")])
    with pytest.raises(ReplicaBackupError, match="cut short"):
        list(manifest.read(str(path))[1])
    path.write_text(text.replace('"size":3', '"size":'))
    with pytest.raises(ReplicaBackupError, match="damaged"):
        list(manifest.read(str(path))[1])


def test_a_manifest_needs_its_head(tmp_path: Path) -> None:
    file = HashedFile(str(tmp_path / "manifest.json"))
    with pytest.raises(ReplicaBackupError, match="not complete"):
        manifest.compose(file, {"format": 1}, [])
    file.discard()


def test_the_version_is_that_of_the_collection() -> None:
    assert yaml.safe_load((CHECKOUT / "galaxy.yml").read_text())["version"] == manifest.COLLECTION_VERSION


def test_secrets_stay_out() -> None:
    value = {"a": [{"master_password": "x", "b": ("c",)}], "ssl_passphrase": 1}
    assert manifest.without_secrets(value) == {"a": [{"b": ["c"]}]}
    assert manifest.server_section({"version": "10.11"}) == {"version": "10.11", "settings": {}}


def test_sums_of_odd_names() -> None:
    assert sums_line("00", "a b") == b"00  a b\n"
    assert sums_line("00", "a\nb\\c") == b"\\00  a\\nb\\\\c\n"
    assert sums_line("00", "cr\r") == b"\\00  cr\\r\n"
    assert sums_line("00", "c\rr") == b"00  c\rr\n"


# --- the dead-man's record -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("text", ["not json", "[1]"])
def test_any_record_of_the_dead_man_counts(tmp_path: Path, text: str) -> None:
    assert guard.fired(str(tmp_path)) is None
    (tmp_path / "deadman.fired").write_text(text)
    assert guard.fired(str(tmp_path)) == {"outcome": "its record is not readable"}


def test_the_record_has_the_name_that_the_dead_man_gives_it() -> None:
    assert guard._FIRED_NAME == _deadman._FIRED
