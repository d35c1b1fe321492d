# Copyright (c) 2026, mysql_ops contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""How long a server will be down: what the last runs took, what that says of the next one, and when one is hopeless.

``STATE_DIR/measured.json`` keeps the figures of the last runs on this host: what was captured how, the bytes, and the
seconds of stop, capture and start. A host without such a run, or with far more data than then, is measured by a sample
(``_archive/sample.py``).
"""

from __future__ import annotations

import contextlib
import json
import math
import os
import time
import typing as t
from dataclasses import asdict, dataclass, replace

from ansible_collections.mysql_ops.replica_backup.plugins.module_utils import _ledger
from ansible_collections.mysql_ops.replica_backup.plugins.module_utils._errors import ReplicaBackupError
from ansible_collections.mysql_ops.replica_backup.plugins.module_utils._ledger import Ledger

_MEASURED = "measured.json"
_FORMAT = 1
_KEPT = 20
# One slow night must not refuse all nights to come: a run is hopeless when it is by the best of these.
_JUDGED = 5
# A run over much less data says little of the rate: its fixed costs weigh too much.
_COMPARABLE = 0.1
# From this part of the budget on there is a warning.
WARN_FROM = 0.8
# Bytes per second below which any disk and compressor is held to be quick enough; not worth a sample.
_EASY_RATE = 2 * 1024 * 1024
# Kept for the start at the end of the budget: the longest of the last starts with some spare, or so many seconds when
# there was none; never more than this part of the budget.
_START_SPARE = 1.5
_START_UNKNOWN = 10.0
_START_SHARE = 0.25
# While archiving: judged from this part of the time on, hopeless when it would end so much of the time too late.
_JUDGE_FROM = 0.25
_HOPELESS = 0.5


@dataclass(frozen=True)
class Way:
    """What decides how fast a capture is, beside the host. ``level`` None is the compressor's quick default."""

    capture: str = "cold"
    format: str = "tar"
    compression: str = "zstd"
    level: int | None = None
    threads: int = 0
    shards: int = 1


@dataclass(frozen=True)
class Run:
    """What one run took, in seconds; ``bytes`` on disk that were read. ``whole`` False: it gave up, out of time.

    ``between`` are the seconds of downtime that were none of stop, capture and start, such as a transfer.
    """

    backup_id: str
    way: Way
    bytes: int
    capture: float
    stop: float = 0.0
    start: float | None = None
    between: float = 0.0
    whole: bool = True

    @classmethod
    def from_dict(cls, data: t.Mapping[str, t.Any]) -> Run:
        return cls(**{**data, "way": Way(**data["way"])})

    @property
    def rate(self) -> float:
        """Bytes per second of the capture."""
        return self.bytes / max(self.capture, 0.001)


@dataclass(frozen=True)
class Prediction:
    """Seconds of downtime to come: ``seconds`` are likely, ``least`` at best. ``source``: what that is taken from."""

    seconds: float
    least: float
    bytes: int
    source: str

    def to_dict(self) -> dict[str, t.Any]:
        return asdict(self)

    def text(self) -> str:
        return f"{self.seconds:.0f} s of downtime for {in_bytes(self.bytes)}, by {self.source}"


def in_bytes(count: float) -> str:
    """A size for a person: ``3.2 GiB``."""
    for unit in ("bytes", "KiB", "MiB", "GiB"):
        if count < 1024:
            return f"{count:.0f} {unit}" if unit == "bytes" else f"{count:.1f} {unit}"
        count /= 1024
    return f"{count:.1f} TiB"


# --- what was measured ------------------------------------------------------------------------------------------------


def runs(state_dir: str) -> tuple[Run, ...]:
    """The runs measured on this host, the latest last. What cannot be read counts as none: it is only experience."""
    try:
        descriptor = os.open(os.path.join(state_dir, _MEASURED), os.O_RDONLY | os.O_NOFOLLOW)
        with open(descriptor, encoding="utf-8") as handle:
            data = json.load(handle)
        return tuple(Run.from_dict(item) for item in data["runs"]) if data["format"] == _FORMAT else ()
    except (OSError, ValueError, TypeError, KeyError, AttributeError):
        return ()


def note_capture(ledger: Ledger, way: Way, size: int, seconds: float, *, whole: bool = True) -> None:
    """Put into the ledger, without saving it, what the capture took."""
    ledger.data["measured"] = {"way": asdict(way), "bytes": size, "capture": round(seconds, 3), "whole": whole}


def remember(ledger: Ledger) -> None:
    """Keep what the run of this ledger took, once its server is back. What cannot be written is no reason to fail."""
    noted = ledger.data.get("measured")
    if noted is None or ledger.data.get("deadman_fired"):
        return
    times = {step: float(span.get("seconds") or 0.0) for step, span in ledger.data.get("times", {}).items()}
    stop, start = times.get("shutdown", 0.0), times.get("start", 0.0)
    downtime = float(ledger.data.get("downtime_seconds") or 0.0)
    run = Run(
        backup_id=str(ledger.data.get("backup_id")),
        way=Way(**noted["way"]),
        bytes=noted["bytes"],
        capture=noted["capture"],
        stop=stop,
        start=start,
        between=round(max(0.0, downtime - stop - noted["capture"] - start), 3),
        whole=noted["whole"],
    )
    kept = [item for item in runs(ledger.state_dir) if item.backup_id != run.backup_id][1 - _KEPT :]
    text = json.dumps({"format": _FORMAT, "runs": [asdict(item) for item in (*kept, run)]}, indent=1)
    with contextlib.suppress(OSError):
        _ledger.write_durably(os.path.join(ledger.state_dir, _MEASURED), text + "\n")


