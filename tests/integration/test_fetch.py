# Copyright (c) 2026, mysql_ops contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""replica_fetch over a real ssh, logged in as an ordinary user who may become root."""

from __future__ import annotations

import hashlib
import json
import os
import pwd
import resource
import shutil
import subprocess
import sys
import tempfile
import typing as t
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from ansible_collections.mysql_ops.replica_backup.tests.lab import processes
from ansible_collections.mysql_ops.replica_backup.tests.lab.fleet import Fleet
from ansible_collections.mysql_ops.replica_backup.tests.lab.local import free_port
from ansible_collections.mysql_ops.replica_backup.tests.lab.playbook import Run, run_playbook, write_inventory

# Its own in every process: other tests with such a user may run beside these.
USER_PREFIX = "rb-fetch-"
USER = f"{USER_PREFIX}{os.getpid()}"
BACKUP_ID = "20260101T000000Z"
SUDOERS = Path("/etc/sudoers.d") / USER
MIB = 1024 * 1024

pytestmark = pytest.mark.skipif(
    os.geteuid() != 0 or not Path("/usr/sbin/sshd").exists() or shutil.which("sudo") is None,
    reason="makes a user and an ssh server of its own: needs root, openssh-server and sudo",
)

PLAYBOOK = """
- hosts: all
  gather_facts: false
  tasks:
    - name: Fetch
      mysql_ops.replica_backup.replica_fetch:
        spool_dir: "{{ spool }}"
        state_dir: "{{ state }}"
        host: db1
        backup_id: 20260101T000000Z
        dest: "{{ dest }}"
        publish: "{{ publish | default(false) | bool }}"
      register: fetched
    - name: Keep the result
      ansible.builtin.copy:
        content: "{{ fetched | to_json }}"
        dest: "{{ dest }}.result"
        mode: "0600"
      delegate_to: localhost
      connection: local
      become: false
"""


@dataclass(frozen=True)
class Remote:
    """An ssh server on the loopback, and what the inventory says of it."""

    root: Path
    variables: dict[str, t.Any]

    @property
    def log(self) -> str:
        return (self.root / "sshd.log").read_text()


@pytest.fixture(scope="module")
def remote() -> Iterator[Remote]:
    with tempfile.TemporaryDirectory(dir="/var/tmp", prefix="rb-fetch-") as name:
        root = Path(name)
        root.chmod(0o755)
        _remove_left_over()
        subprocess.run(["useradd", "--create-home", "--password", "*", "--shell", "/bin/sh", USER], check=True)
        SUDOERS.write_text(f"{USER} ALL=(root) NOPASSWD: ALL\n")
        SUDOERS.chmod(0o440)
        for key in ("host", "user"):
            subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", str(root / key)], check=True)
        (root / "authorized").write_text((root / "user.pub").read_text())
        port = free_port()
        (root / "sshd_config").write_text(
            f"Port {port}\nListenAddress 127.0.0.1\nHostKey {root}/host\nAuthorizedKeysFile {root}/authorized\n"
            "StrictModes no\nUsePAM no\nPidFile none\nSubsystem sftp internal-sftp\nLogLevel DEBUG1\n"
        )
        Path("/run/sshd").mkdir(exist_ok=True)
        server = subprocess.Popen(
            ["/usr/sbin/sshd", "-D", "-f", str(root / "sshd_config"), "-E", str(root / "sshd.log")]
        )
        try:
            yield Remote(
                root,
                {
                    "ansible_connection": "ssh",
                    "ansible_host": "127.0.0.1",
                    "ansible_port": port,
                    "ansible_user": USER,
                    "ansible_become": True,
                    "ansible_ssh_private_key_file": str(root / "user"),
                    "ansible_host_key_checking": False,
                    "ansible_control_path_dir": str(root / "cp"),
                    "ansible_python_interpreter": sys.executable,
                    "ansible_remote_tmp": "~/.ansible/tmp",
                    "ansible_async_dir": "~/.ansible_async",
                },
            )
        finally:
            server.terminate()
            server.wait(timeout=30)
            _remove_user(USER)


def _remove_left_over() -> None:
    """Users of processes that were killed, and of one that had this process's number."""
    for user in [found.pw_name for found in pwd.getpwall() if found.pw_name.startswith(USER_PREFIX)]:
        number = user[len(USER_PREFIX) :]
        if user == USER or not (number.isdigit() and processes.is_running(int(number))):
            _remove_user(user)


def _remove_user(user: str) -> None:
    (SUDOERS.parent / user).unlink(missing_ok=True)
    uid = pwd.getpwnam(user).pw_uid
    # Connections that Ansible keeps open for the next run.
    processes.end([pid for pid in processes.all_pids() if _owner(pid) == uid])
    subprocess.run(["userdel", "--remove", user], capture_output=True, check=True)


