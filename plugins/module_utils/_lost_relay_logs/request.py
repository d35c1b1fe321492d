# Copyright (c) 2026, mysql_ops contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What is asked for."""

from __future__ import annotations

import typing as t
from dataclasses import dataclass, field

from ansible_collections.mysql_ops.replica_backup.plugins.module_utils._connection import Login
from ansible_collections.mysql_ops.replica_backup.plugins.module_utils._installed import Hints


@dataclass(frozen=True)
class IfDown:
    """What to do about a server that nobody answers for.

    ``hints``, ``service_manager`` and ``service_name`` say which it is and who starts it. ``start``: it may be started
    without replication, to be asked. ``ask_login`` False: no login is tried, which would make a systemd socket start
    the server. Times in seconds.
    """

    hints: Hints = field(default_factory=Hints)
    service_manager: str = "auto"
    service_name: str | None = None
    state_dir: str = ""
    start: bool = False
    ask_login: bool = True
    start_timeout: float = 600.0
    shutdown_timeout: float = 1800.0


@dataclass(frozen=True)
class Request:
    """``names`` None: every channel. ``source_login``: user and password for the sources, whose host and port are the
    channel's; None: they are not asked. ``manifest_channels``: take the coordinates from a backup instead.
    ``force``: also channels whose relay logs look well. ``trust``: also coordinates that are in doubt. ``save_to``: a
    directory for copies of the repositories' files. ``if_down`` None: the server has to answer.
    """

    login: Login
    names: tuple[str, ...] | None = None
    source_login: Login | None = None
    manifest_channels: tuple[t.Mapping[str, t.Any], ...] | None = None
    force: bool = False
    trust: bool = False
    save_to: str = ""
    if_down: IfDown | None = None
