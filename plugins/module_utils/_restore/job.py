# Copyright (c) 2026, mysql_ops contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Lay a set onto this host: look, judge, lay down beside what is there, prove, and only then exchange the files."""

from __future__ import annotations

import contextlib
import os
import pwd
import re
import signal
import subprocess
import time
import typing as t
from dataclasses import dataclass, field

from ansible_collections.mysql_ops.replica_backup.plugins.module_utils import _fspath as fs
from ansible_collections.mysql_ops.replica_backup.plugins.module_utils import (
    _ledger,
    _observe,
    _offline,
    _server,
    _service,
)
from ansible_collections.mysql_ops.replica_backup.plugins.module_utils._archive.extract import Owners
from ansible_collections.mysql_ops.replica_backup.plugins.module_utils._dialect import Dialect
from ansible_collections.mysql_ops.replica_backup.plugins.module_utils._errors import RefusedError, ReplicaBackupError
from ansible_collections.mysql_ops.replica_backup.plugins.module_utils._installed import Hints
from ansible_collections.mysql_ops.replica_backup.plugins.module_utils._managers.interface import ServiceManager
from ansible_collections.mysql_ops.replica_backup.plugins.module_utils._offline import Offline
from ansible_collections.mysql_ops.replica_backup.plugins.module_utils._restore import asleep, rules, sentry, stage
from ansible_collections.mysql_ops.replica_backup.plugins.module_utils._restore import journal as journals
from ansible_collections.mysql_ops.replica_backup.plugins.module_utils._restore.feed import Feed
from ansible_collections.mysql_ops.replica_backup.plugins.module_utils._restore.journal import Journal
from ansible_collections.mysql_ops.replica_backup.plugins.module_utils._restore.layout import layout_of
from ansible_collections.mysql_ops.replica_backup.plugins.module_utils._restore.mapping import Mapping
from ansible_collections.mysql_ops.replica_backup.plugins.module_utils._restore.origin import Origin, origin_of
from ansible_collections.mysql_ops.replica_backup.plugins.module_utils._restore.roots import (
    SHARED,
    Root,
    Roots,
    Survey,
    mount_points,
    stale_names,
    survey,
)
from ansible_collections.mysql_ops.replica_backup.plugins.module_utils._restore.switch import switch

SAME, CLONE = "same", "clone"
_WHO = "replica_restore"
_UNTOUCHED = "as it was, nothing was changed"
# What the started server is found by; the rest of its settings is not ours to keep.
_KEPT = (*_observe.RESTORE_SETTINGS, "log_error", "hostname", "read_only", "super_read_only")
_KEPT_ENVIRONMENT = ("HOME", "LD_LIBRARY_PATH", "LD_PRELOAD", "MYSQL_GROUP_SUFFIX", "MYSQL_HOME", "TZ")
_SELINUX = "/sys/fs/selinux/enforce"


@dataclass(frozen=True)
class Request:
    """``identity`` is SAME or CLONE. ``hints`` say which server of this host is meant. ``force``: a running server is
    stopped for it, by ``service_manager``/``service_name`` within ``shutdown_timeout`` seconds. ``moves``: see Mapping.
    ``check_space`` False: the sizes in the manifest are too large for these files (holes)."""

    state_dir: str
    identity: str = SAME
    hints: Hints = field(default_factory=Hints)
    force: bool = False
    allow_upgrade: bool = False
    check_space: bool = True
    moves: t.Mapping[str, str] = field(default_factory=dict)
    service_manager: str = "auto"
    service_name: str | None = None
    shutdown_timeout: float = 1800.0


@dataclass(frozen=True)
class Plan:
    """Decided from what was seen; nothing has been touched."""

    restore_id: str
    origin: Origin
    offline: Offline
    process: _server.ServerProcess | None
    mapping: Mapping
    roots: Roots
    survey: Survey
    mounts: frozenset[str]
    owners: Owners

    def to_result(self, feed: Feed) -> dict[str, t.Any]:
        target = self.offline.facts.datadir
        return {
            "set": feed.backup.label,
            "set_from": feed.where,
            "datadir": target,
            "datadir_state": self.offline.datadir_state,
            "server_running": self.process is not None,
            "files": self.survey.files,
            "bytes": self.survey.total,
            "directories": [
                {"path": root.path, "style": root.style, "bytes": self.survey.bytes.get(root.key, 0)}
                for root in self.roots.all
            ],
            "not_laid": dict(self.survey.not_laid),
        }


