# Copyright (c) 2026, mysql_ops contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The proof of a clean stop: real servers that were stopped and killed, every sign for itself, redo logs."""

from __future__ import annotations

import base64
import json
import os
import signal
import struct
import zlib
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from ansible_collections.mysql_ops.replica_backup.plugins.module_utils import (
    _clean_stop,
    _error_log,
    _redo_log,
    _server,
)
from ansible_collections.mysql_ops.replica_backup.plugins.module_utils._clean_stop import CleanStop, Proof
from ansible_collections.mysql_ops.replica_backup.plugins.module_utils._dialect import Dialect
from ansible_collections.mysql_ops.replica_backup.plugins.module_utils._errors import ReplicaBackupError
from ansible_collections.mysql_ops.replica_backup.plugins.module_utils._server import ServerProcess
from ansible_collections.mysql_ops.replica_backup.tests.unit.plugins.module_utils.real_process import alone
from ansible_collections.mysql_ops.replica_backup.tests.unit.plugins.module_utils.real_server import (
    RealServer,
    needs_server,
    template_datadir,
)

MARIADB = Dialect("mariadb", (10, 11, 0))

# --- the proof, on real servers --------------------------------------------------------------------


@pytest.fixture(scope="module")
def template() -> Iterator[Path]:
    with template_datadir() as datadir:
        yield datadir


@pytest.fixture
def real(template: Path) -> Iterator[RealServer]:
    server = RealServer(template)
    yield server
    server.close()


def _stop(server: RealServer, how: Callable[[int], None]) -> tuple[CleanStop, dict[str, bool | None]]:
    """Start, write, stop as told, and prove; the signs by name as well."""
    child = server.start()
    server.fill()
    variables = server.variables()
    process = _server.find_process(datadir=str(server.datadir), pid_file=str(server.pid_file))
    assert process is not None and process.pid == child.pid
    mark = _error_log.mark_end(str(server.error_log))
    how(child.pid)
    _server.wait_gone(process, 60)
    child.wait()
    stop = _clean_stop.prove_clean_stop(dialect=MARIADB, process=process, variables=variables, error_log=mark)
    return stop, {proof.name: proof.verdict for proof in stop.proofs}


@needs_server
def test_a_real_clean_stop_is_proven(real: RealServer) -> None:
    stop, verdicts = _stop(real, lambda pid: real.shutdown())
    assert stop.clean, stop.summary
    assert stop.summary == "clean"
    assert verdicts.pop("holders") is not False
    assert set(verdicts.values()) == {True}
    assert json.loads(json.dumps(stop.to_dict()))["clean"] is True
    log = next(proof.detail for proof in stop.proofs if proof.name == "error_log")
    end = next(proof.detail for proof in stop.proofs if proof.name == "redo_log").split()[-1]
    assert log.endswith(f"log sequence number {end}"), "both tell where the log ends"


@needs_server
def test_a_real_stop_by_signal_is_clean_as_well(real: RealServer) -> None:
    assert _stop(real, lambda pid: os.kill(pid, signal.SIGTERM))[0].clean


@needs_server
def test_a_killed_server_is_never_clean(real: RealServer) -> None:
    stop, verdicts = _stop(real, lambda pid: os.kill(pid, signal.SIGKILL))
    assert not stop.clean
    assert verdicts["process"] is True and verdicts["lock"] is True, "it is gone, and yet"
    bad = ("pid_file", "temporary_tablespace", "ddl_recovery_log", "binary_log", "gtid_state", "redo_log")
    assert {name: verdicts[name] for name in bad} == dict.fromkeys(bad, False)
    assert verdicts["error_log"] is None, "the dead write nothing"
    assert "must be replayed" in stop.summary
    assert "no mark of a clean stop" in stop.summary


@needs_server
def test_a_server_that_did_not_flush_is_not_clean_though_it_says_so(real: RealServer) -> None:
    def stop_without_flush(pid: int) -> None:
        real.execute("SET GLOBAL innodb_fast_shutdown=2", "SHUTDOWN")

    stop, verdicts = _stop(real, stop_without_flush)
    assert verdicts["error_log"] is True and verdicts["temporary_tablespace"] is True
    assert verdicts["redo_log"] is False
    assert not stop.clean


