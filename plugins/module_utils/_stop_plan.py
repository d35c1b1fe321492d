# Copyright (c) 2026, mysql_ops contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Whether and how a replica would be stopped: facts to a plan, read-only."""

from __future__ import annotations

import typing as t
from dataclasses import dataclass, field

from ansible_collections.mysql_ops.replica_backup.plugins.module_utils import (
    _budget,
    _connection,
    _deadman,
    _discovery,
    _exposed,
    _flush,
    _guards,
    _ledger,
    _observe,
    _privileges,
    _read_only,
    _replication,
    _run_time,
    _service,
    _warm,
)
from ansible_collections.mysql_ops.replica_backup.plugins.module_utils._archive import compress, sample
from ansible_collections.mysql_ops.replica_backup.plugins.module_utils._archive.request import Request as ArchiveRequest
from ansible_collections.mysql_ops.replica_backup.plugins.module_utils._archive.request import check_form
from ansible_collections.mysql_ops.replica_backup.plugins.module_utils._budget import Prediction
from ansible_collections.mysql_ops.replica_backup.plugins.module_utils._capture import orphans, room, window
from ansible_collections.mysql_ops.replica_backup.plugins.module_utils._capture import plan as capture_plan
from ansible_collections.mysql_ops.replica_backup.plugins.module_utils._capture.plan import Choice
from ansible_collections.mysql_ops.replica_backup.plugins.module_utils._connection import Login, Session
from ansible_collections.mysql_ops.replica_backup.plugins.module_utils._dialect import Dialect
from ansible_collections.mysql_ops.replica_backup.plugins.module_utils._errors import RefusedError
from ansible_collections.mysql_ops.replica_backup.plugins.module_utils._filelist import Summary
from ansible_collections.mysql_ops.replica_backup.plugins.module_utils._guards import Policy, Verdict
from ansible_collections.mysql_ops.replica_backup.plugins.module_utils._layout import SetPaths
from ansible_collections.mysql_ops.replica_backup.plugins.module_utils._managers.interface import ServiceManager
from ansible_collections.mysql_ops.replica_backup.plugins.module_utils._observe import Observed
from ansible_collections.mysql_ops.replica_backup.plugins.module_utils._places import Discovery
from ansible_collections.mysql_ops.replica_backup.plugins.module_utils._read_only import ReadOnly

# Values of innodb_fast_shutdown that leave the files as after a crash (manual, "innodb_fast_shutdown").
UNCLEAN_SHUTDOWNS = ("2", "3")


@dataclass(frozen=True)
class StopRequest:
    """What is asked for. All limits in seconds; ``service_manager`` "auto" means found from the running process.

    ``lease``: the run is held to be alive for so long after a note in the ledger when no module of it is at work;
    ``gap``: the same after the stop, until the next step; ``look_every``: between two looks of the dead-man at that.
    ``capture``: one of ``_capture.plan.CAPTURES``, or "auto"; ``stays_down``: nobody starts the server before the set
    has left the host; ``snapshot_size``: percent of the origin for a classic LVM snapshot; ``bytes_per_second``: how
    fast a pre-copy and an archive from a clone may read, 0 for no limit. ``flush_timeout``: how long dirty pages may be
    written before the stop, 0 leaves them to the shutdown; ``warm``: the buffer pool is loaded again after the start.
    """

    login: Login
    paths: SetPaths
    state_dir: str
    run_id: str
    policy: Policy = field(default_factory=Policy)
    format: str = "tar"
    compression: str = "zstd"
    compression_level: int | None = None
    compression_threads: int = 0
    include_binlogs: bool = True
    service_manager: str = "auto"
    service_name: str | None = None
    limits: _replication.Limits = field(default_factory=_replication.Limits)
    statement_timeout: float = 60.0
    shutdown_timeout: float = 1800.0
    start_timeout: float = 600.0
    downtime_budget: float = 3600.0
    lease: float = _ledger.DEFAULT_LEASE
    gap: float = _ledger.DEFAULT_LEASE
    look_every: float = _deadman.LOOK_EVERY
    capture: str = capture_plan.COLD
    stays_down: bool = False
    snapshot_size: int = 20
    bytes_per_second: float = 0.0
    shards: int = 1
    flush_timeout: float = 60.0
    warm: bool = True

    @property
    def archive(self) -> ArchiveRequest:
        """The archive that is planned."""
        return ArchiveRequest(
            self.paths,
            self.state_dir,
            self.format,
            self.compression,
            self.compression_level,
            self.compression_threads,
            shards=self.shards,
            bytes_per_second=self.bytes_per_second,
        )


