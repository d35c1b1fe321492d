# Copyright (c) 2026, mysql_ops contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The archive step against a real ledger, a real list and real trees: what it makes, refuses and leaves behind."""

from __future__ import annotations

import contextlib
import json
import os
import resource
import shutil
import signal
import subprocess
import typing as t
from dataclasses import replace
from pathlib import Path

import jsonschema
import pytest

from ansible_collections.mysql_ops.replica_backup.plugins.module_utils import _filelist, _ledger
from ansible_collections.mysql_ops.replica_backup.plugins.module_utils._archive import (
    compress,
    guard,
    job,
    manifest,
    pythonzstd,
)
from ansible_collections.mysql_ops.replica_backup.plugins.module_utils._archive.records import FileRecord
from ansible_collections.mysql_ops.replica_backup.plugins.module_utils._archive.writer import Watch
from ansible_collections.mysql_ops.replica_backup.plugins.module_utils._errors import RefusedError, ReplicaBackupError
from ansible_collections.mysql_ops.replica_backup.plugins.module_utils._places import Discovery
from ansible_collections.mysql_ops.replica_backup.tests.unit.plugins.module_utils._archive.archive_support import (
    State,
    look,
)
from ansible_collections.mysql_ops.replica_backup.tests.unit.plugins.module_utils._archive.set_support import (
    HOST,
    Site,
    discovery,
    write_list,
)

SCHEMA = json.loads((Path(__file__).parents[5] / "docs" / "manifest.schema.json").read_text())
root_only = pytest.mark.skipif(os.geteuid() != 0, reason="mounts a file system")


def read_manifest(site: Site) -> dict[str, t.Any]:
    value = json.loads(Path(site.paths.manifest).read_text())
    jsonschema.validate(value, SCHEMA)
    return t.cast("dict[str, t.Any]", value)


PART_NAMES = {
    ("tar", "none"): "data.tar",
    ("tar", "zstd"): "data.tar.zst",
    ("tar", "gzip"): "data.tar.gz",
    ("zip", "zstd"): "data.zip",
    ("copy", "zstd"): "data",
}


@pytest.mark.parametrize(("form", "compression"), PART_NAMES)
def test_a_set_is_made_in_two_steps(site: Site, form: str, compression: str) -> None:
    request = site.request(form=form, compression=compression)
    captured = job.capture(request)
    assert captured.changed and captured.manifest is None
    assert not os.path.exists(site.paths.manifest)
    assert site.ledger().step == "capture"
    name = PART_NAMES[form, compression]
    assert [part["name"] for part in captured.parts] == [name]

    again = job.capture(request)
    assert not again.changed and again.parts == captured.parts

    ledger = site.ledger()
    ledger.data["downtime_seconds"] = 1.5
    ledger.begin("serving")
    ledger.end("serving")
    extra = {"fetch": {"start": "2026-01-01T00:00:00Z", "end": "2026-01-01T00:00:01Z"}}
    published = job.publish(replace(request, times=extra))
    assert published.changed and published.manifest is not None
    value = read_manifest(site)
    assert set(value) == {*manifest.HEAD_KEYS, *manifest.OPTIONAL_KEYS, "files"}
    assert (value["capture"]["kind"], value["capture"]["means"]) == ("cold", [])
    assert value["capture"]["seconds"] > 0
    assert value["times"]["downtime_seconds"] == 1.5
    assert {"stopped", "capture", "serving", "fetch", "proof"} <= set(value["times"])
    assert value["warnings"] == ["lag was unknown", "a table is discarded"]
    assert value["places"] == [{"name": "datadir", "path": str(site.tree)}]
    assert value["server"]["version"] == "10.11.6" and value["server"]["settings"] == {"innodb_page_size": "16384"}
    assert "hunter2" not in json.dumps(value) and "--secret" not in json.dumps(value)
    assert value["channels"] == [{"name": "", "source_host": "db0", "source_log_pos": 4}]
    assert len(value["files"]) == published.files == len(look(site.tree))
    assert sorted(os.listdir(site.paths.directory)) == sorted(["SHA256SUMS", "manifest.json", name])

    private(site.paths.directory)
    once_more = job.publish(request)
    assert not once_more.changed
    assert once_more.manifest == published.manifest and once_more.bytes == published.bytes