# -- look and judge ----------------------------------------------------------------------------------------------------


def plan(request: Request, feed: Feed) -> Plan:
    """Raises RefusedError when the set must not, or cannot, become this host's server."""
    if request.identity not in (SAME, CLONE):
        raise RefusedError("No such identity", found=request.identity, expected=f"{SAME} or {CLONE}", rule="identity")
    origin = origin_of(feed.backup.head)
    offline = _offline.read_offline(request.hints, persisted=False)
    clone = request.identity == CLONE
    moves = {fs.absolute(old, "/"): fs.absolute(new, "/") for old, new in request.moves.items()}
    rules.refuse(
        rules.judge(
            rules.Subject(
                origin,
                offline.facts,
                offline.identity,
                clone,
                feed.backup.head["channels"],
                moves,
                request.allow_upgrade,
            )
        ),
        f"the server of {offline.facts.datadir} ({', '.join(offline.facts.option_files) or 'no option file'})",
    )
    process = _offline.running_process(offline.facts)
    if process is not None and not request.force:
        raise _running(process, offline.facts.datadir)
    restore_id = time.strftime("%Y%m%dT%H%M%SZ", time.gmtime())
    mapping = Mapping(origin, layout_of(offline.facts), moves, clone)
    mounts = mount_points()
    roots = Roots(mapping, restore_id, mounts, stale_names(mapping, origin))
    seen = survey(feed.backup.records, mapping, roots)
    _refuse_inside(roots.all, "state_dir", request.state_dir)
    _refuse_inside(roots.all, "set", feed.backup.directory)
    refuse_used_by_others(roots.all, process)
    if request.check_space:
        check_space(roots.all, seen)
    return Plan(restore_id, origin, offline, process, mapping, roots, seen, mounts, _owners(seen))


def _running(process: _server.ServerProcess, datadir: str) -> RefusedError:
    return RefusedError(
        f"A server is running on {datadir}",
        found=f"pid {process.pid}, {process.exe or (process.argv or ('?',))[0]}",
        expected="no server there",
        server_state=f"running, pid {process.pid}, untouched",
        next_command="stop it, or set replica_restore_force=true, which stops it when the set is laid down and proven;"
        " its files are moved aside, not deleted",
        rule="server_running",
    )


def _refuse_inside(roots: t.Iterable[Root], rule: str, directory: str) -> None:
    """Raise RefusedError when what the restore itself works with would be moved aside under its hands."""
    for root in roots:
        if root.style != SHARED and fs.below(fs.real(directory), root.path) is not None:
            raise RefusedError(
                f"{directory} lies in {root.path}, which would be moved aside while it is needed",
                found=f"the {'state directory' if rule == 'state_dir' else 'set'} inside of the data directory",
                expected="a place outside of it",
                server_state=_UNTOUCHED,
                next_command="set replica_backup_state_dir to another directory"
                if rule == "state_dir"
                else "move the set elsewhere, and restore it from there",
                rule=rule,
            )


def refuse_used_by_others(roots: t.Sequence[Root], own: _server.ServerProcess | None) -> None:
    """Raise RefusedError when another server works on files that would be exchanged: of two servers on one host, the
    tablespaces of one may lie where the set of the other had its own, or all of it inside of the other's directory."""
    theirs = [(root, re.compile(root.stale or r"(?!)", re.DOTALL)) for root in roots]
    for holder in _server.holders([root.path for root in roots]).found:
        process = _server.read_process(holder.pid)
        if process is None or not _server.is_server(process) or (own is not None and holder.pid == own.pid):
            continue
        for root, pattern in theirs:
            relative = fs.below(holder.path, root.path)
            if relative is not None and (root.style != SHARED or pattern.fullmatch(relative)):
                raise RefusedError(
                    f"Another server works on {holder.path}, which would be exchanged",
                    found=f"pid {holder.pid}, {holder.command}",
                    expected="directories that belong to the server of this restore alone",
                    server_state=_UNTOUCHED,
                    next_command="send the directory elsewhere with replica_restore_directories"
                    f' ("{root.path}": another one), or correct the option file of this server',
                    rule="in_use",
                )


def _owners(seen: Survey) -> Owners:
    """Accounts by name; a name that this host lacks becomes that of its server."""
    record = next((record for record in seen.own_records.values() if record.place == "datadir"), None)
    for name in (record.owner if record is not None else "", "mysql"):
        try:
            account = pwd.getpwnam(name)
            return Owners(account.pw_uid, account.pw_gid)
        except KeyError:
            continue
    return Owners()


