# Copyright (c) 2026, mysql_ops contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What can be told from the text of an init script."""

from __future__ import annotations

import re

from ansible_collections.mysql_ops.replica_backup.plugins.module_utils._managers import commands

_KILLS = re.compile(r"\bkillall\b|\bpkill\b|kill\s+-(?:9|KILL|SIGKILL|s\s+(?:9|KILL))\b|--(?:retry|stop)\b.*\bKILL\b")


def hands_on(script: str) -> bool:
    """Whether ``SCRIPT start --option`` gives the option to the server, as Debian's and mysql.server do."""
    words = text(script)
    return re.search(r"(?:mysqld|mariadbd)\S*\s[^#\n]*(?:\$\{@:2\}|\$@|\$\*|\$other_args)", words) is not None


def text(script: str) -> str:
    """The script; empty when it cannot be read."""
    try:
        with open(script, encoding="utf-8", errors="replace") as stream:
            return stream.read(1 << 20)
    except OSError:
        return ""


def stops_gently(script: str) -> bool:
    """Whether the script never kills, by name or by force."""
    words = text(script)
    return bool(words) and not _KILLS.search(re.sub(r"(?m)^\s*#.*$", "", words))


def default_datadirs(script: str, server: str) -> list[str]:
    """Data directories that a script's server uses: what the script names, and what the option files say."""
    found = re.findall(r"(?m)^\s*(?:datadir|DATADIR)=[\"']?(/[^\s\"'$]+)", text(script))
    answer = commands.run([server, "--print-defaults"])
    named = re.findall(r"--datadir=(\S+)", answer.stdout)
    return [*found, *(named[-1:] or ["/var/lib/mysql"])]