def private(directory: str) -> None:
    """Nobody else may read the set; a copy keeps the owners' modes below its own closed directory."""
    assert os.stat(directory).st_mode & 0o777 == 0o700
    for name in os.listdir(directory):
        path = os.path.join(directory, name)
        assert os.stat(path).st_mode & 0o777 == (0o700 if os.path.isdir(path) else 0o600), name


def test_the_manifest_describes_each_file(site: Site) -> None:
    job.present(site.request())
    files = {FileRecord.from_dict(value).name: FileRecord.from_dict(value) for value in read_manifest(site)["files"]}
    seen: dict[str, State] = look(site.tree)
    for name, state in seen.items():
        record = files["datadir" if name == "." else f"datadir/{name}"]
        assert (record.type, record.mtime_ns) == (state.kind, state.mtime_ns)
        assert (record.uid, record.gid) == state.owner
        assert record.mode == state.mode
        if state.kind == "file":
            assert f"{record.size} {record.sha256}" == state.content
        assert record.link == (f"datadir/{state.same_as}" if state.same_as else None)
        assert record.target == (state.content if state.kind == "symlink" else None)
    assert [record.to_line() for record in manifest.read(site.paths.manifest)[1]] == [
        record.to_line() for record in files.values()
    ]


def test_present_does_both_and_refuses_the_same_id_again(site: Site) -> None:
    assert job.present(site.request(compression="zstd")).changed
    with pytest.raises(RefusedError, match="backup id exists already"):
        job.present(site.request())
    with pytest.raises(RefusedError, match="backup id exists already"):
        job.capture(site.request())


def test_a_capture_of_another_kind_is_refused(site: Site) -> None:
    job.capture(site.request())
    with pytest.raises(RefusedError, match="captured already in another way"):
        job.capture(site.request(form="zip"))


def test_leftovers_of_a_killed_run_are_replaced(site: Site) -> None:
    for name in ("data.tar.partial", "SHA256SUMS", "manifest.json.partial", ".work/files.jsonl.partial"):
        Path(site.paths.directory, name).write_text("junk")
    Path(site.paths.directory, "data").mkdir()
    job.present(site.request())
    assert site.left() == ["SHA256SUMS", "data.tar", "manifest.json"]


# --- refusals: nothing touched -------------------------------------------------------------------------------------


def set_ledger(site: Site, **values: t.Any) -> None:
    ledger = site.ledger()
    ledger.data.update(values)
    ledger.save()


@contextlib.contextmanager
def server_process(tree: Path, scratch: Path) -> t.Iterator[int]:
    """A process that looks like a server on the tree: named mariadbd and working there."""
    program = scratch / "mariadbd"
    shutil.copy("/bin/sleep", program)
    process = subprocess.Popen([str(program), "60"], cwd=tree)
    try:
        yield process.pid
    finally:
        process.kill()
        process.wait()


REFUSALS: dict[str, tuple[t.Callable[[Site], object], str]] = {
    "no ledger": (lambda site: os.unlink(_ledger.ledger_path(str(site.state))), "No server has been stopped"),
    "another backup": (lambda site: set_ledger(site, backup_id="20250101T000000Z"), "No server has been stopped"),
    "another host": (lambda site: set_ledger(site, host="db9"), "No server has been stopped"),
    "server started": (lambda site: set_ledger(site, step="serving"), "step serving"),
    "stop not clean": (lambda site: set_ledger(site, clean_stop={"clean": False}), "not proven clean"),
    "stop not proven": (lambda site: set_ledger(site, clean_stop=None), "not proven clean"),
    "dead-man": (lambda site: (site.state / "deadman.fired").write_text('{"fired": "now"}'), "dead-man"),
    "no list": (lambda site: os.unlink(site.paths.discovered), "file list cannot be read"),
    "list damaged": (lambda site: Path(site.paths.discovered).write_text("{}"), "damaged"),
    "required file": (lambda site: set_ledger(site, required_files=[str(site.tree / "gone.ibd")]), "not complete"),
}