def check_space(roots: t.Iterable[Root], seen: Survey) -> None:
    """Raise RefusedError when a file system has less room than its part of the set needs. Old files stay, so all of it
    is needed."""
    needed: dict[int, int] = {}
    where: dict[int, str] = {}
    for root in roots:
        there = root.path
        while not os.path.isdir(fs.encode(there)):
            there = os.path.dirname(there)
        device = os.stat(fs.encode(there)).st_dev
        needed[device] = needed.get(device, 0) + seen.bytes.get(root.key, 0)
        where.setdefault(device, there)
    for device, size in needed.items():
        numbers = os.statvfs(fs.encode(where[device]))
        free = numbers.f_bavail * numbers.f_frsize
        if free < size:
            raise RefusedError(
                f"There is not enough room at {where[device]}: the old files stay beside the new ones",
                found=f"{free} bytes free",
                expected=f"{size} bytes",
                server_state=_UNTOUCHED,
                next_command="make room, or, when the files of the set have large holes, set"
                " replica_restore_check_space=false",
                rule="space",
                free_bytes=free,
                needed_bytes=size,
            )


# -- act ---------------------------------------------------------------------------------------------------------------


def restore(
    request: Request, feed: Feed, *, check: bool = False, tick: t.Callable[[], None] = lambda: None
) -> dict[str, t.Any]:
    """Lay the set onto this host, up to phase "laid"; the server is not started. Returns the module's result.

    Raises RefusedError (nothing touched), or ReplicaBackupError: before the exchange everything is as it was, after it
    began the journal stays and the next call goes on. A call that finds the set laid already changes nothing.
    """
    if check:
        _refuse_open_run(request)
        going = journals.load(request.state_dir)
        if going is not None and not _begins_anew(going, request, feed):
            return {"changed": going.phase == "switching", **_summary(going)}
        return {"changed": True, **plan(request, feed).to_result(feed)}
    _ledger.prepare_state_dir(request.state_dir)
    with _ledger.locked(request.state_dir, _WHO):
        _refuse_open_run(request)
        going = journals.load(request.state_dir)
        if going is not None:
            done = _go_on(going, request, feed)
            if done is not None:
                return done
        return _restore(request, feed, tick)


def _refuse_open_run(request: Request) -> None:
    ledger = _ledger.load(request.state_dir)
    if ledger is not None:
        raise _ledger.unfinished(ledger)


def _begins_anew(journal: Journal, request: Request, feed: Feed) -> bool:
    """Whether an earlier restore is given up for this one; False: it goes on, or has nothing left to do."""
    if journal.phase in ("staging", "staged"):
        return True
    same = journal.set_label == feed.backup.label and journal.identity == request.identity
    if journal.phase == "switching":
        if not same:
            raise RefusedError(
                f"A restore of {journal.set_label} as {journal.identity} has begun to exchange files",
                found=f"now asked for {feed.backup.label} as {request.identity}",
                expected="the same restore, which goes on where it stands",
                server_state="stopped; its files are half exchanged",
                next_command=f"finish it first: -e replica_restore_set={journal.set_label}"
                f" -e replica_restore_identity={journal.identity}",
                rule="restore",
            )
        return False
    if same and journal.phase in ("starting", "serving"):
        # What stopped it there was no fault of the files: it is mended, and the same command given again.
        return False
    if same or request.force:
        return request.force
    raise RefusedError(
        f"A restore of {journal.set_label} as {journal.identity} was laid down here and its server not resumed yet",
        found=f"phase {journal.phase}, now asked for {feed.backup.label} as {request.identity}",
        expected="mysql_replica_resume to end it",
        server_state="as it was",
        next_command="resume it, or set replica_restore_force=true, which moves its files aside",
        rule="restore",
    )


def _go_on(journal: Journal, request: Request, feed: Feed) -> dict[str, t.Any] | None:
    """What to do about an earlier restore that did not come to its end; None: begin anew."""
    roots = [Root.from_dict(root) for root in journal.work["roots"]]
    if journal.phase in ("staging", "staged"):
        sentry.start_stopped(journal)
        asleep.wake(journal)
        stage.remove_staging(roots, list(journal.work.get("made", {})))
        journal.discard()
        earlier = journals.load(request.state_dir)
        return None if earlier is None else _go_on(earlier, request, feed)
    if _begins_anew(journal, request, feed):
        return None
    if journal.phase == "switching":
        asleep.keep(journal, service_manager=request.service_manager, service_name=request.service_name)
        _nobody_runs(journal.target["datadir"], request)
        _exchange(journal, roots)
        return {"changed": True, **_summary(journal)}
    return {"changed": False, **_summary(journal)}


