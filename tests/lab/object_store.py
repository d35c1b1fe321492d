# Copyright (c) 2026, mysql_ops contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""An S3 service on the loopback, and what rclone needs to reach it."""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from ansible_collections.mysql_ops.replica_backup.tests.lab.link import Link

REMOTE = "lab"
BUCKET = "sets"
_SECRET = "not-in-any-argument"


@dataclass(frozen=True)
class ObjectStore:
    """``config`` is a configuration file of rclone whose remote leads through ``link``."""

    config: Path
    link: Link

    def remote(self, path: str) -> str:
        return f"{REMOTE}:{BUCKET}/{path}"

    def rclone(self, *arguments: str) -> str:
        done = subprocess.run(
            ["rclone", "--config", str(self.config), "--retries", "1", "--s3-no-head", *arguments],
            env={"PATH": os.environ["PATH"], "HOME": "/nonexistent"},
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=120,
            check=False,
        )
        assert done.returncode == 0, done.stderr
        return done.stdout

    def upload(self, directory: Path, path: str) -> str:
        """Put a directory there and return its name for rclone."""
        self.rclone("copy", "--s3-no-check-bucket", str(directory), self.remote(path))
        return self.remote(path)


def missing() -> str:
    """What this machine lacks for an object store, "" when nothing."""
    server = Path(sys.executable).with_name("moto_server")
    lacking = ([] if shutil.which("rclone") else ["rclone (package rclone)"]) + (
        [] if server.exists() else [f"{server} (moto of requirements-dev.txt)"]
    )
    return f"{' and '.join(lacking)} missing: make setup-tests installs it" if lacking else ""


@contextmanager
def object_store(root: Path) -> Iterator[ObjectStore]:
    """Serve an empty bucket for as long as the context lasts."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = int(probe.getsockname()[1])
    with (root / "moto.log").open("wb") as log:
        server = subprocess.Popen(
            [str(Path(sys.executable).with_name("moto_server")), "-H", "127.0.0.1", "-p", str(port)],
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=subprocess.STDOUT,
        )
    link: Link | None = None
    try:
        _wait_for(port, server)
        link = Link(port)
        config = root / "rclone.conf"
        config.touch(mode=0o600)
        config.write_text(
            f"[{REMOTE}]\ntype = s3\nprovider = Other\naccess_key_id = lab\nsecret_access_key = {_SECRET}\n"
            f"endpoint = http://127.0.0.1:{link.port}\nforce_path_style = true\nregion = us-east-1\n"
        )
        store = ObjectStore(config, link)
        store.rclone("mkdir", f"{REMOTE}:{BUCKET}")
        yield store
    finally:
        if link is not None:
            link.cut()
        server.terminate()
        server.wait(timeout=30)


def _wait_for(port: int, server: subprocess.Popen[bytes]) -> None:
    while True:
        try:
            socket.create_connection(("127.0.0.1", port), timeout=1).close()
            return
        except OSError:
            assert server.poll() is None, "moto_server ended"
            time.sleep(0.1)
