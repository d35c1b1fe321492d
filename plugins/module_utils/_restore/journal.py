# Copyright (c) 2026, mysql_ops contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What a restore has done to a host, on the host's own disk: written and fsynced before each step.

While ``STATE_DIR/restore.json`` exists a restore is not finished, and nothing of this collection stops, starts or backs
up the server but the restore itself. Finished, it becomes ``STATE_DIR/restore.last.json``.
"""

from __future__ import annotations

import contextlib
import json
import os
import typing as t
from dataclasses import asdict, dataclass, field

from ansible_collections.mysql_ops.replica_backup.plugins.module_utils import _ledger
from ansible_collections.mysql_ops.replica_backup.plugins.module_utils._errors import RefusedError, ReplicaBackupError

FORMAT = 1
_JOURNAL = "restore.json"
_LAST = "restore.last.json"
_EARLIER = "restore.earlier.json"
# Nothing but new directories until "switching"; from then on forward only; from "laid" on the files are complete.
PHASES = ("staging", "staged", "switching", "laid", "starting", "serving", "done")


@dataclass
class Journal:
    """One restore.

    ``head`` is the set's manifest without ``files``. ``identity`` is "same" or "clone". ``target`` says where this host
    keeps its files: ``datadir``, ``layout`` (Layout.to_dict), ``exe``, ``argv``, ``environment``, ``service`` (Start of
    ``_installed``), ``variables`` (of the option files and the binary). ``moved_aside`` lists {"path", "before"}.
    ``relay_logs_unusable``: why the restored relay logs cannot be gone on with, "" when they can. ``times`` are
    UTC by phase.
    """

    state_dir: str
    restore_id: str
    set_label: str
    identity: str
    head: dict[str, t.Any]
    target: dict[str, t.Any]
    phase: str = "staging"
    moved_aside: list[dict[str, str]] = field(default_factory=list)
    relay_logs_unusable: str = ""
    warnings: list[str] = field(default_factory=list)
    times: dict[str, str] = field(default_factory=dict)
    work: dict[str, t.Any] = field(default_factory=dict)
    format: int = FORMAT

    def write(self) -> None:
        """Durable before this returns. Raises OSError."""
        data = {key: value for key, value in asdict(self).items() if key != "state_dir"}
        _ledger.write_durably(journal_path(self.state_dir), json.dumps(data, indent=1, sort_keys=True) + "\n")

    def advance(self, phase: str) -> None:
        """Enter a phase; never back."""
        if PHASES.index(phase) < PHASES.index(self.phase):
            raise ReplicaBackupError("A restore cannot go back", found=phase, expected=f"what follows {self.phase}")
        self.phase = phase
        self.times[phase] = _ledger.utc()
        self.write()

    def finish(self) -> None:
        """The server serves: the marker goes, the record stays."""
        self.advance("done")
        os.rename(journal_path(self.state_dir), os.path.join(self.state_dir, _LAST))
        _ledger.sync_directory(self.state_dir)

    def discard(self) -> None:
        """Nothing of it is left on the host (before the switch only); one that it was begun over waits again."""
        if PHASES.index(self.phase) >= PHASES.index("switching"):
            raise ReplicaBackupError("This restore has begun to exchange files", found=self.phase, expected="staged")
        if over_another(self.state_dir):
            os.rename(os.path.join(self.state_dir, _EARLIER), journal_path(self.state_dir))
        else:
            os.unlink(journal_path(self.state_dir))
        _ledger.sync_directory(self.state_dir)


def keep_earlier(state_dir: str) -> None:
    """Before a restore is begun: the record of one whose files lie in place is kept until these are exchanged."""
    earlier = os.path.join(state_dir, _EARLIER)
    with contextlib.suppress(FileNotFoundError):
        os.unlink(earlier)
    with contextlib.suppress(FileNotFoundError):
        os.link(journal_path(state_dir), earlier)


def over_another(state_dir: str) -> bool:
    """Whether the restore at work was begun over one whose files lie in place."""
    return os.path.lexists(os.path.join(state_dir, _EARLIER))


def journal_path(state_dir: str) -> str:
    return os.path.join(state_dir, _JOURNAL)


def load(state_dir: str) -> Journal | None:
    """The restore that is not finished, if any. Raises ReplicaBackupError when its record cannot be read."""
    return _load(state_dir, _JOURNAL)


def load_last(state_dir: str) -> Journal | None:
    """The last one that was finished."""
    return _load(state_dir, _LAST)


def _load(state_dir: str, name: str) -> Journal | None:
    path = os.path.join(state_dir, name)
    try:
        with open(path, encoding="utf-8") as handle:
            data = json.load(handle)
        if data.pop("format") != FORMAT:
            raise ValueError("another format")
        return Journal(state_dir=state_dir, **data)
    except FileNotFoundError:
        return None
    except (OSError, ValueError, TypeError, KeyError) as error:
        raise ReplicaBackupError(
            f"{path} cannot be read",
            found=str(error),
            expected="the record of a restore",
            next_command=f"look at {path}",
        ) from error


def refuse_unfinished(state_dir: str) -> None:
    """Raise RefusedError while a restore is not finished: the files of the server may be half of two servers."""
    journal = load(state_dir)
    if journal is None:
        return
    raise RefusedError(
        f"A restore of {journal.set_label} on this host is not finished",
        found=f"phase {journal.phase} of restore {journal.restore_id}, {journal_path(state_dir)}",
        expected="no unfinished restore",
        server_state="as it was",
        next_command="run the restore playbook again with the same set, without replica_restore_force: it continues",
        rule="restore",
    )
