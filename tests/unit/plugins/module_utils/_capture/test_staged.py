# Copyright (c) 2026, mysql_ops contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Files that others change while they are copied: in the end the copies are what lies on disk, byte for byte."""

from __future__ import annotations

import contextlib
import itertools
import os
import random
import struct
import subprocess
import sys
import threading
import time
import typing as t
import uuid
from collections.abc import Iterator
from pathlib import Path

import pymysql
import pytest

from ansible_collections.mysql_ops.replica_backup.plugins.module_utils import _connection, _filelist, _server
from ansible_collections.mysql_ops.replica_backup.plugins.module_utils._archive.origin import source_of
from ansible_collections.mysql_ops.replica_backup.plugins.module_utils._capture import clone, finishing, pages, staged
from ansible_collections.mysql_ops.replica_backup.plugins.module_utils._connection import Login
from ansible_collections.mysql_ops.replica_backup.plugins.module_utils._errors import ReplicaBackupError
from ansible_collections.mysql_ops.replica_backup.plugins.module_utils._places import Discovery, Place
from ansible_collections.mysql_ops.replica_backup.tests.lab.flavors import MySQL56
from ansible_collections.mysql_ops.replica_backup.tests.lab.local import Server, Topology
from ansible_collections.mysql_ops.replica_backup.tests.lab.scratch import CHECKOUT

PAGE = 16384
MIB = 1024 * 1024
# Short, and yet longer than the clock tick that files are stamped by.
MARGIN = 0.05


def discovery_of(datadir: Path) -> Discovery:
    return Discovery(datadir=str(datadir), places=(Place("datadir", str(datadir)),))


def finish(discovery: Discovery, store: Path) -> dict[str, t.Any]:
    """Write the list of the clone, and hold every file of it against the original."""
    path = str(store.with_suffix(".jsonl"))
    with contextlib.suppress(FileNotFoundError):
        os.unlink(path)
    listing = clone.Listing(path)
    ticked: list[int] = []
    with source_of(discovery) as source:
        count, figures = finishing.finish(_filelist.retake(discovery), source, str(store), listing, ticked.append)
        listing.write_line(clone.end_of_list(count))
        listing.close()
        clone.compare_originals(path, source, lambda _size: None)
    root = discovery.datadir
    cloned = list(clone.read(path))
    # Each byte once, whatever is done with it: the budget goes by them.
    once = {(item.seen.device, item.seen.inode): item.size for item in cloned if item.type == "file"}
    assert sum(ticked) == sum(once.values())
    assert len(cloned) == count
    assert [item.path for item in cloned] == [item.path for item in _filelist.walk(discovery)]
    with clone.CloneSource({"datadir": root}, [str(store)]) as copies:
        for item in cloned:
            if item.type == "file":
                descriptor, seen = copies.open(item)
                with open(descriptor, "rb") as copy, open(os.path.join(root, item.path), "rb") as original:
                    assert same(original, copy), item.path
                assert seen.size == os.lstat(os.path.join(root, item.path)).st_size
    return figures


def same(one: t.BinaryIO, other: t.BinaryIO) -> bool:
    return all(left == right for left, right in iter(lambda: (one.read(MIB), other.read(MIB)), (b"", b"")))


# -- a real server that is written to all the time -----------------------------------------------------------


@pytest.fixture(scope="module")
def replica() -> Iterator[tuple[Topology, Server]]:
    root = CHECKOUT / ".test" / "lab" / uuid.uuid4().hex[:8]
    with Topology(root, replicas=1, replica_settings={"myisam_use_mmap": "ON"}) as topology:
        yield topology, topology.replicas[0]


SCHEMA = (
    "CREATE DATABASE d",
    "CREATE TABLE d.big (id INT PRIMARY KEY, body VARBINARY(1000)) ENGINE=InnoDB",
    "CREATE TABLE d.compressed (id INT PRIMARY KEY, body VARBINARY(1000)) ENGINE=InnoDB"
    " ROW_FORMAT=COMPRESSED KEY_BLOCK_SIZE=8",
    "CREATE TABLE d.holes (id INT PRIMARY KEY, body VARBINARY(1000)) ENGINE=InnoDB PAGE_COMPRESSED=1",
    "CREATE TABLE d.quiet (id INT PRIMARY KEY, body VARBINARY(1000)) ENGINE=InnoDB",
    "CREATE TABLE d.isam (id INT PRIMARY KEY, body VARBINARY(1000) NOT NULL) ENGINE=MyISAM",
    "CREATE TABLE d.aria (id INT PRIMARY KEY, body VARBINARY(1000)) ENGINE=Aria",
    "INSERT INTO d.big SELECT seq, RANDOM_BYTES(700) FROM d.seq_1_to_20000",
    "INSERT INTO d.compressed SELECT id, body FROM d.big WHERE id <= 4000",
    "INSERT INTO d.holes SELECT id, REPEAT(CHAR(65 + id MOD 26), 700) FROM d.big WHERE id <= 4000",
    "INSERT INTO d.quiet SELECT id, body FROM d.big WHERE id <= 4000",
    "INSERT INTO d.isam SELECT id, body FROM d.big WHERE id <= 2000",
    "INSERT INTO d.aria SELECT id, body FROM d.big WHERE id <= 2000",
)


