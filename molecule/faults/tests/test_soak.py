# Copyright (c) 2026, mysql_ops contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The beginning of a soak, always the same one; "make soak" runs a long one."""

from __future__ import annotations

import os
from pathlib import Path

from ansible_collections.mysql_ops.replica_backup.tests.lab.chaos import Estate
from ansible_collections.mysql_ops.replica_backup.tests.lab.faults import Faults, faults
from ansible_collections.mysql_ops.replica_backup.tests.soak.soak import Soak

__all__ = ["faults"]


def test_a_short_soak(faults: Faults) -> None:
    soak = Soak(Estate(Path(os.environ["LAB_SCRATCH"])), faults, seed=1, say=print)
    soak.run(rolls=2, seconds=30)
    assert faults.figures()["faults_injected"] > 0
