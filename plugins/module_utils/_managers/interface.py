# Copyright (c) 2026, mysql_ops contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What every service manager can do, and what is known of a server when its manager is looked for."""

from __future__ import annotations

import json
import os
import typing as t
from dataclasses import asdict

from ansible_collections.mysql_ops.replica_backup.plugins.module_utils._errors import RefusedError
from ansible_collections.mysql_ops.replica_backup.plugins.module_utils._server import ServerProcess

OnPoll = t.Optional[t.Callable[[float], None]]


class ServiceManager(t.Protocol):
    """What the rest of the collection may ask of any manager."""

    kind: str
    name: str
    warnings: tuple[str, ...]
    takes_options: bool

    @property
    def start_command(self) -> str:
        """What a person types to start the server."""

    @property
    def keeps_options(self) -> bool:
        """Whether options of one start live on: mysqld_safe hands them to every server it starts after a crash."""

    @property
    def stops_by_sql(self) -> bool:
        """Whether ``request_stop`` leaves the stop to SQL SHUTDOWN."""

    def to_dict(self) -> dict[str, t.Any]:
        """JSON-serialisable; ``from_dict`` gives an equal manager."""

    def hold(self) -> list[str]:
        """Silence what could wake the server or cut its shutdown short. Idempotent; returns what was done."""

    def request_stop(self) -> bool:
        """Ask for a clean stop and return at once. ``False``: the caller sends SQL SHUTDOWN instead."""

    def wait_stopped(self, timeout: float, on_poll: OnPoll = None) -> float:
        """Wait until nothing is left that would start the server again, after its process has ended.

        Returns seconds waited. Raises ReplicaBackupError when the limit is over or the server came up again.
        """

    def start(self, options: t.Sequence[str] = (), *, must: bool = False) -> None:
        """Ask for a start, with ``options`` on the server's command line for this one time.

        Raises ReplicaBackupError when there are some and the manager does not take any (``takes_options``); systemd
        starts the server without them then, unless they ``must`` be there, and ``after_start`` says that they could
        not be given.
        """

    def failure(self) -> str | None:
        """Why a start that this object asked for will not succeed any more; ``None`` while it may."""

    def after_start(self) -> list[str]:
        """Once the server answers: make the next start by anybody a normal one. Idempotent."""

    def release(self) -> list[str]:
        """Put what ``hold`` silenced back as it was. Idempotent; returns what was done or could not be done."""

    def status(self) -> str:
        """One line for messages."""


class Recorded:
    """A manager as the dictionary that the ledger keeps: its fields, but for private ones."""

    def to_dict(self) -> dict[str, t.Any]:
        known = {name: value for name, value in asdict(t.cast(t.Any, self)).items() if not name.startswith("_")}
        as_kept: dict[str, t.Any] = json.loads(json.dumps(known))
        return as_kept


def refuse(
    message: str,
    *,
    found: object,
    expected: object,
    next_command: str | None = None,
    server_state: str = "running, untouched",
) -> RefusedError:
    """The refusal of a server that could not be brought back as it is now."""
    return RefusedError(
        message,
        found=found,
        expected=expected,
        server_state=server_state,
        next_command=next_command or "set replica_backup_service_manager and replica_backup_service_name",
        rule="service_manager",
    )


class Stopped(t.NamedTuple):
    """What is known of a server that is down and whose manager is looked for.

    ``exe``, ``argv`` and ``environment`` are what it would be started with by hand (``_installed.Start``), ``service``
    the unit, script or start command, "" when there is none. ``own_options`` as in ``Found``.
    """

    exe: str
    argv: tuple[str, ...]
    environment: t.Mapping[str, str]
    service: str
    datadir: str
    pid_file: str | None
    own_options: tuple[str, ...]
    state_dir: str


def refuse_stopped(message: str, *, found: object, expected: object, next_command: str | None = None) -> RefusedError:
    """The refusal of a server that is down and could not be started as it has to be."""
    return refuse(
        message, found=found, expected=expected, next_command=next_command, server_state="not running, untouched"
    )


class Found(t.NamedTuple):
    """What is known of the server whose manager is looked for.

    ``name`` is what the administrator said: unit, script or start command. ``own_options``: what our starts may add
    to the server's command line, the one against replication first. ``shutdown_timeout``: seconds.
    """

    process: ServerProcess
    name: str | None
    variables: t.Mapping[str, str]
    own_options: tuple[str, ...]
    state_dir: str
    shutdown_timeout: float

    @property
    def datadir(self) -> str:
        return self.variables.get("datadir") or self.process.cwd

    @property
    def pid_file(self) -> str | None:
        value = self.variables.get("pid_file")
        return os.path.join(self.datadir, value) if value else None
