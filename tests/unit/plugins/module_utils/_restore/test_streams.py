# Copyright (c) 2026, mysql_ops contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Real sets read from a pipe and from an inbox: whole, or an error, whatever happens on the way."""

from __future__ import annotations

import os
import shutil
import subprocess
import tempfile
import threading
import typing as t
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from ansible_collections.mysql_ops.replica_backup.plugins.module_utils._archive import streamed_copy
from ansible_collections.mysql_ops.replica_backup.plugins.module_utils._archive.backup_set import (
    BackupSet,
    open_manifest,
    open_set,
)
from ansible_collections.mysql_ops.replica_backup.plugins.module_utils._archive.reader import Reader
from ansible_collections.mysql_ops.replica_backup.plugins.module_utils._archive.stream import Section
from ansible_collections.mysql_ops.replica_backup.plugins.module_utils._errors import RefusedError, ReplicaBackupError
from ansible_collections.mysql_ops.replica_backup.plugins.module_utils._restore import inbox
from ansible_collections.mysql_ops.replica_backup.plugins.module_utils._restore.feed import ManifestFeed, PieceFeed
from ansible_collections.mysql_ops.replica_backup.plugins.plugin_utils import _pieces
from ansible_collections.mysql_ops.replica_backup.tests.unit.plugins.module_utils._archive import (
    test_archive_round_trip as round_trip,
)
from ansible_collections.mysql_ops.replica_backup.tests.unit.plugins.module_utils._archive.archive_support import (
    archive,
    look,
)
from ansible_collections.mysql_ops.replica_backup.tests.unit.plugins.module_utils._archive.set_support import Site
from ansible_collections.mysql_ops.replica_backup.tests.unit.plugins.module_utils._restore.stream_support import (
    PLACE,
    STREAMS,
    TARS,
    WAYS,
    Sender,
    land,
    land_parts,
    made,
    manifest_only,
)

PATIENCE = 60.0


def data_of(backup: BackupSet) -> bytes:
    """What the sender of this set sends."""
    path = os.path.join(backup.directory, backup.part.name)
    if backup.part.form == "copy":
        return b"".join(bytes(block) for block in streamed_copy.send(path, backup.records()))
    return Path(path).read_bytes()


class Pipe:
    """A stream that comes through a real pipe, in blocks of odd sizes."""

    name = "the pipe"

    def __init__(self, data: bytes) -> None:
        self._read, self._write = os.pipe()
        self._data = data
        self._thread = threading.Thread(target=self._feed, daemon=True)
        self._thread.start()

    def _feed(self) -> None:
        try:
            for start in range(0, len(self._data), 4099):
                os.write(self._write, self._data[start : start + 4099])
        except BrokenPipeError:
            return
        finally:
            os.close(self._write)

    def readinto(self, view: memoryview) -> int:
        return os.readv(self._read, [view])

    def cancel(self) -> None:
        """Its other end is always about to write or to close."""

    def close(self) -> None:
        if self._read >= 0:
            os.close(self._read)
            self._read = -1
            self._thread.join()


def opened(backup: BackupSet, data: bytes, tmp_path: Path) -> tuple[BackupSet, Reader]:
    """The set with nothing of it here but the manifest."""
    here = open_manifest(str(manifest_only(backup, tmp_path / "here")))
    return here, here.reader(Pipe(data))


@pytest.mark.parametrize(("form", "compression"), STREAMS)
def test_a_set_from_a_pipe(site: Site, tmp_path: Path, form: str, compression: str) -> None:
    backup = made(site, form, compression)
    here, reader = opened(backup, data_of(backup), tmp_path)
    shutil.rmtree(backup.directory)
    land(reader, here, tmp_path / "restored")
    assert look(tmp_path / "restored" / PLACE) == look(site.tree)


@pytest.mark.parametrize("share", [0.0, 0.3, 0.9, 1.0])
@pytest.mark.parametrize(("form", "compression"), STREAMS)
def test_a_stream_that_ends_early(site: Site, tmp_path: Path, form: str, compression: str, share: float) -> None:
    backup = made(site, form, compression)
    data = data_of(backup)
    here, reader = opened(backup, data[: min(len(data) - 1, int(len(data) * share))], tmp_path)
    with pytest.raises(ReplicaBackupError) as caught:
        land(reader, here, tmp_path / "restored")
    assert "ended too early" in str(caught.value) or "ends in the middle" in str(caught.value)


