# Copyright (c) 2026, mysql_ops contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Checksums of InnoDB pages of a server that is down: those that the server itself would compute when it reads them.

The vendor's ``innochecksum`` beside the server's binary does it. Where there is none (MySQL 5.6 from an archive), or
where it cannot (second files of MySQL's system tablespace), the algorithms of MySQL's page format are computed here.
What neither can look into is named, never passed over in silence.

Formats: MySQL and MariaDB source, fil0fil.h (page), fsp0types.h (flags), trx0sys.h (doublewrite), buf0checksum.cc,
ut0rnd.ic (fold).
"""

from __future__ import annotations

import os
import re
import struct
import subprocess
import time
import typing as t
from dataclasses import dataclass, field

from ansible_collections.mysql_ops.replica_backup.plugins.module_utils import _fspath as fs
from ansible_collections.mysql_ops.replica_backup.plugins.module_utils._errors import ReplicaBackupError
from ansible_collections.mysql_ops.replica_backup.plugins.module_utils._restore import page_sums
from ansible_collections.mysql_ops.replica_backup.plugins.module_utils._restore.mapping import Mapping
from ansible_collections.mysql_ops.replica_backup.plugins.module_utils._restore.private_server import Binary

TOOL = "innochecksum"
_TABLESPACE = re.compile(r".*\.(?:ibd|ibu)|undo_?\d+", re.DOTALL)
_BAD_PAGE = re.compile(r"page(?:::?| )\s*(\d+)", re.IGNORECASE)
_VERSION = re.compile(r"\b(?:Ver|from) (\d+)\.(\d+)")
# Offset of the flags of a tablespace in its first page: FIL_PAGE_DATA + FSP_SPACE_FLAGS.
_FLAGS = 54
_MYSQL_ENCRYPTED = 1 << 13
_ZIP = 0b11110
# The page of the transaction system says where the doublewrite buffer is: magic number, two page numbers.
_TRX_SYS_PAGE = 5
_DOUBLEWRITE = 200 - 10
_DOUBLEWRITE_MAGIC = 536853855


@dataclass(frozen=True)
class Bad:
    """A file with a page whose checksum is wrong; ``page`` counts from 0, None when the tool did not say which."""

    path: str
    page: int | None
    detail: str


@dataclass
class Checked:
    """``by`` says how pages were checked, with the number of files; ``unchecked`` are files and why not."""

    by: dict[str, int] = field(default_factory=dict)
    bytes: int = 0
    bad: list[Bad] = field(default_factory=list)
    unchecked: list[tuple[str, str]] = field(default_factory=list)


def find_tool(binary: Binary) -> tuple[str, str]:
    """(path of the innochecksum of that server's own package, "") or ("", why there is none)."""
    here = os.path.dirname(os.path.realpath(binary.exe))
    for directory in (here, os.path.join(os.path.dirname(here), "bin"), os.path.join(here, "bin")):
        path = os.path.join(directory, TOOL)
        if not os.access(path, os.X_OK):
            continue
        done = _run([path, "--version"], binary, 30)
        said = _VERSION.search(done[1])
        family = "mariadb" if "mariadb" in done[1].lower() else "mysql"
        series = (int(said[1]), int(said[2])) if said else None
        # MariaDB 10.11 does not name its vendor; its series are none of MySQL's.
        if series == binary.identity.version[:2] and (family == binary.identity.family or series[0] >= 10):
            return path, ""
        return "", f"{path} is not of this server: {done[1].strip()[:200]}"
    return "", f"there is no {TOOL} beside {binary.exe}"


def check_pages(binary: Binary, mapping: Mapping, directory: str, timeout: float) -> Checked:
    """Check every InnoDB file below the scratch directory; at most ``timeout`` seconds.

    Raises ReplicaBackupError when that is over, or when a file cannot be read.
    """
    tool, why = find_tool(binary)
    checker = _Checker(binary, mapping, tool, why, time.monotonic() + timeout)
    system = _system_files(mapping)
    flags = None
    for number, path in enumerate(system):
        if fs.is_file(path):
            flags = flags if number else _first_page(path)[0]
            checker.system(path, number == 0, flags or 0)
    for path in _tablespaces(directory):
        if path not in system:
            checker.tablespace(path)
    return checker.found


def _tablespaces(directory: str) -> t.Iterator[str]:
    for root, names, files in os.walk(fs.encode(directory)):
        names.sort()
        for name in sorted(files):
            path = os.path.join(root, name)
            if _TABLESPACE.fullmatch(fs.decode(name)) and not os.path.islink(path):
                yield fs.decode(path)


def _system_files(mapping: Mapping) -> list[str]:
    """The system tablespace, in order; the first one has the header."""
    parts = mapping.origin.get("innodb_data_file_path").split(";")
    names = [part.strip().partition(":")[0] for part in parts if part.strip()]
    home = mapping.origin.layout.innodb_home
    return [mapping.log("innodb_home", fs.absolute(name, home)) for name in names or ["ibdata1"]]


def _first_page(path: str) -> tuple[int, int]:
    """(flags, size of the file)."""
    with open(fs.encode(path), "rb") as handle:
        head = handle.read(_FLAGS + 4)
        size = os.fstat(handle.fileno()).st_size
    return (struct.unpack_from(">I", head, _FLAGS)[0] if len(head) == _FLAGS + 4 else 0), size


class _Checker:
    def __init__(self, binary: Binary, mapping: Mapping, tool: str, why: str, deadline: float) -> None:
        self.found = Checked()
        self._binary = binary
        self._mariadb = binary.dialect.has_mariadb_pages
        self._page_size = int(mapping.origin.get("innodb_page_size") or 16384)
        self._tool = tool
        self._why = why
        self._deadline = deadline

    def system(self, path: str, first: bool, flags: int) -> None:
        """A file of the system tablespace, the doublewrite buffer left out: its pages are those of other files."""
        skip = self._doublewrite(path) if first else ()
        if self._tool and self._mariadb:
            extra = [] if first else [f"--tablespace-flags={flags}"]
            last = os.path.getsize(fs.encode(path)) // self._page_size - 1
            if not first:
                # It counts pages from the beginning of the file that it is given.
                self._with_tool(path, [extra])
                return
            ranges = []
            start = 0
            for block in skip:
                ranges.append((start, block.start - 1))
                start = block.stop
            ranges.append((start, last))
            self._with_tool(
                path, [[f"--start-page={low}", f"--end-page={high}", *extra] for low, high in ranges if low <= high]
            )
        elif self._tool and first:
            self._with_tool(path, [[]])
        else:
            self._by_ourselves(path, flags, skip)

    def tablespace(self, path: str) -> None:
        flags, size = _first_page(path)
        if not size:
            self.found.unchecked.append((path, "it is empty"))
        elif not self._mariadb and flags & _MYSQL_ENCRYPTED:
            self.found.unchecked.append((path, "it is encrypted, only the server with its keyring can read it"))
        elif self._tool:
            self._with_tool(path, [[]])
        else:
            self._by_ourselves(path, flags, ())

    def _doublewrite(self, path: str) -> tuple[range, ...]:
        size = self._page_size
        with open(fs.encode(path), "rb") as handle:
            handle.seek(_TRX_SYS_PAGE * size + size - _DOUBLEWRITE)
            data = handle.read(12)
        if len(data) < 12 or struct.unpack_from(">I", data)[0] != _DOUBLEWRITE_MAGIC:
            return ()
        extent = (1 << 20) // size if size <= 16384 else 64
        blocks = sorted(struct.unpack_from(">II", data, 4))
        return tuple(range(block, block + extent) for block in blocks)

    def _left(self) -> float:
        left = self._deadline - time.monotonic()
        if left <= 0:
            raise ReplicaBackupError(
                "The check of InnoDB's pages has not ended within its limit",
                found=f"{self.found.bytes} bytes checked",
                expected="the end of the last file",
                next_command="give the drill more time",
            )
        return left

    def _with_tool(self, path: str, runs: t.Sequence[t.Sequence[str]]) -> None:
        for arguments in runs:
            status, output = _run([self._tool, *arguments, path], self._binary, self._left())
            if status:
                page = _BAD_PAGE.search(output)
                detail = " ".join(output.split())[-300:]
                if page is None:
                    self.found.unchecked.append((path, f"{TOOL} ended with {status}: {detail}"))
                else:
                    self.found.bad.append(Bad(path, int(page[1]), detail))
                return
        self._count(TOOL, path)

    def _by_ourselves(self, path: str, flags: int, skip: t.Sequence[range]) -> None:
        if self._mariadb or flags & _ZIP:
            what = "MariaDB's formats" if self._mariadb else "compressed pages"
            self.found.unchecked.append((path, f"{self._why}, and we do not know {what}"))
            return
        try:
            bad = page_sums.first_bad_page(path, self._page_size, skip, self._left)
        except OSError as error:
            raise ReplicaBackupError(f"{path} cannot be read", found=error.strerror, expected="its pages") from error
        if bad is not None:
            self.found.bad.append(Bad(path, bad.page, bad.detail))
        else:
            self._count("own", path)

    def _count(self, how: str, path: str) -> None:
        self.found.by[how] = self.found.by.get(how, 0) + 1
        self.found.bytes += os.path.getsize(fs.encode(path))


def _run(argv: t.Sequence[str], binary: Binary, timeout: float) -> tuple[int, str]:
    libraries = {name: value for name, value in binary.environment.items() if name == "LD_LIBRARY_PATH"}
    try:
        done = subprocess.run(
            list(map(fs.encode, argv)),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            env={"PATH": "/usr/sbin:/usr/bin:/sbin:/bin", "LANG": "C", **libraries},
            timeout=timeout,
            check=False,
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        return -1, str(error)
    return done.returncode, done.stdout.decode("utf-8", "replace")
