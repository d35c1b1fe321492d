# Copyright (c) 2026, mysql_ops contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""A private server as a throw-away replica: it catches up with the sources of its set, and they forget it again."""

from __future__ import annotations

import contextlib
import os
import time
import typing as t
from dataclasses import dataclass

from ansible_collections.mysql_ops.replica_backup.plugins.module_utils import _fspath as fs
from ansible_collections.mysql_ops.replica_backup.plugins.module_utils._connection import (
    Login,
    QueryError,
    connect,
    identify,
)
from ansible_collections.mysql_ops.replica_backup.plugins.module_utils._dialect import Dialect
from ansible_collections.mysql_ops.replica_backup.plugins.module_utils._errors import RefusedError, ReplicaBackupError
from ansible_collections.mysql_ops.replica_backup.plugins.module_utils._replication import (
    Threads,
    read_channels,
    resume,
    wait_caught_up,
)
from ansible_collections.mysql_ops.replica_backup.plugins.module_utils._restore.origin import Origin
from ansible_collections.mysql_ops.replica_backup.plugins.module_utils._restore.private_server import PrivateServer

_RULE = "attach"
# Seconds; so soon the sources forget the receiver when it is gone.
_HEARTBEAT = 2


@dataclass(frozen=True)
class Attach:
    """``user`` logs in at every source and needs REPLICATION SLAVE there. ``server_id`` must be nobody else's.
    ``timeout``: seconds without progress; ``max_lag``: seconds behind that count as caught up. ``ca_cert``:
    with it the sources are asked over TLS (the channels have their own settings)."""

    user: str
    password: str
    server_id: int
    timeout: float = 600.0
    max_lag: int = 10
    ca_cert: str | None = None

    def __repr__(self) -> str:
        return f"Attach({self.user}, server_id {self.server_id})"


def refuse_attach(attach: Attach, origin: Origin, head: t.Mapping[str, t.Any]) -> None:
    """Raise RefusedError unless the sources say that nobody has this server_id: two of one throw each other off."""
    channels = head["channels"]
    taken = {origin.server_id: "the server that the set was made from"}
    taken.update((int(channel["source_server_id"] or 0), f"source {channel['source_host']}") for channel in channels)
    if attach.server_id <= 0 or attach.server_id in taken:
        raise _refused(f"server_id {attach.server_id} is that of {taken.get(attach.server_id, 'no server')}", taken)
    for channel in channels:
        _ask_source(attach, str(channel["source_host"]), int(channel["source_port"]))


def _ask_source(attach: Attach, host: str, port: int) -> None:
    where = f"{host}:{port}"
    login = Login(
        user=attach.user, password=attach.password, host=host, port=port, config_file=None, ca_cert=attach.ca_cert
    )
    try:
        with connect(login, read_timeout=30) as session:
            identity = identify(session)
            dialect = Dialect(identity.family, identity.version)
            taken = {int(session.scalar("SELECT @@GLOBAL.server_id")): f"the source {where} itself"}
            for row in session.query(dialect.show_replicas):
                values = {str(key).lower(): value for key, value in row.items()}
                taken[int(values["server_id"])] = f"a replica of {where}"
    except ReplicaBackupError as error:
        advice = "grant it REPLICATION SLAVE, on MariaDB 10.5 and newer REPLICATION MASTER ADMIN as well"
        if "cryptography" in str(error.found):
            advice = "give source_ca_cert (replica_verify_source_ca_cert), or install python3-cryptography here"
        elif not isinstance(error, QueryError):
            advice = "mend the login (replica_verify_source_login_user, replica_verify_source_login_password)"
        raise RefusedError(
            f"The source {where} does not say which replicas it has",
            found=error.found,
            expected="an account that may ask, to know that nobody has the private server's server_id",
            next_command=advice,
            rule=_RULE,
        ) from error
    if attach.server_id in taken:
        raise _refused(f"server_id {attach.server_id} is that of {taken[attach.server_id]}", taken)


def _refused(found: str, taken: t.Iterable[int]) -> RefusedError:
    return RefusedError(
        "The private server needs a server_id of its own to be attached",
        found=found,
        expected=f"none of 0, {', '.join(map(str, sorted(taken)))}",
        next_command="give another one (replica_verify_server_id)",
        rule=_RULE,
    )


def forget_identity(datadir: str) -> None:
    """Let the server make itself a server_uuid of its own: with a living one's the source would throw that off."""
    with contextlib.suppress(FileNotFoundError):
        os.unlink(fs.encode(os.path.join(datadir, "auto.cnf")))


# The settings of the attached server: nobody writes to it, and what it has not applied it fetches again, because the
# relay logs in the tables' repositories still have the names of the other host.
SETTINGS = {"read_only": "ON", "relay_log_recovery": "ON"}


def catch_up(server: PrivateServer, attach: Attach) -> float:
    """Start the channels, wait until they have caught up, stop them; returns the seconds that it took.

    The accounts of the set are in force from here on: replicated statements about accounts need them. Raises
    ReplicaBackupError when a channel does not catch up.
    """
    dialect = server.binary.dialect
    started = time.monotonic()
    with server.session(max(60.0, attach.timeout)) as session:
        # This session keeps its rights; not written to the binary log, where it would be a transaction of its own.
        session.execute("FLUSH LOCAL PRIVILEGES")
        channels = read_channels(session, dialect)
        for channel in channels:
            session.execute(
                *dialect.change_login(channel.name, attach.user, attach.password, channel.delay, _HEARTBEAT)
            )
        wanted = [Threads(channel.name, io=True, applier=True) for channel in channels]
        try:
            resume(session, dialect, wanted)
            wait_caught_up(session, dialect, wanted, no_progress_timeout=attach.timeout, max_lag=attach.max_lag)
        finally:
            for threads in wanted:
                for thread in ("io", "applier"):
                    with contextlib.suppress(ReplicaBackupError):
                        session.execute(*dialect.stop_thread(threads.name, thread))
    return time.monotonic() - started
