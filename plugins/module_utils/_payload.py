# Copyright (c) 2026, mysql_ops contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The collection's own code as one runnable file, for processes that outlive the module which starts them.

Ansible removes a module's files when it ends.
"""

from __future__ import annotations

import contextlib
import importlib.util
import io
import os
import sys
import typing as t
import zipfile

from ansible_collections.mysql_ops.replica_backup.plugins.module_utils._errors import ReplicaBackupError

PACKAGE = "ansible_collections.mysql_ops.replica_backup.plugins.module_utils"


def write_payload(path: str, entry: str) -> None:
    """Pack the collection's loaded code into ``path`` (mode 0600).

    ``entry`` is the module below module_utils whose ``main(arguments)`` runs, and its result is the exit code. What is
    needed must be loaded by now.
    """
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr(
            "__main__.py", f"import sys\nfrom {PACKAGE}.{entry} import main\nsys.exit(main(sys.argv[1:]))\n"
        )
        parts = PACKAGE.split(".")
        for depth in range(1, len(parts) + 1):
            archive.writestr("/".join(parts[:depth]) + "/__init__.py", "")
        for name in sorted(sys.modules):
            # _module talks to Ansible, which is not there when the payload runs.
            if not name.startswith(f"{PACKAGE}._") or name == f"{PACKAGE}._module":
                continue
            spec = importlib.util.find_spec(name)
            if spec is None or spec.loader is None:
                raise ReplicaBackupError(f"The code of {name} cannot be found")
            source: str | None = t.cast(t.Any, spec.loader).get_source(name)
            inside = name.replace(".", "/")
            inside += "/__init__.py" if spec.submodule_search_locations is not None else ".py"
            archive.writestr(inside, source or "")
    partial = f"{path}.partial"
    with contextlib.suppress(FileNotFoundError):
        os.unlink(partial)
    descriptor = os.open(partial, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW, 0o600)
    with open(descriptor, "wb") as handle:
        handle.write(buffer.getvalue())
        handle.flush()
        os.fsync(handle.fileno())
    os.rename(partial, path)


def under_systemd() -> bool:
    """Whether a process is kept by a transient unit: its life does not hang on the session that starts it."""
    return os.path.isdir("/run/systemd/system") and os.geteuid() == 0


def systemd_run() -> list[str]:
    """The beginning of the command; options and the command to run follow."""
    # The service manager's environment is not ours.
    environment = [f"--setenv=PYTHONPATH={os.environ['PYTHONPATH']}"] if "PYTHONPATH" in os.environ else []
    return ["systemd-run", "--quiet", "--collect", *environment]
