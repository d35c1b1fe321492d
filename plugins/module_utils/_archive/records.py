# Copyright (c) 2026, mysql_ops contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What the archive says about one file: a line of the work file, later an element of ``files`` in the manifest."""

from __future__ import annotations

import json
import typing as t
from dataclasses import dataclass

FILE = "file"
DIRECTORY = "directory"
SYMLINK = "symlink"
ROOT_PATH = "."


class ListedFile(t.Protocol):
    """What the archive needs to know of an entry of the file list."""

    @property
    def place(self) -> str: ...
    @property
    def path(self) -> str: ...
    @property
    def type(self) -> str: ...
    @property
    def size(self) -> int: ...
    @property
    def mtime_ns(self) -> int: ...
    @property
    def owner(self) -> str: ...
    @property
    def group(self) -> str: ...
    @property
    def role(self) -> str | None: ...


def to_text(raw: bytes) -> str:
    """Bytes of a name as text; what is not UTF-8 becomes lone surrogates and survives JSON in both directions."""
    return raw.decode("utf-8", "surrogateescape")


def to_bytes(text: str) -> bytes:
    """The inverse of :func:`to_text`."""
    return text.encode("utf-8", "surrogateescape")


def member_name(place: str, path: str) -> str:
    """Name inside the archive; the place's own directory goes by the place's name alone."""
    return place if path in ("", ROOT_PATH) else f"{place}/{path}"


@dataclass(frozen=True)
class FileRecord:
    """One archived name.

    ``path`` is relative to the place (``.`` for its own directory). ``size`` is the logical size in bytes of a regular
    file and 0 otherwise; ``sha256`` (hex) exists for regular files only and covers the holes of a sparse file as
    zeros. ``target`` is a symbolic link's text. ``link`` is the member name of the first name of the same inode.
    ``part`` is the number of the part that has it, in the order of ``parts``, where a set has several.
    """

    place: str
    path: str
    type: str
    size: int
    mode: int
    uid: int
    gid: int
    owner: str
    group: str
    mtime_ns: int
    sha256: str | None
    role: str | None
    target: str | None = None
    link: str | None = None
    part: int | None = None

    @property
    def name(self) -> str:
        return member_name(self.place, self.path)

    def to_dict(self) -> dict[str, t.Any]:
        """As in the manifest: the mode as octal digits, link fields only where they mean something."""
        value: dict[str, t.Any] = {
            "place": self.place,
            "path": self.path,
            "type": self.type,
            "size": self.size,
            "mode": f"{self.mode:04o}",
            "uid": self.uid,
            "gid": self.gid,
            "owner": self.owner,
            "group": self.group,
            "mtime_ns": self.mtime_ns,
            "sha256": self.sha256,
            "role": self.role,
        }
        if self.target is not None:
            value["target"] = self.target
        if self.link is not None:
            value["link"] = self.link
        if self.part is not None:
            value["part"] = self.part
        return value

    @classmethod
    def from_dict(cls, value: t.Mapping[str, t.Any]) -> FileRecord:
        fields = dict(value)
        fields["mode"] = int(fields["mode"], 8)
        return cls(**fields)

    def to_line(self) -> bytes:
        return json.dumps(self.to_dict(), separators=(",", ":")).encode("ascii") + b"\n"

    @classmethod
    def from_line(cls, line: bytes) -> FileRecord:
        return cls.from_dict(json.loads(line))


def read_records(path: str) -> t.Iterator[FileRecord]:
    """The records of a work file, one at a time."""
    with open(path, "rb") as stream:
        for line in stream:
            yield FileRecord.from_line(line)


def sums_line(digest: str, name: str) -> bytes:
    """A line that ``sha256sum -c`` understands, also for names with a backslash or a line end in them."""
    raw = to_bytes(name)
    escaped = raw.replace(b"\\", b"\\\\").replace(b"\n", b"\\n")
    if escaped.endswith(b"\r"):
        # coreutils 9 drops a bare CR at the end of a line; older ones do not know the escape and lose this name only.
        escaped = escaped[:-1] + b"\\r"
    mark = b"\\" if escaped != raw else b""
    return mark + digest.encode("ascii") + b"  " + escaped + b"\n"
