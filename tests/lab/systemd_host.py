# Copyright (c) 2026, mysql_ops contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""A host that runs systemd, and the collection's code run inside it."""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import textwrap
import time
import typing as t
import uuid
from collections.abc import Iterator

from ansible_collections.mysql_ops.replica_backup.tests.lab import containers
from ansible_collections.mysql_ops.replica_backup.tests.lab.scratch import CHECKOUT

# Runs inside the container, before what a test adds. `answer` goes back to the test.
PRELUDE = f"""
import json, os, socket, subprocess, sys, threading, time
sys.path.insert(0, {str(CHECKOUT / ".ansible" / "collections")!r})
sys.dont_write_bytecode = True
import pymysql
from ansible_collections.mysql_ops.replica_backup.plugins.module_utils import _clean_stop, _error_log, _server, _service
from ansible_collections.mysql_ops.replica_backup.plugins.module_utils._managers import by_hand
from ansible_collections.mysql_ops.replica_backup.plugins.module_utils._dialect import Dialect
from ansible_collections.mysql_ops.replica_backup.plugins.module_utils._errors import ReplicaBackupError

MARIADB = Dialect("mariadb", (10, 11, 0))
STATE = "/root/state"
# The server that the functions below speak of; a test may name another one.
UNIT, SOCKET = "mariadb", "/run/mysqld/mysqld.sock"
DATADIR, PID_FILE = "/var/lib/mysql/", "/run/mysqld/mysqld.pid"
os.makedirs(STATE, exist_ok=True)

def connect():
    return pymysql.connect(unix_socket=SOCKET, user="root", connect_timeout=2)

def wait_ready():
    for _attempt in range(600):
        try:
            connect().close()
            return
        except pymysql.Error:
            time.sleep(0.05)
    raise SystemExit("the server does not answer")

def variables():
    connection = connect()
    with connection.cursor() as cursor:
        cursor.execute("SHOW GLOBAL VARIABLES")
        found = dict(cursor.fetchall())
    connection.close()
    return found

def process():
    return _server.find_process(datadir=DATADIR, pid_file=PID_FILE)

def systemctl(*words):
    return subprocess.run(["systemctl", *words], capture_output=True, text=True).stdout.strip()

def settled():
    for _attempt in range(600 if os.path.isdir("/run/systemd/system") else 0):
        if systemctl("show", "-P", "SubState", UNIT) in ("running", "dead", "failed"):
            return
        time.sleep(0.05)

def detect(requested="auto", name=None):
    settled()
    return _service.detect(process=process(), requested=requested, name=name, variables=variables(),
                           own_options=("--skip-slave-start", "--read_only=On"), state_dir=STATE)

def again(manager):
    return _service.from_dict(json.loads(json.dumps(manager.to_dict())))

def stop(manager):
    # The whole stop, and what the proof says of it.
    server, values = process(), variables()
    path = _error_log.path_of(values)
    mark = _error_log.mark_end(path) if path else None
    asked = manager.request_stop()
    if not asked:
        with connect().cursor() as cursor:
            cursor.execute("SHUTDOWN")
    _server.wait_gone(server, 120)
    manager.wait_stopped(120)
    proof = _clean_stop.prove_clean_stop(dialect=MARIADB, process=server, variables=values,
                                     error_log=mark)
    return asked, proof

answer = None
"""


class Host:
    """One container that runs systemd."""

    def __init__(self, image: str, environment: dict[str, str]) -> None:
        self.name = f"{containers.PREFIX}-service-{uuid.uuid4().hex[:8]}"
        self._environment = {**os.environ, **environment}
        self._podman(
            *("run", "-d", "--name", self.name, "--label", f"{containers.LABEL}={CHECKOUT}", "--systemd=always"),
            *("-e", "SYSTEMD_CGROUP_ENABLE_LEGACY_FORCE=1", "--memory=1g", "-v", f"{CHECKOUT}:{CHECKOUT}:ro"),
            *(image, "/sbin/init"),
        )
        for _attempt in range(120):
            if self.shell("systemctl is-system-running --wait").strip() in ("running", "degraded"):
                break
            time.sleep(0.5)
        self.shell("systemctl start mariadb.socket mariadb.service")

    def _podman(self, *arguments: str, stdin: str | None = None, check: bool = True) -> str:
        done = subprocess.run(
            ["podman", *arguments],
            input=stdin,
            stdin=subprocess.DEVNULL if stdin is None else None,
            capture_output=True,
            text=True,
            check=False,
            env=self._environment,
        )
        if check and done.returncode != 0:
            raise AssertionError(f"podman {arguments[0]}: {done.stdout}{done.stderr}")
        return done.stdout

    def shell(self, command: str) -> str:
        return self._podman("exec", self.name, "sh", "-c", command, check=False)

    def python(self, code: str, *, session: bool = False) -> t.Any:
        """Run the code in a process of its own, which has ended when this returns; its ``answer``.

        ``session``: in a control group of its own of which nothing is left afterwards, like that of a login where
        logind has KillUserProcesses=yes.
        """
        program = PRELUDE + textwrap.dedent(code) + "\nprint(json.dumps(answer))\n"
        command = ["systemd-run", "--quiet", "--wait", "--pipe", "--collect"] if session else []
        said = self._podman("exec", "-i", self.name, *command, "python3", "-", stdin=program)
        return json.loads(said.splitlines()[-1])

    def write(self, path: str, text: str) -> None:
        self._podman("exec", "-i", self.name, "sh", "-c", f'mkdir -p "$(dirname {path})"; cat > {path}', stdin=text)

    def close(self) -> None:
        for _attempt in range(5):
            # A container that runs systemd sometimes loses a race while stopping; the next try works.
            with contextlib.suppress(AssertionError):
                self._podman("rm", "-f", "-t", "1", self.name)
                return
            time.sleep(1)


@contextlib.contextmanager
def running(image: str | None = None) -> Iterator[Host]:
    """A container of the lab's image, or of the one that SERVICE_TEST_IMAGE names, for as long as the context lasts."""
    host = Host(image or os.environ.get("SERVICE_TEST_IMAGE") or containers.ensure_image(), containers.environment())
    try:
        yield host
    finally:
        host.close()
