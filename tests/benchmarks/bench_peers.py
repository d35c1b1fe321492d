# Copyright (c) 2026, mysql_ops contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Archive and restore of the files of a real server, against whatever else could be used; on disk when the clock stops.

All but mariadb-backup read the files of the stopped server; that one copies from the running one, and its restore
contains what it needs before a server can use it (--prepare). Those that are not installed (setup.sh) are left out.

.venv/bin/python tests/benchmarks/bench_peers.py --mib 1024 --rounds 3
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import shutil
import subprocess
import sys
import typing as t
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / ".ansible" / "collections"))

from ansible_collections.mysql_ops.replica_backup.tests.benchmarks import data, measure, report, servers
from ansible_collections.mysql_ops.replica_backup.tests.lab import playbook
from ansible_collections.mysql_ops.replica_backup.tests.lab.local import Server
from ansible_collections.mysql_ops.replica_backup.tests.lab.scratch import CHECKOUT

_HERE = Path(__file__).parent
_COLLECTIONS = CHECKOUT / ".cache" / "bench" / "colls"
OURS, OURS_PLAIN = "this collection, zstd", "this collection, no compression"
TAR_ZSTD, TAR, CP = "tar | zstd -1 -T2", "tar", "cp -a"
GENERAL_TAR, GENERAL_GZ = "community.general.archive, tar", "community.general.archive, gz"
MARIADB_BACKUP = "mariadb-backup | zstd -1 -T2"

# $1: the data directory, $2: a directory for what is made, $3: the server's socket.
_ARCHIVE = {
    TAR_ZSTD: 'tar -C "$1" -cf - . | zstd -q -1 -T2 > "$2/data.tar.zst"',
    TAR: 'tar -C "$1" -cf "$2/data.tar" .',
    CP: 'cp -a --reflink=never "$1" "$2/data"',
    MARIADB_BACKUP: 'mariadb-backup --backup --stream=xbstream --user=root --socket="$3" --datadir="$1"'
    ' --parallel=2 2>"$2/log" | zstd -q -1 -T2 > "$2/data.xb.zst"',
}
# $1: the directory that the same way of archiving made, $2: an empty one.
_RESTORE = {
    TAR_ZSTD: 'zstd -q -dc "$1/data.tar.zst" | tar -C "$2" -xf -',
    TAR: 'tar -C "$2" -xf "$1/data.tar"',
    CP: 'cp -a --reflink=never "$1/data" "$2"',
    MARIADB_BACKUP: 'zstd -q -dc "$1/data.xb.zst" | mbstream -C "$2" -x'
    ' && mariadb-backup --prepare --target-dir="$2" 2>"$2.log"',
}


def _shell(text: str, *parameters: object) -> None:
    # Paths come as parameters of the shell, never as part of its text. sync -f: the whole file system.
    argv = ["bash", "-c", f'set -eo pipefail; {text}; sync -f "$2"', "bash", *map(str, parameters)]
    subprocess.run(argv, check=True)


class Bench:
    """Each way to archive the server's files below ``scratch``/NUMBER, and to restore them."""

    def __init__(self, server: Server, scratch: Path) -> None:
        self._server = server
        self._scratch = scratch
        self._made: dict[str, Path] = {}

    def archive(self, way: str) -> None:
        target = self._fresh(way)
        if way in (OURS, OURS_PLAIN):
            compression = "zstd" if way == OURS else "none"
            self._ours(target, "--compression", compression)
        elif way in (GENERAL_TAR, GENERAL_GZ):
            self._general(target, way.rpartition(" ")[2])
        else:
            _shell(_ARCHIVE[way], self._server.datadir, target, self._server.socket)

    def restore(self, way: str) -> None:
        target = self._scratch / "restored"
        shutil.rmtree(target, ignore_errors=True)
        if way in (OURS, OURS_PLAIN):
            state = self._scratch / "restore-state"
            shutil.rmtree(state, ignore_errors=True)
            (manifest,) = self._made[way].rglob("manifest.json")
            argv = [sys.executable, str(_HERE / "restore_once.py"), str(manifest.parent), str(target), str(state)]
            subprocess.run(argv, check=True)
        else:
            target.mkdir()
            _shell(_RESTORE[way], self._made[way], target)

    def publish(self, way: str) -> None:
        """Ours as a set that can be restored; the others are that already."""
        if way in (OURS, OURS_PLAIN):
            compression = "zstd" if way == OURS else "none"
            self._ours(self._fresh(way), "--compression", compression, "--publish")

    def _fresh(self, way: str) -> Path:
        target = self._made.setdefault(way, self._scratch / f"way{len(self._made)}")
        shutil.rmtree(target, ignore_errors=True)
        target.mkdir(mode=0o700)
        return target

    def _ours(self, target: Path, *arguments: str) -> None:
        (target / "spool").mkdir(mode=0o700)
        argv = [sys.executable, str(_HERE / "archive_once.py"), str(self._server.datadir)]
        subprocess.run([*argv, str(target / "spool"), str(target / "state"), *arguments], check=True)

    def _general(self, target: Path, form: str) -> None:
        arguments = json.dumps({"path": str(self._server.datadir), "dest": f"{target}/data", "format": form})
        ansible = [str(Path(sys.executable).with_name("ansible")), "-i", "localhost,", "-c", "local", "localhost"]
        subprocess.run(
            [*ansible, "-m", "community.general.archive", "-a", arguments],
            check=True,
            stdout=subprocess.DEVNULL,
            env={
                **playbook.environment(),
                "ANSIBLE_COLLECTIONS_PATH": str(_COLLECTIONS),
                "ANSIBLE_PYTHON_INTERPRETER": sys.executable,
            },
        )
        _shell(":", target, target)

    def forget(self) -> None:
        for path in (*self._made.values(), self._scratch / "restored", self._scratch / "restore-state"):
            shutil.rmtree(path, ignore_errors=True)


