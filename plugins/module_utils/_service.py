# Copyright (c) 2026, mysql_ops contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Who starts and stops the server: systemd, an init script, mysqld_safe, or nobody.

A manager is found while the server runs, goes into the ledger as a dictionary, and is built again from it by
whoever has to bring the server back. Nothing here ever sends SIGKILL, and nothing is run through a shell.

The order of calls: ``detect``, ``hold``, ``request_stop`` (``False``: send SQL SHUTDOWN), wait for the process,
``wait_stopped``, then ``start``, wait for the server, ``after_start``, ``release``.
"""

from __future__ import annotations

import os
import re
import typing as t
from dataclasses import fields

from ansible_collections.mysql_ops.replica_backup.plugins.module_utils import _server
from ansible_collections.mysql_ops.replica_backup.plugins.module_utils._errors import ReplicaBackupError
from ansible_collections.mysql_ops.replica_backup.plugins.module_utils._managers import (
    commands,
    systemd,
    sysvinit,
    unmanaged,
)
from ansible_collections.mysql_ops.replica_backup.plugins.module_utils._managers.interface import (
    Found,
    ServiceManager,
    Stopped,
    refuse,
    refuse_stopped,
)
from ansible_collections.mysql_ops.replica_backup.plugins.module_utils._managers.launch import Launch
from ansible_collections.mysql_ops.replica_backup.plugins.module_utils._server import ServerProcess

KINDS = ("systemd", "sysvinit", "mysqld_safe", "none")


def detect(
    *,
    process: ServerProcess,
    requested: str,
    name: str | None,
    variables: t.Mapping[str, str],
    own_options: tuple[str, ...],
    state_dir: str,
    shutdown_timeout: float = 1800.0,
) -> ServiceManager:
    """The manager of a running server; reads only.

    ``requested``: ``auto`` or one of KINDS. ``name``: unit, script, or start command (mysqld_safe and none).
    ``own_options``: what our starts may add to the server's command line (``Dialect.own_start_options``).
    ``shutdown_timeout``: seconds that the server may take for its shutdown.
    Raises RefusedError (rule ``service_manager``) when the server could not be brought back as it is now.
    """
    if requested not in ("auto", *KINDS):
        raise refuse("The service manager is not known", found=repr(requested), expected=", ".join(("auto", *KINDS)))
    nested = re.search(r"^NSpid:\s*\d+\s+\d", _server.proc_text(process.pid, "status"), re.MULTILINE)
    if nested is not None:
        raise refuse(
            "The server runs in a container of this host and cannot be managed from outside",
            found=f"process {process.pid} in a process namespace of its own",
            expected="a server of this host",
            next_command="run the play inside the container",
        )
    found = Found(process, name or None, variables, own_options, state_dir, shutdown_timeout)
    finders = {"systemd": systemd.find, "sysvinit": sysvinit.find, "mysqld_safe": unmanaged.find_mysqld_safe}
    for kind, find in finders.items():
        manager = find(found, required=requested == kind) if requested in ("auto", kind) else None
        if manager is not None:
            return manager
    return unmanaged.find_none(found)


_SCRIPTS = "/etc/init.d/"
_GUARDIANS = ("mysqld_safe", "mariadbd-safe")


def of_stopped(
    *,
    start: t.Mapping[str, t.Any],
    requested: str,
    name: str | None,
    datadir: str,
    pid_file: str | None,
    own_options: tuple[str, ...],
    state_dir: str,
) -> ServiceManager:
    """The manager of a server that is down; reads only. Its ``hold`` keeps what could wake the server from doing so.

    ``start`` has ``exe``, ``argv``, ``environment`` and ``service`` of ``_installed.Start``; ``requested`` and ``name``
    are those of ``detect``, and ``name`` counts before ``service``. Without either the server is started by its own
    command line, as the account that owns ``datadir``.
    Raises RefusedError (rule ``service_manager``) when there is no such manager or it is another server's.
    """
    if requested not in ("auto", *KINDS):
        raise refuse_stopped(
            "The service manager is not known", found=repr(requested), expected=", ".join(("auto", *KINDS))
        )
    # "none" without a command: whatever unit there is, it is not asked.
    service = name or ("" if requested == "none" else str(start["service"]))
    kind = _kind_of(service, requested)
    if kind == "sysvinit" and "/" not in service:
        service = _SCRIPTS + service
    if requested not in ("auto", kind):
        raise refuse_stopped(
            f"There is no {requested} service for this server",
            found=f"{kind} {service}".strip(),
            expected="service_name, the unit, script or start command",
        )
    server = Stopped(
        exe=str(start["exe"]),
        argv=tuple(start["argv"]),
        environment=dict(start["environment"]),
        service=service,
        datadir=datadir,
        pid_file=pid_file,
        own_options=own_options,
        state_dir=state_dir,
    )
    if kind == "systemd":
        return systemd.of_stopped(server)
    return sysvinit.of_stopped(server) if kind == "sysvinit" else unmanaged.of_stopped(server, kind=kind)


def _kind_of(service: str, requested: str) -> str:
    """Of a unit, a script or a command, by its form and what is there."""
    words = service.split()
    if not words:
        return "none"
    if len(words) > 1 or (service.startswith("/") and not service.startswith(_SCRIPTS)):
        return "mysqld_safe" if any(os.path.basename(word) in _GUARDIANS for word in words[:3]) else "none"
    if service.startswith(_SCRIPTS):
        return "sysvinit"
    return "systemd" if os.path.isdir(commands.SYSTEMD) and requested != "sysvinit" else "sysvinit"


def from_dict(data: t.Mapping[str, t.Any]) -> ServiceManager:
    """A manager from what ``to_dict`` gave. Raises ReplicaBackupError on anything else."""
    try:
        kind = str(data["kind"])
        cls = _CLASSES.get(kind)
        if cls is not None:
            # The fields' types as they are written in the source.
            known = ((field.name, str(field.type)) for field in fields(cls) if not field.name.startswith("_"))
            manager: ServiceManager = cls(**{name: _READERS[written](data[name]) for name, written in known})
            return manager
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise ReplicaBackupError(
            "The record of the service manager cannot be read", found=f"{type(error).__name__}: {error}"
        ) from error
    raise ReplicaBackupError("The record names an unknown service manager", found=repr(kind), expected=", ".join(KINDS))


_CLASSES: dict[str, t.Any] = {
    "systemd": systemd.Systemd,
    "sysvinit": sysvinit.SysVinit,
    "mysqld_safe": unmanaged.Unmanaged,
    "none": unmanaged.Unmanaged,
}
_READERS: dict[str, t.Callable[[t.Any], t.Any]] = {
    "str": str,
    "bool": bool,
    "str | None": lambda value: None if value is None else str(value),
    "tuple[str, ...]": lambda values: tuple(str(value) for value in values),
    "Launch": Launch.from_dict,
    "ServerProcess | None": lambda value: ServerProcess.from_dict(value) if value else None,
}
