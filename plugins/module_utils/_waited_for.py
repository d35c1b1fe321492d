# Copyright (c) 2026, mysql_ops contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What a shutdown waited for, from facts: what there was to write, what was written, what the log says when."""

from __future__ import annotations

import re
import typing as t
from dataclasses import dataclass
from datetime import datetime

from ansible_collections.mysql_ops.replica_backup.plugins.module_utils import _error_log, _flush, _server
from ansible_collections.mysql_ops.replica_backup.plugins.module_utils._connection import QueryError, Session
from ansible_collections.mysql_ops.replica_backup.plugins.module_utils._error_log import ErrorLogMark
from ansible_collections.mysql_ops.replica_backup.plugins.module_utils._server import ServerProcess

_MIB = 1 << 20
_LINES_SHOWN = 6
# MySQL 5.7 and newer; MySQL 5.6 and MariaDB; MySQL 5.5 and MariaDB 10.0. What stands between time and text is left out.
_STAMP = re.compile(
    r"(?P<time>\d{4}-\d\d-\d\d[T ] ?\d{1,2}:\d\d:\d\d(?:\.\d{1,6})?|\d{6} +\d{1,2}:\d\d:\d\d)(?P<zone>Z|[+-]\d\d:\d\d)?"
    r"(?: \d+| 0x[0-9a-f]+)?(?: \[(?:Note|Warning|ERROR|System)\])?(?: \[MY-\d+\] \[\w+\])? (?P<text>.*)"
)
_FORMATS = ("%Y-%m-%d %H:%M:%S.%f", "%Y-%m-%d %H:%M:%S", "%y%m%d %H:%M:%S")
# A log that tells whole seconds only may put two lines of one moment a second apart.
_WHOLE_SECONDS, _PARTS_OF_SECONDS = 2.0, 0.3
# Lines in which a server says itself that it waits.
_SAYS_SO = re.compile(
    r"\bWaiting for\b|Giving \d+ client threads|Forcefully disconnecting|\bto purge \d+|Completing change buffer merge",
    re.I,
)


@dataclass(frozen=True)
class Before:
    """What stood before the server when it was asked to stop; None where it did not say.

    ``history``: transactions to purge; ``change_buffer``: pages to merge. Only with ``fast_shutdown`` "0".
    """

    dirty_pages: int | None = None
    page_size: int = 16384
    history: int | None = None
    change_buffer: int | None = None
    fast_shutdown: str = "1"


def look(session: Session, variables: t.Mapping[str, str]) -> Before:
    """Read-only, and never in the way: what cannot be asked is not known."""
    try:
        seen = _flush.dirty_pages(session)
        history = change_buffer = None
        fast = variables.get("innodb_fast_shutdown", "1")
        if fast == "0":
            # No status variable of MySQL tells (needs PROCESS, which every backup needs).
            text = str((session.query("SHOW ENGINE INNODB STATUS") or [{}])[0].get("Status", ""))
            history = _number(r"^History list length (\d+)", text)
            change_buffer = _number(r"^Ibuf: size (\d+)", text)
    except QueryError:
        return Before()
    pages, page_size = seen or (None, 16384)
    return Before(pages, page_size, history, change_buffer, fast)


def _number(pattern: str, text: str) -> int | None:
    match = re.search(pattern, text, re.M)
    return int(match[1]) if match else None


class Meter:
    """Bytes that the server has sent to its disks since the meter was made. ``look`` is called while it stops."""

    def __init__(self, process: ServerProcess) -> None:
        self._path = f"/proc/{process.pid}/io"
        self._first = self._last = self._read()

    def _read(self) -> int | None:
        try:
            return _number(r"^write_bytes: (\d+)", _server.read_bytes(self._path).decode("ascii", "replace"))
        except OSError:
            return None

    def look(self, _waited: float = 0.0) -> None:
        found = self._read()
        self._last = self._last if found is None else found

    @property
    def written(self) -> int | None:
        """None when the kernel does not let us see it."""
        return None if self._first is None or self._last is None else self._last - self._first


def tell(
    seconds: float,
    before: Before,
    written: int | None,
    mark: ErrorLogMark | None,
    flushed: t.Sequence[t.Mapping[str, t.Any]] = (),
) -> list[str]:
    """The story of one stop of ``seconds``, first its length. ``flushed``: what was written while it still served."""
    words = [f"stop {seconds:.1f} s"]
    if before.dirty_pages is not None:
        size = before.dirty_pages * before.page_size // _MIB
        words.append(f"{before.dirty_pages} dirty pages to write ({size} MiB)")
    if written is not None:
        words.append(f"the server wrote {written // _MIB} MiB during it")
    if before.fast_shutdown == "0":
        purge = "the whole purge" if before.history is None else f"the purge of {before.history} transactions"
        merge = "" if not before.change_buffer else f" and the merge of {before.change_buffer} change buffer pages"
        words.append(f"{purge}{merge}, because innodb_fast_shutdown is 0")
    for one in flushed:
        pages, size = one["first"] - one["last"], max(0, one["first"] - one["last"]) * before.page_size // _MIB
        if pages > 0:
            words.append(
                f"{pages} pages ({size} MiB) fewer, written in the {one['seconds']:.1f} s before it ({one['ended']})"
            )
    if mark is not None:
        try:
            words += _from_log(_error_log.since(mark), seconds)
        except OSError:
            words.append("its error log cannot be read")
    return words


def _from_log(text: str, seconds: float) -> list[str]:
    """Pauses in the log of a stop of ``seconds``, longest first, and lines that speak of waiting."""
    lines = [parsed for parsed in map(_parse, text.splitlines()) if parsed is not None]
    pauses = []
    for (moment, said, exact), (after, _then, _exact) in zip(lines, lines[1:]):
        pause = (after - moment).total_seconds()
        if pause >= (_PARTS_OF_SECONDS if exact else _WHOLE_SECONDS):
            pauses.append((min(pause, seconds), said, exact))
    pauses.sort(key=lambda one: -one[0])
    words = [
        f"{pause:.1f} s after '{said}'" if exact else f"about {pause:.0f} s after '{said}'"
        for pause, said, exact in pauses
    ]
    spoken = dict.fromkeys(said for _moment, said, _exact in lines if _SAYS_SO.search(said))
    shown = words[:_LINES_SHOWN]
    return shown + [
        f"the log says: {said}" for said in list(spoken)[:_LINES_SHOWN] if not any(said in one for one in shown)
    ]


def _parse(line: str) -> tuple[datetime, str, bool] | None:
    """(When, what, whether parts of seconds are told) of a line of an error log."""
    match = _STAMP.match(line)
    if match is None:
        return None
    moment = re.sub(r"[T ] *", " ", match["time"])
    for form in _FORMATS:
        try:
            return datetime.strptime(moment, form), match["text"].strip()[:160], "." in moment
        except ValueError:
            continue
    return None