def write(server: Server, stop: threading.Event, seed: int) -> None:
    """All that a replica's files go through: changes in place, growth, tables that come, go, shrink and are renamed."""
    dice = random.Random(seed)
    with (
        contextlib.closing(pymysql.connect(unix_socket=str(server.socket), user="root", autocommit=True)) as connection,
        connection.cursor() as cursor,
    ):
        for turn in itertools.count(seed * 1000000):
            if stop.is_set():
                return
            low = dice.randrange(1, 19000)
            for table in ("big", "compressed", "holes", "isam", "aria"):
                cursor.execute(f"UPDATE d.{table} SET body = RANDOM_BYTES(700) WHERE id IN (%s, %s)", (low, low % 1999))
                cursor.execute(f"REPLACE INTO d.{table} VALUES (%s, RANDOM_BYTES(700))", (30000 + turn % 500000,))
            if turn % 10 == 0:
                name = f"d.t{turn}"
                cursor.execute(f"CREATE TABLE {name} LIKE d.aria" if turn % 20 else f"CREATE TABLE {name} LIKE d.big")
                cursor.execute(f"INSERT INTO {name} SELECT * FROM d.big WHERE id < 1500")
                cursor.execute(f"RENAME TABLE {name} TO {name}_b")
                cursor.execute(f"TRUNCATE {name}_b" if turn % 30 else f"DROP TABLE {name}_b")
            if turn % 25 == 0:
                cursor.execute("ALTER TABLE d.holes FORCE")
                cursor.execute("OPTIMIZE TABLE d.isam")
                cursor.execute("FLUSH LOGS")


def live(server: Server) -> tuple[staged.Live, _connection.Session]:
    process = _server.find_process(datadir=str(server.datadir))
    assert process is not None
    session = _connection.connect(Login(user="root", unix_socket=str(server.socket), config_file=None))
    return staged.Live.of(session, process), session


def test_copy_taken_under_load_is_that_of_the_stopped_server(replica: tuple[Topology, Server], tmp_path: Path) -> None:
    """Source and replica are written to during the pre-copy and after it; with the server down, every byte is right."""
    topology, server = replica
    for statement in SCHEMA:
        topology.source.query(statement)
    topology.wait_caught_up()
    # A checkpoint of all that, so that there are pages at rest.
    server.stop()
    server.start()
    stop = threading.Event()
    seen = []
    for turn, pause in enumerate((0.0, 0.3, 1.0)):
        stop.clear()
        store = tmp_path / f"clone{turn}"
        writer = threading.Thread(target=write, args=(topology.source, stop, turn + 1))
        writer.start()
        try:
            time.sleep(0.3)
            running, session = live(server)
            with session:
                assert running.checkpoint()
                done = staged.precopy(
                    discovery_of(server.datadir), str(store), running, margin=MARGIN, rounds=turn + 1, enough=0
                )
            time.sleep(pause)
        finally:
            stop.set()
            writer.join()
        server.stop()
        assert done.bytes > 40 * MIB
        figures = finish(discovery_of(server.datadir), store)
        seen.append((len(done.rounds), figures))
        server.start()
    assert seen[0][0] == 1 and max(rounds for rounds, _figures in seen) > 1
    for _rounds, figures in seen:
        # The rules were at work: tables that nobody touched as they were, of the others a part of the pages.
        assert figures["reused"] > 20 and figures["patched"] >= 2, figures
        assert 0 < figures["bytes_patched"] < 25 * MIB, figures
    assert not topology.differences()


