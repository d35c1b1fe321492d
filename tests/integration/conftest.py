# Copyright (c) 2026, mysql_ops contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Real servers for the tests in here."""

from __future__ import annotations

import contextlib
import typing as t
import uuid
from collections.abc import Iterator
from pathlib import Path

import pytest

from ansible_collections.mysql_ops.replica_backup.tests.lab.fleet import Fleet
from ansible_collections.mysql_ops.replica_backup.tests.lab.local import Topology
from ansible_collections.mysql_ops.replica_backup.tests.lab.scratch import CHECKOUT


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark everything below this directory."""
    here = Path(__file__).parent
    for item in items:
        if here in item.path.parents:
            item.add_marker(pytest.mark.integration)


def lab_root() -> Path:
    """A fresh name for a scratch directory."""
    return CHECKOUT / ".test" / "lab" / uuid.uuid4().hex[:8]


@pytest.fixture(scope="module")
def fleet() -> Iterator[Fleet]:
    """Give one source and two replicas, shared by the tests of a module: leave them as you found them."""
    with Topology(lab_root(), separate_logs=(False, True)) as topology:
        yield Fleet(topology)


@pytest.fixture
def make_fleet() -> Iterator[t.Callable[..., Fleet]]:
    """Give a factory of fresh fleets for tests that break things; arguments as for Topology."""
    with contextlib.ExitStack() as stack:
        yield lambda **arguments: Fleet(stack.enter_context(Topology(lab_root(), **arguments)))
