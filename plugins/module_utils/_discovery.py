# Copyright (c) 2026, mysql_ops contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Discovery: ask a live server, or one that is down, plan, take the list, and write it into the spool."""

from __future__ import annotations

import contextlib
import hashlib
import os
import socket
import stat
import time
import typing as t
from dataclasses import asdict, dataclass, replace

from ansible_collections.mysql_ops.replica_backup.plugins.module_utils import _fspath as fs
from ansible_collections.mysql_ops.replica_backup.plugins.module_utils import _load_data, _server, _server_help
from ansible_collections.mysql_ops.replica_backup.plugins.module_utils._connection import (
    Login,
    Session,
    identify,
)
from ansible_collections.mysql_ops.replica_backup.plugins.module_utils._dialect import Dialect, neutral
from ansible_collections.mysql_ops.replica_backup.plugins.module_utils._dictionary import dictionary_files
from ansible_collections.mysql_ops.replica_backup.plugins.module_utils._errors import RefusedError
from ansible_collections.mysql_ops.replica_backup.plugins.module_utils._filelist import (
    Checked,
    Summary,
    incomplete,
    read_plan,
    summarize,
    walk,
    write_list,
)
from ansible_collections.mysql_ops.replica_backup.plugins.module_utils._installed import Hints
from ansible_collections.mysql_ops.replica_backup.plugins.module_utils._layout import SetPaths
from ansible_collections.mysql_ops.replica_backup.plugins.module_utils._offline import (
    Offline,
    clean_marks,
    read_offline,
    running_process,
)
from ansible_collections.mysql_ops.replica_backup.plugins.module_utils._option_files import (
    command_line_values,
    option_sources,
    read_option_files,
)
from ansible_collections.mysql_ops.replica_backup.plugins.module_utils._place_plan import plan_places
from ansible_collections.mysql_ops.replica_backup.plugins.module_utils._places import Discovery, Locator
from ansible_collections.mysql_ops.replica_backup.plugins.module_utils._planted import OnlyOwn
from ansible_collections.mysql_ops.replica_backup.plugins.module_utils._server_facts import ServerFacts

# A statement that ends between two looks (a dropped table, a finished export) is forgiven; what stays is an error.
_LOOKS = 3
_PAUSE_SECONDS = 0.3
_SHOWN_WARNINGS = 50
_CHANNEL_TLS = (
    "source_ssl_ca_file",
    "source_ssl_ca_path",
    "source_ssl_cert",
    "source_ssl_key",
    "source_ssl_crl",
    "source_ssl_crlpath",
    "source_public_key_path",
)

# Facts of the server, warnings.
_Gather = t.Callable[[], tuple[ServerFacts, tuple[str, ...]]]
_NOT_OFFLINE: dict[str, t.Any] = {"offline": False, "service": None, "clean_stop": None, "unknown": []}


@dataclass(frozen=True)
class Request:
    """What to discover, and for which set."""

    spool_dir: str
    host: str
    backup_id: str
    include_binlogs: bool = True
    check_mode: bool = False

    @property
    def paths(self) -> SetPaths:
        return SetPaths(self.spool_dir, self.host, self.backup_id)


def _environment(pid: int) -> dict[str, str]:
    try:
        with open(f"/proc/{pid}/environ", "rb") as handle:
            raw = handle.read()
    except OSError:
        return {}
    return {name: value for name, _sep, value in (fs.decode(part).partition("=") for part in raw.split(b"\0"))}


def _standard_streams(pid: int) -> tuple[str, ...]:
    found = []
    for number in range(3):
        try:
            found.append(fs.readlink(f"/proc/{pid}/fd/{number}"))
        except OSError:
            continue
    return tuple(path for path in found if path.startswith("/"))