@dataclass(frozen=True)
class StopPlan:
    """What would be done, decided from facts alone."""

    observed: Observed
    manager: ServiceManager
    read_only: ReadOnly
    verdicts: tuple[Verdict, ...]
    data_bytes: int
    logical_bytes: int
    choice: Choice
    prediction: Prediction | None
    warnings: tuple[str, ...]
    flush: _flush.Flush = field(default_factory=_flush.Flush)
    warm: _warm.Warm = field(default_factory=_warm.Warm)
    throttle: float = 0.0
    shards: int = 1

    def _before_the_stop(self) -> list[str]:
        """Steps that are taken while the server serves."""
        steps = []
        if self.choice.capture == capture_plan.STAGED:
            size = _budget.in_bytes(self.choice.extra_bytes)
            steps.append(f"copy the files to the spool while the server serves ({size})")
        if self.warm.dump:
            steps.append("write down which pages are in the buffer pool")
        if self.flush.wanted:
            steps.append("write dirty pages while the server serves")
        return steps

    def to_dict(self) -> dict[str, t.Any]:
        observed = self.observed
        return {
            "server": f"{observed.identity.family} {observed.identity.version_text}",
            "datadir": observed.datadir,
            "process": observed.process.pid,
            "service_manager": self.manager.kind,
            "service_name": self.manager.name,
            "data_bytes": self.data_bytes,
            "capture": self.choice.to_dict(),
            "flush": self.flush.to_dict(),
            "warm": self.warm.to_dict(),
            "predicted_downtime": None if self.prediction is None else self.prediction.to_dict(),
            "channels": [channel.label() for channel in observed.channels],
            "steps": [
                *self._before_the_stop(),
                "arm the dead-man on the host",
                "stop the receivers, drain the appliers, stop the appliers",
                "record the coordinates of every channel",
                f"shut the server down through {self.manager.kind} {self.manager.name}".rstrip(),
                "prove that the stop was clean",
            ],
            "throttle": self.throttle,
            "shards": self.shards,
            "verdicts": [verdict.to_dict() for verdict in self.verdicts],
        }