def test_copy_of_mysql_5_6_taken_under_load_is_that_of_the_stopped_server(tmp_path: Path) -> None:
    """It tells its checkpoint and its pages as of old. With the same bytes it starts and replicates."""
    root = CHECKOUT / ".test" / "lab" / uuid.uuid4().hex[:8]
    # What the system tablespace grows by is copied.
    grows = {"innodb_autoextend_increment": "1"}
    with Topology(root, replicas=1, flavor=MySQL56(), replica_settings=grows) as topology:
        (server,) = topology.replicas
        topology.source.query("CREATE DATABASE kept")
        topology.source.query("CREATE TABLE kept.a (id INT PRIMARY KEY, v BLOB)")
        rows = ",".join(f"({number}, REPEAT('x', 8000))" for number in range(500))
        topology.source.query(f"INSERT INTO kept.a VALUES {rows}")
        topology.wait_caught_up()
        # A checkpoint of that.
        server.stop()
        server.start()
        store = tmp_path / "clone"
        with topology.load():
            running, session = live(server)
            with session:
                assert running.checkpoint()
                staged.precopy(discovery_of(server.datadir), str(store), running, margin=MARGIN, rounds=2, enough=0)
            topology.source.query("UPDATE kept.a SET v = REPEAT('y', 8000) WHERE id % 50 = 0")
        topology.wait_caught_up()
        server.stop()
        figures = finish(discovery_of(server.datadir), store)
        assert figures["patched"] >= 1 and 0 < figures["bytes_patched"] < 12 * MIB, figures
        server.start()
        assert not topology.differences()


# -- pages -----------------------------------------------------------------------------------------------------


def page(number: int, lsn: int, body: bytes = b"x") -> bytes:
    """A page with what the rule looks at: number, log sequence number, tablespace 7."""
    head = bytearray(38)
    struct.pack_into(">I", head, 4, number)
    struct.pack_into(">Q", head, 16, lsn)
    struct.pack_into(">I", head, 34, 7)
    return bytes(head) + (body * PAGE)[: PAGE - 38]