def read_facts(session: Session) -> tuple[ServerFacts, tuple[str, ...]]:
    """(everything the plan is made from, warnings). Raises RefusedError when the server does not run on this host."""
    variables = session.variables()
    bare = ServerFacts(variables)
    if not fs.is_directory(bare.datadir):
        # The plan says it better than a search for a process would.
        return bare, ()
    pid_file = bare.path(bare.get("pid_file")) if bare.get("pid_file") else None
    process = _server.find_process(datadir=bare.datadir, pid_file=pid_file)
    if process is None:
        raise RefusedError(
            f"No server process of {bare.datadir} runs on this host",
            found="a server that answers, but no such process here",
            expected="a module that runs on the server's own host",
            rule="datadir",
        )
    identity = identify(session)
    rows = session.query(Dialect(identity.family, identity.version).show_channels)
    channels = [{neutral(name): str(value or "") for name, value in row.items()} for row in rows]
    environment = _environment(process.pid)
    exe = process.exe or next((word for word in process.argv[:1] if word.startswith("/")), "")
    said = _server_help.ask(exe, environment, datadir=bare.datadir) if exe else None
    sources = option_sources(process.argv, environment, said, exe)
    options = read_option_files(sources.files, sources.groups, environment.get("HOME", ""))
    facts = replace(
        bare,
        dictionary_files=dictionary_files(session),
        open_files=_server.open_files(process),
        log_files=_standard_streams(process.pid),
        pid=process.pid,
        exe=exe,
        options={**options.values, **command_line_values(process.argv)},
        option_files=options.files,
        channels=tuple(row.get("channel_name") or row.get("connection_name", "") for row in channels),
        relay_log_names=tuple(row.get("relay_log_file", "") for row in channels),
        connection_files=tuple(row.get("source_info_file", "") for row in channels),
        side_files=tuple(row[name] for row in channels for name in _CHANNEL_TLS if row.get(name)),
    )
    return facts, (*sources.warnings, *options.warnings)


def _refuse_spool(path: str, found: str, expected: str) -> RefusedError:
    return RefusedError(
        f"The spool directory cannot be used: {path}",
        found=found,
        expected=expected,
        server_state="untouched by this step",
        next_command="make it, or set replica_backup_spool_dir to another directory, then start the backup again",
        rule="spool_dir",
    )


def check_spool(paths: SetPaths, discovery: Discovery) -> None:
    """Refuse a spool that cannot take the set, without touching anything."""
    root = paths.root
    if not os.path.isabs(root):
        raise _refuse_spool(root, "a relative path", "an absolute path")
    resolved = fs.real(root)
    for located in Locator(discovery).located:
        if located.pattern is None and fs.below(resolved, located.root) is not None:
            raise _refuse_spool(
                root, f"it lies inside {located.place.name}, {located.root}", "a directory outside the server's data"
            )
    writable = root
    if fs.lstat(root) is None:
        writable = os.path.dirname(os.path.normpath(root))
        if not fs.is_directory(writable):
            raise _refuse_spool(root, f"{writable} does not exist", "an existing parent directory")
    elif not fs.is_directory(root):
        raise _refuse_spool(root, "not a directory", "a directory")
    if not os.access(fs.encode(writable), os.W_OK | os.X_OK):
        raise _refuse_spool(
            root, f"{writable} is not writable (permissions or a read-only file system)", "write access"
        )
    if fs.lstat(paths.manifest) is not None:
        raise RefusedError(
            f"A set with the backup id {paths.backup_id} exists already",
            found=paths.manifest,
            expected="a new backup id",
            rule="backup_id",
        )


def make_work_directory(paths: SetPaths) -> None:
    """Create the directories down to the set's work directory, each 0700 and our own."""
    for path in (paths.root, os.path.join(paths.root, paths.host), paths.directory, paths.work):
        try:
            os.mkdir(fs.encode(path), 0o700)
            continue
        except FileExistsError:
            pass
        except OSError as error:
            raise _refuse_spool(path, error.strerror or str(error), "a writable directory") from error
        if path == paths.root:
            continue
        status = os.lstat(fs.encode(path))
        if not stat.S_ISDIR(status.st_mode) or status.st_uid != os.geteuid():
            raise _refuse_spool(path, "somebody else's file, link or directory", "a directory of this user")
        if stat.S_IMODE(status.st_mode) & 0o077:
            os.chmod(fs.encode(path), 0o700)


