# Copyright (c) 2026, mysql_ops contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""One backup of a running server, as a program of its own: what ``mysql_replica_stop`` with a capture does, the server
started within the same step, and with --archive what ``replica_archive`` does after it. Prints the result of the stop.
"""

from __future__ import annotations

import argparse
import importlib
import json
import sys
import typing as t
from pathlib import Path
from types import SimpleNamespace
from unittest import mock

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / ".ansible" / "collections"))

from ansible_collections.mysql_ops.replica_backup.plugins.module_utils import _handover
from ansible_collections.mysql_ops.replica_backup.plugins.module_utils._archive import job
from ansible_collections.mysql_ops.replica_backup.plugins.module_utils._archive.request import Request
from ansible_collections.mysql_ops.replica_backup.plugins.module_utils._start import StartRequest
from ansible_collections.mysql_ops.replica_backup.tests.benchmarks import servers
from ansible_collections.mysql_ops.replica_backup.tests.lab.local import Server
from ansible_collections.mysql_ops.replica_backup.tests.lab.window import Window


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("socket")
    parser.add_argument("root", type=Path, help="state and spool are made below it")
    parser.add_argument("--capture", default="cold")
    parser.add_argument("--archive", action="store_true", help="make the set as well, from the clone")
    parser.add_argument("--compression", default="zstd")
    parser.add_argument(
        "--rate", type=float, default=0.0, help="bytes per second that a clone is read with, 0: no limit"
    )
    parser.add_argument("--change", type=float, default=0.0, help="percent of the pages changed after the pre-copy")
    options = parser.parse_args()
    server = t.cast(Server, SimpleNamespace(name="bench", socket=options.socket))
    window = Window(server, options.root)
    for directory in (Path(window.state), Path(window.paths.root)):
        directory.mkdir(mode=0o700, parents=True, exist_ok=True)
    with _changed_meanwhile(options.socket, options.change) if options.change else mock.patch.dict({}):
        result = captured(window, options.capture, options.compression, options.rate)
    print(json.dumps(result), flush=True)
    if options.archive:
        # Waits for nobody: the server is asked while this runs.
        archive(window, options.compression, options.rate)
    window.start()


def captured(window: Window, capture: str, compression: str, rate: float) -> dict[str, t.Any]:
    request = Request(window.paths, window.state, compression=compression, bytes_per_second=rate)
    return _handover.stop_then_capture(
        lambda: window.stop(capture=capture, compression=compression, bytes_per_second=rate),
        lambda: _handover.by_plan(request),
        StartRequest(
            login=window.login,
            state_dir=window.state,
            run_id=window.run_id,
            host=window.paths.host,
            shutdown_timeout=600,
            start_timeout=600,
        ),
        start_server=True,
    )


def archive(window: Window, compression: str, rate: float) -> None:
    job.present(Request(window.paths, window.state, compression=compression, bytes_per_second=rate))


def _changed_meanwhile(socket: str, percent: float) -> t.Any:
    """Pages are changed when the pre-copy has ended, so that all of them are left for the window."""
    staged = importlib.import_module(f"{_handover.__package__}._capture.staged")
    precopy = staged.precopy

    def then_change(*arguments: t.Any, **named: t.Any) -> t.Any:
        result = precopy(*arguments, **named)
        servers.change(socket, percent)
        return result

    return mock.patch.object(staged, "precopy", then_change)


if __name__ == "__main__":
    main()