@pytest.mark.parametrize(
    ("now", "then", "written"),
    [
        pytest.param(page(1, 99), page(1, 99), 0, id="older than the checkpoint and the same"),
        pytest.param(page(1, 100), page(1, 100, b"t"), 1, id="torn in the copy: the final one is not older"),
        pytest.param(page(1, 150), page(1, 90, b"o"), 1, id="changed"),
        pytest.param(page(1, 99), page(1, 50, b"o"), 1, id="copied before it was written"),
        pytest.param(page(2, 99), page(2, 99, b"o"), 1, id="not where its number says"),
        pytest.param(bytes(PAGE), page(1, 99, b"o"), 1, id="freed and zeroed"),
        pytest.param(page(1, 0), page(1, 0, b"o"), 1, id="never stamped, and different"),
        pytest.param(page(1, 0), page(1, 0), 0, id="never stamped, and the same"),
        pytest.param(page(1, 99), b"", 1, id="beyond the end of the copy"),
        pytest.param(page(1, 99) + b"tail", page(1, 99) + b"liat", 0, id="no whole page at the end"),
        pytest.param(b"", page(1, 99, b"o"), 0, id="cut off"),
    ],
)
def test_page_is_taken_unless_it_was_at_rest(tmp_path: Path, now: bytes, then: bytes, written: int) -> None:
    first = page(0, 10)
    original, copy = tmp_path / "original", tmp_path / "copy"
    original.write_bytes(first + now)
    # The first page is always taken.
    copy.write_bytes(page(0, 10, b"o") + then)
    with contextlib.ExitStack() as closing:

        def opened(path: Path) -> int:
            descriptor = os.open(path, os.O_RDWR | os.O_CREAT)
            closing.callback(os.close, descriptor)
            return descriptor

        source, target, headers = opened(original), opened(copy), opened(tmp_path / "headers")
        pages.save_headers(target, headers, 0, copy.stat().st_size // PAGE * PAGE, PAGE)
        size = original.stat().st_size
        spent: list[int] = []
        done = pages.patch(source, target, headers, size, PAGE, 100, spent.append)
        # Looking at a header is reading: a rate and a budget must hear of it, and no byte counts twice.
        assert sum(spent) == size
        assert copy.read_bytes() == original.read_bytes()
        assert done == (1 + written) * PAGE + size % PAGE
        # What was noted is what a further round, and the window, compare with.
        whole = range(0, size // PAGE * PAGE, PAGE)
        assert (tmp_path / "headers").read_bytes() == b"".join(original.read_bytes()[at : at + 38] for at in whole)


@pytest.mark.parametrize(
    ("flags", "size"),
    [(0, PAGE), (0x21, PAGE), (0x29, 8192), (0x27, 4096), (0x15, PAGE), (0x16, 0), (3 << 6, 0), (5 << 6, PAGE)],
)
def test_size_of_pages_on_disk_is_told_by_the_flags(flags: int, size: int) -> None:
    """0x21: dynamic; 0x29, 0x27: compressed to 8 and 4 KiB; 0x15, 0x16: MariaDB's full_crc32 with 16 and 32 KiB."""
    first = bytearray(page(0, 1))
    struct.pack_into(">I", first, 54, flags)
    assert pages.physical_size(bytes(first), PAGE, system=False) == size


# -- times -----------------------------------------------------------------------------------------------------


def nobody() -> staged.Live:
    """This process in the place of a server: it maps nothing of the files."""
    process = _server.read_process(os.getpid())
    assert process is not None
    return staged.Live(process, PAGE, lambda: None)


def precopy(datadir: Path, store: Path, server: staged.Live | None = None, margin: float = MARGIN) -> staged.Precopied:
    return staged.precopy(discovery_of(datadir), str(store), server or nobody(), margin=margin, rounds=1)


@pytest.fixture
def datadir(tmp_path: Path) -> Path:
    datadir = tmp_path / "data"
    (datadir / "d").mkdir(parents=True)
    for number in range(8):
        (datadir / "d" / f"t{number}.MYD").write_bytes(b"%d" % number * 5000)
    with (datadir / "d" / "sparse.MYD").open("wb") as stream:
        stream.write(b"begin")
        stream.seek(8 * MIB)
        stream.write(b"end")
    time.sleep(3 * MARGIN)
    return datadir


def table(datadir: Path, number: int) -> Path:
    return datadir / "d" / f"t{number}.MYD"


def test_only_what_certainly_did_not_change_is_taken_as_it_was_copied(datadir: Path, tmp_path: Path) -> None:
    store = tmp_path / "clone"
    os.link(table(datadir, 0), datadir / "d" / "a-name.MYD")
    time.sleep(3 * MARGIN)
    precopy(datadir, store)
    # The same size, and a time that says nothing happened.
    before = table(datadir, 1).stat()
    table(datadir, 1).write_bytes(b"X" * before.st_size)
    os.utime(table(datadir, 1), ns=(before.st_atime_ns, before.st_mtime_ns))
    table(datadir, 2).rename(datadir / "d" / "renamed.MYD")
    table(datadir, 3).unlink()
    os.truncate(table(datadir, 4), 100)
    # Another file in its place, with its name, size and times.
    other = datadir / "d" / "other"
    other.write_bytes(b"Y" * 5000)
    status = table(datadir, 5).stat()
    os.utime(other, ns=(status.st_atime_ns, status.st_mtime_ns))
    other.rename(table(datadir, 5))
    (datadir / "d" / "new.MYD").write_bytes(b"new")
    (datadir / "d" / "link.MYD").symlink_to("t0.MYD")
    with (datadir / "d" / "sparse.MYD").open("r+b") as stream:
        stream.write(b"B")
        os.posix_fallocate(stream.fileno(), 8 * MIB, 100)
    figures = finish(discovery_of(datadir), store)
    assert (figures["reused"], figures["copied"]) == (3, 6)


def test_time_that_is_too_young_proves_nothing(datadir: Path, tmp_path: Path) -> None:
    """Two writes within a tick of the clock leave the same time; so does one that is still on its way to the disk."""
    precopy(datadir, tmp_path / "clone", margin=3600)
    assert finish(discovery_of(datadir), tmp_path / "clone")["reused"] == 0


def test_clock_that_was_set_back_makes_all_times_doubtful(
    datadir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    precopy(datadir, tmp_path / "clone")
    now = time.time_ns
    # The clock of this machine is not ours to set.
    monkeypatch.setattr(time, "time_ns", lambda: now() - 3 * 10**9)
    assert finish(discovery_of(datadir), tmp_path / "clone")["reused"] == 0


MAPPER = """
import mmap, sys
handle = open(sys.argv[1], "r+b")
memory = mmap.mmap(handle.fileno(), 0)
memory[0:1] = b"1"
print(flush=True)
sys.stdin.readline()
memory[0:1] = b"2"
print(flush=True)
sys.stdin.readline()
"""


def test_file_that_is_mapped_is_copied_again_whatever_its_times_say(datadir: Path, tmp_path: Path) -> None:
    """A page that is dirty already takes a further write through memory without any mark on the file."""
    victim = table(datadir, 0)
    with subprocess.Popen(
        [sys.executable, "-c", MAPPER, str(victim)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as child:
        assert child.stdin is not None and child.stdout is not None
        child.stdout.readline()
        time.sleep(3 * MARGIN)
        process = _server.read_process(child.pid)
        assert process is not None
        before = victim.stat()
        precopy(datadir, tmp_path / "clone", staged.Live(process, PAGE, lambda: None))
        child.stdin.write("\n")
        child.stdin.flush()
        child.stdout.readline()
        after = victim.stat()
        assert (before.st_mtime_ns, before.st_ctime_ns) == (after.st_mtime_ns, after.st_ctime_ns)
        assert victim.read_bytes()[:1] == b"2"
        figures = finish(discovery_of(datadir), tmp_path / "clone")
        child.stdin.close()
    assert figures["copied"] == 1


def test_name_that_shares_a_file_waits_for_what_a_thread_makes_of_it(tmp_path: Path) -> None:
    """Several files at once, and yet every name in its order, with the data of its own file."""
    datadir = tmp_path / "data"
    datadir.mkdir()
    for number in range(100):
        (datadir / f"t{number}.MYD").write_bytes(b"%d" % number * (50 if number % 2 else MIB // 2))
        os.link(datadir / f"t{number}.MYD", datadir / f"z{99 - number}.MYD")
    figures = finish(discovery_of(datadir), tmp_path / "clone")
    assert figures["copied"] == 100


def test_window_that_is_told_to_end_ends_its_threads(datadir: Path, tmp_path: Path) -> None:
    """No thread reads on when the server is to be started, and nothing stays open."""
    store = tmp_path / "clone"
    calls = itertools.count()

    def no_time(_size: int) -> None:
        if next(calls) == 5:
            raise TimeoutError

    before = len(os.listdir("/proc/self/fd")), threading.active_count()
    listing = clone.Listing(str(tmp_path / "list"))
    discovery = discovery_of(datadir)
    with source_of(discovery) as source, pytest.raises(TimeoutError):
        finishing.finish(_filelist.retake(discovery), source, str(store), listing, no_time)
    listing.close()
    assert (len(os.listdir("/proc/self/fd")), threading.active_count()) == before


def test_what_the_window_will_look_at_is_read_where_it_is_not_in_memory(tmp_path: Path) -> None:
    path = tmp_path / "t.ibd"
    path.write_bytes(os.urandom(64 * PAGE))
    with path.open("rb") as stream:
        descriptor = stream.fileno()
        os.fsync(descriptor)
        assert list(pages.not_in_memory(descriptor, 64 * PAGE, PAGE)) == []
        os.posix_fadvise(descriptor, 0, 0, os.POSIX_FADV_DONTNEED)
        os.posix_fadvise(descriptor, 0, 0, os.POSIX_FADV_RANDOM)
        os.pread(descriptor, 1, 32 * PAGE)
        expected = [(0, 32 * PAGE), (33 * PAGE, 64 * PAGE)]
        assert list(pages.not_in_memory(descriptor, 64 * PAGE, PAGE)) == expected


# -- failures ----------------------------------------------------------------------------------------------------


def test_store_without_room_is_told_and_leaves_the_server_alone(datadir: Path, tmp_path: Path) -> None:
    if os.geteuid() != 0:
        pytest.skip("mounts file systems")
    small = tmp_path / "small"
    small.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=16k,mode=0700", "none", str(small)], check=True)
    try:
        with pytest.raises(ReplicaBackupError, match=r"No room .*full"):
            precopy(datadir, small / "clone")
    finally:
        subprocess.run(["umount", str(small)], check=True)


def test_file_that_shrinks_while_it_is_copied_is_left_for_the_window(datadir: Path, tmp_path: Path) -> None:
    """Cut between ``stat`` and the copy, as a server does with a table."""
    victim = table(datadir, 3)
    done: list[int] = []

    def cut() -> None:
        if not done and any((tmp_path / "clone").glob("*5")):
            done.append(victim.stat().st_size)
            os.truncate(victim, 10)

    store = tmp_path / "clone"
    result = staged.precopy(discovery_of(datadir), str(store), nobody(), margin=MARGIN, rounds=1, tick=cut)
    assert done and result.files == 8
    assert finish(discovery_of(datadir), store)["copied"] == 1
