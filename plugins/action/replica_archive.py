# Copyright (c) 2026, mysql_ops contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Runs the module of the same name, which documents it; what it adds is the wait for an ``async`` run."""

from __future__ import annotations

from ansible_collections.mysql_ops.replica_backup.plugins.plugin_utils._detached import DetachedAction


class ActionModule(DetachedAction):
    """See the documentation of the module."""
