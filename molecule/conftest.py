# Copyright (c) 2026, mysql_ops contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The hosts and the sets of the scenario that runs."""

from ansible_collections.mysql_ops.replica_backup.tests.lab.faults import faults
from ansible_collections.mysql_ops.replica_backup.tests.lab.scenario import hosts, quiet, sets

__all__ = ["faults", "hosts", "quiet", "sets"]
