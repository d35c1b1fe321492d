# Copyright (c) 2026, mysql_ops contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Which set is meant: by path, by HOST/ID, or the latest one of a host. Wherever the sets lie as files."""

from __future__ import annotations

import os
import re

from ansible_collections.mysql_ops.replica_backup.plugins.module_utils._errors import RefusedError
from ansible_collections.mysql_ops.replica_backup.plugins.module_utils._layout import MANIFEST_NAME

LATEST = "latest"
_ID = re.compile(r"\d{8}T\d{6}Z")
_NAMED = re.compile(rf"(?P<host>[^/]+)/(?P<id>{_ID.pattern}|{LATEST})")


def choose_set(wanted: str, sets_dir: str, host: str) -> str:
    """Absolute path of a set.

    ``wanted``: "latest" (of ``host``), "HOST/latest", "HOST/ID", all of them below ``sets_dir``; else it is a path.
    Raises RefusedError when there is none.
    """
    if not wanted.strip():
        raise RefusedError(
            "Nobody said which set to restore",
            expected="replica_restore_set as a path, as HOST/ID, as HOST/latest or as latest",
            rule="set",
        )
    named = _NAMED.fullmatch(f"{host}/{LATEST}" if wanted == LATEST else wanted.rstrip("/"))
    if named is None:
        return os.path.abspath(os.path.expanduser(wanted))
    if not sets_dir:
        raise RefusedError(
            "Nobody said where the sets are", expected="replica_restore_dest, or a path", found=wanted, rule="set"
        )
    directory = os.path.join(os.path.abspath(os.path.expanduser(sets_dir)), named["host"])
    if named["id"] != LATEST:
        return os.path.join(directory, named["id"])
    complete = complete_sets(directory)
    if not complete:
        there = ", ".join(sorted(os.listdir(os.path.dirname(directory)))[:20]) if os.path.isdir(sets_dir) else "nothing"
        raise RefusedError(
            f"There is no complete set of {named['host']}",
            found=f"no {MANIFEST_NAME} below {directory}; {sets_dir} holds {there}",
            expected="a set of that host; of another host say HOST/latest",
            rule="set",
        )
    return os.path.join(directory, complete[-1])


def complete_sets(directory: str) -> list[str]:
    """Ids of a host's complete sets, oldest first."""
    try:
        names = os.listdir(directory)
    except OSError:
        return []
    return sorted(
        name for name in names if _ID.fullmatch(name) and os.path.exists(os.path.join(directory, name, MANIFEST_NAME))
    )
