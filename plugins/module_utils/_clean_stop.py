# Copyright (c) 2026, mysql_ops contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""How a server ended: everything that tells a clean stop from a crash. Read-only.

Where something cannot be seen the answer is "unknown" and never "clean".
"""

from __future__ import annotations

import errno
import os
import re
import typing as t
from dataclasses import dataclass

from ansible_collections.mysql_ops.replica_backup.plugins.module_utils import _error_log, _redo_log, _server
from ansible_collections.mysql_ops.replica_backup.plugins.module_utils._dialect import Dialect
from ansible_collections.mysql_ops.replica_backup.plugins.module_utils._error_log import ErrorLogMark
from ansible_collections.mysql_ops.replica_backup.plugins.module_utils._errors import ReplicaBackupError
from ansible_collections.mysql_ops.replica_backup.plugins.module_utils._server import ServerProcess


@dataclass(frozen=True)
class Proof:
    """One sign of a stop.

    ``verdict``: True speaks for a clean one, False against it, None does not apply or cannot be told, and
    ``detail`` says why.
    """

    name: str
    verdict: bool | None
    detail: str


# Signs that must be there, and signs of which one must be there: only these three speak of InnoDB itself.
_REQUIRED = ("process", "lock")
_MARKS = ("redo_log", "error_log", "temporary_tablespace")


@dataclass(frozen=True)
class CleanStop:
    """The signs together. ``clean`` holds only when nothing speaks against it and enough speaks for it."""

    proofs: tuple[Proof, ...]

    @property
    def clean(self) -> bool:
        verdicts = {proof.name: proof.verdict for proof in self.proofs}
        return (
            False not in verdicts.values()
            and all(verdicts.get(name) is True for name in _REQUIRED)
            and any(verdicts.get(name) is True for name in _MARKS)
        )

    @property
    def summary(self) -> str:
        """What speaks against a clean stop, for messages."""
        against = [f"{proof.name}: {proof.detail}" for proof in self.proofs if proof.verdict is False]
        seen = {proof.name: proof.verdict for proof in self.proofs}
        against += [
            f"{proof.name} unknown: {proof.detail}"
            for proof in self.proofs
            if proof.name in _REQUIRED and proof.verdict is None
        ]
        if not any(seen.get(name) is True for name in _MARKS):
            against.append("no mark of a clean stop in " + ", ".join(_MARKS))
        return "; ".join(against) if not self.clean else "clean"

    def to_dict(self) -> dict[str, t.Any]:
        return {
            "clean": self.clean,
            "proofs": [{"name": proof.name, "verdict": proof.verdict, "detail": proof.detail} for proof in self.proofs],
        }


def prove_clean_stop(
    *,
    dialect: Dialect,
    process: ServerProcess,
    variables: t.Mapping[str, str],
    error_log: ErrorLogMark | None,
) -> CleanStop:
    """Look at everything that tells a clean stop from a crash.

    ``variables`` are SHOW GLOBAL VARIABLES from before the stop, ``error_log`` the mark set right before the
    stop was asked for. Which sign means what was seen on MySQL 5.6 and 9.7 and MariaDB 10.11, each after a
    clean stop and after kill -9.
    """
    facts = _Stopped(dialect, process, variables, error_log)
    checks: tuple[tuple[str, t.Callable[[_Stopped], tuple[bool | None, str]]], ...] = (
        ("process", _prove_process),
        ("lock", _prove_lock),
        ("holders", _prove_holders),
        ("error_log", _prove_error_log),
        ("pid_file", _prove_pid_file),
        ("temporary_tablespace", _prove_temporary_tablespace),
        ("ddl_recovery_log", _prove_ddl_recovery_log),
        ("binary_log", _prove_binary_log),
        ("gtid_state", _prove_gtid_state),
        ("fast_shutdown", _prove_fast_shutdown),
        ("redo_log", _prove_redo_log),
    )
    proofs = []
    for name, check in checks:
        try:
            verdict, detail = check(facts)
        except OSError as error:
            verdict, detail = None, f"cannot be read: {error}"
        proofs.append(Proof(name, verdict, detail))
    return CleanStop(tuple(proofs))


class _Stopped(t.NamedTuple):
    dialect: Dialect
    process: ServerProcess
    variables: t.Mapping[str, str]
    error_log: ErrorLogMark | None

    @property
    def datadir(self) -> str:
        return self.variables["datadir"]

    @property
    def innodb_home(self) -> str:
        return _server.absolute(self.variables.get("innodb_data_home_dir") or "", self.datadir)

    @property
    def system_tablespace(self) -> list[str]:
        listed = self.variables.get("innodb_data_file_path") or "ibdata1:12M:autoextend"
        return [os.path.join(self.innodb_home, part.split(":")[0]) for part in listed.split(";") if part]


def _exists(path: str) -> bool:
    """Like lexists, but raises when it cannot be known."""
    try:
        os.lstat(path)
    except OSError as error:
        if error.errno in (errno.ENOENT, errno.ENOTDIR):
            return False
        raise
    return True


def _prove_process(facts: _Stopped) -> tuple[bool | None, str]:
    if _server.is_alive(facts.process):
        return False, f"process {facts.process.pid} still runs"
    pid_file = facts.variables.get("pid_file")
    try:
        other = _server.find_process(datadir=facts.datadir, pid_file=pid_file)
    except ReplicaBackupError as error:
        return None, str(error)
    if other is not None:
        return False, f"a server runs again on {facts.datadir}: process {other.pid}"
    return True, f"process {facts.process.pid} is gone and no other serves {facts.datadir}"


def _prove_lock(facts: _Stopped) -> tuple[bool | None, str]:
    paths = dict.fromkeys(
        [*facts.system_tablespace, *(os.path.join(facts.datadir, name) for name in _server.LOCKED_IN_DATADIR)]
    )
    states = {path: _server.lock_state(path) for path in paths}
    held = [path for path, state in states.items() if state is False]
    free = [path for path, state in states.items() if state]
    if held:
        return False, f"locked by a process: {', '.join(held)}"
    if states[facts.system_tablespace[0]] is None:
        return None, f"the lock on {facts.system_tablespace[0]} cannot be examined"
    return True, f"no lock on {', '.join(free)}"


def _prove_holders(facts: _Stopped) -> tuple[bool | None, str]:
    logs = {_error_log.path_of(facts.variables)}
    for name in ("general_log_file", "slow_query_log_file", "log_slow_query_file"):
        if facts.variables.get(name):
            logs.add(_server.absolute(facts.variables[name], facts.datadir))
    redo = _server.absolute(facts.variables.get("innodb_log_group_home_dir") or "", facts.datadir)
    seen = _server.holders(list(dict.fromkeys([facts.datadir, facts.innodb_home, redo])))
    real_logs = {os.path.realpath(log) for log in logs if log}
    # Somebody who reads (a virus scanner, tail on a log) changes nothing; only writers spoil a copy.
    writers = [holder for holder in seen.found if holder.writes is not False and holder.path not in real_logs]
    if writers:
        first = writers[0]
        return False, f"{len(writers)} files open for writing, such as {first.path} by {first.command} ({first.pid})"
    readers = f"; {len(seen.found)} open for reading or logging" if seen.found else ""
    if seen.unreadable:
        return None, f"{seen.unreadable} processes cannot be looked into, the others hold nothing{readers}"
    return True, f"no process has a data file open for writing{readers}"


_LOG_END = re.compile(r"(?:mysqld|mariadbd|MY-010910|\[Server\]).*Shutdown complete\b")
_LOG_TROUBLE = re.compile(r"\[ERROR\].*Aborting|got signal \d+|Assertion failure|InnoDB: Failing assertion|mysqld got ")


def _prove_error_log(facts: _Stopped) -> tuple[bool | None, str]:
    mark = facts.error_log
    if mark is None:
        return None, "the server does not log to a file that we can read"
    text = _error_log.since(mark)
    if not text.strip():
        return None, f"nothing was logged to {mark.path} since the stop was asked for"
    trouble = _LOG_TROUBLE.search(text)
    if trouble is not None:
        return False, f"{mark.path} says: {trouble.group(0)}"
    lines = text.splitlines()
    if not any(_LOG_END.search(line) for line in lines):
        verbosity = facts.variables.get("log_error_verbosity", "3")
        if verbosity in ("1", "2") and not facts.dialect.always_logs_end_of_shutdown:
            return None, f"log_error_verbosity is {verbosity}, so the end of a shutdown is not logged to {mark.path}"
        return False, f"no 'Shutdown complete' in {mark.path} since the stop was asked for"
    number = next((m.group(1) for m in map(_LOG_LSN.search, reversed(lines)) if m), None)
    return True, f"{mark.path} says: Shutdown complete" + (f", log sequence number {number}" if number else "")


# With "InnoDB: " before it up to 10.11.18, without in 10.11.19.
_LOG_LSN = re.compile(r"\bShutdown completed; log sequence number (\d+)")


def _prove_pid_file(facts: _Stopped) -> tuple[bool | None, str]:
    name = facts.variables.get("pid_file")
    if not name:
        return None, "the server has no pid file"
    path = _server.absolute(name, facts.datadir)
    if _exists(path):
        return False, f"{path} was left behind"
    return True, f"{path} is gone"


def _prove_temporary_tablespace(facts: _Stopped) -> tuple[bool | None, str]:
    left = []
    looked = []
    listed = facts.variables.get("innodb_temp_data_file_path")
    if listed:
        looked = [os.path.join(facts.innodb_home, part.split(":")[0]) for part in listed.split(";") if part]
        left = [path for path in looked if _exists(path)]
    sessions = facts.variables.get("innodb_temp_tablespaces_dir")
    if sessions:
        directory = _server.absolute(sessions, facts.datadir)
        looked.append(directory)
        if os.path.isdir(directory):
            left += [
                os.path.join(directory, name)
                for name in sorted(os.listdir(directory))
                if re.match(r"temp_\d+\.ibt\Z", name)
            ]
    if not looked:
        return None, "this version has no temporary tablespace of its own"
    if left:
        return False, f"a stopped server removes {left[0]}, but it is there"
    return True, f"removed: {', '.join(looked)}"


def _prove_ddl_recovery_log(facts: _Stopped) -> tuple[bool | None, str]:
    if not facts.dialect.has_ddl_recovery_log:
        return None, "only MariaDB 10.6 and later have one"
    path = os.path.join(facts.datadir, "ddl_recovery.log")
    if _exists(path):
        return False, f"{path} was left behind"
    return True, f"{path} is gone"


def _binlog_base(facts: _Stopped) -> str | None:
    if (facts.variables.get("log_bin") or "OFF").upper() not in ("ON", "1"):
        return None
    base = facts.variables.get("log_bin_basename")
    return _server.absolute(base, facts.datadir) if base else None


def _prove_binary_log(facts: _Stopped) -> tuple[bool | None, str]:
    base = _binlog_base(facts)
    if base is None:
        return None, "the server writes no binary log"
    path = _last_binary_log(facts, base)
    if path is None:
        return None, f"no binary log of {base} was found"
    with open(path, "rb") as stream:
        head = stream.read(23)
    if head[:4] != b"\xfebin" or len(head) < 23:
        return None, f"{path} is encrypted or no binary log, so its in-use mark cannot be read"
    # Flags of the first event's header: 4 bytes of magic, then 17 bytes into the header.
    if head[21] & 1:
        return False, f"{path} is marked as in use"
    return True, f"{path} was closed"


def _last_binary_log(facts: _Stopped, base: str) -> str | None:
    """The newest of the index; without an index under the name that the variable gives, the highest number.

    An index keeps the extension of its option, and the variable says ".index" all the same (MySQL 9.7, MariaDB 10.11).
    """
    index = facts.variables.get("log_bin_index")
    try:
        content = _server.read_bytes(_server.absolute(index, facts.datadir) if index else base + ".index")
        names = [line for line in os.fsdecode(content).split("\n") if line]
        if names:
            return _server.absolute(names[-1], facts.datadir)
    except FileNotFoundError:
        pass
    directory, stem = os.path.split(base)
    numbered = re.compile(re.escape(stem) + r"\.(\d{6,})")
    found = [(int(match[1]), name) for name in os.listdir(directory) if (match := numbered.fullmatch(name))]
    return os.path.join(directory, max(found)[1]) if found else None


def _prove_gtid_state(facts: _Stopped) -> tuple[bool | None, str]:
    base = _binlog_base(facts)
    if not facts.dialect.saves_gtid_state_at_shutdown or base is None:
        return None, "only MariaDB with a binary log writes one"
    path = base + ".state"
    if not _exists(path):
        return False, f"{path} is written by a clean stop and is absent"
    return True, f"{path} was written"


def _prove_fast_shutdown(facts: _Stopped) -> tuple[bool | None, str]:
    value = facts.variables.get("innodb_fast_shutdown") or ""
    if value in ("0", "1"):
        return True, f"innodb_fast_shutdown was {value}"
    if value.isdigit():
        return False, f"innodb_fast_shutdown was {value}: nothing is flushed, like after a crash"
    return None, "innodb_fast_shutdown is not known"


def _prove_redo_log(facts: _Stopped) -> tuple[bool | None, str]:
    return _redo_log.ends_at_checkpoint(
        directory=_server.absolute(facts.variables.get("innodb_log_group_home_dir") or "", facts.datadir),
        system_tablespace=facts.system_tablespace[0],
        stamped=facts.dialect.stamps_system_tablespace_at_shutdown,
    )