def _restore(request: Request, feed: Feed, tick: t.Callable[[], None]) -> dict[str, t.Any]:
    started = time.monotonic()
    decided = plan(request, feed)
    roots = decided.roots.all
    earlier = journals.load(request.state_dir)
    journal = Journal(
        state_dir=request.state_dir,
        restore_id=decided.restore_id,
        set_label=feed.backup.label,
        identity=request.identity,
        head=dict(feed.backup.head),
        target=_target(decided),
        moved_aside=[] if earlier is None else list(earlier.moved_aside),
        work={"roots": [root.to_dict() for root in roots], "made": {}, **asleep.handed_on(request.state_dir)},
    )
    journals.keep_earlier(request.state_dir)
    journal.advance("staging")
    made: list[str] = []
    try:
        stage.make_directories(roots, decided.survey, decided.owners, made)
        journal.work["made"] = dict.fromkeys(made, True)
        journal.write()
        staged = stage.lay_down(feed, decided.mapping, decided.roots, decided.survey, decided.owners, tick)
        journal.warnings += stage.check_persisted(decided.survey, decided.mapping, clone=request.identity == CLONE)
    except BaseException as error:
        asleep.wake(journal)
        stage.remove_staging(roots, made)
        journal.discard()
        if isinstance(error, OSError):
            raise ReplicaBackupError(
                f"The set could not be laid down: {error.filename or ''} {error.strerror}",
                expected="directories that this user may make and write",
                server_state=_state(decided),
            ) from error
        if isinstance(error, ReplicaBackupError):
            error.server_state = error.server_state or _state(decided)
            error.next_command = error.next_command or "mend the cause, or take another set, and run the restore again"
        raise
    journal.relay_logs_unusable = _unusable(decided, feed, staged)
    journal.warnings += _warnings(decided, staged)
    journal.work.update(files=staged.files, bytes=staged.bytes, seconds=round(time.monotonic() - started, 3))
    journal.advance("staged")
    stopped: ServiceManager | None = None
    try:
        running = _running_now(decided.offline.facts.datadir)
        refuse_used_by_others(roots, running)
        if running is not None and not request.force:
            raise _running(running, decided.offline.facts.datadir)
        asleep.keep(journal, service_manager=request.service_manager, service_name=request.service_name)
        stopped = _nobody_runs(decided.offline.facts.datadir, request, journal)
        journal.advance("switching")
    except BaseException:
        # The server comes first, whatever becomes of the rest; before it its sockets, which systemd does not start
        # any more once it runs.
        asleep.wake(journal)
        if not journals.over_another(request.state_dir):
            _start_again(stopped)
        stage.remove_staging(roots, made)
        journal.phase = "staged"
        journal.discard()
        raise
    _exchange(journal, roots)
    return {"changed": True, **_summary(journal)}


def _state(decided: Plan) -> str:
    return _UNTOUCHED + ("" if decided.process is None else f"; running, pid {decided.process.pid}")


def _target(decided: Plan) -> dict[str, t.Any]:
    facts, start = decided.offline.facts, decided.offline.start
    return {
        "datadir": facts.datadir,
        "layout": decided.mapping.target.to_dict(),
        "exe": start.exe,
        "argv": list(start.argv),
        "environment": {key: start.environment[key] for key in _KEPT_ENVIRONMENT if key in start.environment},
        "service": start.service,
        "known": start.known,
        "variables": {name: facts.get(name) for name in _KEPT if facts.get(name)},
    }


def _unusable(decided: Plan, feed: Feed, staged: stage.Staged) -> str:
    renamed = staged.rewritten.relay_logs
    tables = [
        channel["name"]
        for channel in feed.backup.head["channels"]
        if (channel.get("repository") or {}).get("applier") == "TABLE"
    ]
    if renamed and tables:
        old, new = next(iter(renamed.items()))
        return f"the applier's table in the set names {old}, and on this host that relay log is {new}"
    return ""


