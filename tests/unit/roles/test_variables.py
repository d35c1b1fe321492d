# Copyright (c) 2026, mysql_ops contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The role's variables: each is declared with its default, and each declared one is used for something."""

from __future__ import annotations

import re
import typing as t
from pathlib import Path

import yaml

CHECKOUT = Path(__file__).resolve().parents[3]
ROLE = CHECKOUT / "roles" / "replica_backup"
# What the role and the playbooks set themselves for those who read it.
FACTS = {"replica_backup_outcome", "replica_backup_recovery", "replica_backup_chosen", "replica_backup_batches"}
# Names of the collection and of the role look the same.
NAME = re.compile(r"(?<![\w.])replica_backup_[a-z_]+\b")


def declared() -> dict[str, t.Any]:
    specs = yaml.safe_load((ROLE / "meta" / "argument_specs.yml").read_text())["argument_specs"]
    return {name: option["default"] for entry in specs.values() for name, option in entry["options"].items()}


def used() -> set[str]:
    """Every name in what runs: strings of the parsed YAML, so neither comments nor task names count."""
    files = [*(ROLE / "tasks").glob("*.yml"), *(ROLE / "vars").glob("*.yml"), *(CHECKOUT / "playbooks").rglob("*.yml")]
    return {name for path in files for text in strings(yaml.safe_load(path.read_text())) for name in NAME.findall(text)}


def strings(value: t.Any) -> t.Iterator[str]:
    """Texts of a play that are evaluated; messages only name a variable to somebody."""
    if isinstance(value, str):
        yield value
    elif isinstance(value, dict):
        for key, inner in value.items():
            if key not in ("name", "fail_msg"):
                yield from strings(inner)
    elif isinstance(value, list):
        for inner in value:
            yield from strings(inner)


def test_every_variable_has_its_default_in_both_places() -> None:
    assert yaml.safe_load((ROLE / "defaults" / "main.yml").read_text()) == declared()


def test_the_defaults_of_the_other_roles_are_as_declared() -> None:
    for role in sorted(set((CHECKOUT / "roles").iterdir()) - {ROLE}):
        specs = yaml.safe_load((role / "meta" / "argument_specs.yml").read_text())["argument_specs"]
        options = {name: option["default"] for entry in specs.values() for name, option in entry["options"].items()}
        assert yaml.safe_load((role / "defaults" / "main.yml").read_text()) == options
        text = "".join(path.read_text() for path in (role / "tasks").glob("*.yml"))
        assert all(name in text and name.startswith(f"{role.name}_") for name in options)


def used_by_plugins() -> set[str]:
    """What plugins of the controller read of the variables of a task."""
    code = "".join(path.read_text() for path in (CHECKOUT / "plugins" / "plugin_utils").glob("*.py"))
    return set(re.findall(r'_vars\.get\("(replica_backup_[a-z_]+)"', code))


def test_every_declared_variable_is_used() -> None:
    assert set(declared()) <= used() | used_by_plugins()


def test_every_used_variable_is_declared() -> None:
    assert used() - set(declared()) == FACTS


def test_the_readme_of_the_collection_names_no_other_variable() -> None:
    named = set(NAME.findall((CHECKOUT / "README.md").read_text()))
    assert named - set(declared()) <= FACTS
