# Copyright (c) 2026, mysql_ops contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What tests of real processes share; their fixtures are in conftest.py."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Callable

import pytest

from ansible_collections.mysql_ops.replica_backup.plugins.module_utils import _server

Spawn = Callable[..., subprocess.Popen[bytes]]


def alone(monkeypatch: pytest.MonkeyPatch) -> None:
    """Leave out processes that are not ours: other servers of this machine may be unknowable to us."""
    real = _server._all_pids

    def ours() -> list[int]:
        return [pid for pid in real() if (_server._stat_fields(pid) or ("", 0, 0))[1] == os.getpid()]

    monkeypatch.setattr(_server, "_all_pids", ours)