def _save_hidden(discovery: Discovery, work: str) -> Discovery:
    """Copy what only the running server sees (its private /tmp, deleted at the stop) into the work directory."""
    places = tuple(
        replace(place, read_from=_load_data.rescue(place.read_from, os.path.join(work, place.name), place.patterns))
        if place.read_from
        else place
        for place in discovery.places
    )
    return replace(discovery, places=places)


def _take(
    gather: _Gather, paths: SetPaths, *, include_binlogs: bool, write: bool, refreshed: bool, live: bool = True
) -> tuple[Discovery, Summary]:
    for look in range(1, _LOOKS + 1):
        try:
            # The plan may fail in passing as well: servers move an index of logs aside while they write it anew.
            facts, warnings = gather()
            discovery = replace(plan_places(facts, include_binlogs=include_binlogs), refreshed=refreshed)
            discovery = discovery.with_warnings(warnings)
            check_spool(paths, discovery)
            if write:
                make_work_directory(paths)
                discovery = _save_hidden(discovery, paths.work)
            checked = Checked(discovery)
            own = OnlyOwn(discovery.datadir, discovery.places, live=True)
            entries = own(checked(walk(discovery, live=live)))

            def complete(checked: Checked = checked) -> None:
                if checked.missing:
                    raise incomplete(checked.missing, stopped=False)

            if write:
                return discovery, write_list(paths.discovered, discovery, entries, accept=complete)
            summary = summarize(discovery, entries)
            complete()
            return discovery, summary
        except RefusedError:
            if look == _LOOKS or not live:
                raise
            time.sleep(_PAUSE_SECONDS)
    raise AssertionError("unreachable")  # pragma: no cover


def _digest(path: str) -> str:
    digest = hashlib.sha256()
    try:
        with open(fs.encode(path), "rb") as handle:
            for block in iter(lambda: handle.read(1 << 16), b""):
                digest.update(block)
    except OSError:
        return ""
    return digest.hexdigest()


def survey(session: Session, request: Request) -> tuple[Discovery, Summary]:
    """What ``discover`` finds, without writing anything. Errors as there."""
    return _take(
        lambda: read_facts(session),
        request.paths,
        include_binlogs=request.include_binlogs,
        write=False,
        refreshed=False,
    )


def discover(session: Session, request: Request) -> dict[str, t.Any]:
    """Take the list of a live server. Returns the module's result: a summary, never the list itself.

    Check mode does all but write. Raises RefusedError when the list cannot be proven complete, or for a bad spool.
    """
    before = _digest(request.paths.discovered)
    discovery, summary = _take(
        lambda: read_facts(session),
        request.paths,
        include_binlogs=request.include_binlogs,
        write=not request.check_mode,
        refreshed=False,
    )
    return {"changed": summary.sha256 != before, **result_of(discovery, summary), **_NOT_OFFLINE}


def _refuse_running(process: _server.ServerProcess, datadir: str, unanswered: str) -> RefusedError:
    return RefusedError(
        f"A server process works on {datadir}, so the files cannot be listed as those of a server that is down",
        found=f"process {process.pid}" + (f"; {unanswered}" if unanswered else ""),
        expected="no process, or a server that answers at the login",
        server_state=f"running, pid {process.pid}, untouched",
        next_command="correct the login options (login_unix_socket, login_host, login_port)"
        if unanswered
        else "leave offline at 'auto', so that the server is asked",
        rule="running",
    )


def _is_here(host: str) -> bool:
    """Whether a host name leads to this machine. The kernel binds a socket only to addresses of its own."""
    found: list[t.Any] = []
    with contextlib.suppress(OSError):
        found = socket.getaddrinfo(host, 0, type=socket.SOCK_DGRAM)
    for family, kind, protocol, _name, address in found:
        with contextlib.suppress(OSError), socket.socket(family, kind, protocol) as probe:
            probe.bind(address)
            return True
    return False


