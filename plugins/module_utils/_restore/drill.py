# Copyright (c) 2026, mysql_ops contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""A drill: is this set a server, and how long does it take to become one?

Each set is laid down in a scratch directory, its pages and tables are checked on a private server, and what that says
of its replication is held against the manifest. Sets are read only; of the rest nothing is left.
"""

from __future__ import annotations

import contextlib
import dataclasses
import os
import re
import time
import typing as t
from dataclasses import dataclass, field

from ansible_collections.mysql_ops.replica_backup.plugins.module_utils import _fspath as fs
from ansible_collections.mysql_ops.replica_backup.plugins.module_utils._archive.extract import Owners, names_by_place
from ansible_collections.mysql_ops.replica_backup.plugins.module_utils._archive.verify import find_sets
from ansible_collections.mysql_ops.replica_backup.plugins.module_utils._connection import identify
from ansible_collections.mysql_ops.replica_backup.plugins.module_utils._errors import RefusedError, ReplicaBackupError
from ansible_collections.mysql_ops.replica_backup.plugins.module_utils._replication import read_channels
from ansible_collections.mysql_ops.replica_backup.plugins.module_utils._restore import attach as attaching
from ansible_collections.mysql_ops.replica_backup.plugins.module_utils._restore import came_up, pages, stage
from ansible_collections.mysql_ops.replica_backup.plugins.module_utils._restore.attach import Attach
from ansible_collections.mysql_ops.replica_backup.plugins.module_utils._restore.feed import LocalFeed
from ansible_collections.mysql_ops.replica_backup.plugins.module_utils._restore.journal import Journal
from ansible_collections.mysql_ops.replica_backup.plugins.module_utils._restore.layout import Layout
from ansible_collections.mysql_ops.replica_backup.plugins.module_utils._restore.mapping import Mapping
from ansible_collections.mysql_ops.replica_backup.plugins.module_utils._restore.origin import Origin, origin_of
from ansible_collections.mysql_ops.replica_backup.plugins.module_utils._restore.private_server import (
    Binary,
    Extra,
    PrivateServer,
    find_binary,
)
from ansible_collections.mysql_ops.replica_backup.plugins.module_utils._restore.roots import Roots, survey
from ansible_collections.mysql_ops.replica_backup.plugins.module_utils._restore.scratch import (
    Scratch,
    server_account,
    sweep,
    usable,
)
from ansible_collections.mysql_ops.replica_backup.plugins.module_utils._restore.table_check import check_tables

# The private server makes its temporary tablespace, and writes logs of its own.
_MARGIN = 96 << 20
_NOT_EXTRACTED = frozenset({"config"})
_LOG_LIMIT = 4 << 20
# No more names than that in a result.
_NAMED = 100
_ABOUT_RELAY_LOGS = re.compile(
    r"relay[ _-]?log|(?:master|relay log|connection|applier) (?:info|metadata)", re.IGNORECASE
)


@dataclass(frozen=True)
class Request:
    """Times are limits in seconds, ``memory`` is the buffer pool in bytes. ``settings`` go into the private server's
    option file as they are and win. ``keep``: leave the scratch directory, without a server."""

    scratch_dir: str
    server_binary: str = ""
    start_timeout: float = 600.0
    check_timeout: float = 14400.0
    stop_timeout: float = 60.0
    memory: int = 128 << 20
    settings: t.Mapping[str, str] = field(default_factory=dict)
    keep: bool = False
    attach: Attach | None = None


@dataclass(frozen=True)
class Problem:
    """``what`` is "extract", "server", "page", "table", "coordinate" or "attach"; ``name`` the file, table or
    channel."""

    what: str
    name: str
    detail: str

    def to_dict(self) -> dict[str, str]:
        return dataclasses.asdict(self)

    def __str__(self) -> str:
        return f"{self.what} {self.name}: {self.detail}"


# -- all sets ----------------------------------------------------------------------------------------------------------


def drill_all(patterns: t.Iterable[str], request: Request, *, check: bool = False) -> dict[str, t.Any]:
    """Drill one set after the other. Returns ``sets``, a result for each, and ``leftovers_removed``.

    With ``check`` only what would refuse a drill is looked at. Raises ReplicaBackupError after the last set when any
    failed, with the same as its facts.
    """
    binary = find_binary(request.server_binary)
    results: list[dict[str, t.Any]] = []
    removed: list[str] = []
    for directory in find_sets(patterns):
        result: dict[str, t.Any] = {"set_dir": directory}
        try:
            result.update(_would(directory, request, binary) if check else _drill(directory, request, binary, removed))
        except ReplicaBackupError as error:
            refused = isinstance(error, RefusedError)
            result.update(error.to_result(), passed=False, refused=refused)
            problem = Problem("refused" if refused else "extract", os.path.basename(directory), str(error))
            result["problems"] = [problem.to_dict()]
        results.append(result)
    failed = [result for result in results if not result["passed"]]
    if failed:
        first = failed[0]
        lines = [f"{r['set_dir']}: {'; '.join(str(Problem(**p)) for p in r['problems'])}" for r in failed]
        raise ReplicaBackupError(
            f"{len(failed)} of {len(results)} sets did not pass the drill",
            found="; ".join(lines),
            expected="a server that starts from the set, with good pages and tables and the recorded coordinates",
            next_command=first.get("next_command")
            or "do not rely on this set; make another backup, and look at the replica itself",
            sets=results,
            leftovers_removed=removed,
        )
    return {"sets": results, "leftovers_removed": removed}


def _would(directory: str, request: Request, binary: Binary) -> dict[str, t.Any]:
    feed = LocalFeed(directory)
    try:
        size = _look(feed, request, binary)[1]
    finally:
        feed.close()
    return {**_who(feed, binary), "passed": True, "problems": [], "bytes": size, "warnings": []}


def _who(feed: LocalFeed, binary: Binary) -> dict[str, t.Any]:
    server = feed.backup.head["server"]
    return {
        "host": feed.backup.host,
        "backup_id": feed.backup.backup_id,
        "server": {key: server.get(key) for key in ("family", "version", "uuid", "server_id")},
        "server_binary": binary.exe,
        "server_version": binary.identity.version_text,
    }


def _look(feed: LocalFeed, request: Request, binary: Binary) -> tuple[Origin, int]:
    """(the set's server, bytes that it needs). Raises RefusedError when the drill must not or cannot be done here."""
    origin = origin_of(feed.backup.head)
    _refuse_other_version(origin, binary)
    _refuse_same_paths(origin, binary)
    places = names_by_place(feed.backup.records())
    size = sum(total for place, (_count, total) in places.items() if place.partition("-")[0] not in _NOT_EXTRACTED)
    numbers = os.statvfs(usable(request.scratch_dir))
    free = numbers.f_bavail * numbers.f_frsize
    if free < size + _MARGIN:
        raise RefusedError(
            f"There is not enough room in {request.scratch_dir}",
            found=f"{free} bytes free",
            expected=f"{size} bytes for the set and {_MARGIN} for the server",
            next_command="make room, or name a directory on another disk (scratch_dir)",
            rule="space",
            free_bytes=free,
            needed_bytes=size + _MARGIN,
        )
    if request.attach is not None:
        attaching.refuse_attach(request.attach, origin, feed.backup.head)
    return origin, size


def _refuse_other_version(origin: Origin, binary: Binary) -> None:
    here, there = binary.dialect, origin.dialect
    how = here.opens_files_of(there.version) if here.family == there.family else "of the other family"
    if how != "same":
        raise RefusedError(
            "This host's server is not one for this set",
            found=f"{binary.exe}: {binary.identity.family} {binary.identity.version_text}",
            expected=f"{there.family} {origin.version_text}, or newer of its series",
            next_command="name the binary of such a server (server_binary), or run the drill where there is one",
            rule="version",
        )


def _refuse_same_paths(origin: Origin, binary: Binary) -> None:
    """InnoDB keeps absolute paths of tables outside of the data directory, and follows them when they are there.

    Where there are ``innodb_directories`` it looks there first and goes by what it finds (8.0 manual, "Moving
    Tablespace Files While the Server is Offline").
    """
    if "innodb_directories" in binary.variables:
        return
    same = [
        path
        for name, path in origin.places.items()
        if name.partition("-")[0] == "tablespaces" and fs.below(path, origin.layout.datadir) is None
        if os.path.lexists(fs.encode(path))
    ]
    if same:
        raise RefusedError(
            "The set has tables in directories that exist on this host: the private server might open those files",
            found=", ".join(same),
            expected="a host without these directories",
            next_command="run the drill on another host",
            rule="tablespaces",
        )


# -- one set -----------------------------------------------------------------------------------------------------------


class _Clock:
    def __init__(self) -> None:
        self.seconds: dict[str, float] = {}

    @contextlib.contextmanager
    def step(self, name: str) -> t.Iterator[None]:
        started = time.monotonic()
        try:
            yield
        finally:
            self.seconds[name] = round(time.monotonic() - started, 3)


@dataclass
class _Seen:
    """What a drill has found so far."""

    clock: _Clock = field(default_factory=_Clock)
    problems: list[Problem] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)
    facts: dict[str, t.Any] = field(default_factory=dict)


