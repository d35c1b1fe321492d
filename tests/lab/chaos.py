# Copyright (c) 2026, mysql_ops contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The hosts of the scenario "faults" and what can happen to them: from this machine, never over their own network."""

from __future__ import annotations

import contextlib
import dataclasses
import json
import os
import shutil
import signal
import subprocess
import time
import typing as t
import uuid
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path

from ansible_collections.mysql_ops.replica_backup.tests.lab.faults import Faults, State, bad_sets, sets_below
from ansible_collections.mysql_ops.replica_backup.tests.lab.hosts import REPLICAS, Host
from ansible_collections.mysql_ops.replica_backup.tests.lab.playbook import (
    COLLECTION,
    Run,
    environment,
    write_inventory,
)
from ansible_collections.mysql_ops.replica_backup.tests.lab.scratch import CHECKOUT

STATE_DIR = "/var/lib/mysql-replica-backup"
SPOOL_DIR = "/var/backups/mysql-replica"
# What the ledger says while the server is stopped, archived and started.
STEPS = {"stop": "shutdown", "archive": "capture", "start": "start"}
_ORDER = ("opened", "quiesce", "armed", "shutdown", "stopped", "capture", "start", "serving", "catch_up")
_SWITCHES = ("read_only", "event_scheduler", "innodb_fast_shutdown")
_BROKEN = "/etc/mysql/mariadb.conf.d/99-broken.cnf"
_SOCKET = "/run/mysqld/mysqld.sock"


class Replica:
    """One replica: what a fault test looks at, and what is done to its host."""

    def __init__(self, host: Host, source: Host, backups: Path) -> None:
        self.host = host
        self._source = source
        self._backups = backups
        self._root = host.root

    @property
    def name(self) -> str:
        return self.host.name

    # -- as tests/lab/faults.py wants it ------------------------------------------------------------------------

    def state(self) -> State:
        rows = self.host.sql(
            "SELECT VARIABLE_NAME, VARIABLE_VALUE FROM information_schema.GLOBAL_VARIABLES WHERE VARIABLE_NAME IN ("
            + ", ".join(f"'{name}'" for name in _SWITCHES)
            + ")"
        )
        found = dict(line.split("\t") for line in rows.splitlines())
        status = self.host.replication()
        return found | {name: status.get(f"Replica_{name}_Running", "none") for name in ("IO", "SQL")}

    def differences(self) -> object:
        """What differs once this replica has applied all that its source had written; writes must rest."""
        status = self._source.row(self._source.words["lab_show_source"])
        self.host.wait_for_source_position(status["File"], int(status["Position"]), seconds=90)
        here, there = self.host.checksums(), self._source.checksums()
        return {
            name: (here.get(name), there.get(name)) for name in {*here, *there} if here.get(name) != there.get(name)
        }

    def offered(self) -> list[Path]:
        return sets_below([self._backups / self.name, Path(self._root + SPOOL_DIR)])

    # -- how far a run is ---------------------------------------------------------------------------------------

    @property
    def step(self) -> str:
        """What the ledger of the open run says; nothing when none is open or the host is down."""
        try:
            text = Path(f"{self._root}{STATE_DIR}/ledger.json").read_text(encoding="utf-8")
        except (OSError, subprocess.CalledProcessError):
            return ""
        return str(json.loads(text)["step"])

    def story(self) -> dict[str, t.Any]:
        """The ledger of the last run that ended, empty when there was none."""
        path = Path(f"{self._root}{STATE_DIR}/ledger.last.json")
        return json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}

    # -- what happens to it -------------------------------------------------------------------------------------

    def cut(self) -> None:
        """Nothing gets through to the host any more, and nothing out; connections hang."""
        self._network("down")

    def mend(self) -> None:
        self._network("up")

    def _network(self, way: str) -> None:
        subprocess.run(["nsenter", "-t", self._pid, "-n", "ip", "link", "set", "eth0", way], check=True)

    @property
    def _pid(self) -> str:
        return self._root.split("/")[2]

    def restart(self) -> None:
        """Power off in the midst of everything, and on again."""
        _podman("kill", "--signal=KILL", self.host.container)
        for _attempt in range(50):
            if _podman("start", self.host.container, check=False) == 0:
                break
            time.sleep(0.2)
        self._root = self.host.root
        # A container has the boot id of the machine, which never boots here; a host has a new one.
        boot = Path(self._root + "/run/boot_id")
        boot.write_text(f"{uuid.uuid4()}\n", encoding="ascii")
        self._in_its_mounts("mount", "--bind", "/run/boot_id", "/proc/sys/kernel/random/boot_id")
        _podman("exec", self.host.container, "systemctl", "is-system-running", "--wait", check=False)

    def _in_its_mounts(self, *command: str) -> None:
        subprocess.run(["nsenter", "-t", self._pid, "-m", *command], check=True)

    def signal(self, name: str, pattern: str) -> None:
        """Send a signal to the host's processes with such a command line; there may be none."""
        # In brackets, so that no command finds itself.
        hidden = f"[{pattern[0]}]{pattern[1:]}"
        _podman("exec", self.host.container, "pkill", f"--signal={name}", "--full", hidden, check=False)

    def bound_spool(self) -> None:
        """The spool is a small file system of its own; ``repair`` takes it away."""
        self.host.run("mkdir -p -m 700 %s", SPOOL_DIR)
        self._in_its_mounts("mount", "-t", "tmpfs", "-o", "size=64m,mode=0700", "tmpfs", SPOOL_DIR)

    def fill_spool(self) -> None:
        """Somebody else takes all of its room."""
        self.host.run(f"cat /dev/zero >{SPOOL_DIR}/ballast || true")

    def start_server(self) -> None:
        """Somebody starts it, as an administrator would."""
        self.host.run("systemctl start --no-block %s", self.host.words["lab_unit"])

    def break_configuration(self) -> None:
        """The server cannot start any more."""
        Path(self._root + _BROKEN).write_text("[mysqld]\nno_such_setting = 1\n", encoding="ascii")

    def repair_configuration(self) -> None:
        Path(self._root + _BROKEN).unlink(missing_ok=True)

    def repair(self) -> None:
        """Take back what keeps the host or its server from working; nothing that the collection has to do."""
        self.mend()
        self.repair_configuration()
        if f" {SPOOL_DIR} tmpfs " in self.host.run("cat /proc/mounts"):
            self._in_its_mounts("umount", "--lazy", SPOOL_DIR)
        self.signal("CONT", "mariadbd")
        self.signal("CONT", "AnsiballZ")


