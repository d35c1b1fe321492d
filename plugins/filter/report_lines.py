# Copyright (c) 2026, mysql_ops contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What the role prints, line by line: a plan in check mode, the outcome of a backup, that of a recovery."""

from __future__ import annotations

import shlex
import typing as t

from ansible.errors import AnsibleFilterError

if t.TYPE_CHECKING:
    _Values = t.Mapping[str, t.Any]

_MIB = 1024 * 1024
# What stands in a printed command where only the controller knows more.
_UNKNOWN = "-i INVENTORY"
_PLAYBOOK = "ansible-playbook mysql_ops.replica_backup."


def _section(values: _Values, name: str) -> _Values:
    found = values.get(name)
    return found if isinstance(found, t.Mapping) else {}


def _texts(values: _Values, name: str) -> list[str]:
    return [str(text) for text in values.get(name) or ()]


def _mib(size: t.Any) -> str:
    return f"{int(size) / _MIB:.1f} MiB"


def _is_true(value: t.Any) -> bool:
    """Facts of a role may be text, whatever they were before."""
    return value is True or str(value).lower() in ("true", "yes", "1")


def _capture(values: _Values) -> str:
    chosen = _section(values, "chosen")
    return f"{chosen.get('capture', 'none')} ({chosen.get('why', 'not chosen yet')})"


def _clone(values: _Values) -> list[str]:
    """What the clone consisted of; nothing where the archive was made from the stopped server."""
    clone = _section(values, "clone")
    if not clone:
        return []
    words = [f"{clone.get('files', '?')} names in {clone.get('seconds', '?')} s"]
    means = _section(values, "chosen").get("by") or ()
    words += [f"{', '.join(one['roots'])} by {one['by']}" for one in means]
    if "reused" in clone:
        words.append(
            f"{clone['reused']} files as they were copied before the stop,"
            f" {clone['patched']} patched ({_mib(clone['bytes_patched'])}),"
            f" {clone['copied']} copied anew ({_mib(clone['bytes_copied'])})"
        )
    before = values.get("precopy_seconds")
    if before not in (None, ""):
        words.append(f"{before} s of copying before the stop")
    return [f"clone: {'; '.join(words)}"]


def _downtime(outcome: _Values) -> str:
    parts = _section(outcome, "downtime_parts")
    of_these = f" ({', '.join(f'{name} {seconds}' for name, seconds in parts.items())})" if parts else ""
    return f"downtime: {outcome.get('downtime_seconds') or '?'} s{of_these}"


def _archive(outcome: _Values, *, from_clone: bool) -> str:
    seconds = outcome.get("archive_seconds")
    if seconds in (None, ""):
        return "archive: none"
    return f"archive: {seconds} s, {'from the clone, while the server served' if from_clone else 'within the downtime'}"


def _of_outcome(values: _Values) -> list[str]:
    outcome = _section(values, "outcome")
    touched = _is_true(values.get("touched"))
    restored = f"server restored: {'yes' if _is_true(outcome.get('server_restored')) else 'NO'}"
    if not touched:
        restored += ", this run did not stop it"
        if _is_true(values.get("no_answer")):
            restored += "; it does not answer: it is down, or not at this address"
    return [
        f"backup {outcome.get('backup_id')} of {outcome.get('host')}",
        restored,
        f"capture: {_capture(values)}",
        *_clone(values),
        f"backup usable: {'yes' if _is_true(outcome.get('backup_usable')) else 'no'}",
        f"set: {outcome.get('set_dir') or 'none'}",
        _downtime(outcome) if touched else "downtime: none",
        f"shutdown: {'; '.join(_texts(outcome, 'shutdown_waited_for')) or '-'}",
        _archive(outcome, from_clone=bool(_section(values, "clone"))),
        f"warnings: {'; '.join(_texts(outcome, 'warnings')) or 'none'}",
    ]


def _of_plan(values: _Values) -> list[str]:
    outcome, plan, listed = (_section(values, name) for name in ("outcome", "plan", "list"))
    cold = _section(values, "chosen").get("capture") == "cold"
    after = "archive; start; catch up" if cold else "clone; start; archive from the clone; catch up"
    predicted = _section(plan, "predicted_downtime")
    if predicted:
        down = f"{predicted.get('seconds')} s of at most {values.get('budget')}, by {predicted.get('source')}"
    else:
        down = "no backup of this host has been measured with this capture"
        down += f"; the data are few for {values.get('budget')} s" if cold else ""
    return [
        f"backup {outcome.get('backup_id')} of {outcome.get('host')}: check mode, nothing was touched",
        f"would capture: {_capture(values)}",
        f"would run: {'; '.join(_texts(plan, 'steps'))}; {after}",
        f"would archive: {listed.get('count', '?')} files, {listed.get('bytes', '?')} bytes",
        f"would be down for: {down}",
    ]


def _of_recovery(values: _Values) -> list[str]:
    recovery = _section(values, "recovery")
    return [
        *_texts(recovery, "explanation"),
        *(f"Brought to the controller: {path}" for path in _texts(recovery, "brought")),
        *(f"A complete set on this host: {path}" for path in _texts(recovery, "left_on_the_host")),
        *(f"An unfinished transfer was removed: {path}" for path in _texts(recovery, "cleared")),
    ]


_KINDS: dict[str, t.Callable[[t.Mapping[str, t.Any]], list[str]]] = {
    "outcome": _of_outcome,
    "plan": _of_plan,
    "recovery": _of_recovery,
}


def report_lines(values: t.Any, kind: str) -> list[str]:
    """``values``: results and facts of the role by name. ``kind``: one of "outcome", "plan", "recovery"."""
    if not isinstance(values, t.Mapping) or kind not in _KINDS:
        raise AnsibleFilterError(f"report_lines takes a dictionary and one of {', '.join(_KINDS)}, not {kind!r}")
    return _KINDS[kind](values)


def with_inventory(text: t.Any, sources: t.Any) -> str:
    """``text`` with the inventories of this run in each printed command of the collection, so that it can be pasted.

    ``sources``: C(ansible_inventory_sources), the paths or host lists; without any the command stays as it is.
    """
    options = " ".join(f"-i {shlex.quote(str(source))}" for source in sources or ())
    if not options:
        return str(text)
    playbook = _PLAYBOOK.replace("ansible-playbook", f"ansible-playbook {options}")
    return str(text).replace(f"ansible-playbook {_UNKNOWN}", "ansible-playbook").replace(_PLAYBOOK, playbook)


class FilterModule:
    """What Ansible asks for the filters of this file."""

    def filters(self) -> dict[str, t.Callable[..., t.Any]]:
        return {"report_lines": report_lines, "with_inventory": with_inventory}
