# Copyright (c) 2026, mysql_ops contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""How long a look may take, and what counts as the end of a job. Lost links are in the scenario "faults"."""

from __future__ import annotations

import signal
import threading
import typing as t

import pytest

from ansible_collections.mysql_ops.replica_backup.plugins.plugin_utils._detached import (
    _at_most,
    _has_ended,
    _SilenceError,
)


@pytest.mark.parametrize(
    ("answer", "ended"),
    [
        ({"finished": False, "started": True}, False),
        ({"finished": 1}, True),
        ({"skipped": True}, True),
        # A file that is being written cannot be read; a job that nobody knows will never have one.
        ({"failed": True, "msg": "could not parse"}, False),
        ({"failed": True, "_ansible_parsed": True, "msg": "could not find job"}, True),
    ],
)
def test_what_counts_as_the_end(answer: dict[str, t.Any], ended: bool) -> None:
    assert _has_ended(answer) is ended


def test_a_look_that_hangs_is_ended_whatever_catches_exceptions() -> None:
    before = signal.getsignal(signal.SIGALRM)
    with pytest.raises(_SilenceError, match="no answer within 0 s"), _at_most(0.05):
        while True:
            try:
                signal.pause()
            except Exception:
                continue
    assert signal.getsignal(signal.SIGALRM) is before
    assert signal.getitimer(signal.ITIMER_REAL)[0] == 0


def test_a_look_in_time_leaves_no_alarm() -> None:
    with _at_most(60):
        assert signal.getitimer(signal.ITIMER_REAL)[0] > 0
    assert signal.getitimer(signal.ITIMER_REAL)[0] == 0


def test_the_alarm_of_somebody_else_stays() -> None:
    signal.setitimer(signal.ITIMER_REAL, 60)
    try:
        with _at_most(1):
            assert signal.getitimer(signal.ITIMER_REAL)[0] > 2
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)


def test_threads_have_no_alarm() -> None:
    seen = []

    def work() -> None:
        with _at_most(60):
            seen.append(signal.getitimer(signal.ITIMER_REAL)[0])

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert seen == [0.0]