def _drill(directory: str, request: Request, binary: Binary, removed: list[str]) -> dict[str, t.Any]:
    feed = LocalFeed(directory)
    seen = _Seen()
    try:
        # What a killed run left counts as room.
        removed += sweep(request.scratch_dir)
        origin, size = _look(feed, request, binary)
        with Scratch(request.scratch_dir, keep=request.keep) as scratch:
            _in_scratch(feed, origin, request, binary, scratch, seen)
            if request.keep:
                seen.facts["kept"] = scratch.directory
    finally:
        feed.close()
    seconds = seen.clock.seconds
    seconds["recover"] = round(seconds.get("extract", 0.0) + seconds.get("start", 0.0), 3)
    return {
        **_who(feed, binary),
        "passed": not seen.problems,
        "problems": [problem.to_dict() for problem in seen.problems[:_NAMED]],
        "problems_found": len(seen.problems),
        "bytes": size,
        "seconds": seconds,
        "warnings": [f"{feed.backup.label}: {warning}" for warning in seen.warnings],
        **seen.facts,
    }


def _in_scratch(
    feed: LocalFeed, origin: Origin, request: Request, binary: Binary, scratch: Scratch, seen: _Seen
) -> None:
    mapping = scratch_mapping(origin, scratch.directory)
    with seen.clock.step("extract"):
        _extract(feed, mapping, scratch)
    with seen.clock.step("pages"):
        _pages(binary, mapping, request, scratch.directory, seen)
    server = PrivateServer(binary, mapping, scratch.directory, Extra(memory=request.memory, settings=request.settings))
    scratch.give_to(server_account())
    try:
        try:
            with seen.clock.step("start"):
                server.start(request.start_timeout)
        except ReplicaBackupError as error:
            seen.problems.append(Problem("server", os.path.basename(binary.exe), str(error.found)))
            return
        with seen.clock.step("check"):
            _coordinates(feed, mapping, server, seen)
            _tables(server, request, seen)
        if not server.stop(request.stop_timeout):
            seen.warnings.append("the private server did not end cleanly")
        if request.attach is not None and not seen.problems:
            _attach(request, request.attach, binary, mapping, scratch, seen)
    finally:
        # Only after an error is there anything left to stop; its data go with it.
        server.stop(0)