# --- before the stop --------------------------------------------------------------------------------------------------


def comparable(known: t.Sequence[Run], way: Way, size: int) -> list[Run]:
    """The last runs that say how long ``size`` bytes would take this way."""
    similar = [run for run in known if run.way == way and run.bytes > 0]
    # One that ran out of time was long enough to tell, however little it read.
    return [run for run in similar if not run.whole or run.bytes >= size * _COMPARABLE][-_JUDGED:]


def worth_a_sample(size: int, budget: float) -> bool:
    """Whether so many bytes could be too many for a slow host."""
    return size / budget > _EASY_RATE


def predict(known: t.Sequence[Run], way: Way, size: int, sampled: tuple[int, float] | None = None) -> Prediction | None:
    """What the next run will take by the last ones, else by a sample (bytes, seconds); None when nothing is known."""
    similar = comparable(known, way, size)
    stop = max((run.stop for run in known[-_JUDGED:]), default=0.0)
    start = max((run.start or 0.0 for run in known[-_JUDGED:]), default=0.0)
    if similar:
        last = similar[-1]
        each = [_by(run, size) for run in similar]
        how = f"backup {last.backup_id}" + ("" if last.whole else ", which ran out of time")
        source = f"{how} ({in_bytes(last.bytes)} at {in_bytes(last.rate)}/s)"
        return Prediction(round(each[-1], 1), round(min(each), 1), size, source)
    if sampled is None or sampled[0] <= 0:
        return None
    rate = sampled[0] / max(sampled[1], 0.001)
    seconds = round(stop + size / rate + start, 1)
    source = f"a sample of {in_bytes(sampled[0])}, read and compressed at {in_bytes(rate)}/s, not written"
    return Prediction(seconds, seconds, size, source)


def second_look(by_runs: Prediction, known: t.Sequence[Run], size: int, sampled: tuple[int, float]) -> Prediction:
    """The prediction by runs of which some ran out of time; at best what a sample of today (bytes, seconds) says."""
    stops = [Run(run.backup_id, run.way, 0, 0.0, run.stop, run.start) for run in known[-_JUDGED:]]
    today = predict(stops, Way(), size, sampled)
    if today is None or today.least >= by_runs.least:
        return by_runs
    return replace(by_runs, least=today.least, source=f"{by_runs.source}; {today.least:.0f} s by {today.source}")


def _by(run: Run, size: int) -> float:
    """Seconds that ``size`` bytes would take if all went as in this run."""
    return run.stop + (run.capture + run.between) * size / run.bytes + (run.start or 0.0)


def start_reserve(known: t.Sequence[Run], budget: float) -> float:
    """Seconds of the budget that are kept for the start."""
    starts = [run.start for run in known[-_JUDGED:] if run.start is not None]
    return min(max(starts) * _START_SPARE if starts else _START_UNKNOWN, budget * _START_SHARE)


# --- while archiving --------------------------------------------------------------------------------------------------


class Clock:
    """Gives the capture up when its time is over, or when its own progress shows that it will never do.

    ``begun`` and ``ends`` are monotonic times, ``total`` the bytes to read, ``reserve`` the seconds kept for the start,
    ``budget`` what was allowed.
    """

    def __init__(self, *, begun: float, ends: float, total: int, reserve: float, budget: float) -> None:
        self._begun = begun
        self._ends = ends - reserve
        self._total = total
        self._reserve = reserve
        self._budget = budget

    @classmethod
    def of(cls, ledger: Ledger) -> Clock | None:
        """That of the run; None when no dead-man was armed in this boot of the host."""
        armed = ledger.data.get("deadman") or {}
        if armed.get("boot_id") != _ledger.boot_id():
            return None
        planned = ledger.data.get("budget") or {}
        return cls(
            begun=time.monotonic(),
            ends=float(armed["deadline_mono"]),
            total=int(planned.get("bytes", 0)),
            reserve=float(planned.get("start_reserve", 0.0)),
            budget=float(planned.get("seconds", 0.0)),
        )

    def check(self, done: int) -> None:
        """Raise ReplicaBackupError when it is no use to go on; ``done`` bytes have been read."""
        now = time.monotonic()
        spent, window = now - self._begun, self._ends - self._begun
        rest = max(0, self._total - done)
        left = rest * spent / done if done else math.inf
        late = now + left - self._ends
        over = now >= self._ends
        hopeless = rest > 0 and spent >= window * _JUDGE_FROM and late > window * _HOPELESS
        if not over and not hopeless:
            return
        at_that_rate = (
            "nothing was read yet"
            if not done
            else f"at that rate it would take another {left:.0f} s, {late:.0f} s too long"
        )
        raise ReplicaBackupError(
            "The archive cannot be finished within the downtime budget, so it was given up",
            found=f"{in_bytes(done)} of {in_bytes(self._total)} archived in {spent:.0f} s; {at_that_rate}",
            expected=f"{window:.0f} s at most for the archive: {self._budget:.0f} s (replica_backup_downtime_budget) "
            f"from the first thread stopped on, of which {self._reserve:.0f} s are kept for the start",
            next_command="raise replica_backup_downtime_budget, or take a quicker replica_backup_compression",
            rule="downtime_budget",
        )