@pytest.mark.parametrize("case", REFUSALS)
def test_refused(site: Site, case: str) -> None:
    prepare, message = REFUSALS[case]
    prepare(site)
    with pytest.raises(ReplicaBackupError, match=message):
        job.capture(site.request())
    assert site.left() == []


def test_a_running_server_is_refused(site: Site, tmp_path: Path) -> None:
    with server_process(site.tree, tmp_path) as pid, pytest.raises(RefusedError, match=f"pid {pid}") as caught:
        job.capture(site.request())
    assert caught.value.facts["rule"] == "server_running"
    assert site.left() == []
    assert site.ledger().step == "stopped"


@pytest.mark.parametrize("which", ["spool_dir", "state_dir"])
def test_spool_and_state_inside_the_datadir_are_refused(site: Site, tmp_path: Path, which: str) -> None:
    moved = site.tree / "inside"
    shutil.move(str(site.spool if which == "spool_dir" else site.state), moved)
    if which == "spool_dir":
        site.spool = moved
    else:
        site.state = moved
    with pytest.raises(RefusedError, match="lies inside a directory that is backed up") as caught:
        job.capture(site.request())
    assert caught.value.facts["rule"] == which


def test_a_link_in_place_of_the_hosts_directory_is_refused(site: Site, tmp_path: Path) -> None:
    shutil.move(str(site.spool / HOST), tmp_path / "elsewhere")
    (site.spool / HOST).symlink_to(tmp_path / "elsewhere")
    for call in (job.capture, job.publish, job.remove):
        with pytest.raises(RefusedError, match="not a directory of ours"):
            call(site.request())


def test_a_missing_tool_names_package_and_variable(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "/nonexistent")
    monkeypatch.setattr(compress, "_SEARCH", "/nonexistent")
    monkeypatch.setattr(pythonzstd, "_is_there", lambda: False)
    for call in (job.capture, lambda request: job.plan(request, "captured")):
        with pytest.raises(RefusedError, match="package zstd") as caught:
            call(site.request(compression="zstd"))
        assert "replica_backup_compression" in str(caught.value)
    assert site.left() == []


def test_an_unknown_format_is_refused(site: Site) -> None:
    for call in (job.capture, job.present):
        with pytest.raises(RefusedError, match="Unknown archive format"):
            call(site.request(form="rar"))


def test_publishing_needs_a_capture(site: Site) -> None:
    for call in (job.publish, lambda request: job.plan(request, "published")):
        with pytest.raises(RefusedError, match="nothing to publish"):
            call(site.request())
    Path(site.paths.head).write_text("{")
    with pytest.raises(ReplicaBackupError, match="cannot be read"):
        job.publish(site.request())


# --- check mode ----------------------------------------------------------------------------------------------------


def test_check_mode_changes_nothing(site: Site) -> None:
    before = look(site.spool)
    request = site.request()
    assert job.plan(request, "captured").changed
    assert job.plan(request, "present").changed
    assert job.plan(request, "absent").changed
    assert look(site.spool) == before
    job.capture(request)
    before = look(site.spool)
    assert not job.plan(request, "captured").changed
    assert job.plan(request, "published").changed
    assert look(site.spool) == before
    job.publish(request)
    assert not job.plan(request, "published").changed
    with pytest.raises(RefusedError, match="exists already"):
        job.plan(request, "captured")
    job.remove(request)
    assert not job.plan(request, "absent").changed


# --- what happens while the files are read -------------------------------------------------------------------------


def during(monkeypatch: pytest.MonkeyPatch, at: str, what: t.Callable[[], t.Any]) -> None:
    """Do something right before the entry of that name is archived; with "", after the last one."""
    retake = _filelist.retake

    def disturbed(plan: Discovery) -> t.Iterator[_filelist.Entry]:
        for entry in retake(plan):
            if entry.path == at:
                what()
            yield entry
        if not at:
            what()

    monkeypatch.setattr(_filelist, "retake", disturbed)
    monkeypatch.setattr(guard, "Watch", lambda check: Watch(check, 0.0))