@pytest.mark.parametrize("share", [0.01, 0.5, 0.99])
@pytest.mark.parametrize(("form", "compression"), STREAMS)
def test_a_flipped_bit_in_a_stream(site: Site, tmp_path: Path, form: str, compression: str, share: float) -> None:
    backup = made(site, form, compression)
    data = bytearray(data_of(backup))
    data[int(len(data) * share)] ^= 0x04
    here, reader = opened(backup, bytes(data), tmp_path)
    with pytest.raises(ReplicaBackupError):
        land(reader, here, tmp_path / "restored")


@pytest.mark.parametrize(("form", "compression"), STREAMS)
def test_a_stream_that_goes_on(site: Site, tmp_path: Path, form: str, compression: str) -> None:
    backup = made(site, form, compression)
    here, reader = opened(backup, data_of(backup) + b"\0", tmp_path)
    with pytest.raises(ReplicaBackupError, match=r"goes on after its end|data after the end|not what was written"):
        land(reader, here, tmp_path / "restored")


def test_a_zip_file_is_no_stream(site: Site, tmp_path: Path) -> None:
    backup = made(site, "zip", "zstd")
    with pytest.raises(RefusedError, match="cannot be read as a stream"):
        opened(backup, b"", tmp_path)


def test_a_manifest_alone_is_enough_to_plan(site: Site, tmp_path: Path) -> None:
    backup = made(site, "tar", "none")
    feed = ManifestFeed(str(manifest_only(backup, tmp_path / "here")), "elsewhere")
    assert list(feed.backup.records()) == list(backup.records())
    assert feed.backup.part == backup.part
    with pytest.raises(ReplicaBackupError, match="Only the manifest"):
        feed.reader()
    with pytest.raises(RefusedError, match="is missing"):
        open_set(str(tmp_path / "here"))
    feed.close()


# -- pieces ------------------------------------------------------------------------------------------------------------


@pytest.fixture
def box(tmp_path: Path) -> Path:
    work = tmp_path / "work"
    work.mkdir(mode=0o700)
    return Path(inbox.open_inbox(str(work), os.geteuid()))


def feed_of(backup: BackupSet, tmp_path: Path, box: Path, patience: float = PATIENCE) -> PieceFeed:
    return PieceFeed(str(manifest_only(backup, tmp_path / "here")), "the controller", str(box), patience)


@pytest.mark.parametrize(("form", "compression"), WAYS)
def test_a_set_in_pieces(site: Site, tmp_path: Path, box: Path, form: str, compression: str) -> None:
    backup = made(site, form, compression)
    feed = feed_of(backup, tmp_path, box)
    sender = Sender(backup, box, tmp_path / "piece", 30_011)
    sender.start()
    land(feed.reader(), feed.backup, tmp_path / "restored")
    sender.join()
    feed.close()
    assert sender.problem is None
    # Compressed, the tree is a handful of pieces.
    assert len(sender.sent) > 5
    assert sender.most <= inbox.PIECES
    assert look(tmp_path / "restored" / PLACE) == look(site.tree)
    # Nothing is left of what was brought over but the mark of what would come next.
    assert [path.name for path in box.iterdir()] == [f"want-{len(sender.sent):08d}"]
    assert {path.name for path in (tmp_path / "here").iterdir()} == {"manifest.json", "SHA256SUMS"}
    inbox.close_inbox(str(tmp_path / "work"))
    assert list((tmp_path / "work").iterdir()) == []


@pytest.mark.parametrize("stops_at", [None, 0, 9, 22])
def test_parts_in_pieces(site: Site, tmp_path: Path, box: Path, stops_at: int | None) -> None:
    """Parts come one after the other, and another sender finds its place in the middle of any."""
    backup = made(site, "tar", "none", shards=3)
    feed = feed_of(backup, tmp_path, box)
    if stops_at is not None:
        first = Sender(backup, box, tmp_path / "piece", 20_011, change=lambda n, data: data if n < stops_at else None)
        first.start()
    landing = threading.Thread(target=land_parts, args=(feed, tmp_path / "restored"), daemon=True)
    landing.start()
    if stops_at is not None:
        first.join()
    second = Sender(backup, box, tmp_path / "piece", 20_011)
    second.start()
    second.join()
    landing.join()
    feed.close()
    assert second.sent[0] == (stops_at or 0) and len(second.sent) + (stops_at or 0) > 23
    assert look(tmp_path / "restored" / PLACE) == look(site.tree)