def make_plan(session: Session, request: StopRequest, *, copied: bool = False) -> StopPlan:
    """Facts to plan, read-only. Raises RefusedError when a guard says no. ``copied``: the copy has its room already."""
    check_form(request.archive)
    _exposed.refuse(request.state_dir, "replica_backup_state_dir")
    _exposed.refuse(request.paths.root, "replica_backup_spool_dir", itself=True)
    identity = _connection.identify(session)
    privileges = _privileges.read(session)
    _privileges.refuse_missing(privileges, _privileges.needed_always(Dialect(identity.family, identity.version)))
    observed = _observe.observe(session, request.login)
    manager = _service.detect(
        process=observed.process,
        requested=request.service_manager,
        name=request.service_name,
        variables=observed.variables,
        own_options=observed.dialect.own_start_options,
        state_dir=request.state_dir,
        shutdown_timeout=request.shutdown_timeout,
    )
    discovery, listed = _discovery.survey(session, discovery_request(request, check_mode=True))
    data_bytes = listed.allocated
    missing_tools = _missing_tools(request)
    free_bytes = _guards.free_bytes(request.paths.root)
    choice, prediction = _choose(request, discovery, listed, free_bytes, can_archive=not missing_tools)
    fetched_again = tuple(_replication.fetched_again(observed.dialect, observed.channels))
    facts = _guards.Facts(
        channels=observed.channels,
        connected_replicas=observed.connected_replicas,
        cluster=observed.cluster,
        force_recovery=observed.variables.get("innodb_force_recovery", "0"),
        data_bytes=data_bytes,
        free_bytes=free_bytes,
        spool_dir=request.paths.root,
        missing_tools=missing_tools,
        fetched_again=fetched_again,
        clone_bytes=0 if copied else choice.extra_bytes,
        reserve_bytes=choice.reserve_bytes,
        prediction=prediction,
        downtime_budget=request.downtime_budget,
    )
    verdicts = _guards.judge(facts, request.policy)
    _guards.refuse_unless_all_pass(verdicts)
    _refuse_threads_that_would_start(observed, manager)
    _run_time.refuse_unless_start_can_be_quiet(
        observed.run_time,
        skip_supported=manager.takes_options,
        start=f"{manager.kind} {manager.name}".rstrip(),
        option=observed.dialect.skip_start_option,
    )
    read_only = _read_only.capture(session, observed.dialect, observed.variables, observed.process.argv)
    _privileges.refuse_missing(
        privileges,
        _privileges.needed_to_stop(
            observed.dialect,
            by_sql=manager.stops_by_sql,
            variables=_variables_to_set(session, observed, read_only),
        ),
    )
    flush = _flush.plan(session, observed.dialect, observed.variables, privileges, request.flush_timeout)
    warm = _warm.plan(observed.dialect, observed.variables, privileges, wanted=request.warm)
    warnings = [*manager.warnings, *fetched_again, *_close_to_budget(prediction, request.downtime_budget)]
    warnings += [why for why in (flush.why_not, warm.why_not) if why]
    if not copied:
        warnings += orphans.warnings([place.root() for place in discovery.places], request.paths)
    if request.bytes_per_second and choice.capture == capture_plan.COLD:
        warnings.append(
            "replica_backup_throttle has no effect: a cold capture reads while the server is down, as fast as it can"
        )
    if read_only.options and not manager.takes_options:
        warnings.append(
            f"The restart through {manager.kind} {manager.name} cannot be given {' '.join(read_only.options)}: the "
            "server takes writes for the moment until the switch that was set at run time is put back"
        )
    return StopPlan(
        observed,
        manager,
        read_only,
        tuple(verdicts),
        data_bytes,
        listed.bytes,
        choice,
        prediction,
        tuple(warnings),
        flush,
        warm,
        request.bytes_per_second,
        request.shards,
    )


def _choose(
    request: StopRequest, discovery: Discovery, listed: Summary, free_bytes: int, *, can_archive: bool
) -> tuple[Choice, Prediction | None]:
    """The capture, and the downtime that is to come with it."""
    asked, size = request.capture, listed.allocated
    means: tuple[capture_plan.Means, ...] = ()
    if asked in (capture_plan.AUTO, capture_plan.SNAPSHOT) and not request.stays_down:
        sizes = {name: place.bytes for name, place in listed.places.items()}
        means = capture_plan.look(discovery, sizes, request.paths, size_percent=request.snapshot_size)
    open_question = asked == capture_plan.AUTO and not request.stays_down and bool(capture_plan.cannot(means))
    cold = None
    if can_archive and (asked == capture_plan.COLD or request.stays_down or open_question):
        cold = _predict(request, discovery.datadir, size, needed=open_question and size > capture_plan.EASY_BYTES)
    choice = capture_plan.choose(
        capture_plan.Facts(
            asked=asked,
            stays_down=request.stays_down,
            means=means,
            data_bytes=size,
            archive_bytes=int(size * request.policy.space_factor),
            free_bytes=free_bytes,
            predicted={capture_plan.COLD: cold, **_by_experience(request, size)},
            budget=request.downtime_budget,
            copied_bytes=listed.bytes if room.is_compressing(discovery) else size,
            reserve_bytes=room.reserve(discovery, request.paths),
        )
    )
    if choice.capture == capture_plan.COLD:
        return choice, cold
    return choice, _predict_clone(request, discovery.datadir, size, choice.capture)


