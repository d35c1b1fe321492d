# Copyright (c) 2026, mysql_ops contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What must hold before a set may become this host's server: each rule a function from facts to a verdict. Pure."""

from __future__ import annotations

import typing as t
from dataclasses import dataclass

from ansible_collections.mysql_ops.replica_backup.plugins.module_utils import _fspath as fs
from ansible_collections.mysql_ops.replica_backup.plugins.module_utils._connection import Identity
from ansible_collections.mysql_ops.replica_backup.plugins.module_utils._dialect import Dialect
from ansible_collections.mysql_ops.replica_backup.plugins.module_utils._errors import RefusedError
from ansible_collections.mysql_ops.replica_backup.plugins.module_utils._restore.origin import Origin
from ansible_collections.mysql_ops.replica_backup.plugins.module_utils._server_facts import ServerFacts


@dataclass(frozen=True)
class Verdict:
    """``ok`` False refuses; ``relax`` says what to do then. ``found`` is this host's, ``expected`` the set's value."""

    rule: str
    ok: bool
    message: str = ""
    found: str = ""
    expected: str = ""
    relax: str = ""


@dataclass(frozen=True)
class Subject:
    """What the rules look at. ``facts`` and ``identity`` are those of the server that this host would start."""

    origin: Origin
    facts: ServerFacts
    identity: Identity
    clone: bool
    channels: t.Sequence[t.Mapping[str, t.Any]]
    moves: t.Mapping[str, str]
    allow_upgrade: bool = False


def judge(subject: Subject) -> list[Verdict]:
    """Every rule, in order."""
    return [
        _family(subject),
        _version(subject),
        *_settings(subject),
        _undo(subject),
        _innodb_directories(subject),
        _gtid(subject),
        _server_id(subject),
    ]


def refuse(verdicts: t.Iterable[Verdict], where: str = "this host's server") -> None:
    """Raise RefusedError with all that is wrong at once; ``where`` names the server that it is about."""
    failed = [verdict for verdict in verdicts if not verdict.ok]
    if not failed:
        return
    first = failed[0]
    raise RefusedError(
        f"This set cannot be restored to {where}: " + "; ".join(verdict.message for verdict in failed),
        found="; ".join(verdict.found for verdict in failed),
        expected="; ".join(verdict.expected for verdict in failed),
        server_state="as it was, nothing was changed",
        next_command=first.relax
        or "change the settings of this host's server to those of the set, or take another set",
        rule=first.rule,
        rules=[verdict.rule for verdict in failed],
    )


def _text(version: tuple[int, int, int]) -> str:
    return ".".join(map(str, version))


def _family(subject: Subject) -> Verdict:
    found, expected = subject.identity.family, subject.origin.dialect.family
    return Verdict("family", found == expected, "it is of the other server family", found, expected)


def _version(subject: Subject) -> Verdict:
    if subject.identity.family != subject.origin.dialect.family:
        return Verdict("version", True)
    here = Dialect(subject.identity.family, subject.identity.version)
    found = f"version {_text(here.version)} on this host"
    how = here.opens_files_of(subject.origin.dialect.version)
    expected = f"version {subject.origin.version_text} or newer of its series"
    if how == "upgrade":
        return Verdict(
            "version",
            subject.allow_upgrade,
            "this host's server would upgrade the files, which cannot be taken back",
            found,
            expected,
            relax="-e replica_restore_allow_upgrade=true lets it; read the manual's upgrade notes first",
        )
    message = {"older": "this host's server is older", "too_far": "no upgrade leads that far in one step"}.get(how, "")
    return Verdict("version", how == "same", message, found, expected)


def _settings(subject: Subject) -> t.Iterator[Verdict]:
    """Settings without which InnoDB does not open the files, or opens them wrongly."""
    defaults = {"innodb_page_size": "16384", "lower_case_table_names": "0"}
    for name in ("innodb_page_size", "lower_case_table_names", "innodb_data_file_path"):
        expected = subject.origin.get(name) or defaults.get(name, "")
        found = subject.facts.get(name) or defaults.get(name, "")
        if expected and name == "innodb_data_file_path":
            # The size is where the file began, and autoextend where it goes; the files are what counts.
            same = _files(found) == _files(expected)
        else:
            same = not expected or found == expected
        yield Verdict(name, same, f"{name} differs", f"{name} = {found}", f"{name} = {expected}")


def _files(path: str) -> list[str]:
    return [part.strip().split(":")[0] for part in path.split(";") if part.strip()]


def _undo(subject: Subject) -> Verdict:
    name = "innodb_undo_tablespaces"
    found, expected = subject.facts.get(name) or "0", subject.origin.get(name) or "0"
    fixed = subject.origin.dialect.fixes_number_of_undo_tablespaces
    return Verdict(name, not fixed or found == expected, f"{name} differs", f"{name} = {found}", f"{name} = {expected}")


def _innodb_directories(subject: Subject) -> Verdict:
    """A tablespace that was moved is found only where the server looks for it, unless it follows the .isl files, which
    the restore rewrites."""
    name = "innodb_directories"
    if not subject.origin.dialect.keeps_paths_in_dictionary:
        return Verdict(name, True)
    known = [subject.facts.path(part) for part in subject.facts.get(name).split(";") if part]
    known += [subject.facts.datadir, subject.facts.directory("innodb_data_home_dir", "innodb_undo_directory")]
    lost = [new for new in subject.moves.values() if not any(fs.below(new, path) is not None for path in known)]
    return Verdict(
        name,
        not lost,
        "the server would not find tablespaces that are moved",
        f"{name} = {subject.facts.get(name)}",
        f"{name} with {', '.join(lost)}",
        relax=f"add them to {name} in the option file",
    )


def _gtid(subject: Subject) -> Verdict:
    """A channel that finds its place by GTID needs gtid_mode (manual, "GTID Auto-Positioning")."""
    found, expected = subject.facts.get("gtid_mode") or "OFF", subject.origin.get("gtid_mode") or "OFF"
    needs = any(str((channel.get("gtid") or {}).get("auto_position", "0")) == "1" for channel in subject.channels)
    on = found.upper().startswith("ON")
    return Verdict(
        "gtid_mode", on or not needs, "channels use auto positioning", f"gtid_mode = {found}", f"gtid_mode = {expected}"
    )


def _server_id(subject: Subject) -> Verdict:
    found = subject.facts.get("server_id") or "0"
    if not subject.clone:
        expected = str(subject.origin.server_id)
        return Verdict(
            "server_id",
            found == expected or not subject.origin.server_id,
            "the server would not take its old identity back",
            f"server_id = {found}",
            f"server_id = {expected}",
            relax=f"set server_id = {expected} in its option file, or restore with -e replica_restore_identity=clone",
        )
    taken = {str(subject.origin.server_id): "the server that the set was made from"}
    for channel in subject.channels:
        if channel.get("source_server_id"):
            taken[str(channel["source_server_id"])] = f"its source {channel.get('source_host', '')}"
    return Verdict(
        "server_id",
        found not in taken and found != "0",
        f"a clone needs a server_id of its own, and this one is that of {taken.get(found, 'no server')}",
        f"server_id = {found}",
        f"none of {', '.join(taken)}, 0",
        relax="set another server_id in the option file of this host's server",
    )
