# Copyright (c) 2026, mysql_ops contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Status files: recorded ones, made-up ones of the generations without a server here, broken ones."""

from __future__ import annotations

import json
import typing as t
from dataclasses import asdict
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ansible_collections.mysql_ops.replica_backup.plugins.module_utils import _status_files as status_files
from ansible_collections.mysql_ops.replica_backup.plugins.module_utils._channel_names import channel_file
from ansible_collections.mysql_ops.replica_backup.plugins.module_utils._errors import ReplicaBackupError
from ansible_collections.mysql_ops.replica_backup.plugins.module_utils._status_files import (
    ApplierInfo,
    ConnectionInfo,
    StatusFileError,
    parse_applier_info,
    parse_connection_info,
    parse_connection_names,
    parse_log_index,
    parse_worker_info,
)

RECORDED: list[dict[str, t.Any]] = json.loads(
    (Path(__file__).parent / "fixtures" / "status_files.json").read_text(encoding="utf-8")
)["files"]
PASSWORD = "not-secret"
Parser = t.Callable[[bytes, str], t.Any]


def recorded(*words: str) -> list[t.Any]:
    found = [item for item in RECORDED if all(word in item["file"] for word in words)]
    return [pytest.param(item, id=f"{item['server']} {item['case']} {item['file']}") for item in found]


def the(server: str, case: str, file: str) -> bytes:
    (found,) = [
        item for item in RECORDED if item["server"].startswith(server) and item["case"] == case and item["file"] == file
    ]
    return t.cast("bytes", found["content"].encode("latin-1"))


