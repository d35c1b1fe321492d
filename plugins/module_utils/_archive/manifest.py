# Copyright (c) 2026, mysql_ops contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""``manifest.json``: composed and read as a stream, so that the list of files never lies in memory."""

from __future__ import annotations

import json
import re
import typing as t

from ansible_collections.mysql_ops.replica_backup.plugins.module_utils._archive.output import HashedFile, Part
from ansible_collections.mysql_ops.replica_backup.plugins.module_utils._archive.records import FileRecord
from ansible_collections.mysql_ops.replica_backup.plugins.module_utils._errors import ReplicaBackupError

FORMAT = 1
# A target has no galaxy.yml; a unit test holds the two against each other.
COLLECTION_VERSION = "0.1.0"
# ``files`` comes last in the text, so that a reader has the rest before the long list begins.
HEAD_KEYS = (
    "format",
    "backup_id",
    "host",
    "collection_version",
    "server",
    "channels",
    "places",
    "parts",
    "clean_stop",
    "times",
    "warnings",
)
# Sets that were made before a section was introduced are read all the same.
OPTIONAL_KEYS = ("capture",)
_FILES_OPEN = b'"files": [\n'
_FILES_CLOSE = b"]}\n"
_SECRET = re.compile(r"password|passphrase|secret|token", re.IGNORECASE)
# What a staged capture reused, patched and copied while the server was down.
_WINDOW_KEYS = ("reused", "patched", "copied", "bytes_patched", "bytes_copied")
_PRECOPY_KEYS = ("files", "bytes", "rounds", "left", "seconds")
_SERVER_KEYS = ("family", "version", "version_text", "uuid", "server_id", "datadir")


def without_secrets(value: t.Any) -> t.Any:
    """A copy in which no key speaks of a password; a set may go to places that the server's secrets may not."""
    if isinstance(value, t.Mapping):
        return {key: without_secrets(item) for key, item in value.items() if not _SECRET.search(str(key))}
    if isinstance(value, (list, tuple)):
        return [without_secrets(item) for item in value]
    return value


def server_section(server: t.Mapping[str, t.Any]) -> dict[str, t.Any]:
    """The ledger's server facts as the manifest keeps them; ``variables`` become ``settings``, a version its text."""
    section = {key: server[key] for key in _SERVER_KEYS if key in server}
    version = section.get("version")
    if isinstance(version, (list, tuple)):
        section["version"] = ".".join(str(number) for number in version)
    section["settings"] = without_secrets(server.get("variables", {}))
    return section


def capture_section(data: t.Mapping[str, t.Any], *, end: str, seconds: float) -> dict[str, t.Any]:
    """How the files were captured, by the ledger's ``data``: kind, why, means of each file system, figures.

    ``end`` and ``seconds`` are those of a cold archive: from when on nothing was read from the stopped server, and how
    long it took. For a clone, from which the archive is made later, the ledger has them.
    """
    chosen = data.get("capture") or {}
    taken = (data.get("clone") or {}).get("outcome")
    section: dict[str, t.Any] = {
        "kind": chosen.get("capture", "cold"),
        "why": chosen.get("why", ""),
        "means": [{"roots": list(means["roots"]), "by": means["by"]} for means in chosen.get("by", ())],
    }
    if taken is None:
        return {**section, "end": end, "seconds": seconds}
    closed = data.get("times", {}).get("capture", {}).get("end")
    section.update({"kind": taken["capture"], "end": closed or end, "seconds": taken["seconds"]})
    details = taken.get("details") or {}
    section.update({key: details[key] for key in _WINDOW_KEYS if key in details})
    if data.get("precopied"):
        section["precopy"] = {key: data["precopied"][key] for key in _PRECOPY_KEYS if key in data["precopied"]}
    return section


def compose(target: HashedFile, head: t.Mapping[str, t.Any], records: t.Iterable[bytes]) -> None:
    """Write the manifest: ``head`` has the keys of :data:`HEAD_KEYS` and perhaps :data:`OPTIONAL_KEYS`, no others.

    ``records`` are JSON lines.
    """
    if set(head) - set(OPTIONAL_KEYS) != set(HEAD_KEYS):
        raise ReplicaBackupError(
            "The head of the manifest is not complete", found=", ".join(sorted(head)), expected=", ".join(HEAD_KEYS)
        )
    target.write_line(b"{")
    for key in (*HEAD_KEYS, *(key for key in OPTIONAL_KEYS if key in head)):
        target.write_line(json.dumps(key).encode("ascii") + b": " + json.dumps(head[key], indent=1).encode("ascii"))
        target.write_line(b",\n")
    target.write_line(_FILES_OPEN)
    first = True
    for line in records:
        target.write_line((b"" if first else b",\n") + line.rstrip(b"\n"))
        first = False
    target.write_line((b"" if first else b"\n") + _FILES_CLOSE)
    target.flush()


def read(path: str) -> tuple[dict[str, t.Any], t.Iterator[FileRecord]]:
    """Head and files of a manifest of ours, the files one at a time.

    A manifest that another program has laid out anew is read too, then as a whole. Raises
    :class:`ReplicaBackupError` when it is no manifest of a format that we know.
    """
    try:
        with open(path, "rb") as stream:
            lines = bytearray()
            for line in stream:
                if line == _FILES_OPEN:
                    head = json.loads(bytes(lines).rstrip(b",\n") + b"}")
                    return _checked(path, head), _stream_files(path, stream.tell())
                lines += line
        whole = json.loads(bytes(lines))
        records = [FileRecord.from_dict(value) for value in whole.pop("files")]
    except OSError as problem:
        raise ReplicaBackupError(f"{path} cannot be read: {problem.strerror}") from problem
    except (ValueError, KeyError, TypeError, AttributeError) as problem:
        raise ReplicaBackupError(f"{path} is no manifest: {problem}") from problem
    return _checked(path, whole), iter(records)


def _checked(path: str, head: t.Any) -> dict[str, t.Any]:
    found = head.get("format") if isinstance(head, dict) else None
    if found != FORMAT:
        raise ReplicaBackupError(f"{path} has a format that this version does not know", found=found, expected=FORMAT)
    return t.cast("dict[str, t.Any]", head)


def _stream_files(path: str, offset: int) -> t.Iterator[FileRecord]:
    with open(path, "rb") as stream:
        stream.seek(offset)
        for line in stream:
            if line == _FILES_CLOSE:
                return
            try:
                yield FileRecord.from_line(line.rstrip(b",\n"))
            except (ValueError, TypeError, KeyError) as problem:
                raise ReplicaBackupError(
                    f"{path} is damaged: {problem}", found=line[:200].decode("ascii", "replace")
                ) from problem
    raise ReplicaBackupError(f"{path} is cut short", expected="the end of the list of files")


def part_entry(part: Part, form: str, compression: str) -> dict[str, t.Any]:
    """An element of ``parts``. For a plain directory ``sha256`` is that of SHA256SUMS, ``bytes`` of all its files."""
    return {
        "name": part.name,
        "bytes": part.bytes,
        "sha256": part.sha256,
        "format": form,
        "compression": compression,
    }