def run(mib: int, rounds: int, *, slow: bool, parent: Path | None) -> report.Document:
    with (
        servers.scratch_directory("bench-peers", parent) as base,
        servers.replica(base) as (_topology, server),
    ):
        servers.Filled(server).grow(mib)
        bench = Bench(server, base)
        general = (_COLLECTIONS / "ansible_collections" / "community" / "general").exists()
        ways = [OURS, TAR_ZSTD, OURS_PLAIN, TAR, CP, *([GENERAL_TAR] if general else [])]
        once = [GENERAL_GZ] if general and slow else []
        hot = [MARIADB_BACKUP] if shutil.which("mariadb-backup") else []
        archived: dict[str, list[measure.Cost]] = {way: [] for way in (*ways, *once, *hot)}
        restored: dict[str, list[measure.Cost]] = {way: [] for way in (*ways[:5], *hot)}
        size = 0
        for number in range(rounds):
            server.stop(timeout=300)
            size = sum(path.stat().st_blocks * 512 for path in server.datadir.rglob("*") if path.is_file())
            for way in [*ways, *([] if number else once)]:
                archived[way].append(_timed(way, bench.archive))
            server.start()
            for way in hot:
                archived[way].append(_timed(way, bench.archive))
            for way in restored:
                if way in (OURS, OURS_PLAIN):
                    with _stopped(server):
                        bench.publish(way)
                restored[way].append(_timed(way, bench.restore))
            bench.forget()
    costs = {"archive": archived, "restore": restored}
    medians = {name: measure.medians(ways) for name, ways in costs.items()}
    return report.document(
        "peers",
        measures(medians),
        data={"bytes": size},
        throughput={
            name: {way: round(size / data.MIB / one.wall, 1) for way, one in ways.items()}
            for name, ways in medians.items()
        },
        medians_seconds={name: {way: one._asdict() for way, one in ways.items()} for name, ways in medians.items()},
        rounds_seconds={
            name: {way: [one._asdict() for one in values] for way, values in ways.items()}
            for name, ways in costs.items()
        },
    )


def _timed(way: str, work: t.Callable[[str], None]) -> measure.Cost:
    # What the one before left to be written is not this one's.
    os.sync()
    cost = measure.cost(lambda: work(way))
    print(f"{work.__name__} {way}: {cost.wall:.2f} s", file=sys.stderr, flush=True)
    return cost


@contextlib.contextmanager
def _stopped(server: Server) -> t.Iterator[None]:
    server.stop(timeout=300)
    try:
        yield
    finally:
        server.start()


def measures(medians: t.Mapping[str, t.Mapping[str, measure.Cost]]) -> list[report.Measure]:
    """Ours against tar with its bars, then what each of the others takes against the same."""
    found = []
    bars = {"archive": ((1.3, 1.0), (1.5, 1.2)), "restore": ((1.3, 1.0), (None, None))}
    for name, ways in medians.items():
        for (way, peer), (limit, stretch) in zip(((OURS, TAR_ZSTD), (OURS_PLAIN, TAR)), bars[name]):
            ratio = ways[way].wall / ways[peer].wall
            found.append(report.figure(f"{name}: {way}, against {peer}", ratio, report.RATIO, limit, stretch))
        for way, one in ways.items():
            if way not in (OURS, OURS_PLAIN, TAR_ZSTD):
                ratio = one.wall / ways[TAR_ZSTD].wall
                found.append(report.figure(f"{name}: {way}, against {TAR_ZSTD}", ratio, report.RATIO))
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--mib", type=int, default=1024, help="size of the data")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--slow", action="store_true", help="those that take minutes as well, once")
    parser.add_argument(
        "--scratch", type=Path, default=None, help="directory for servers, archives and what is restored"
    )
    options = parser.parse_args()
    report.publish(run(options.mib, options.rounds, slow=options.slow, parent=options.scratch))


if __name__ == "__main__":
    main()