# -- what real servers wrote ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("item", recorded("relay-log", ".info"))
def test_applier(item: dict[str, t.Any]) -> None:
    content, status = item["content"].encode("latin-1"), item["status"]
    if item["file"].startswith("worker-"):
        worker = parse_worker_info(content, item["file"])
        assert worker.id == int(item["file"][-1])
        assert len(worker.groups) == 64
        assert worker.groups[worker.checkpoint_sequence // 8] >> worker.checkpoint_sequence % 8 & 1
        assert (worker.source_log_file, worker.source_log_pos) <= (
            status["Relay_Master_Log_File"],
            status["Exec_Master_Log_Pos"],
        )
        return
    found = parse_applier_info(content, item["file"])
    assert (found.source_log_file, found.source_log_pos) == (
        status["Relay_Master_Log_File"],
        status["Exec_Master_Log_Pos"],
    )
    assert (found.relay_log_file.rpartition("/")[2], found.relay_log_pos) == (
        status["Relay_Log_File"],
        status["Relay_Log_Pos"],
    )
    assert found.never_ran == (status["Exec_Master_Log_Pos"] == 0)
    assert found.written_by.split()[0] == item["server"].split()[0]
    assert (found.workers, found.id) == {
        "MySQL": (4 if item["case"] == "workers 4" else 0, 1),
        "MariaDB": (None, None),
    }[item["server"].split()[0]]
    assert found.delay == (7 if item["case"] in ("named", "delay and ignored ids") else 0)


@pytest.mark.parametrize("item", [each for each in recorded("master") if "multi" not in each.values[0]["file"]])
def test_connection(item: dict[str, t.Any]) -> None:
    status = item["status"]
    found = parse_connection_info(item["content"].encode("latin-1"), item["file"])
    assert (found.source_log_file, found.source_log_pos) == (status["Master_Log_File"], status["Read_Master_Log_Pos"])
    assert (found.host, found.user, found.port) == (
        status["Master_Host"],
        status["Master_User"],
        status["Master_Port"],
    )
    family = item["server"].split()[0]
    assert found.written_by.startswith(family) and found.family == family.lower()
    assert PASSWORD not in repr(found) and PASSWORD not in str(asdict(found))
    assert found.heartbeat == 5.0 and found.ssl_verify_server_cert is False
    ignored = (5, 9) if item["case"] in ("named", "delay and ignored ids") else ()
    assert found.ignore_server_ids == ignored
    if family == "MySQL":
        assert found.uuid and found.retry_count == 86400 and found.auto_position is False and found.using_gtid is None
        return
    assert found.auto_position is None and found.further == ()
    assert found.using_gtid == {"named": "No", "domains": "Current_Pos"}.get(item["case"], "Slave_Pos")
    assert found.do_domain_ids == ((3, 4) if item["case"] == "domains" else ())
    assert found.tls_files == (("/tls/ca.pem", "/tls/key.pem") if item["case"] == "named" else ())


def test_named_connections() -> None:
    content = the("MariaDB", "named", "multi-master.info")
    names = parse_connection_names(content, "multi-master.info")
    assert names == ("Ün x", "Domains", "Never")
    files = {item["file"] for item in RECORDED if item["server"].startswith("MariaDB")}
    assert {channel_file(base, name) for base in ("master.info", "relay-log.info") for name in names} <= files
    assert parse_connection_names(the("MariaDB", "workers 0", "multi-master.info"), "multi-master.info") == ()


def test_log_index(tmp_path: Path) -> None:
    (tmp_path / "x.index").write_bytes(b"./x.000001\n/a b/\xff.000002\n")
    assert status_files.read(parse_log_index, f"{tmp_path}/x.index") == ("./x.000001", "/a b/\udcff.000002")


# -- generations without a server here, written from the manual ------------------------------------------------------

names = st.text("ab01./@-=é日 \r'\"\t", max_size=9)
logs = names.filter(lambda name: not name.isdigit())
numbers = st.integers(min_value=0, max_value=2**63 - 1)
flags = st.booleans()
tails = st.binary(max_size=40)
cuts = st.integers(0, 10**6)
# The machine may be busy: a slow example is no failure.
quick = settings(deadline=None, max_examples=60)

APPLIER: tuple[tuple[str, st.SearchStrategy[t.Any]], ...] = (
    ("relay_log_file", logs),
    ("relay_log_pos", numbers),
    ("source_log_file", names),
    ("source_log_pos", numbers),
    ("delay", numbers),
    ("workers", numbers),
    ("id", numbers),
    ("channel", names),
    ("privilege_checks_user", names),
    ("privilege_checks_host", names),
    ("require_row_format", flags),
    ("require_table_primary_key_check", names),
    ("assign_gtids_type", names),
    ("assign_gtids_value", names),
)
CONNECTION: tuple[tuple[str, st.SearchStrategy[t.Any]], ...] = (
    ("source_log_file", logs),
    ("source_log_pos", numbers),
    ("host", names),
    ("user", names),
    ("password", names.map(lambda name: f"SECRET{name}")),
    ("port", numbers),
    ("connect_retry", numbers),
    ("ssl", flags),
    ("ssl_ca", names),
    ("ssl_capath", names),
    ("ssl_cert", names),
    ("ssl_cipher", names),
    ("ssl_key", names),
    ("ssl_verify_server_cert", flags),
    ("heartbeat", st.integers(0, 10**6).map(lambda number: number / 1000)),
    ("bind", names),
    ("ignore_server_ids", st.lists(numbers, max_size=3).map(tuple)),
    ("uuid", names),
    ("retry_count", numbers),
    ("ssl_crl", names),
    ("ssl_crlpath", names),
    ("auto_position", flags),
    ("channel", names),
    ("tls_version", names),
    ("public_key_path", names),
    ("get_public_key", flags),
    ("network_namespace", names),
    ("compression_algorithm", names),
    ("zstd_level", numbers),
    ("tls_ciphersuites", names),
    ("failover", flags),
    ("gtid_only", flags),
)


def line(value: t.Any) -> str:
    if isinstance(value, bool):
        return str(int(value))
    if isinstance(value, float):
        return f"{value:.3f}"
    if isinstance(value, tuple):
        return " ".join(map(str, (len(value), *value)))
    return str(value)


def lines(*values: t.Any) -> bytes:
    return "".join(f"{line(value)}\n" for value in values).encode()


def values_of(layout: tuple[tuple[str, st.SearchStrategy[t.Any]], ...]) -> st.SearchStrategy[dict[str, t.Any]]:
    held, strategies = zip(*layout, strict=True)
    return st.tuples(*strategies).map(lambda values: dict(zip(held, values, strict=True)))


@quick
@given(values_of(APPLIER), st.sampled_from([None, *range(5, 20)]), tails, cuts)
def test_every_generation_of_the_applier(values: dict[str, t.Any], count: int | None, tail: bytes, cut: int) -> None:
    held = list(values.items())[: count or 4]
    content = lines(*([] if count is None else [count]), *(value for _name, value in held))
    # A generation to come: more lines than are known here.
    content += b"new\n" * max(0, (count or 0) - len(APPLIER))
    assert parse_applier_info(content + tail, "f") == ApplierInfo(lines=count, **dict(held))
    with pytest.raises(StatusFileError):
        parse_applier_info(content[: cut % len(content)], "f")


@quick
@given(values_of(CONNECTION), st.sampled_from([None, *range(14, 40)]), tails)
def test_every_generation_of_the_connection(values: dict[str, t.Any], count: int | None, tail: bytes) -> None:
    held = list(values.items())[: 7 if count is None else count - 1]
    content = lines(*([] if count is None else [count]), *(value for _name, value in held))
    content += b"new\n" * max(0, (count or 0) - 1 - len(CONNECTION))
    found = parse_connection_info(content + tail, "f")
    expected = {name: value for name, value in held if name != "password"}
    assert found == ConnectionInfo(lines=count, **expected)
    assert found.family == "mysql"
    assert "SECRET" not in repr(found)


GTID = {0: "No", 1: "Current_Pos", 2: "Slave_Pos"}


@quick
@given(
    values_of(CONNECTION),
    st.sampled_from(sorted(GTID)),
    st.lists(st.lists(numbers, max_size=3).map(tuple), min_size=2, max_size=2),
    st.lists(st.sampled_from(["new_one", "another"]), max_size=2),
    tails,
    cuts,
)
def test_connections_of_mariadb(
    values: dict[str, t.Any], using: int, domains: list[tuple[int, ...]], further: list[str], tail: bytes, cut: int
) -> None:
    held = {**dict(list(values.items())[:21]), "uuid": ""}
    named = [f"using_gtid={using}", f"do_domain_ids={line(domains[0])}", f"ignore_domain_ids={line(domains[1])}"]
    content = lines(33, *held.values(), *[""] * 11, *named, *(f"{name}=SECRET" for name in further), "END_MARKER")
    found = parse_connection_info(content + tail, "f")
    del held["password"]
    assert found == ConnectionInfo(
        lines=33,
        **held,
        using_gtid=GTID[using],
        do_domain_ids=domains[0],
        ignore_domain_ids=domains[1],
        further=tuple(further),
    )
    assert "SECRET" not in repr(found)
    with pytest.raises(StatusFileError):
        parse_connection_info(content[: cut % len(content)], "f")


@pytest.mark.parametrize(
    ("count", "writer"),
    [(None, "5.5"), (5, "MariaDB 10"), (7, "5.6"), (8, "5.7"), (14, "8.0.23"), (15, "not known"), (6, "not known")],
)
def test_who_wrote_it(count: int | None, writer: str) -> None:
    assert writer in ApplierInfo(count, "r", 4, "s", 4).written_by
    assert "5.7" in ConnectionInfo(25, "s", 4, "h", "u", 1, 1).written_by
    assert "4.0" in ConnectionInfo(None, "s", 4, "h", "u", 1, 1).written_by
    assert "not known" in ConnectionInfo(34, "s", 4, "h", "u", 1, 1).written_by


# -- broken files ---------------------------------------------------------------------------------------------------

PARSERS: tuple[Parser, ...] = (
    parse_applier_info,
    parse_connection_info,
    parse_worker_info,
    parse_log_index,
    parse_connection_names,
)


@pytest.mark.parametrize("parse", PARSERS)
@quick
@given(data=st.data())
def test_any_bytes_give_a_value_or_the_documented_error(parse: Parser, data: st.DataObject) -> None:
    whole = st.binary(max_size=200)
    pieces = st.lists(
        st.sampled_from(
            [b"7", b"5", b"33", b"23", b"", b"4", b"x.000001", b"0", b"1.5", b"END_MARKER", b"using_gtid=2"]
        ),
        max_size=45,
    ).map(lambda words: b"\n".join(words) + b"\n")
    # A real file with a few bytes changed comes closest to what a damaged disk gives.
    originals = st.sampled_from([item["content"].encode("latin-1") for item in RECORDED])
    changed = st.builds(
        lambda original, place, put, cut: (
            original[: place % (len(original) + 1)] + put + original[place % (len(original) + 1) + cut :]
        ),
        originals,
        st.integers(0, 4000),
        st.binary(max_size=4),
        st.integers(0, 9),
    )
    content = data.draw(st.one_of(whole, pieces, changed))
    try:
        parse(content, "the/file")
    except StatusFileError as error:
        assert error.path == "the/file" and error.line >= 1
        assert f"the/file, line {error.line}," in str(error) and "Expected: " in str(error)
        assert PASSWORD not in str(error) and PASSWORD not in repr(error)


GOOD = b"7\n./r.000002\n1025\nm.000001\n865\n0\n2\n1\n"


@pytest.mark.parametrize(
    ("parse", "content", "number", "found", "expected"),
    [
        (parse_applier_info, b"", 1, "the file ends before it", "number of lines"),
        (parse_applier_info, b"4\nr\n4\ns\n4\n", 1, "4", "at least 5"),
        (parse_applier_info, GOOD[:-2], 8, "the file ends before it", "the repository's number"),
        (parse_applier_info, GOOD[:-1], 8, "cut off", "the repository's number"),
        (parse_applier_info, GOOD.replace(b"865", b"-5"), 5, "2 bytes that are no whole number", "position in the sou"),
        (parse_applier_info, GOOD.replace(b"865", b"9" * 20), 5, "20 bytes", "whole number"),
        (parse_applier_info, GOOD.replace(b"m.0", b"m\0."), 4, "a NUL byte", "binary log"),
        (parse_applier_info, b"11" + GOOD[1:] + b"\na\nb\n2\n", 12, "2", "0 or 1"),
        (parse_applier_info, b"16" + GOOD[1:] + b"\na\nb\n1\nc\nd\ne\nf\n", 17, "ends before it", "16 follow it"),
        (parse_connection_info, b"13\n", 1, "13", "at least 14"),
        (parse_connection_info, b"14\nb.1\n4\nh\nu\nhush\nport\n", 7, "4 bytes that are no whole number", "port"),
        (parse_log_index, b"a\n\nb\n", 2, "an empty line", "the name of a log"),
        (parse_log_index, b"a\nb", 2, "cut off", "the name of a log"),
        (parse_connection_names, b"a\n\0\n", 2, "a NUL byte", "the name of a connection"),
        (parse_worker_info, b"1\n\n0\n\n0\n\n0\n\n0\n0\n64\n\0\0\0", 12, "3 bytes", "64 bytes"),
    ],
)
def test_broken_files_say_where(parse: Parser, content: bytes, number: int, found: str, expected: str) -> None:
    with pytest.raises(StatusFileError) as caught:
        parse(content, "/d/odd\nname")
    error = caught.value
    assert isinstance(error, ReplicaBackupError)
    assert error.line == number == error.facts["line"]
    assert found in str(error.found) and expected in str(error.expected)
    assert "/d/odd\\nname, line" in error.message
    assert "hush" not in str(error)


@pytest.mark.parametrize(
    ("old", "new", "expected"),
    [
        ("using_gtid=2", "using_gtid=3", "using_gtid=0, 1 or 2"),
        ("using_gtid=2", "a setting", "a setting name=value"),
        ("do_domain_ids=0", "do_domain_ids=2 3", "a count and as many ids"),
        ("do_domain_ids=0", "do_domain_ids=x", "a count and as many ids"),
        ("END_MARKER", "END", "END_MARKER"),
        ("5.000", "soon", "the heartbeat"),
    ],
)
def test_broken_settings_of_mariadb(old: str, new: str, expected: str) -> None:
    content = the("MariaDB", "workers 0", "master.info").replace(old.encode(), new.encode())
    with pytest.raises(StatusFileError) as caught:
        parse_connection_info(content, "master.info")
    assert expected in str(caught.value.expected)