def _refuse_other_server(offline: Offline, login: Login) -> None:
    """Refuse when nobody answers at an address that is not that of the server found on this host.

    Otherwise the files of one server would be listed in the place of another one's.
    """
    own = {name: offline.facts.get(name) for name in ("socket", "port")}
    if login.unix_socket:
        asked, same = login.unix_socket, fs.real(login.unix_socket) == fs.real(offline.facts.path(own["socket"]))
    else:
        # The default address says nothing about which server is meant.
        asked = f"{login.host}, port {login.port}"
        same = _is_here(login.host) and (login.port == 3306 or str(login.port) == own["port"])
    if not same:
        raise RefusedError(
            "Nobody answers at the login, and the server that was found on this host is another one",
            found=f"{offline.facts.datadir} with socket {own['socket']} and port {own['port']}",
            expected=f"the server at {asked}",
            server_state="not running or elsewhere, untouched",
            next_command="say which server is meant: service_name, defaults_file or datadir",
            rule="offline",
        )


def discover_offline(
    request: Request, hints: Hints, *, login: Login | None = None, unanswered: str = ""
) -> dict[str, t.Any]:
    """Take the list of a server that is down, from its option files, its binary and the disk.

    ``login`` is the address where nobody answered, ``unanswered`` what was tried there; None when nobody was asked.
    Raises RefusedError when a process works on the data directory, and as ``discover``.
    """
    offline = read_offline(hints)
    process = running_process(offline.facts)
    if process is not None:
        raise _refuse_running(process, offline.facts.datadir, unanswered)
    if login is not None:
        _refuse_other_server(offline, login)
    if offline.datadir_state != "filled":
        raise RefusedError(
            f"There is no server's data in {offline.facts.datadir}",
            found=f"the directory is {offline.datadir_state}",
            expected="the data directory of a server",
            server_state="not running, untouched",
            next_command="say which server is meant: service_name, defaults_file or datadir",
            rule="datadir",
        )
    stop = clean_marks(offline)
    notes = list(offline.warnings)
    if not stop.clean:
        notes.append(f"The last stop was not proven clean, so a copy of these files is no backup: {stop.summary}")
    before = _digest(request.paths.discovered)
    discovery, summary = _take(
        lambda: (offline.facts, tuple(notes)),
        request.paths,
        include_binlogs=request.include_binlogs,
        write=not request.check_mode,
        refreshed=False,
        live=False,
    )
    return {
        "changed": summary.sha256 != before,
        **result_of(discovery, summary),
        "offline": True,
        "service": offline.start.service or None,
        "clean_stop": stop.to_dict(),
        "unknown": [item.to_dict() for item in offline.unknown],
    }


def refresh(session: Session, paths: SetPaths) -> Summary:
    """Take the list once more, after the appliers are off and before the shutdown, and replace the one in the spool.

    Replicated statements may have created, moved or dropped tables since the discovery; from here on they cannot. What
    this list requires must be on disk after the stop. Errors as for ``discover``.
    """
    earlier = read_plan(paths.discovered)
    return _take(
        lambda: read_facts(session), paths, include_binlogs=earlier.include_binlogs, write=True, refreshed=True
    )[1]


def result_of(discovery: Discovery, summary: Summary) -> dict[str, t.Any]:
    """The summary as module result."""
    return {
        "list": {
            "path": summary.path,
            "sha256": summary.sha256,
            "count": summary.count,
            "bytes": summary.bytes,
            "allocated": summary.allocated,
            "required": len(discovery.required),
        },
        "places": {name: {**asdict(place), "path": fs.printable(place.path)} for name, place in summary.places.items()},
        "exclusions": [
            {"path": fs.printable(rule.path), "rule": rule.rule, "reason": rule.reason}
            for rule in discovery.exclusions
            if rule.match == "pattern" or fs.lstat(rule.path) is not None
        ],
        "warnings": _bounded(discovery.warnings),
    }


def _bounded(warnings: t.Sequence[str]) -> list[str]:
    """A broken link makes a warning, and there may be one for every table. The head of the list has them all."""
    shown = [fs.printable(warning) for warning in warnings[:_SHOWN_WARNINGS]]
    left = len(warnings) - len(shown)
    return [*shown, f"{left} more warnings like these are in the first line of the list"] if left else shown
