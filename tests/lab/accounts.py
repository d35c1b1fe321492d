# Copyright (c) 2026, mysql_ops contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The account of the README: its statements, word by word, and the single rights in them."""

from __future__ import annotations

import re

from ansible_collections.mysql_ops.replica_backup.tests.lab.scratch import CHECKOUT

USER = "backup"
ACCOUNT = "backup@localhost"


def statements(heading: str, password: str) -> list[str]:
    """CREATE USER and GRANTs below the line that ends with ``heading`` and a colon."""
    readme = (CHECKOUT / "README.md").read_text(encoding="utf-8")
    block = re.search(re.escape(heading) + r":\n\n```sql\n(.*?)```", readme, re.S)
    assert block, heading
    return [part.strip() for part in block[1].replace("'...'", f"'{password}'").split(";") if part.strip()]


def single_rights(given: list[str]) -> list[tuple[str, str]]:
    """(right, what it is ON) of every GRANT, one by one."""
    found = []
    for statement in given:
        match = re.fullmatch(rf"GRANT (.+) ON (\S+) TO {ACCOUNT}", statement)
        if match:
            found += [(right, match[2]) for right in match[1].split(", ")]
    assert found
    return found
