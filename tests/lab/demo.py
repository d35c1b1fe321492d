# Copyright (c) 2026, mysql_ops contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Shows one command backing up a small fleet: ``make demo``.

A source and two replicas run as plain processes below .demo/servers while something writes to the source. The
sets stay in .demo/backups; everything that ran is ended.
"""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import typing as t
from pathlib import Path

from ansible_collections.mysql_ops.replica_backup.tests.lab import scratch
from ansible_collections.mysql_ops.replica_backup.tests.lab.local import Load, Server, Topology
from ansible_collections.mysql_ops.replica_backup.tests.lab.playbook import inventory, run_playbook, write_inventory

DEMO = scratch.CHECKOUT / ".demo"


class Failed(Exception):
    """The demo showed something that must not be."""


def say(text: str = "") -> None:
    """Print a line at once."""
    print(text, flush=True)


def show_command(*words: str) -> None:
    """Print a command as a user would type it."""
    say(f"\n$ {' '.join(words)}")


def run_backup(inventory_file: Path) -> None:
    """Run the playbook over both replicas, its output shown as it comes."""
    show_command(
        "ansible-playbook", "-i", str(inventory_file.relative_to(scratch.CHECKOUT)), "mysql_ops.replica_backup.backup"
    )
    done = run_playbook("backup", inventory_file, echo=True, timeout=240)
    if done.status != 0:
        raise Failed(f"ansible-playbook ended with status {done.status}")


def check_set(directory: Path) -> dict[str, t.Any]:
    """Extract a set with zstd and tar, compare every file with SHA256SUMS, and return its manifest."""
    manifest = json.loads((directory / "manifest.json").read_text(encoding="utf-8"))
    with tempfile.TemporaryDirectory(dir=DEMO) as tree:
        show_command(
            f"cd {Path(tree).relative_to(scratch.CHECKOUT)}",
            "&& zstd -dc DATA.tar.zst | tar -x",
            "&& sha256sum --check SHA256SUMS",
        )
        with subprocess.Popen(["zstd", "-q", "-dc", str(directory / "data.tar.zst")], stdout=subprocess.PIPE) as zstd:
            subprocess.run(["tar", "-x", "-C", tree], stdin=zstd.stdout, check=True)
        if zstd.returncode != 0:
            raise Failed(f"zstd could not read {directory}/data.tar.zst")
        checked = subprocess.run(
            ["sha256sum", "--check", "--strict", str(directory / "SHA256SUMS")],
            cwd=tree,
            capture_output=True,
            text=True,
            check=False,
        )
    lines = checked.stdout.splitlines()
    say("\n".join([*lines[:3], "..."] if len(lines) > 4 else lines))
    if checked.returncode != 0:
        raise Failed(f"sha256sum found differences in {directory}:\n{checked.stdout}{checked.stderr}")
    say(f"{len(lines)} files as recorded")
    return t.cast("dict[str, t.Any]", manifest)


def check_replica(topology: Topology, replica: Server) -> float:
    """Write a row on the source and wait for it on the replica; return how long that took in seconds."""
    channel = replica.channel()
    if channel is None or not channel.replicating:
        raise Failed(f"{replica.name} does not replicate: {channel}")
    began = time.monotonic()
    topology.source.query("INSERT INTO demo.fresh (told_to) VALUES (%s)", (replica.name,))
    topology.wait_caught_up(replica, timeout=30)
    if not replica.query("SELECT 1 FROM demo.fresh WHERE told_to = %s", (replica.name,)):
        raise Failed(f"the fresh row did not arrive on {replica.name}")
    return time.monotonic() - began


def demo(topology: Topology) -> None:
    """Do it all, with the servers up."""
    say(f"A source and two replicas are up below {DEMO / 'servers'}:")
    for server in topology.servers:
        say(f"  {server.name:<9} port {server.port}, pid {server.pids()[0]}, {server.datadir}")
    inventory_file = write_inventory(DEMO / "inventory.yml", inventory(DEMO, topology.replicas))
    topology.source.query("CREATE DATABASE demo")
    topology.source.query("CREATE TABLE demo.fresh (id INT PRIMARY KEY AUTO_INCREMENT, told_to VARCHAR(20))")

    load = Load(topology.source)
    say("Something writes to the source from now on.")
    run_backup(inventory_file)

    manifests = {}
    for replica in topology.replicas:
        sets = sorted((DEMO / "backups" / replica.name).glob("*/manifest.json"))
        if len(sets) != 1:
            raise Failed(f"expected one finished set of {replica.name}, found {len(sets)}")
        manifests[replica.name] = (sets[0].parent, check_set(sets[0].parent))

    say("\nBoth replicas are back:")
    for replica in topology.replicas:
        delay = check_replica(topology, replica)
        away = manifests[replica.name][1]["times"]["downtime_seconds"]
        say(
            f"  {replica.name}: away for {away:.1f} s; both replication threads run, "
            f"a fresh row of the source arrived within {delay:.2f} s"
        )
    say(f"Meanwhile {load.stop()} transactions were committed on the source.")
    if differences := topology.differences():
        raise Failed(f"replicas differ from the source: {differences}")
    say("Both replicas equal the source, by checksum of every table.")

    say("\nThe backups:")
    for name, (directory, manifest) in manifests.items():
        size = sum(part["bytes"] for part in manifest["parts"])
        say(f"  {directory}: {len(manifest['files'])} files, {size / 1e6:.1f} MB, host {name}")


def main() -> int:
    """Run the demo and clean up after it; only the sets and the inventory stay."""
    began = time.monotonic()
    signal.signal(signal.SIGTERM, lambda number, frame: sys.exit(128 + number))
    if other := scratch.living_owner(DEMO / "servers"):
        say(f"Another demo of this checkout is running (process {other}); nothing was touched.")
        return 1
    if DEMO.exists():
        scratch.remove(DEMO / "servers")
        shutil.rmtree(DEMO)
    DEMO.mkdir(mode=0o755)
    status = 0
    try:
        with Topology(DEMO / "servers", separate_logs=(False, True), region=DEMO) as topology:
            try:
                demo(topology)
            except Failed as failure:
                say(f"\nDEMO FAILED: {failure}")
                for server in topology.servers:
                    say(f"\nlast words of {server.name}:\n{server.last_words(5)}")
                status = 1
    finally:
        for name in ("servers", "spool", "state"):
            shutil.rmtree(DEMO / name, ignore_errors=True)
    account = "root" if os.geteuid() == 0 else "an ordinary user"
    say(f"\nNothing is left running. It took {time.monotonic() - began:.0f} s as {account}.")
    return status


if __name__ == "__main__":
    sys.exit(main())