def _warnings(decided: Plan, staged: stage.Staged) -> list[str]:
    words = list(decided.offline.warnings)
    if staged.unknown_owners:
        words.append(
            f"This host has no account or group {', '.join(staged.unknown_owners)}: the server's own were given instead"
        )
    for place, count in decided.survey.not_laid.items():
        if place.partition("-")[0] == "config":
            words.append(
                f"{count} files of {decided.origin.places[place]} ({place}) were not laid down:"
                " option files are this host's own; they are in the set"
            )
    if decided.mapping.clone:
        old = "auto.cnf and SQL_LOAD files" if decided.origin.dialect.has_server_uuid else "SQL_LOAD files"
        words.append(f"{old} of the old identity were left out; the clone makes its own")
    return words


def _running_now(datadir: str) -> _server.ServerProcess | None:
    return _server.find_process(datadir=datadir) if fs.is_directory(datadir) else None


def _nobody_runs(datadir: str, request: Request, journal: Journal | None = None) -> ServiceManager | None:
    """Stop the server, cleanly, where that was asked for, and return what stopped it; None when none ran.

    With a ``journal`` the server's own files are in place: a sentry starts it again if this process dies.

    Raises RefusedError where one runs nonetheless, ReplicaBackupError when it does not stop: it is up, or stopping.
    """
    process = _running_now(datadir)
    if process is None:
        return None
    if not request.force:
        raise _running(process, datadir)
    facts = _offline.read_offline(request.hints, persisted=False)
    dialect = Dialect(facts.identity.family, facts.identity.version)
    manager = _service.detect(
        process=process,
        requested=request.service_manager,
        name=request.service_name,
        variables=facts.facts.variables,
        own_options=dialect.own_start_options,
        state_dir=request.state_dir,
        shutdown_timeout=request.shutdown_timeout,
    )
    if journal is not None and not journals.over_another(journal.state_dir):
        sentry.post(journal, manager, process, datadir, request.shutdown_timeout)
    try:
        if not manager.request_stop():
            # A clean shutdown as well (manual, "Unix Signal Handling in MySQL"); there may be nobody to log in as.
            os.kill(process.pid, signal.SIGTERM)
        _server.wait_gone(process, request.shutdown_timeout)
        manager.wait_stopped(request.shutdown_timeout)
    except BaseException as error:
        if not _server.is_alive(process):
            _start_again(manager)
        elif isinstance(error, ReplicaBackupError):
            error.next_command = (
                "its files are untouched; look at its error log, start it again when it has ended, or run the restore"
                " once more with a longer replica_restore_shutdown_timeout"
            )
        raise
    return manager


def _start_again(stopped: ServiceManager | None) -> None:
    """The restore came to nothing after it had stopped the server: its own files are in place, and it is to run."""
    if stopped is not None:
        # The error that led here is worth more than one of this start.
        with contextlib.suppress(ReplicaBackupError, OSError):
            stopped.start()
            stopped.after_start()


def _exchange(journal: Journal, roots: t.Sequence[Root]) -> None:
    switch(journal, roots, mount_points())
    for root in roots:
        # Its files went with it: whoever started the server in the last moment has it on the old ones.
        process = _running_now(root.before)
        if process is not None:
            raise ReplicaBackupError(
                f"Somebody has started the server while its files were exchanged; it works on {root.before}",
                found=f"pid {process.pid}",
                expected="no server there",
                server_state=f"running on its old files, pid {process.pid}; the new ones are in place",
                next_command=f"kill {process.pid} and run the restore again: it goes on",
            )
    _relabel([root.path for root in roots])
    journal.advance("laid")


def _relabel(paths: t.Sequence[str]) -> None:
    """Give the files the SELinux context of their place; where there is no SELinux there is none."""
    if os.path.exists(_SELINUX):
        subprocess.run(["restorecon", "-R", "--", *paths], check=False, capture_output=True)


def _summary(journal: Journal) -> dict[str, t.Any]:
    return {
        "set": journal.set_label,
        "identity": journal.identity,
        "restore_id": journal.restore_id,
        "phase": journal.phase,
        "datadir": journal.target["datadir"],
        "files": journal.work.get("files"),
        "bytes": journal.work.get("bytes"),
        "seconds": journal.work.get("seconds"),
        "moved_aside": list(journal.moved_aside),
        "relay_logs_unusable": journal.relay_logs_unusable,
        "warnings": list(journal.warnings),
    }
