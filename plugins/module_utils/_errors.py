# Copyright (c) 2026, mysql_ops contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The one family of errors that the collection raises."""

from __future__ import annotations

import errno
import typing as t


class ReplicaBackupError(Exception):
    """A failure that a person has to read.

    ``message`` says what went wrong; ``found`` and ``expected`` the value seen and the one needed;
    ``server_state`` in what state the server is now; ``next_command`` what to type next.
    ``facts`` (JSON-serialisable values only) travel into the module result beside the message.
    """

    # Said where nothing else is known.
    _default_state: str | None = None
    _default_next: str | None = None

    def __init__(
        self,
        message: str,
        *,
        found: object = None,
        expected: object = None,
        server_state: str | None = None,
        next_command: str | None = None,
        **facts: t.Any,
    ) -> None:
        super().__init__(message)
        self.message = message
        self.found = found
        self.expected = expected
        self.server_state = server_state
        self.next_command = next_command
        self.facts = facts

    def __str__(self) -> str:
        parts = [self.message.rstrip(".") + "."]
        if self.found is not None:
            parts.append(f"Found: {self.found}.")
        if self.expected is not None:
            parts.append(f"Expected: {self.expected}.")
        state, next_command = self.server_state or self._default_state, self.next_command or self._default_next
        if state is not None:
            parts.append(f"State of the server: {state}.")
        if next_command is not None:
            parts.append(f"Next: {next_command}")
        return " ".join(parts)

    def to_result(self) -> dict[str, t.Any]:
        """Fields for ``fail_json``: ``msg`` and every fact that is known."""
        result: dict[str, t.Any] = {"msg": str(self)}
        for name in ("found", "expected", "server_state", "next_command"):
            value = getattr(self, name)
            if value is not None:
                result[name] = value
        result.update(self.facts)
        return result


class RefusedError(ReplicaBackupError):
    """Bad input or a guard said no: nothing has been touched."""

    _default_state = "left as it was by this step"
    _default_next = "set right what is named here, then run it again"


def os_error_text(problem: OSError) -> str:
    """What the operating system refused, in words and by the name that manuals have for it."""
    text = f"{problem.strerror or problem} ({errno.errorcode.get(problem.errno or 0, 'no number')})"
    return text if problem.filename is None else f"{text}: {problem.filename}"


def recover_command(host: t.Any = None) -> str:
    """What to type for the recover playbook; ``host`` is the name in the inventory, where it is known."""
    return f"ansible-playbook mysql_ops.replica_backup.recover --limit {host or 'HOST'}"
