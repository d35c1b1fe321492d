# Copyright (c) 2026, mysql_ops contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Does the disk say what the server says about every channel? Asked with the appliers off, and after the stop."""

from __future__ import annotations

import os
import typing as t
from dataclasses import asdict, dataclass

from ansible_collections.mysql_ops.replica_backup.plugins.module_utils import _fspath as fs
from ansible_collections.mysql_ops.replica_backup.plugins.module_utils import _status_files
from ansible_collections.mysql_ops.replica_backup.plugins.module_utils._channel_names import channel_file
from ansible_collections.mysql_ops.replica_backup.plugins.module_utils._errors import ReplicaBackupError


@dataclass(frozen=True)
class Compared:
    """One fact of a channel. ``verdict`` is True for equal, False for different or missing, None for not comparable.

    ``name`` is "coordinates of CHANNEL" or "relay logs of CHANNEL"; ``detail`` says what was seen or why not.
    """

    name: str
    verdict: bool | None
    detail: str

    def to_dict(self) -> dict[str, t.Any]:
        return asdict(self)


def check_coordinates(
    channels: t.Iterable[t.Mapping[str, t.Any]], server: t.Mapping[str, t.Any], *, stopped: bool = True
) -> tuple[Compared, ...]:
    """Compare the recorded channels with the files. Reads the disk, changes nothing.

    The appliers must be off or the server down (``stopped``): servers write relay-log.info when an applier stops.
    MariaDB drops the relay logs of a GTID channel when its receiver alone is started, and tells the file at its
    shutdown only (seen on 10.11): while it runs, another place in the relay logs proves nothing of such an applier.

    ``channels`` and ``server`` are those sections of the ledger or the manifest. Coordinates that are kept in tables
    cannot be read without a server and are not compared. Raises nothing but OSError other than for a missing file.
    """
    found: list[Compared] = []
    for channel in channels:
        label = f"channel '{channel['name']}'" if channel["name"] else "the default channel"
        found.append(_coordinates(channel, server, f"coordinates of {label}", stopped))
        found.append(_relay_logs(channel, server, f"relay logs of {label}"))
    return tuple(found)


def refuse_differences(compared: t.Iterable[Compared]) -> None:
    """Raise ReplicaBackupError when something differs: a copy, or the server itself after a restart, would go on from
    another place than the server says."""
    wrong = [item for item in compared if item.verdict is False]
    if wrong:
        raise ReplicaBackupError(
            "The files on disk do not say what the server says about its replication",
            found="; ".join(f"{item.name}: {item.detail}" for item in wrong),
            expected="the server's coordinates on disk, and every relay log that is still needed",
            next_command="find out who replaced or removed these files; the server itself would go on from what they "
            "say after a restart, so point the channel anew at what the server says before any",
            rule="coordinates",
        )


def _coordinates(channel: t.Mapping[str, t.Any], server: t.Mapping[str, t.Any], name: str, stopped: bool) -> Compared:
    if channel["repository"]["applier"].upper() != "FILE":
        return Compared(name, None, "kept in mysql.slave_relay_log_info, which only a running server can read")
    base = server["variables"].get("relay_log_info_file") or "relay-log.info"
    path = channel_file(fs.absolute(base, server["datadir"]), channel["name"])
    try:
        disk = _status_files.read(_status_files.parse_applier_info, path)
    except FileNotFoundError:
        return Compared(name, False, f"{fs.printable(path)} is not there")
    except _status_files.StatusFileError as error:
        return Compared(name, False, str(error))
    recorded = _words(
        channel["source_log_file"], channel["source_log_pos"], channel["relay_log_file"], channel["relay_log_pos"]
    )
    seen = _words(disk.source_log_file, disk.source_log_pos, os.path.basename(disk.relay_log_file), disk.relay_log_pos)
    if seen == recorded:
        return Compared(name, True, f"{fs.printable(path)}: {seen}")
    if disk.never_ran and not channel["source_log_file"]:
        return Compared(name, None, f"the applier has never run; {fs.printable(path)}: {seen}, recorded {recorded}")
    if not stopped and not channel["threads_before"]["applier"]:
        executed = (channel["source_log_file"], channel["source_log_pos"])
        if executed == (disk.source_log_file, disk.source_log_pos):
            return Compared(name, None, f"written anew at the shutdown; {fs.printable(path)}: {seen}, now {recorded}")
    return Compared(name, False, f"{fs.printable(path)}: {seen}, recorded {recorded}")


def _words(source_log: str, source_pos: int, relay_log: str, relay_pos: int) -> str:
    return f"executed {fs.printable(source_log)}:{source_pos}, in {fs.printable(relay_log)}:{relay_pos}"


def _relay_logs(channel: t.Mapping[str, t.Any], server: t.Mapping[str, t.Any], name: str) -> Compared:
    """That every relay log exists that the index names: a restart wants all of them."""
    current = channel["relay_log_file"]
    if not current:
        return Compared(name, None, "the channel has none")
    variables, datadir = server["variables"], server["datadir"]
    base = variables.get("relay_log_basename") or variables.get("relay_log") or ""
    beside = fs.absolute(current, os.path.dirname(fs.absolute(base, datadir)) if base else datadir)
    if not fs.is_file(beside):
        return Compared(name, False, f"{fs.printable(beside)} is not there")
    indexes = [beside.rpartition(".")[0] + ".index"]
    if variables.get("relay_log_index"):
        indexes.append(channel_file(fs.absolute(variables["relay_log_index"], datadir), channel["name"]))
    for index in indexes:
        try:
            named = [fs.absolute(log, datadir) for log in _status_files.read(_status_files.parse_log_index, index)]
        except FileNotFoundError:
            continue
        except _status_files.StatusFileError as error:
            return Compared(name, False, str(error))
        if beside not in named:
            # A leftover of other settings, or an index that another server keeps.
            continue
        missing = [log for log in named if not fs.is_file(log)]
        if missing:
            return Compared(name, False, f"{', '.join(map(fs.printable, missing))} is not there")
        return Compared(name, True, f"{fs.printable(index)} names {fs.printable(current)}; all that it names are there")
    # The variable is empty, or wrong in its extension, for some ways of setting it; the file list has looked it up.
    return Compared(name, None, f"{fs.printable(beside)} is there; no index that the variables name has it")
