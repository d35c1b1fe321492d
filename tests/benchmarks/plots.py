# Copyright (c) 2026, mysql_ops contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Plots of the stored results, as SVG. Stands alone: runs in an environment of its own, which has matplotlib.

plots.py docs/performance/results.json docs/performance
"""

from __future__ import annotations

import importlib
import json
import sys
import typing as t
from pathlib import Path

_STYLES = {
    "stop + start": {"color": "black", "linestyle": ":"},
    "snapshot": {"color": "tab:green"},
    "staged": {"color": "tab:olive"},
    "staged 5 %": {"color": "tab:olive", "linestyle": "--"},
    "copy": {"color": "tab:orange"},
    "cold": {"color": "tab:blue"},
    "cp -a": {"color": "tab:orange", "linestyle": "--"},
    "tar": {"color": "tab:gray", "linestyle": "--"},
    "tar | zstd -1 -T2": {"color": "tab:blue", "linestyle": "--"},
}


def _matplotlib() -> t.Any:
    library = importlib.import_module("matplotlib")
    library.use("agg")
    # The same figures give the same file.
    library.rcParams["svg.hashsalt"] = "replica_backup"
    library.rcParams["svg.fonttype"] = "none"
    return importlib.import_module("matplotlib.pyplot")


def downtime(pyplot: t.Any, series: t.Sequence[t.Mapping[str, t.Any]], target: Path) -> None:
    figure, axes = pyplot.subplots(figsize=(7, 4.5), layout="constrained")
    for way in series[0]["medians"]:
        points = [(one["bytes"] / 2**30, one["medians"][way]) for one in series if way in one["medians"]]
        axes.plot(*zip(*points), marker="o", markersize=4, label=way, **_STYLES.get(way, {}))
    axes.set(xscale="log", yscale="log", xlabel="data (GiB)", ylabel="downtime (s)", title="Downtime against size")
    axes.grid(visible=True, which="both", alpha=0.3)
    axes.legend(fontsize="small", loc="upper left", bbox_to_anchor=(1, 1))
    figure.savefig(target, format="svg", metadata={"Date": None})
    pyplot.close(figure)


def throughput(pyplot: t.Any, series: t.Mapping[str, t.Mapping[str, float]], target: Path) -> None:
    """``series``: for archive and restore, MiB of data per second of each way."""
    figure, all_axes = pyplot.subplots(1, len(series), figsize=(9, 4), layout="constrained", squeeze=False)
    for axes, (name, rates) in zip(all_axes[0], series.items()):
        ways = sorted(rates, key=lambda way: rates[way])
        colors = ["tab:green" if way.startswith("this") else "tab:gray" for way in ways]
        bars = axes.barh(ways, [rates[way] for way in ways], color=colors)
        axes.bar_label(bars, fmt="%.0f", padding=2, fontsize="small")
        axes.set(xlabel="MiB of data per second", title=name)
        axes.margins(x=0.15)
        axes.tick_params(axis="y", labelsize="small")
    figure.savefig(target, format="svg", metadata={"Date": None})
    pyplot.close(figure)


def main() -> None:
    results, directory = json.loads(Path(sys.argv[1]).read_text(encoding="utf-8")), Path(sys.argv[2])
    pyplot = _matplotlib()
    for one in results:
        if one.get("downtime"):
            downtime(pyplot, one["downtime"], directory / "downtime.svg")
        if one.get("throughput"):
            throughput(pyplot, one["throughput"], directory / "throughput.svg")


if __name__ == "__main__":
    main()