@needs_server
def test_a_running_server_is_not_clean(real: RealServer) -> None:
    child = real.start()
    process = _server.read_process(child.pid)
    assert process is not None
    files = _server.open_files(process)
    if files is not None:
        assert str(real.datadir / "ibdata1") in files
    assert _server.lock_state(str(real.datadir / "ibdata1")) is False
    assert _server.lock_state(str(real.datadir / "aria_log_control")) is False
    owner = _server._lock(str(real.datadir / "ibdata1"))
    assert owner is not None and owner.pid == child.pid
    stop = _clean_stop.prove_clean_stop(dialect=MARIADB, process=process, variables=real.variables(), error_log=None)
    verdicts = {proof.name: proof.verdict for proof in stop.proofs}
    assert not stop.clean
    assert verdicts["process"] is False and verdicts["lock"] is False
    assert verdicts["error_log"] is None
    # Also when the process that we stopped is gone, but another one serves the directory again.
    again = _clean_stop.prove_clean_stop(
        dialect=MARIADB,
        process=replace(process, start_ticks=1),
        variables=real.variables(),
        error_log=None,
    )
    assert "a server runs again" in again.summary


# --- the proof, sign by sign -----------------------------------------------------------------------


class Disk:
    """A data directory with just the files that one sign looks at."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.variables = {"datadir": str(path) + "/", "innodb_fast_shutdown": "1"}

    def verdicts(self, family: str = "mysql", version: tuple[int, int, int] = (8, 0, 36)) -> dict[str, Proof]:
        gone = ServerProcess(2**22 + 1, 1, "", (), "", 0, 0, 1)
        log = self.path / "error.log"
        mark = _error_log.ErrorLogMark(str(log), log.stat().st_ino, 0) if log.exists() else None
        stop = _clean_stop.prove_clean_stop(
            dialect=Dialect(family, version), process=gone, variables=self.variables, error_log=mark
        )
        return {proof.name: proof for proof in stop.proofs}

    def legacy_log(self, checkpoint: int, flushed: int, name: str = "ib_logfile0") -> None:
        path = self.path / name
        path.parent.mkdir(exist_ok=True)
        head = bytearray(4096)
        struct.pack_into(">Q", head, 520, checkpoint - 10)
        struct.pack_into(">Q", head, 1544, checkpoint)
        path.write_bytes(head)
        page = bytearray(16384)
        struct.pack_into(">Q", page, 26, flushed)
        (self.path / "ibdata1").write_bytes(page)


@pytest.fixture
def disk(tmp_path: Path) -> Disk:
    return Disk(tmp_path)


def test_nothing_on_disk_proves_nothing(disk: Disk, monkeypatch: pytest.MonkeyPatch) -> None:
    alone(monkeypatch)
    seen = disk.verdicts()
    assert {name: proof.verdict for name, proof in seen.items()} == {
        "process": True,
        "lock": None,
        "holders": seen["holders"].verdict,
        "error_log": None,
        "pid_file": None,
        "temporary_tablespace": None,
        "ddl_recovery_log": None,
        "binary_log": None,
        "gtid_state": None,
        "fast_shutdown": True,
        "redo_log": None,
    }
    assert not CleanStop(tuple(seen.values())).clean


@pytest.mark.parametrize(
    ("value", "verdict"), [("0", True), ("1", True), ("2", False), ("3", False), ("", None), ("ON", None)]
)
def test_fast_shutdown(disk: Disk, value: str, verdict: bool | None) -> None:
    disk.variables["innodb_fast_shutdown"] = value
    assert disk.verdicts()["fast_shutdown"].verdict is verdict


@pytest.mark.parametrize(
    ("text", "verdict"),
    [
        ("\n", None),
        ("2015-04-01 10:00:00 1 [Note] /opt/mysqld: Shutdown complete\n", True),
        ("2026-01-01 10:00:00 0 [Note] /usr/sbin/mariadbd: Shutdown complete\n", True),
        (
            "2026-01-01T10:00:00Z 0 [System] [MY-010910] [Server] /usr/sbin/mysqld: Shutdown complete (mysqld 9.7.4).\n"
            "2026-01-01T10:00:00Z 0 [System] [MY-015016] [Server] MySQL Server - end.\n",
            True,
        ),
        ("InnoDB: Shutdown completed; log sequence number 42\n", False),
        ("[Note] Shutdown completed; log sequence number 42\n[Note] /usr/sbin/mariadbd: Shutdown complete\n", True),
        ("2026-01-01 10:00:00 0 [Note] /usr/sbin/mariadbd (initiated by: root): Normal shutdown\n", False),
        ("2026-01-01 10:00:00 0 [ERROR] Aborting\n[Note] /usr/sbin/mariadbd: Shutdown complete\n", False),
        ("mysqld got signal 11 ;\n[Note] /usr/sbin/mariadbd: Shutdown complete\n", False),
    ],
)
def test_error_log_lines(disk: Disk, text: str, verdict: bool | None) -> None:
    (disk.path / "error.log").write_text(text)
    proof = disk.verdicts()["error_log"]
    assert proof.verdict is verdict, proof.detail
    assert ("log sequence number 42" in proof.detail) is (verdict is True and "42" in text)


@pytest.mark.parametrize(
    ("version", "verbosity", "verdict"),
    [((5, 7, 44), "2", None), ((5, 7, 44), "1", None), ((5, 7, 44), "3", False), ((8, 0, 36), "1", False)],
)
def test_an_error_log_without_notes(
    disk: Disk, version: tuple[int, int, int], verbosity: str, verdict: bool | None
) -> None:
    (disk.path / "error.log").write_text("2026-01-01T10:00:00Z 0 [Warning] mysqld: Forcing close of thread 7\n")
    disk.variables["log_error_verbosity"] = verbosity
    assert disk.verdicts(version=version)["error_log"].verdict is verdict


def test_a_left_pid_file(disk: Disk) -> None:
    disk.variables["pid_file"] = "host.pid"
    assert disk.verdicts()["pid_file"].verdict is True
    (disk.path / "host.pid").write_text("1\n")
    assert disk.verdicts()["pid_file"].verdict is False
    (disk.path / "file").write_text("")
    disk.variables["pid_file"] = "file/host.pid"
    assert disk.verdicts()["pid_file"].verdict is True


def test_what_cannot_be_read_is_unknown(disk: Disk) -> None:
    disk.variables["pid_file"] = "loop/host.pid"
    (disk.path / "loop").symlink_to("loop")
    proof = disk.verdicts()["pid_file"]
    assert proof.verdict is None
    assert "cannot be read" in proof.detail


def test_temporary_tablespaces(disk: Disk) -> None:
    disk.variables.update(
        innodb_temp_data_file_path="ibtmp1:12M:autoextend", innodb_temp_tablespaces_dir="./#innodb_temp/"
    )
    assert disk.verdicts()["temporary_tablespace"].verdict is True
    (disk.path / "#innodb_temp").mkdir()
    (disk.path / "#innodb_temp" / "other").write_text("")
    assert disk.verdicts()["temporary_tablespace"].verdict is True
    (disk.path / "#innodb_temp" / "temp_3.ibt").write_text("")
    proof = disk.verdicts()["temporary_tablespace"]
    assert proof.verdict is False and "temp_3.ibt" in proof.detail


@pytest.mark.parametrize(
    ("family", "version", "left", "verdict"),
    [
        ("mariadb", (10, 11, 4), True, False),
        ("mariadb", (10, 11, 4), False, True),
        ("mariadb", (10, 5, 0), True, None),
        ("mysql", (8, 4, 0), True, None),
    ],
)
def test_ddl_recovery_log(
    disk: Disk, family: str, version: tuple[int, int, int], left: bool, verdict: bool | None
) -> None:
    if left:
        (disk.path / "ddl_recovery.log").write_text("")
    assert disk.verdicts(family, version)["ddl_recovery_log"].verdict is verdict


def _binlog(flags: int, magic: bytes = b"\xfebin") -> bytes:
    return magic + bytes(17) + struct.pack("<H", flags) + bytes(80)


@pytest.mark.parametrize(
    ("content", "verdict"),
    [(_binlog(0), True), (_binlog(1), False), (_binlog(0, b"\xfdbin"), None), (b"\xfebin", None)],
)
def test_the_last_binary_log(disk: Disk, content: bytes, verdict: bool | None) -> None:
    disk.variables.update(log_bin="ON", log_bin_basename=str(disk.path / "logs" / "bin"))
    (disk.path / "logs").mkdir()
    (disk.path / "logs" / "bin.index").write_text("logs/bin.000001\n./logs/bin.000002\n")
    (disk.path / "logs" / "bin.000001").write_bytes(_binlog(1))
    (disk.path / "logs" / "bin.000002").write_bytes(content)
    assert disk.verdicts()["binary_log"].verdict is verdict


def test_the_last_binary_log_when_the_index_has_another_extension(disk: Disk) -> None:
    disk.variables.update(log_bin="ON", log_bin_basename="bin", log_bin_index="./names.index")
    (disk.path / "names.txt").write_text("./bin.999999\n./bin.1000000\n")
    for name, flags in (("bin.999999", 1), ("bin.1000000", 0), ("bin.000001.idx", 1), ("bin.index", 1)):
        (disk.path / name).write_bytes(_binlog(flags))
    proof = disk.verdicts()["binary_log"]
    assert proof.verdict is True and proof.detail.startswith(f"{disk.path}/bin.1000000"), proof


def test_binary_logs_that_are_not_there(disk: Disk) -> None:
    disk.variables.update(log_bin="ON", log_bin_basename="bin", log_bin_index="./other.index")
    for index in (None, "\n"):
        if index is not None:
            (disk.path / "other.index").write_text(index)
        proof = disk.verdicts()["binary_log"]
        assert proof.verdict is None and f"no binary log of {disk.path}/bin" in proof.detail
    assert disk.verdicts("mariadb")["gtid_state"].verdict is False
    (disk.path / "bin.state").write_text("0-1-1\n")
    assert disk.verdicts("mariadb")["gtid_state"].verdict is True
    assert disk.verdicts("mysql")["gtid_state"].verdict is None
    disk.variables["log_bin_basename"] = ""
    assert disk.verdicts()["binary_log"].verdict is None


def test_locks_and_holders_speak_against_a_stop(disk: Disk, lock: Callable[[Path], int]) -> None:
    (disk.path / "ibdata2").write_bytes(b"")
    disk.variables["innodb_data_file_path"] = "ibdata2:12M;ibdata3:1M:autoextend"
    assert disk.verdicts()["lock"].verdict is True
    lock(disk.path / "ibdata2")
    seen = disk.verdicts()
    assert seen["lock"].verdict is False and "ibdata2" in seen["lock"].detail
    assert seen["holders"].verdict is False and "ibdata2" in seen["holders"].detail


def test_logs_and_readers_are_no_holders(disk: Disk, opener: ServerProcess) -> None:
    assert disk.verdicts()["holders"].verdict is False
    disk.variables.update(log_error="kept", general_log_file="gone (deleted)")
    proof = disk.verdicts()["holders"]
    assert proof.verdict is not False
    assert "3 open for reading or logging" in proof.detail


@pytest.mark.parametrize(("unreadable", "verdict"), [(0, True), (2, None)])
def test_processes_that_hide_leave_the_holders_open(
    disk: Disk, monkeypatch: pytest.MonkeyPatch, unreadable: int, verdict: bool | None
) -> None:
    monkeypatch.setattr(_server, "holders", lambda directories: _server.Holders((), unreadable))
    assert disk.verdicts()["holders"].verdict is verdict


def test_an_unknown_process_is_no_proof(disk: Disk, monkeypatch: pytest.MonkeyPatch) -> None:
    def unknown(**arguments: object) -> None:
        raise ReplicaBackupError("hidden")

    monkeypatch.setattr(_server, "find_process", unknown)
    disk.variables["pid_file"] = "pid"
    seen = disk.verdicts()
    assert seen["process"].verdict is None
    assert "process unknown: hidden" in CleanStop(tuple(seen.values())).summary


# --- redo logs -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("family", "checkpoint", "flushed", "verdict"),
    [
        ("mysql", 5000, 5000, True),
        ("mysql", 5000, 4000, False),
        ("mysql", 0, 0, False),
        ("mariadb", 5000, 5000, True),
        ("mariadb", 5000, 0, None),
    ],
)
def test_redo_logs_with_a_flushed_number(
    disk: Disk, family: str, checkpoint: int, flushed: int, verdict: bool | None
) -> None:
    disk.legacy_log(max(checkpoint, 10), flushed)
    if not checkpoint:
        (disk.path / "ib_logfile0").write_bytes(bytes(4096))
    assert disk.verdicts(family, (10, 4, 0))["redo_log"].verdict is verdict


NUMBERED = json.loads((Path(__file__).parent / "fixtures" / "redo_mysql_9_7.json").read_text(encoding="utf-8"))


class Numbered:
    """A redo log recorded from MySQL 9.7: its headers, and the block that the checkpoint points into."""

    def __init__(self, disk: Disk, case: str) -> None:
        recorded = NUMBERED[case]
        self._disk = disk
        self.path = disk.path / "#innodb_redo" / recorded["name"]
        self.path.parent.mkdir()
        content = bytearray(recorded["size"])
        for offset, part in recorded["parts"].items():
            data = zlib.decompress(base64.b64decode(part))
            content[int(offset) : int(offset) + len(data)] = data
        self.path.write_bytes(content)
        self.block = max(map(int, recorded["parts"]))
        self.checkpoint = recorded["flushed"]
        self.flushed(self.checkpoint)

    def flushed(self, number: int) -> None:
        page = bytearray(16384)
        struct.pack_into(">Q", page, 26, number)
        (self._disk.path / "ibdata1").write_bytes(page)

    def write(self, offset: int, data: bytes) -> None:
        with self.path.open("r+b") as stream:
            stream.seek(offset)
            stream.write(data)

    def proof(self) -> Proof:
        return self._disk.verdicts("mysql", (9, 7, 4))["redo_log"]


@pytest.mark.parametrize(
    ("case", "verdict", "word"),
    [
        ("clean", True, "nothing follows"),
        # In both the numbers are equal: the server never came to make a checkpoint.
        ("killed", False, "goes on"),
        ("fast_shutdown_2", False, "goes on"),
    ],
)
def test_recorded_redo_logs_of_mysql_9_7(disk: Disk, case: str, verdict: bool, word: str) -> None:
    proof = Numbered(disk, case).proof()
    assert (proof.verdict, word in proof.detail) == (verdict, True), proof


def test_numbered_redo_log_that_is_ahead_of_the_data_files(disk: Disk) -> None:
    log = Numbered(disk, "clean")
    log.flushed(log.checkpoint - 512)
    assert log.proof().verdict is False
    assert "must be replayed" in log.proof().detail


@pytest.mark.parametrize(
    ("at", "data", "verdict", "word"),
    [
        (0, b"\0\0\0\1", False, "no valid record"),
        (4, b"\0\x0c", False, "no valid record"),
        (200, b"torn", False, "no valid record"),
        (4, b"\x81\0", None, "encrypted"),
        # As innodb_log_checksums=OFF writes it.
        (508, b"\xde\xad\xbe\xef", True, "nothing follows"),
    ],
)
def test_damaged_blocks_at_the_checkpoint(disk: Disk, at: int, data: bytes, verdict: bool | None, word: str) -> None:
    log = Numbered(disk, "clean")
    log.write(log.block + at, data)
    assert (log.proof().verdict, word in log.proof().detail) == (verdict, True), log.proof()


def test_a_block_that_says_to_end_before_the_checkpoint(disk: Disk) -> None:
    log = Numbered(disk, "clean")
    log.write(log.block + 4, b"\0\x0c")
    log.write(log.block + 508, b"\xde\xad\xbe\xef")
    assert log.proof().verdict is False


def test_a_checkpoint_in_front_of_a_block_that_was_never_written(disk: Disk) -> None:
    log = Numbered(disk, "clean")
    end = log.checkpoint // 512 * 512 + 512 + 12
    log.write(512 + 8, struct.pack(">Q", end))
    log.flushed(end)
    assert log.proof().verdict is True
    # The same beyond the end of the last file.
    with log.path.open("r+b") as stream:
        stream.truncate(log.block + 512)
    assert log.proof().verdict is False
    assert "no redo log file reaches" in log.proof().detail


def test_a_redo_log_that_ends_within_a_block(disk: Disk) -> None:
    log = Numbered(disk, "clean")
    with log.path.open("r+b") as stream:
        stream.truncate(log.block + 508)
    assert log.proof().verdict is False


def test_redo_logs_that_cannot_be_read(disk: Disk) -> None:
    (disk.path / "ib_logfile0").write_bytes(b"short")
    assert "too short" in disk.verdicts()["redo_log"].detail
    (disk.path / "ib_logfile0").write_bytes(b"Phys" + bytes(4096))
    assert "too short" in disk.verdicts()["redo_log"].detail
    (disk.path / "#innodb_redo").mkdir()
    (disk.path / "#innodb_redo" / "#ib_redo8_tmp").write_bytes(b"")
    proof = disk.verdicts()["redo_log"]
    assert proof.verdict is None and "no redo log" in proof.detail


FIRST = 12288


def _group(records: bytes, lsn: int, capacity: int, crc_of: bytes | None = None) -> bytes:
    turn = (lsn + len(records) - FIRST) // capacity & 1
    return records + bytes([1 - turn]) + struct.pack(">I", _redo_log._crc32c(records if crc_of is None else crc_of))


def _mariadb_log(
    checkpoint: int, after: bytes = b"", *, capacity: int = 40960, end: int | None = None, own: bytes | None = None
) -> bytes:
    """A redo log as MariaDB 10.8 and later lay it out, with ``after`` behind the record of the checkpoint."""
    head = bytearray(FIRST)
    head[:4] = b"Phys"
    struct.pack_into(">Q", head, 8, FIRST)
    struct.pack_into(">QQ", head, 4096, checkpoint - 100, checkpoint - 100)
    struct.pack_into(">QQ", head, 8192, checkpoint, checkpoint if end is None else end)
    body = bytearray(capacity)
    record = b"\xfa\0\0" + struct.pack(">Q", checkpoint)
    content = (_group(record, checkpoint, capacity) if own is None else own) + after
    for index, byte in enumerate(content):
        body[(checkpoint - FIRST + index) % capacity] = byte
    return bytes(head + body)


def _next(checkpoint: int, records: bytes, capacity: int = 40960, crc_of: bytes | None = None) -> bytes:
    return _group(records, checkpoint + 16, capacity, crc_of)


C = 20000
WRAPPED = FIRST + 40960 * 2 - 10


@pytest.mark.parametrize(
    ("content", "verdict", "word"),
    [
        (_mariadb_log(C), True, f"ends at {C + 16}"),
        (_mariadb_log(C, end=C + 5), False, "log up to"),
        (_mariadb_log(C, own=bytes(16)), False, "no valid record"),
        (_mariadb_log(C, _next(C, b"\x33abc")), False, "goes on"),
        (_mariadb_log(C, _next(C, b"\x33abc\x32xy")), False, "goes on"),
        (_mariadb_log(C, _next(C, b"\x33abc", crc_of=b"other")), True, "ends at"),
        (_mariadb_log(C, b"\x33abc\0" + struct.pack(">I", _redo_log._crc32c(b"\x33abc"))), True, "ends at"),
        # Longer records have their length in further bytes: 15 and so many more.
        (_mariadb_log(C, _next(C, b"\x30\x02" + bytes(16))), False, "goes on"),
        (_mariadb_log(C, _next(C, b"\x30\x80\x00" + bytes(15 + 0x80 - 2))), False, "goes on"),
        (_mariadb_log(C, _next(C, b"\x30\xc0\x00\x00" + bytes(15 + 0x4080 - 3))), False, "goes on"),
        # Rubbish that claims to be longer than the file is no record.
        (_mariadb_log(C, b"\x30\xe0\x00\x00\x00" + bytes(40)), True, "ends at"),
        # Round the end of the file.
        (_mariadb_log(WRAPPED), True, f"ends at {WRAPPED + 16}"),
        (_mariadb_log(WRAPPED, _next(WRAPPED, b"\x33abc")), False, "goes on"),
        (_mariadb_log(WRAPPED - 30, _next(WRAPPED - 30, b"\x3fabcdefghijklmno")), False, "goes on"),
        (b"\xd0" + _mariadb_log(C)[1:], None, "encrypted"),
    ],
)
def test_mariadb_redo_log_behind_its_checkpoint(disk: Disk, content: bytes, verdict: bool | None, word: str) -> None:
    (disk.path / "ib_logfile0").write_bytes(content)
    proof = disk.verdicts("mariadb", (10, 11, 0))["redo_log"]
    assert proof.verdict is verdict, proof.detail
    assert word in proof.detail


def test_crc32c_is_the_known_one() -> None:
    assert _redo_log._crc32c(b"123456789") == 0xE3069283


@pytest.mark.parametrize(
    ("verdicts", "clean"),
    [
        ({"process": True, "lock": True, "redo_log": True}, True),
        ({"process": True, "lock": True, "error_log": True, "redo_log": None}, True),
        ({"process": True, "lock": True, "temporary_tablespace": True}, True),
        ({"process": True, "lock": True, "binary_log": True}, False),
        ({"process": True, "lock": None, "redo_log": True}, False),
        ({"process": None, "lock": True, "redo_log": True}, False),
        ({"process": True, "redo_log": True}, False),
        ({"process": True, "lock": True, "redo_log": True, "pid_file": False}, False),
    ],
)
def test_what_makes_a_stop_clean(verdicts: dict[str, bool | None], clean: bool) -> None:
    stop = CleanStop(tuple(Proof(name, verdict, "") for name, verdict in verdicts.items()))
    assert stop.clean is clean
    assert (stop.summary == "clean") is clean