def rewrite(path: Path) -> None:
    """Change the bytes, put the time back: only the ctime tells."""
    status = path.stat()
    path.write_bytes(os.urandom(status.st_size))
    os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns))


def exchange(path: Path) -> None:
    other = path.with_name("other")
    shutil.copy2(path, other)
    os.replace(other, path)


def replaced(name: str, make: t.Callable[[Path], object]) -> t.Callable[[Path], None]:
    """Removes a name and makes something else of it."""

    def act(tree: Path) -> None:
        (tree / name).unlink()
        make(tree / name)

    return act


def linked_directory(tree: Path) -> None:
    (tree / "db").rename(tree / "db2")
    (tree / "db").symlink_to("db2")


def came_and_went(tree: Path) -> None:
    (tree / "x.pid").touch()
    (tree / "x.pid").unlink()


CHANGES: dict[str, tuple[str, t.Callable[[Path], object], str]] = {
    "vanishes": ("ibdata1", lambda tree: (tree / "ibdata1").unlink(), "ibdata1 vanished"),
    "grows": ("ibdata1", lambda tree: (tree / "ibdata1").open("ab").write(b"x"), r"ibdata1 changed .*\(size\)"),
    "is touched": ("ibdata1", lambda tree: os.utime(tree / "ibdata1"), r"ibdata1 changed .*\(mtime_ns\)"),
    "becomes a link": (
        "ibdata1",
        replaced("ibdata1", lambda path: path.symlink_to("/etc/passwd")),
        "ibdata1 cannot be read",
    ),
    "becomes a directory": (
        "ibdata1",
        replaced("ibdata1", lambda path: path.mkdir()),
        r"ibdata1 changed .*\(type\)",
    ),
    "link changes": (
        "link",
        replaced("link", lambda path: path.symlink_to("empty")),
        r"link changed .*\((target|mtime_ns)\)",
    ),
    "directory becomes a link": (
        "db/t1.ibd",
        linked_directory,
        "cannot be read",
    ),
    "directory vanishes": ("db/t1.ibd", lambda tree: shutil.rmtree(tree / "db"), "vanished"),
    "written behind our back": ("", lambda tree: rewrite(tree / "ibdata1"), r"ibdata1 changed .*\(ctime_ns\)"),
    "exchanged behind our back": (
        "",
        lambda tree: exchange(tree / "ibdata1"),
        "changed while it was archived",
    ),
    "new name": ("", lambda tree: (tree / "db" / "zzz").touch(), "zzz appeared|db changed"),
    "name gone": ("", lambda tree: (tree / "sparse.ibd").unlink(), "sparse.ibd vanished|changed"),
    "server came and went": (
        "",
        came_and_went,
        r"mysql changed .*\(mtime_ns\)",
    ),
}


@pytest.mark.parametrize("case", CHANGES)
def test_a_change_meanwhile_fails_with_the_name(site: Site, monkeypatch: pytest.MonkeyPatch, case: str) -> None:
    at, act, message = CHANGES[case]
    during(monkeypatch, at, lambda: act(site.tree))
    with pytest.raises(ReplicaBackupError, match=message) as caught:
        job.capture(site.request(compression="zstd"))
    assert not isinstance(caught.value, RefusedError)
    assert caught.value.server_state is not None
    assert site.left() == []


@pytest.mark.parametrize("form", ["tar", "zip", "copy"])
def test_the_dead_man_ends_the_capture(site: Site, monkeypatch: pytest.MonkeyPatch, form: str) -> None:
    during(monkeypatch, "link", lambda: (site.state / "deadman.fired").write_text('{"fired": "now"}'))
    with pytest.raises(ReplicaBackupError, match="dead-man has started the server"):
        job.capture(site.request(form=form))
    assert site.left() == []


