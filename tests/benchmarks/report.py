# Copyright (c) 2026, mysql_ops contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What a benchmark says: one JSON document on standard output, the same as a table on standard error.

A document has ``benchmark``, ``command``, ``date``, ``machine``, and ``measures``: each a figure with the bar that is
required and the stretch that is wanted, both upper limits in the unit of the figure.
"""

from __future__ import annotations

import datetime
import json
import re
import shlex
import sys
import typing as t
from pathlib import Path

from ansible_collections.mysql_ops.replica_backup.tests.benchmarks import measure
from ansible_collections.mysql_ops.replica_backup.tests.lab.scratch import CHECKOUT

Document = dict[str, t.Any]

RATIO, SECONDS, MEBIBYTES = "x", "s", "MiB"
_START, _END = "<!-- figures: start -->", "<!-- figures: end -->"
# Of documents that state a ratio and a bar alone, by that bar: with compression, and without.
_STRETCH = {1.3: 1.0, 1.5: 1.2}


# One figure. No bar: it is told for comparison only. (As a class, a linter would refuse the name of a field.)
Measure = t.TypedDict(  # noqa: UP013
    "Measure",
    {"what": str, "value": float, "unit": str, "bar": t.Optional[float], "stretch": t.Optional[float]},
)


def figure(what: str, value: float, unit: str, limit: float | None = None, stretch: float | None = None) -> Measure:
    return {"what": what, "value": round(value, 3), "unit": unit, "bar": limit, "stretch": stretch}


def verdict(one: Measure) -> str:
    """ "stretch", "bar" or "missed"; empty without a bar."""
    if one["stretch"] is not None and one["value"] <= one["stretch"]:
        return "stretch"
    if one["bar"] is None:
        return ""
    return "bar" if one["value"] <= one["bar"] else "missed"


def now() -> str:
    return datetime.datetime.now(datetime.timezone.utc).strftime("%Y-%m-%d %H:%M UTC")


def document(benchmark: str, measures: t.Sequence[Measure], **facts: t.Any) -> Document:
    return {
        "benchmark": benchmark,
        "command": command(sys.argv),
        "date": now(),
        "measures": [{**one, "verdict": verdict(one)} for one in measures],
        **facts,
        "machine": measure.machine(),
    }


def command(argv: t.Sequence[str]) -> str:
    """The command line that can be typed in a checkout."""
    script, *rest = argv
    path = Path(script)
    name = str(path.resolve().relative_to(CHECKOUT)) if path.resolve().is_relative_to(CHECKOUT) else path.name
    return shlex.join([".venv/bin/python", name, *rest])


def publish(found: Document) -> None:
    """Print the document and its table."""
    print(table([found]), file=sys.stderr)
    print(json.dumps(found, indent=1))


def measures_of(found: Document) -> list[Measure]:
    """The figures of a document, also of one that states no more than a ratio, its bar, and against whom."""
    if "measures" in found:
        return [
            figure(one["what"], one["value"], one["unit"], one.get("bar"), one.get("stretch"))
            for one in found["measures"]
        ]
    if "ratio" not in found:
        return []
    stretch = found.get("stretch", _STRETCH.get(found.get("bar", 0.0)))
    what = found["benchmark"].replace("_", " ") + (f" against {found['peer']}" if "peer" in found else "")
    return [figure(what, found["ratio"], RATIO, found.get("bar"), stretch)]


def for_docs(found: Document) -> Document:
    """What the documentation keeps of a document: the figures, and the series that plots are made of."""
    kept = ("benchmark", "command", "date", "machine", "downtime", "throughput")
    return {
        **{name: found[name] for name in kept if name in found},
        "measures": [{**one, "verdict": verdict(one)} for one in measures_of(found)],
    }


def _cells(one: Measure) -> list[str]:
    def text(value: float | None) -> str:
        if value is None:
            return ""
        return f"{value:.2f} x" if one["unit"] == RATIO else f"{value:.3g} {one['unit']}"

    return [one["what"], text(one["value"]), text(one["bar"]), text(one["stretch"]), verdict(one)]


_HEAD = ["what", "figure", "bar", "stretch", "met"]


def table(documents: t.Iterable[Document]) -> str:
    """The figures for a terminal."""
    rows = [_HEAD, *(_cells(one) for found in documents for one in measures_of(found))]
    widths = [max(len(row[column]) for row in rows) for column in range(len(_HEAD))]
    return "\n".join(
        "  ".join(cell.ljust(width) if not number else cell.rjust(width) for number, (cell, width) in pairs).rstrip()
        for pairs in (list(enumerate(zip(row, widths))) for row in rows)
    )


def markdown(documents: t.Sequence[Document]) -> str:
    """The figures for the documentation, each benchmark with its command, its day and the load of the machine."""
    lines = []
    for found in documents:
        machine = found["machine"]
        rows = [_cells(one) for one in measures_of(found)]
        if not rows:
            continue
        lines += [
            f"### {found['benchmark'].replace('_', ' ').capitalize()}",
            "",
            f"`{found.get('command', '')}`",
            "",
            f"{found['date']}; load average {machine['load_average']:.1f} at the end{_busy(machine)}.",
            "",
            "| " + " | ".join(_HEAD) + " |",
            "|---|--:|--:|--:|---|",
            *("| " + " | ".join(cell.replace("|", "\\|") for cell in row) + " |" for row in rows),
            "",
        ]
    if documents:
        machine = documents[0]["machine"]
        lines += [
            f"Machine: {machine['cpus']} x {machine['cpu']}, {machine['memory_bytes'] / 2**30:.0f} GiB, Linux"
            f" {machine['kernel']}, Python {machine['python']}, {machine['zstd']}, {machine['tar']}.",
            "",
        ]
    return "\n".join(lines).rstrip() + "\n"


def _busy(machine: t.Mapping[str, t.Any]) -> str:
    """What is measured fills the CPUs by itself; more than that is the work of others."""
    return ", so others were at work on the machine" if machine["load_average"] > 1.5 * machine["cpus"] else ""


def put_between_markers(page: str, text: str) -> str:
    """The page with the text in place of what its markers enclose. Raises ValueError without markers."""
    found = re.compile(f"{_START}.*{_END}", re.DOTALL)
    if not found.search(page):
        raise ValueError("the page has no markers for the figures")
    return found.sub(lambda _match: f"{_START}\n\n{text}\n{_END}", page)