class Controller:
    """An ansible-playbook that is at work."""

    def __init__(self, command: Sequence[str], log: Path) -> None:
        self._log = log
        with log.open("wb") as out:
            self._process = subprocess.Popen(
                command,
                env=environment(),
                stdin=subprocess.DEVNULL,
                stdout=out,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )

    @property
    def ended(self) -> bool:
        return self._process.poll() is not None

    def wait(self, timeout: float = 300) -> Run:
        return Run(self._process.wait(timeout), self._log.read_text(encoding="utf-8", errors="replace"))

    def kill(self, name: str) -> None:
        """End it as a person, a service manager or a dying machine does; returns when it has ended."""
        if name == "TERM":
            self._process.terminate()
        else:
            # A terminal sends its signal to all of them; a machine that dies leaves none.
            os.killpg(self._process.pid, signal.SIGINT if name == "INT" else signal.SIGKILL)
        try:
            self._process.wait(30)
        finally:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(self._process.pid, signal.SIGKILL)


class Estate:
    """The fleet of the scenario and its controller."""

    def __init__(self, scratch: Path) -> None:
        self.scratch = scratch
        self.backups = scratch / "backups"
        self.logs = scratch / "logs"
        self.logs.mkdir(exist_ok=True)
        self.source = Host("source")
        self.replicas = {name: Replica(Host(name), self.source, self.backups) for name in REPLICAS}
        self._inventory = write_inventory(scratch / "inventory.yml", self._content())

    def _content(self) -> dict[str, t.Any]:
        hosts = {
            name: {
                "ansible_host": each.host.container,
                "ansible_user": each.host.settings.get("ansible_user", "root"),
                "ansible_become": each.host.settings.get("ansible_become", False),
            }
            for name, each in self.replicas.items()
        }
        common = {
            "ansible_connection": "ssh",
            "ansible_ssh_common_args": f'-F "{self.scratch}/ssh_config"',
            "ansible_timeout": 5,
            "ansible_pipelining": True,
            "ansible_python_interpreter": "/usr/bin/python3",
            "replica_backup_dest": str(self.backups),
            "replica_backup_login_user": "root",
            "replica_backup_login_unix_socket": _SOCKET,
            "replica_backup_config_file": "",
        }
        return {"all": {"children": {"mysql_replicas": {"hosts": hosts, "vars": common}}}}

    def start(self, playbook: str, *replicas: str, **variables: t.Any) -> Controller:
        """Let a playbook of the collection loose; variables without the prefix of the role."""
        prefixed = {name if name[0] == "_" else f"replica_backup_{name}": value for name, value in variables.items()}
        command = [str(CHECKOUT / ".venv" / "bin" / "ansible-playbook"), "-i", str(self._inventory)]
        command += ["--forks=5", f"{COLLECTION}.{playbook}", "-e", json.dumps(prefixed)]
        if replicas:
            command += ["--limit", ",".join(replicas)]
        return Controller(command, self.logs / f"{playbook}-{'-'.join(replicas) or 'all'}-{uuid.uuid4().hex[:4]}.log")

    def run(self, playbook: str, *replicas: str, **variables: t.Any) -> Run:
        return self.start(playbook, *replicas, **variables).wait()

    def wait_for(self, condition: Callable[[], object], what: str, timeout: float = 120) -> None:
        deadline = time.monotonic() + timeout
        while not condition():
            assert time.monotonic() < deadline, f"not within {timeout:.0f} s: {what}"
            time.sleep(0.05)

    def wait_for_step(self, name: str, phase: str, controller: Controller, timeout: float = 120) -> None:
        """Until the run on that replica is in the phase, or beyond it."""
        wanted = _ORDER.index(STEPS[phase])

        def reached() -> bool:
            step = self.replicas[name].step
            return controller.ended or (step in _ORDER and _ORDER.index(step) >= wanted)

        self.wait_for(reached, f"{phase} on {name}", timeout)
        assert not controller.ended, controller.wait().output

    def wait_until_back(self, name: str, before: State, timeout: float = 150) -> None:
        """Nobody helps: the server is up again, and what ``before`` holds is as before."""

        def back() -> bool:
            with contextlib.suppress(AssertionError, subprocess.CalledProcessError):
                return before.items() <= self.replicas[name].state().items()
            return False

        self.wait_for(back, f"{name} as before: {before}", timeout)

    def wait_until_serves(self, name: str, timeout: float = 150) -> None:
        """Nobody helps: the server answers on its own host."""

        def serves() -> bool:
            with contextlib.suppress(AssertionError, subprocess.CalledProcessError):
                return self.replicas[name].host.sql("SELECT 1").strip() == "1"
            return False

        self.wait_for(serves, f"{name} serves", timeout)

    def look(self) -> dict[str, State]:
        return {name: replica.state() for name, replica in self.replicas.items()}

    @contextlib.contextmanager
    def writes_rest(self) -> Iterator[None]:
        """Nothing new comes from the source; the statement that it works on ends by itself."""
        self.source.run("systemctl kill --signal=STOP lab-load")
        time.sleep(0.5)
        try:
            yield
        finally:
            self.source.run("systemctl kill --signal=CONT lab-load")

    def settle(self, faults: Faults, injected: Mapping[str, str], before: Mapping[str, State]) -> None:
        """See that those replicas are as if nothing had happened; ``injected`` says what happened to which one.

        They are recovered, looked at, and backed up at once. Every set that anybody offers is read.
        """
        for replica in self.replicas.values():
            replica.repair()
        recovered = self.run("recover", *injected, take_over="true")
        first = len(faults.seen)
        with self.writes_rest():
            for name, fault in injected.items():
                with contextlib.suppress(AssertionError):  # it is in the figures, and told below
                    faults.settle(fault, self.replicas[name], before[name])
        complaints = self._next_run(injected)
        for place, name in enumerate(injected, first):
            said = "" if recovered.status == 0 else f"recover: {recovered.output[-3000:]}"
            faults.seen[place] = dataclasses.replace(faults.seen[place], next_run=said + complaints.get(name, ""))
        found = faults.seen[first:]
        assert all(end.survived for end in found), [end for end in found if not end.survived]
        for name in self.replicas:
            # What is proven is not read again after every further fault.
            shutil.rmtree(self.backups / name, ignore_errors=True)
            self.replicas[name].host.run(f"rm -rf {SPOOL_DIR}/*")

    def _next_run(self, names: Iterable[str]) -> dict[str, str]:
        """Back them up together; by replica, what is wrong with that."""
        known = {name: set(self.replicas[name].offered()) for name in names}
        run = self.run("backup", *known, serial="100%")
        found: dict[str, str] = {}
        for name in known:
            new = set(self.replicas[name].offered()) - known[name]
            if run.status or not new:
                found[name] = f"status {run.status}, new sets {sorted(map(str, new))}: {run.output[-3000:]}"
            elif wrong := bad_sets(new):
                found[name] = "; ".join(wrong)
        return found


def _podman(*words: str, check: bool = True) -> int:
    done = subprocess.run(["podman", *words], stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False)
    if check and done.returncode:
        raise AssertionError(f"podman {' '.join(words)}: {done.stdout}{done.stderr}")
    return done.returncode