def test_a_server_that_comes_up_ends_the_capture(site: Site, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    with contextlib.ExitStack() as stack:
        during(monkeypatch, "link", lambda: stack.enter_context(server_process(site.tree, tmp_path)))
        with pytest.raises(ReplicaBackupError, match="is running"):
            job.capture(site.request())
    assert site.left() == []


def children() -> list[int]:
    me = os.getpid()
    return [int(pid) for pid in Path(f"/proc/{me}/task/{me}/children").read_text().split()]


def test_a_killed_compressor_is_named(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    def kill() -> None:
        for pid in children():
            os.kill(pid, signal.SIGKILL)

    during(monkeypatch, "ibdata1", kill)
    with pytest.raises(ReplicaBackupError, match=r"zstd was killed by signal 9 \(SIGKILL\)") as caught:
        job.capture(site.request(compression="zstd"))
    assert caught.value.facts["exit_code"] == -9
    assert site.left() == []


@pytest.mark.parametrize("stage", ["pack", "unpack"])
def test_a_failing_compressor_is_quoted(
    site: Site, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, stage: str
) -> None:
    if stage == "unpack":
        job.capture(site.request(compression="zstd"))
    tools = tmp_path / "tools"
    tools.mkdir()
    fake = tools / "zstd"
    fake.write_text("#!/bin/sh\nhead -c 100000 >/dev/null\necho 'no more memory' >&2\nexit 7\n")
    fake.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tools}:{os.environ['PATH']}")
    with pytest.raises(ReplicaBackupError, match=r"zstd ended with exit code 7 .* no more memory") as caught:
        (job.capture if stage == "pack" else job.publish)(site.request(compression="zstd"))
    assert caught.value.facts["tool"] == "zstd"
    assert not os.path.exists(site.paths.manifest)


# --- the disk ------------------------------------------------------------------------------------------------------


@contextlib.contextmanager
def mounted(target: Path, options: str) -> t.Iterator[None]:
    subprocess.run(["mount", "-t", "tmpfs", "-o", options, "none", str(target)], check=True)
    try:
        yield
    finally:
        subprocess.run(["umount", str(target)], check=True)


@root_only
@pytest.mark.parametrize(("form", "compression"), [("tar", "none"), ("tar", "zstd"), ("zip", "none"), ("copy", "none")])
def test_a_full_disk(site: Site, tmp_path: Path, form: str, compression: str) -> None:
    small = tmp_path / "small"
    small.mkdir()
    (site.tree / "random").write_bytes(os.urandom(4 << 20))
    with mounted(small, "size=2m,mode=0700"):
        site.spool = small
        write_list(site, discovery(site.tree))
        with pytest.raises(ReplicaBackupError, match="file system is full") as caught:
            job.capture(site.request(form=form, compression=compression))
        assert caught.value.facts["errno"] == "ENOSPC"
        assert isinstance(caught.value.facts["free_bytes"], int)
        assert "stopped" in (caught.value.server_state or "")
        assert site.left() == []


@root_only
def test_a_read_only_spool(site: Site, tmp_path: Path) -> None:
    small = tmp_path / "small"
    small.mkdir()
    with mounted(small, "size=2m,mode=0700"):
        site.spool = small
        write_list(site, discovery(site.tree))
        subprocess.run(["mount", "-o", "remount,ro", str(small)], check=True)
        with pytest.raises(ReplicaBackupError, match="read-only file system"):
            job.capture(site.request())


def test_a_limit_on_the_file_size(site: Site) -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    (site.tree / "random").write_bytes(os.urandom(4 << 20))
    resource.setrlimit(resource.RLIMIT_FSIZE, (1 << 20, hard))
    try:
        with pytest.raises(ReplicaBackupError, match="may not grow further") as caught:
            job.capture(site.request(compression="zstd"))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert caught.value.facts["errno"] == "EFBIG"
    assert site.left() == []


# --- the proof -----------------------------------------------------------------------------------------------------


def flip(path: Path, position: int) -> None:
    with open(path, "r+b") as stream:
        stream.seek(position, os.SEEK_END if position < 0 else os.SEEK_SET)
        byte = stream.read(1)
        stream.seek(-1, os.SEEK_CUR)
        stream.write(bytes([byte[0] ^ 0x10]))


def damage_list(path: Path) -> None:
    records = Path(path.parent, ".work", "files.jsonl")
    lines = records.read_bytes().splitlines(keepends=True)
    records.write_bytes(b"".join(lines[:-1]))


def more_files(path: Path) -> None:
    records = Path(path.parent, ".work", "files.jsonl")
    lines = records.read_bytes().splitlines(keepends=True)
    records.write_bytes(b"".join([*lines, lines[-1]]))


DAMAGE: dict[str, tuple[str, str, t.Callable[[Path], t.Any], str]] = {
    "flipped data": ("tar", "none", lambda path: flip(path, 150_000), "SHA-256"),
    "flipped header": ("tar", "none", lambda path: flip(path, 520), "header|not what was written|damaged"),
    "flipped padding": ("tar", "none", lambda path: flip(path, -5), "data after its end"),
    "cut": ("tar", "none", lambda path: os.truncate(path, 200_000), "ends in the middle"),
    "zstd flipped": ("tar", "zstd", lambda path: flip(path, 100_000), "zstd ended with exit code 1|SHA-256"),
    "zstd cut": ("tar", "zstd", lambda path: os.truncate(path, 100_000), "zstd ended with exit code 1"),
    "zip flipped": ("zip", "none", lambda path: flip(path, 200_000), "CRC|damaged|SHA-256"),
    "zip cut": ("zip", "none", lambda path: os.truncate(path, 200_000), "damaged"),
    "copy flipped": ("copy", "none", lambda path: flip(path / "datadir/ibdata1", 150_000), "mtime_ns|SHA-256"),
    "copy incomplete": (
        "copy",
        "none",
        lambda path: (path / "datadir/empty").unlink(),
        "missing from the copy|datadir, mtime_ns",
    ),
    "copy with more": ("copy", "none", lambda path: (path / "more").touch(), "copy holds"),
    "part gone": ("tar", "none", lambda path: path.unlink(), "is gone"),
    "list cut": ("tar", "none", damage_list, "additional member"),
    "list too long": ("tar", "none", more_files, "a member is missing"),
}


@pytest.mark.parametrize("case", DAMAGE)
def test_damage_is_found_before_the_manifest(site: Site, case: str) -> None:
    form, compression, act, message = DAMAGE[case]
    request = site.request(form=form, compression=compression)
    captured = job.capture(request)
    act(Path(site.paths.directory, captured.parts[0]["name"]))
    with pytest.raises(ReplicaBackupError, match=message):
        job.publish(request)
    assert not os.path.exists(site.paths.manifest)


def test_the_part_must_be_the_one_that_was_written(site: Site) -> None:
    """Another archive of the same tree has the same members, but it is not ours."""
    request = site.request(compression="zstd")
    name = job.capture(request).parts[0]["name"]
    path = Path(site.paths.directory, name)
    raw = subprocess.run(["zstd", "-dc", str(path)], check=True, capture_output=True).stdout
    path.write_bytes(subprocess.run(["zstd", "-19", "-c"], input=raw, check=True, capture_output=True).stdout)
    with pytest.raises(ReplicaBackupError, match="SHA-256 of the part"):
        job.publish(request)


# --- removal -------------------------------------------------------------------------------------------------------


def test_absent_removes_the_set_and_nothing_else(site: Site, tmp_path: Path) -> None:
    job.present(site.request())
    other = site.spool / HOST / "20250101T000000Z"
    other.mkdir()
    outside = tmp_path / "outside"
    outside.mkdir()
    (outside / "keep").touch()
    Path(site.paths.directory, "link").symlink_to(outside)
    assert job.remove(site.request()).changed
    assert not os.path.lexists(site.paths.directory)
    assert other.is_dir() and (outside / "keep").exists()
    assert not job.remove(site.request()).changed