def scratch_mapping(origin: Origin, directory: str) -> Mapping:
    """Everything below one directory: what lies in the data directory stays in it, the rest beside it. Pure."""
    datadir = os.path.join(directory, "datadir")

    def moved(path: str, kind: str, *, is_file: bool) -> str:
        if not path:
            return ""
        rest = fs.below(path, origin.layout.datadir)
        if rest is not None:
            return fs.absolute(rest, datadir)
        own = os.path.join(directory, kind)
        return os.path.join(own, os.path.basename(path)) if is_file else own

    was = origin.layout
    target = Layout(
        datadir=datadir,
        innodb_home=moved(was.innodb_home, "innodb_home", is_file=False),
        innodb_redo=moved(was.innodb_redo, "innodb_redo", is_file=False),
        innodb_undo=moved(was.innodb_undo, "innodb_undo", is_file=False),
        doublewrite=moved(was.doublewrite, "doublewrite", is_file=False),
        aria_log=moved(was.aria_log, "aria_log", is_file=False),
        load_data=moved(was.load_data, "load_data", is_file=False),
        relay_log_base=moved(was.relay_log_base, "relay_log", is_file=True),
        relay_log_index=moved(was.relay_log_index, "relay_log", is_file=True),
        binlog_base=moved(was.binlog_base, "binlog", is_file=True),
        binlog_index=moved(was.binlog_index, "binlog", is_file=True),
        applier_info=moved(was.applier_info, "replica_status", is_file=True),
        connection_info=moved(was.connection_info, "replica_status", is_file=True),
    )
    # The data directory is among them because another place may be the directory that it lies in.
    moves = {
        path: os.path.join(directory, name)
        for name, path in origin.places.items()
        if name == "datadir" or (name not in _NOT_EXTRACTED and fs.below(path, origin.layout.datadir) is None)
    }
    return Mapping(origin, target, moves)


