# Copyright (c) 2026, mysql_ops contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The restore as the worker calls it: its request has passed through a file."""

from __future__ import annotations

import typing as t
from dataclasses import asdict

from ansible_collections.mysql_ops.replica_backup.plugins.module_utils._installed import Hints
from ansible_collections.mysql_ops.replica_backup.plugins.module_utils._restore.feed import Feed
from ansible_collections.mysql_ops.replica_backup.plugins.module_utils._restore.job import Request, restore


def to_data(request: Request) -> dict[str, t.Any]:
    """JSON-serialisable values of a request."""
    return asdict(request)


def carry_out(data: t.Mapping[str, t.Any], feed: Feed) -> dict[str, t.Any]:
    """Entry of the worker. Raises as ``restore`` does."""
    return restore(Request(**{**data, "hints": Hints(**data["hints"])}), feed)
