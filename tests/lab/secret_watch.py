# Copyright (c) 2026, mysql_ops contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Looks for secrets where everybody could see them while something runs: arguments, environments, open files."""

from __future__ import annotations

import os
import stat
import threading
import typing as t
from collections.abc import Iterable, Mapping
from pathlib import Path

_PAUSE = 0.01
# Files take longer to come and go.
_FILES_EVERY = 10
# A process changes its arguments when it executes a program, a moment after it was born.
_LOOKS = 25


class SecretWatch:
    """Use as a context manager around what is watched.

    ``secrets``: text by name. ``directories``: their files may hold a secret only where no other user can get at it.
    ``seen_in`` tells the names of those files afterwards, ``leaks`` what stood where it should not, ``processes`` how
    many were looked at.
    """

    def __init__(self, secrets: Mapping[str, str], directories: Iterable[Path] = ()) -> None:
        self.seen_in: set[str] = set()
        self.leaks: set[str] = set()
        self.processes = 0
        self._secrets = {name: text.encode() for name, text in secrets.items()}
        self._directories = list(directories)
        self._looks: dict[str, int] = {}
        self._end = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)

    def __enter__(self) -> SecretWatch:
        self._thread.start()
        return self

    def __exit__(self, *exception: object) -> None:
        self._end.set()
        self._thread.join()

    def found_in(self, data: bytes) -> list[str]:
        """The names of the secrets that stand there."""
        return [name for name, secret in self._secrets.items() if secret in data]

    def _run(self) -> None:
        number = 0
        while not self._end.wait(_PAUSE):
            self._look_at_processes()
            number += 1
            if number % _FILES_EVERY == 0:
                for directory in self._directories:
                    self._look_at_files(directory)

    def _look_at_processes(self) -> None:
        now = {name for name in os.listdir("/proc") if name.isdigit()} - {str(os.getpid())}
        # A number that is gone may be another process the next time.
        for name in self._looks.keys() - now:
            del self._looks[name]
        for name in now:
            looks = self._looks.get(name, 0)
            if looks >= _LOOKS:
                continue
            self._looks[name] = looks + 1
            self.processes += not looks
            for kind in ("cmdline", "environ"):
                try:
                    data = Path(f"/proc/{name}/{kind}").read_bytes()
                except OSError:
                    continue
                for secret in self.found_in(data):
                    self.leaks.add(f"{secret} in {kind} of process {data[:200]!r}")

    def _look_at_files(self, directory: Path) -> None:
        for parent, _directories, files in os.walk(directory):
            for file in files:
                path = os.path.join(parent, file)
                try:
                    status = os.lstat(path)
                    if not stat.S_ISREG(status.st_mode) or status.st_size > 1 << 22:
                        continue
                    names = self.found_in(Path(path).read_bytes())
                except OSError:
                    continue
                if names:
                    self.seen_in.add(file)
                    if not private(path, directory):
                        self.leaks.add(f"{', '.join(names)} in {path}, mode {stat.filemode(status.st_mode)}")

    def leaks_below(self, directories: Iterable[Path], *, skip: Iterable[str] = ()) -> set[str]:
        """Files below them in which a secret stands now, links not followed."""
        found: set[str] = set()
        for path in (path for directory in directories for path in directory.rglob("*")):
            if path.is_file() and not path.is_symlink() and path.name not in skip:
                found.update(f"{name} in {path}" for name in self.found_in(path.read_bytes()))
        return found


def private(path: str, root: Path) -> bool:
    """Whether other users are kept from the file: by its own mode, or by a directory between it and ``root``."""
    place = path
    while True:
        if not os.lstat(place).st_mode & 0o077:
            return True
        if place == str(root) or place == "/":
            return False
        place = os.path.dirname(place)


EVENTS_PLUGIN: t.Final = """
# Every event as recorders of job events keep it: results, and tasks with their arguments as they begin.
from __future__ import annotations
import json, os
from ansible.plugins.callback import CallbackBase

class CallbackModule(CallbackBase):
    CALLBACK_VERSION = 2.0
    CALLBACK_TYPE = "notification"
    CALLBACK_NAME = "every_event"

    def v2_on_any(self, *args, **kwargs):
        with open(os.environ["EVERY_EVENT"], "a", encoding="utf-8") as out:
            for item in (*args, *kwargs.values()):
                result = getattr(item, "_result", None)
                kept = result if result is not None else [str(item), getattr(item, "args", None)]
                out.write(json.dumps(kept, default=str) + "\\n")
"""