def test_a_part_that_goes_on_after_its_end(site: Site, tmp_path: Path) -> None:
    backup = made(site, "tar", "none", shards=2)
    data = b"".join(Path(backup.directory, part.name).read_bytes() for part in backup.parts)
    for stream, words in ((data[:-1], "ended too early"), (data + b"x", "goes on after its end")):
        pipe = Pipe(stream)
        section = Section(pipe, backup.parts[0].bytes, last=False)
        first = backup.reader(section, 0)
        assert sum(1 for _member in first) > 3
        assert first.finish().sha256 == backup.parts[0].sha256
        first.close()
        last = backup.reader(Section(pipe, backup.parts[1].bytes, last=True), 1)
        with pytest.raises(ReplicaBackupError, match=words):
            for _member in last:
                pass
        last.close()
        pipe.close()


@pytest.mark.parametrize(("form", "compression"), [("tar", "zstd"), ("copy", "none"), ("zip", "zstd")])
def test_another_sender_goes_on_where_the_first_one_stopped(
    site: Site, tmp_path: Path, box: Path, form: str, compression: str
) -> None:
    backup = made(site, form, compression)
    feed = feed_of(backup, tmp_path, box)
    first = Sender(backup, box, tmp_path / "piece", 30_011, change=lambda number, data: None if number == 4 else data)
    first.start()
    landed: list[BaseException | None] = []

    def consume() -> None:
        try:
            land(feed.reader(), feed.backup, tmp_path / "restored")
            landed.append(None)
        except BaseException as problem:
            landed.append(problem)

    consumer = threading.Thread(target=consume, daemon=True)
    consumer.start()
    first.join()
    second = Sender(backup, box, tmp_path / "piece", 30_011)
    second.start()
    consumer.join()
    second.join()
    assert landed == [None]
    assert (first.sent, second.sent[0]) == ([0, 1, 2, 3], 4)
    assert look(tmp_path / "restored" / PLACE) == look(site.tree)


@pytest.mark.parametrize(("form", "compression"), [*TARS[:3], ("copy", "none"), ("zip", "zstd")])
def test_a_damaged_piece(site: Site, tmp_path: Path, box: Path, form: str, compression: str) -> None:
    backup = made(site, form, compression)
    feed = feed_of(backup, tmp_path, box)

    def flip(number: int, data: bytes) -> bytes:
        return data if number != 2 else bytes([data[0] ^ 1]) + data[1:]

    sender = Sender(backup, box, tmp_path / "piece", 30_011, change=flip)
    sender.start()
    with pytest.raises(ReplicaBackupError) as caught:
        land(feed.reader(), feed.backup, tmp_path / "restored")
    feed.close()
    shutil.rmtree(box)
    sender.join()
    # Where it is not compressed the damage may show in a file's own hash or a header first.
    assert "Piece 2" in str(caught.value) or form == "tar" or compression == "none"
    assert {path.name for path in (tmp_path / "here").iterdir()} == {"manifest.json", "SHA256SUMS"}


@pytest.mark.parametrize(("form", "compression"), [("tar", "none"), ("tar", "zstd"), ("copy", "none"), ("zip", "zstd")])
def test_pieces_that_stop_coming(site: Site, tmp_path: Path, box: Path, form: str, compression: str) -> None:
    backup = made(site, form, compression)
    feed = feed_of(backup, tmp_path, box, 0.5)
    sender = Sender(backup, box, tmp_path / "piece", 30_011, change=lambda number, data: None if number == 2 else data)
    sender.start()
    with pytest.raises(ReplicaBackupError, match="has stopped coming"):
        land(feed.reader(), feed.backup, tmp_path / "restored")
    feed.close()
    sender.join()
    assert {path.name for path in (tmp_path / "here").iterdir()} == {"manifest.json", "SHA256SUMS"}


def test_a_piece_that_is_slow_to_arrive_is_waited_for(site: Site, tmp_path: Path, box: Path) -> None:
    backup = made(site, "tar", "none")
    feed = feed_of(backup, tmp_path, box, 0.6)
    arriving = box / "incoming-slow"

    def slow(number: int, data: bytes) -> bytes:
        if number == 1:
            with open(arriving, "wb") as handle:
                for _step in range(15):
                    handle.write(b"x")
                    handle.flush()
                    threading.Event().wait(0.1)
            arriving.unlink()
        return data

    sender = Sender(backup, box, tmp_path / "piece", 2_000_000, change=slow)
    sender.start()
    land(feed.reader(), feed.backup, tmp_path / "restored")
    sender.join()
    assert look(tmp_path / "restored" / PLACE) == look(site.tree)