def _owner(pid: int) -> int | None:
    try:
        return Path(f"/proc/{pid}").stat().st_uid
    except OSError:
        return None


def captured(spool: Path, size: int, *, form: str = "tar") -> Path:
    """A set as the archive leaves it before it is published; its content matters to nobody here."""
    directory = spool / "db1" / BACKUP_ID
    (directory / ".work").mkdir(parents=True)
    spool.chmod(0o700)
    if form == "copy":
        tree = directory / "data" / "datadir"
        (tree / "empty").mkdir(parents=True)
        files = {"ibdata1": os.urandom(size), "odd\n\\name": b"x", "nothing": b"", os.fsdecode(b"raw\xff"): b"y"}
        sums = b""
        for name, data in files.items():
            (tree / name).write_bytes(data)
            escaped = os.fsencode(name).replace(b"\\", b"\\\\").replace(b"\n", b"\\n")
            mark = b"\\" if escaped != os.fsencode(name) else b""
            sums += mark + hashlib.sha256(data).hexdigest().encode() + b"  datadir/" + escaped + b"\n"
        os.symlink("/outside", tree / "link")
        part = {"name": "data", "bytes": size + 2, "sha256": hashlib.sha256(sums).hexdigest(), "format": form}
    else:
        sums = b"whatever\n"
        name, digest = "data.tar.zst", hashlib.sha256()
        with open(directory / name, "wb") as archive:
            for _block in range(size // MIB):
                digest.update(block := os.urandom(MIB))
                archive.write(block)
        part = {"name": name, "bytes": size, "sha256": digest.hexdigest(), "format": form}
    (directory / "SHA256SUMS").write_bytes(sums)
    (directory / ".work" / "head.json").write_text(json.dumps({"parts": [part]}))
    for path in directory.iterdir():
        if path.is_file():
            path.chmod(0o600)
    return directory


def fetch(remote: Remote, spool: Path, dest: Path, *arguments: str, **variables: t.Any) -> tuple[Run, dict[str, t.Any]]:
    playbook = remote.root / "fetch.yml"
    playbook.write_text(PLAYBOOK)
    inventory = write_inventory(remote.root / "inventory.yml", {"all": {"hosts": {"db1": remote.variables}}})
    run = run_playbook(
        str(playbook),
        inventory,
        *arguments,
        extra_vars={"spool": str(spool), "state": str(remote.root / "state"), "dest": str(dest), **variables},
    )
    result = Path(f"{dest}.result")
    return run, json.loads(result.read_text()) if result.exists() else {}


def assert_same(source: Path, dest: Path) -> None:
    for path in source.rglob("*"):
        relative = path.relative_to(source)
        if relative.parts[0] == ".work":
            continue
        there = dest / "db1" / BACKUP_ID / relative
        if path.is_symlink():
            assert os.readlink(there) == os.readlink(path)
        elif path.is_dir():
            assert there.is_dir()
        else:
            assert there.read_bytes() == path.read_bytes()
            assert there.stat().st_mode & 0o777 == 0o600


def assert_released(remote: Remote, directory: Path) -> None:
    """The login user has nothing left, and the replica's files belong to root again."""
    uid = pwd.getpwnam(USER).pw_uid
    assert {path.lstat().st_uid for path in directory.rglob("*")} == {0}
    for parent in (remote.root, Path("/var/tmp"), Path("/tmp")):
        assert [path for path in parent.glob(".replica-fetch-*") if path.stat().st_uid == uid] == []
    assert {path.name for path in (remote.root / "state").iterdir()} <= {"lock"}


def test_links_without_compression_in_constant_memory(remote: Remote, tmp_path: Path) -> None:
    size = 400 * MIB
    directory = captured(remote.root / "spool", size)
    try:
        run, result = fetch(remote, remote.root / "spool", tmp_path / "dest")
        assert run.status == 0, run.output
        assert (result["method"], result["verified"], result["changed"]) == ("link", True, True)
        assert result["moved"] == result["bytes"] == size + len(b"whatever\n")
        assert_same(directory, tmp_path / "dest")
        assert_released(remote, directory)
        # Ansible's own connection compresses; that it was not used again is what the test is about.
        assert "compression: zlib@openssh.com" in remote.log
        assert "compression: none" in remote.log
        # The largest process of all that this test run has waited for.
        assert resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss * 1024 < 200 * MIB

        again, result = fetch(remote, remote.root / "spool", tmp_path / "dest")
        assert again.status == 0
        assert (result["moved"], result["changed"], result["verified"]) == (0, False, True)
        assert_released(remote, directory)
    finally:
        shutil.rmtree(remote.root / "spool")


def test_a_damaged_file_is_fetched_again_and_the_others_are_not(remote: Remote, tmp_path: Path) -> None:
    directory = captured(remote.root / "spool", 3 * MIB)
    try:
        fetch(remote, remote.root / "spool", tmp_path / "dest")
        with open(tmp_path / "dest" / "db1" / BACKUP_ID / "SHA256SUMS", "r+b") as handle:
            handle.write(b"W")
        run, result = fetch(remote, remote.root / "spool", tmp_path / "dest")
        assert run.status == 0, run.output
        assert result["moved"] == len(b"whatever\n")
        assert_same(directory, tmp_path / "dest")
    finally:
        shutil.rmtree(remote.root / "spool")


@pytest.mark.parametrize("own_file_system", [True, False], ids=["mount", "closed-parent"])
@pytest.mark.parametrize("form", ["tar", "copy"])
def test_pieces_where_links_are_not_possible(remote: Remote, tmp_path: Path, form: str, own_file_system: bool) -> None:
    outer = remote.root / "outer"
    outer.mkdir(mode=0o755)
    spool = outer / "spool"
    spool.mkdir()
    if own_file_system:
        subprocess.run(["mount", "-t", "tmpfs", "-o", "size=200m", "tmpfs", str(spool)], check=True)
    else:
        outer.chmod(0o700)
    try:
        directory = captured(spool, 70 * MIB, form=form)
        run, result = fetch(remote, spool, tmp_path / "dest")
        assert run.status == 0, run.output
        assert result["method"] == "piece"
        assert form == "copy" or "the set goes in pieces of at most 64 MiB, which is slower" in " ".join(
            run.output.split()
        )
        assert_same(directory, tmp_path / "dest")
        assert_released(remote, directory)
    finally:
        if own_file_system:
            subprocess.run(["umount", str(spool)], check=True)
        shutil.rmtree(outer)


def test_chunks_where_the_login_user_can_copy_nothing(remote: Remote, tmp_path: Path) -> None:
    """An sftp that is not there, as on a hardened host: only modules get through."""
    directory = captured(remote.root / "spool", 9 * MIB)
    broken = {**remote.variables, "ansible_sftp_executable": "/bin/false", "ansible_ssh_transfer_method": "piped"}
    try:
        run, result = fetch(Remote(remote.root, broken), remote.root / "spool", tmp_path / "dest")
        assert run.status == 0, run.output
        assert result["method"] == "chunk"
        assert_same(directory, tmp_path / "dest")
        assert_released(remote, directory)
    finally:
        shutil.rmtree(remote.root / "spool")


def test_nothing_there(remote: Remote, tmp_path: Path) -> None:
    run, _result = fetch(remote, remote.root / "spool", tmp_path / "dest")
    assert run.status == 2
    assert f"There is no backup {BACKUP_ID} of db1 to bring over" in " ".join(run.output.split())


def test_check_mode_brings_nothing(remote: Remote, tmp_path: Path) -> None:
    directory = captured(remote.root / "spool", MIB)
    try:
        run, _result = fetch(remote, remote.root / "spool", tmp_path / "dest", "--check")
        assert run.status == 0, run.output
        assert list(tmp_path.iterdir()) == []
        assert_released(remote, directory)
    finally:
        shutil.rmtree(remote.root / "spool")


def test_a_whole_backup_over_ssh_and_sudo(remote: Remote, fleet: Fleet) -> None:
    replica = fleet.replicas[0]
    inventory = fleet.inventory(
        replica,
        **remote.variables,
        replica_backup_spool_dir=str(remote.root / "real-spool"),
    )
    content = json.loads(inventory.read_text())
    host = content["all"]["children"]["mysql_replicas"]["hosts"][replica.name]
    host["replica_backup_spool_dir"] = str(remote.root / "real-spool")
    inventory.write_text(json.dumps(content))
    run = run_playbook("backup", inventory, "-v")
    assert run.status == 0, run.output
    assert "method: link" in run.output
    (directory,) = fleet.set_directories(replica)
    assert json.loads((directory / "manifest.json").read_text())["host"] == replica.name
    assert [path for path in (remote.root / "real-spool").rglob("*") if path.is_file()] == []
    channel = replica.channel()
    assert channel is not None
    assert channel.replicating
    # Fetched and cleared: asking again finds the set here, proves it, and moves nothing.
    playbook = remote.root / "again.yml"
    playbook.write_text(PLAYBOOK.replace("host: db1", f"host: {replica.name}").replace(BACKUP_ID, directory.name))
    again = run_playbook(
        str(playbook),
        inventory,
        extra_vars={
            "spool": str(remote.root / "real-spool"),
            "state": str(remote.root / "state"),
            "dest": str(fleet.backups),
        },
    )
    assert again.status == 0, again.output
    result = json.loads(Path(f"{fleet.backups}.result").read_text())
    assert (result["changed"], result["published"], result["verified"]) == (False, True, True)
