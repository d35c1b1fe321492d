# Copyright (c) 2026, mysql_ops contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The server that a set was made from, as its manifest tells."""

from __future__ import annotations

import re
import typing as t
from dataclasses import dataclass

from ansible_collections.mysql_ops.replica_backup.plugins.module_utils import _fspath as fs
from ansible_collections.mysql_ops.replica_backup.plugins.module_utils._dialect import Dialect
from ansible_collections.mysql_ops.replica_backup.plugins.module_utils._errors import RefusedError
from ansible_collections.mysql_ops.replica_backup.plugins.module_utils._restore.layout import Layout, layout_of
from ansible_collections.mysql_ops.replica_backup.plugins.module_utils._server_facts import ServerFacts


@dataclass(frozen=True)
class Origin:
    """``places`` are the directories that the set was taken from, by their name in it; ``channels`` the names of the
    channels, the default one ("") always among them."""

    dialect: Dialect
    uuid: str
    server_id: int
    settings: t.Mapping[str, str]
    places: t.Mapping[str, str]
    channels: tuple[str, ...]
    layout: Layout

    @property
    def version_text(self) -> str:
        return ".".join(map(str, self.dialect.version))

    def get(self, name: str) -> str:
        """A setting, "" when the server had none of that name."""
        return self.settings.get(name) or ""


def origin_of(head: t.Mapping[str, t.Any]) -> Origin:
    """Read the head of a manifest. Raises RefusedError when it does not say what a restore needs."""
    try:
        server = head["server"]
        numbers = [int(part) for part in re.findall(r"\d+", str(server["version"]))[:3]]
        version = (numbers[0], numbers[1], numbers[2])
        settings = {str(name): str(value) for name, value in server["settings"].items()}
        places = {str(place["name"]): fs.absolute(str(place["path"]), "/") for place in head["places"]}
        settings["datadir"] = places["datadir"]
        facts = ServerFacts(settings, offline=True)
        return Origin(
            dialect=Dialect(str(server["family"]), version),
            uuid=str(server.get("uuid") or ""),
            server_id=int(server.get("server_id") or 0),
            settings=settings,
            places=places,
            channels=tuple(dict.fromkeys(["", *(str(channel["name"]) for channel in head["channels"])])),
            layout=layout_of(facts),
        )
    except (KeyError, IndexError, TypeError, ValueError, AttributeError) as error:
        raise RefusedError(
            "The manifest does not say what a restore needs to know of its server",
            found=f"{type(error).__name__}: {error}",
            expected="server, places and channels as this collection writes them",
            server_state="as it was, nothing was changed",
            next_command="take another set",
            rule="manifest",
        ) from error