def _by_experience(request: StopRequest, size: int) -> dict[str, Prediction | None]:
    """What captures by a clone took on this host; nothing is measured for it."""
    known = _budget.runs(request.state_dir)
    clones = (capture_plan.SNAPSHOT, capture_plan.STAGED, capture_plan.COPY)
    return {capture: _budget.predict(known, window.way(capture), size) for capture in clones}


def _predict_clone(request: StopRequest, datadir: str, size: int, capture: str) -> Prediction | None:
    known, way = _budget.runs(request.state_dir), window.way(capture)
    copied = capture == capture_plan.COPY and not _budget.comparable(known, way, size)
    measured = None
    if copied and _budget.worth_a_sample(size, request.downtime_budget):
        measured = sample.take(sample.largest_files(datadir), None)
    return _budget.predict(known, way, size, measured)


def _predict(request: StopRequest, datadir: str, size: int, *, needed: bool = False) -> Prediction | None:
    """The downtime of a cold archive, ``needed`` even when it is short.

    A sample is taken of a host that has nothing to go by and may be too slow. And of one that would be refused for a
    run that ran out of time: what slowed that one down may be over.
    """
    known, way = _budget.runs(request.state_dir), request.archive.way

    def sampled() -> tuple[int, float]:
        archive = request.archive
        return sample.take(sample.largest_files(datadir), archive.compressor(), deflate=archive.deflate_level)

    similar = _budget.comparable(known, way, size)
    if similar:
        prediction = _budget.predict(known, way, size)
        if prediction is None or prediction.least <= request.downtime_budget or all(run.whole for run in similar):
            return prediction
        return _budget.second_look(prediction, known, size, sampled())
    measured = sampled() if needed or _budget.worth_a_sample(size, request.downtime_budget) else None
    return _budget.predict(known, way, size, measured)


def _close_to_budget(prediction: Prediction | None, budget: float) -> list[str]:
    if prediction is None or prediction.seconds < budget * _budget.WARN_FROM:
        return []
    return [
        f"The downtime budget is {budget:g} s (replica_backup_downtime_budget), predicted are {prediction.text()}; the"
        " archive is given up when it does not end in time"
    ]


def discovery_request(request: StopRequest, *, check_mode: bool) -> _discovery.Request:
    paths = request.paths
    return _discovery.Request(paths.root, paths.host, paths.backup_id, request.include_binlogs, check_mode)


def _variables_to_set(session: Session, observed: Observed, read_only: ReadOnly) -> list[str]:
    """Global variables that this run sets before the shutdown, or puts back because a restart loses them."""
    names = [name for name in read_only.switches if _read_only.set_at_run_time(session, observed.dialect, [name])]
    if observed.variables.get("innodb_fast_shutdown", "1") in UNCLEAN_SHUTDOWNS:
        names.append("innodb_fast_shutdown")
    return [*names, *observed.run_time.lost_by_restart(observed.dialect)]


def _refuse_threads_that_would_start(observed: Observed, manager: ServiceManager) -> None:
    """A stopped thread must stay stopped through the restart, which takes an option on the server's command line."""
    stopped = [c.label() for c in observed.channels if not (c.io_started and c.applier_started)]
    if stopped and not manager.takes_options:
        raise RefusedError(
            f"The restart through {manager.kind} {manager.name} would start replication threads that are stopped now",
            found=f"stopped threads on {', '.join(stopped)}, and a start command that takes no further option",
            expected=f"a start command that hands {observed.dialect.skip_start_option} to the server",
            server_state="running, untouched",
            next_command="set replica_backup_service_manager and replica_backup_service_name, or put "
            f"{observed.dialect.skip_start_option.lstrip('-').replace('-', '_')} into the option file for this backup",
            rule="service_manager",
        )


def _missing_tools(request: StopRequest) -> tuple[str, ...]:
    if request.format != "tar":
        return ()
    try:
        compress.find_compressor(
            request.compression, level=request.compression_level, threads=request.compression_threads
        )
    except RefusedError as error:
        if "package" not in error.facts:
            raise
        return (request.compression,)
    return ()
