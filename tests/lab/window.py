# Copyright (c) 2026, mysql_ops contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""A backup of one local server, step by step, as the modules do it and without Ansible."""

from __future__ import annotations

import dataclasses
import json
import subprocess
import typing as t
import uuid
from pathlib import Path

from ansible_collections.mysql_ops.replica_backup.plugins.module_utils import _start, _stop
from ansible_collections.mysql_ops.replica_backup.plugins.module_utils._archive import job
from ansible_collections.mysql_ops.replica_backup.plugins.module_utils._connection import Login
from ansible_collections.mysql_ops.replica_backup.plugins.module_utils._guards import Policy
from ansible_collections.mysql_ops.replica_backup.plugins.module_utils._layout import SetPaths
from ansible_collections.mysql_ops.replica_backup.plugins.module_utils._replication import Limits
from ansible_collections.mysql_ops.replica_backup.plugins.module_utils._start import StartRequest
from ansible_collections.mysql_ops.replica_backup.plugins.module_utils._stop import StopRequest
from ansible_collections.mysql_ops.replica_backup.tests.lab.local import Server


@dataclasses.dataclass(frozen=True)
class Window:
    """Stop, archive and start of one server. State and spool are below ``root``."""

    server: Server
    root: Path
    run_id: str = dataclasses.field(default_factory=lambda: uuid.uuid4().hex[:8])

    @property
    def login(self) -> Login:
        return Login(user="root", unix_socket=str(self.server.socket), config_file=None)

    @property
    def paths(self) -> SetPaths:
        return SetPaths(str(self.root / "spool"), self.server.name, "20260101T000000Z")

    @property
    def state(self) -> str:
        return str(self.root / "state")

    def stop(self, *, check: bool = False, **changes: t.Any) -> dict[str, t.Any]:
        request = StopRequest(
            login=self.login,
            paths=self.paths,
            state_dir=self.state,
            run_id=self.run_id,
            policy=Policy(allow_stopped_channels=True, allow_channel_errors=True, allow_refetch=True),
            limits=Limits(drain=30, temp_tables=10, gaps=30),
            shutdown_timeout=60,
            start_timeout=60,
            downtime_budget=300,
            # A test may look around between two steps.
            gap=300,
        )
        return _stop.stop(dataclasses.replace(request, **changes), check=check)

    def archive(self) -> dict[str, t.Any]:
        """Archive the stopped server and return the manifest."""
        job.present(job.Request(paths=self.paths, state_dir=self.state))
        return t.cast("dict[str, t.Any]", json.loads(Path(self.paths.manifest).read_text(encoding="utf-8")))

    def start(self, *, close: bool = True, **changes: t.Any) -> dict[str, t.Any]:
        request = StartRequest(
            login=self.login,
            state_dir=self.state,
            run_id=self.run_id,
            shutdown_timeout=60,
            start_timeout=60,
            catch_up=False,
            lock_timeout=5,
        )
        request = dataclasses.replace(request, **changes)
        result = _start.start(request)
        if close:
            _start.start(dataclasses.replace(request, close=True))
        return result

    def unpack(self, target: Path) -> None:
        """Extract the set with zstd and tar alone."""
        target.mkdir()
        archive = Path(self.paths.directory) / "data.tar.zst"
        with subprocess.Popen(["zstd", "-dc", str(archive)], stdout=subprocess.PIPE) as zstd:
            subprocess.run(["tar", "-x", "-C", str(target)], stdin=zstd.stdout, check=True)
        assert zstd.returncode == 0