def _extract(feed: LocalFeed, mapping: Mapping, scratch: Scratch) -> None:
    """Raises ReplicaBackupError when a byte is not as the manifest says, or something leads out of the directory."""
    owners = Owners()
    roots = Roots(mapping, "drill", (), direct=True)
    found = survey(feed.backup.records, mapping, roots)
    outside = [root.path for root in roots.all if fs.below(root.path, scratch.directory) is None]
    if outside:
        raise RefusedError(
            "Files of this set would be laid down outside of the scratch directory",
            found=", ".join(outside),
            expected=f"nothing outside of {scratch.directory}",
            rule="scratch",
        )
    stage.make_directories(roots.all, found, owners, [])
    stage.lay_down(feed, mapping, roots, found, owners)
    for path in _layout_directories(mapping.target):
        os.makedirs(fs.encode(path), 0o700, exist_ok=True)
    _refuse_ways_out(scratch.directory)


def _layout_directories(layout: Layout) -> t.Iterator[str]:
    """Those of places that the set does not have, which the server wants nonetheless."""
    values = layout.to_dict()
    files = ("relay_log_base", "relay_log_index", "binlog_base", "binlog_index", "applier_info", "connection_info")
    for name, path in values.items():
        if path:
            yield os.path.dirname(path) if name in files else path


def _refuse_ways_out(directory: str) -> None:
    """Links and .isl files that lead elsewhere: the private server would work on what somebody else owns."""
    out = []
    for parent, names, files in os.walk(fs.encode(directory)):
        for name in [*names, *files]:
            path = os.path.join(parent, name)
            if os.path.islink(path):
                target = os.path.realpath(path)
            elif name.endswith(b".isl"):
                target = os.path.realpath(fs.encode(fs.read_text(fs.decode(path)).strip()))
            else:
                continue
            if fs.below(fs.decode(target), fs.real(directory)) is None:
                out.append(f"{fs.printable(fs.decode(path))} -> {fs.printable(fs.decode(target))}")
    if out:
        raise RefusedError(
            "This set leads out of the scratch directory",
            found="; ".join(out[:5]),
            expected="links and .isl files to what is in the set",
            next_command="run the drill on a host of its own, by hand",
            rule="scratch",
        )


