# Copyright (c) 2026, mysql_ops contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Runs the module of the same name, which documents it; what it adds is the wait for an ``async`` run."""

from __future__ import annotations

import typing as t

from ansible.module_utils.parsing.convert_bool import boolean

from ansible_collections.mysql_ops.replica_backup.plugins.plugin_utils._detached import DetachedAction


class ActionModule(DetachedAction):
    """See the documentation of the module."""

    def _at_once(self) -> dict[str, t.Any] | None:
        """What a recovery answers where nothing is open, as nearly always: to detach a module takes seconds."""
        given = self._task.args
        # To take over is to end a module that is at work, whether it has noted anything yet or not.
        if not _is_set(given, "recover") or _is_set(given, "take_over"):
            return None
        asked, self._task.check_mode = self._task.check_mode, True
        try:
            found: dict[str, t.Any] = self._execute_module(task_vars=self._vars)
        finally:
            self._task.check_mode = asked
        # Whatever fails here fails once more, where it is waited for.
        return None if found.get("failed") or found.get("changed") else found


def _is_set(given: t.Mapping[str, t.Any], name: str) -> bool:
    return bool(boolean(given.get(name) or False, strict=False))