@pytest.mark.parametrize("what", ["link", "fifo", "short"])
def test_what_is_no_piece(site: Site, tmp_path: Path, box: Path, what: str) -> None:
    backup = made(site, "tar", "none")
    feed = feed_of(backup, tmp_path, box)
    piece = inbox.Piece(0, 100, "0" * 64, False)
    if what == "link":
        (box / piece.name).symlink_to("/etc/passwd")
    elif what == "fifo":
        os.mkfifo(box / piece.name)
    else:
        (box / piece.name).write_bytes(b"x" * 99)
    with pytest.raises(ReplicaBackupError, match=r"Piece 0 of .* did not arrive"):
        land(feed.reader(), feed.backup, tmp_path / "restored")


@pytest.mark.skipif(os.geteuid() != 0, reason="mounts a small file system")
def test_no_room_for_a_zip_file(site: Site, tmp_path: Path, box: Path) -> None:
    (site.tree / "random").write_bytes(os.urandom(4 << 20))
    backup = made(site, "zip", "zstd")
    small = tmp_path / "small"
    small.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", str(small)], check=True)
    try:
        feed = PieceFeed(str(manifest_only(backup, small / "here")), "the controller", str(box), PATIENCE)
        with pytest.raises(RefusedError, match="not enough room") as caught:
            feed.reader()
        assert caught.value.expected == f"{backup.part.bytes} bytes"
        feed.close()
    finally:
        subprocess.run(["umount", str(small)], check=True)


def test_a_copy_that_is_not_its_manifest(site: Site, tmp_path: Path) -> None:
    backup = made(site, "copy", "none")
    path = Path(backup.directory) / "data" / "datadir" / "ibdata1"
    path.write_bytes(path.read_bytes() + b"x")
    with pytest.raises(ReplicaBackupError, match="is not the file that its manifest lists"):
        list(_pieces.cut(backup, str(tmp_path / "piece"), 0))


def test_an_archive_that_is_cut_short_is_not_sent(site: Site) -> None:
    backup = made(site, "tar", "none")
    _pieces.check(backup)
    os.truncate(Path(backup.directory) / backup.part.name, backup.part.bytes - 1)
    with pytest.raises(RefusedError, match="is not the archive that was written"):
        _pieces.check(backup)


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    nodes=round_trip.NODES, form=st.sampled_from(["tar", "copy"]), limit=st.sampled_from([1, 100, 512, 4096, 1 << 20])
)
def test_any_tree_in_any_pieces(nodes: list[round_trip.Node], form: str, limit: int) -> None:
    """What is sent, put together again, is the set: bytes and where one piece ends do not matter."""
    scratch = Path(tempfile.mkdtemp(prefix="stream-"))
    try:
        tree = scratch / "tree"
        round_trip.build(tree, nodes)
        archived = archive(tree, scratch / "set", form)
        backup = t.cast(BackupSet, _Archived(archived))
        whole = b""
        for piece in _pieces.cut(backup, str(scratch / "piece"), 0, max(limit, _size(backup) // 50)):
            data = (scratch / "piece").read_bytes()
            assert len(data) == piece.bytes
            whole += data
        stream = Pipe(whole)
        if form == "copy":
            reader: Reader = streamed_copy.receive("data", stream, archived.records)
        else:
            reader = archived.reader()
            assert whole == archived.path.read_bytes()
            stream.close()
        land(reader, backup, scratch / "restored")
        assert look(scratch / "restored" / PLACE) == look(tree)
    finally:
        shutil.rmtree(scratch)


class _Archived:
    """An archive of the writer alone, as if it were a set."""

    def __init__(self, archived: t.Any) -> None:
        self._archived = archived
        self.directory = str(archived.directory)
        self.part = self
        self.parts = (self,)

    @property
    def form(self) -> str:
        return str(self._archived.form)

    @property
    def name(self) -> str:
        return str(self._archived.path.name)

    @property
    def bytes(self) -> int:
        return int(self._archived.path.stat().st_size)

    @property
    def sha256(self) -> str:
        return str(self._archived.part.sha256)

    def records(self) -> t.Iterator[t.Any]:
        return iter(self._archived.records)


def _size(backup: BackupSet) -> int:
    if backup.part.form == "copy":
        return sum(record.size for record in backup.records())
    return backup.part.bytes