def _pages(binary: Binary, mapping: Mapping, request: Request, directory: str, seen: _Seen) -> None:
    checked = pages.check_pages(binary, mapping, directory, request.check_timeout)
    for bad in checked.bad:
        where = os.path.relpath(bad.path, directory)
        number = "a page" if bad.page is None else f"page {bad.page}"
        seen.problems.append(Problem("page", where, f"{number}: {bad.detail}"))
    seen.facts["pages"] = {
        "checked_by": checked.by,
        "bytes": checked.bytes,
        "unchecked": [],
    }
    reasons: dict[str, list[str]] = {}
    for path, why in checked.unchecked:
        reasons.setdefault(why, []).append(os.path.relpath(path, directory))
    for why, files in reasons.items():
        seen.facts["pages"]["unchecked"].append({"why": why, "number": len(files), "files": files[:_NAMED]})
        seen.warnings.append(
            f"the page checksums of {len(files)} files were not checked, beyond what CHECK TABLE reads"
            f" ({', '.join(files[:3])}): {why}"
        )


def _coordinates(feed: LocalFeed, mapping: Mapping, server: PrivateServer, seen: _Seen) -> None:
    """What the server says of itself against the manifest, as after a restore, and what it logged at its start."""
    head = dict(feed.backup.head)
    journal = Journal("", "", feed.backup.label, "same", head, {"datadir": mapping.target.datadir})
    with server.session(60) as session:
        identity = identify(session)
        variables = session.variables()
        channels = tuple(read_channels(session, server.binary.dialect))
    with open(server.error_log, "rb") as handle:
        log = handle.read(_LOG_LIMIT).decode("utf-8", "replace")
    nothing = came_up.Tables(0, 0)
    checks = came_up.judge(came_up.CameUp(identity, variables, channels, nothing, log), journal)
    compared = [check for check in checks if check.name != "tables"]
    for check in compared:
        if check.verdict is False:
            what = "server" if check.name == "error_log" else "coordinate"
            seen.problems.append(Problem(what, check.name, check.detail))
        elif check.verdict is None and check.name not in ("version", "error_log"):
            seen.warnings.append(f"{check.name}: {check.detail}")
    seen.warnings += _errors(log, mapping, feed.backup.head["channels"])
    seen.facts["compared"] = [check.to_dict() for check in compared]


def _errors(log: str, mapping: Mapping, channels: t.Sequence[t.Mapping[str, t.Any]]) -> list[str]:
    """What it logged as errors. Of relay logs only where their paths could be made to fit: not in tables."""
    lines = [line.strip() for line in log.splitlines() if "[ERROR]" in line]
    in_tables = any(str(channel["repository"]["applier"]).upper() == "TABLE" for channel in channels)
    if in_tables and mapping.target.relay_log_base != mapping.origin.layout.relay_log_base:
        lines = [line for line in lines if not _ABOUT_RELAY_LOGS.search(line)]
    return [f"the private server logged: {line}" for line in lines[:3]]


def _tables(server: PrivateServer, request: Request, seen: _Seen) -> None:
    try:
        found = check_tables(server, timeout=request.check_timeout, start_timeout=request.start_timeout)
    except ReplicaBackupError as error:
        seen.problems.append(Problem("table", "(all)", str(error)))
        return
    if not found.checked and not found.bad:
        seen.problems.append(Problem("table", "(all)", "the server knows of no table at all"))
    seen.problems += [Problem("table", name, words) for name, words in found.bad]
    seen.warnings += found.warnings
    seen.facts["tables"] = {"checked": found.checked, "bad": len(found.bad), "without_check": found.without[:_NAMED]}


def _attach(request: Request, attach: Attach, binary: Binary, mapping: Mapping, scratch: Scratch, seen: _Seen) -> None:
    attaching.forget_identity(mapping.target.datadir)
    settings = {**attaching.SETTINGS, **request.settings}
    server = PrivateServer(
        binary, mapping, scratch.directory, Extra(server_id=attach.server_id, memory=request.memory, settings=settings)
    )
    scratch.give_to(server_account())
    try:
        with seen.clock.step("attach"):
            server.start(request.start_timeout)
            caught_up = attaching.catch_up(server, attach)
            server.stop(request.stop_timeout)
        seen.facts["attached"] = {"server_id": attach.server_id, "catch_up_seconds": round(caught_up, 3)}
    except ReplicaBackupError as error:
        seen.problems.append(Problem("attach", f"server_id {attach.server_id}", str(error)))
    finally:
        server.stop(0)
