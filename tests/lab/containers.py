# Copyright (c) 2026, mysql_ops contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The container images of replica hosts, and the containers and networks made from them.

Everything made here carries a label with the path of this checkout, so that cleaning up finds it and leaves the
containers of other checkouts alone.
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import json
import os
import shlex
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

from ansible_collections.mysql_ops.replica_backup.tests.lab.scratch import CHECKOUT

NAME = "localhost/replica-host"
# What each is: tests/lab/images.
BOOKWORM = "bookworm"
MYSQL97 = "trixie-mysql97"
MARIADB118 = "trixie-mariadb118"
KINDS = (BOOKWORM, MYSQL97, MARIADB118)
LABEL = "mysql_ops.replica_backup.checkout"
IMAGE_LABEL = "mysql_ops.replica_backup.image"
PREFIX = f"rb-{hashlib.sha256(os.fsencode(CHECKOUT)).hexdigest()[:6]}"

_BUILD = Path(__file__).with_name("build-image.sh")
_CONF = CHECKOUT / "tests" / "containers.conf"
_LOCK = Path("/run/lock/mysql_ops.replica_backup.image.lock")


def image_name(kind: str = BOOKWORM) -> str:
    """Return the tag that stands for this kind's build in this week; a new week brings Debian's updates."""
    content = hashlib.sha256(_BUILD.read_bytes())
    content.update((_BUILD.parent / "images" / f"{kind}.sh").read_bytes())
    content.update(time.strftime("%G-%V", time.gmtime()).encode())
    return f"{NAME}:{kind}-{content.hexdigest()[:12]}"


def ensure_image(kind: str = BOOKWORM) -> str:
    """Build the image of that kind unless it is there already, and return its name."""
    name = image_name(kind)
    with _locked():
        if _podman("image", "exists", name, check=False) != 0:
            building = f"{NAME}:building"
            command = [str(_BUILD), kind, building, f"{IMAGE_LABEL}={kind}"]
            subprocess.run(command, check=True, stdin=subprocess.DEVNULL)
            # Tagged last: a build that was cut off leaves no name that looks finished.
            _podman("tag", building, name)
            _podman("untag", building, building)
            for old in _images(f"{IMAGE_LABEL}={kind}"):
                # Without force: one that a container still uses stays.
                if name not in old.split():
                    _podman("rmi", old.split()[0], check=False, quiet=True)
        _podman("tag", name, f"{NAME}:{kind}")
    return name


def environment() -> dict[str, str]:
    """Return the variables that podman needs here: none, or our configuration where a plain run fails."""
    if "CONTAINERS_CONF" in os.environ:
        return {"CONTAINERS_CONF": os.environ["CONTAINERS_CONF"]}
    probe = subprocess.run(
        ["podman", "run", "--rm", "--network=none", image_name(), "true"],
        stdin=subprocess.DEVNULL,
        capture_output=True,
        check=False,
    )
    return {} if probe.returncode == 0 else {"CONTAINERS_CONF": str(_CONF)}


def remove_all(*, images: bool) -> None:
    """Remove the containers and networks of this checkout and of checkouts that are gone. Only root makes any."""
    if os.geteuid() != 0:
        return
    try:
        kinds = {"container": _labelled("ps", "-a"), "network": _labelled("network", "ls")}
    except FileNotFoundError:
        return
    for identity, checkout in kinds["container"]:
        if _ours(checkout):
            _remove_container(identity)
    for identity, checkout in kinds["network"]:
        if _ours(checkout):
            _podman("network", "rm", "-f", identity, check=False, quiet=True)
    if images:
        with _locked():
            for line in _images(IMAGE_LABEL):
                for name in line.split():
                    _podman("rmi", name, check=False, quiet=True)
            _LOCK.unlink(missing_ok=True)


def _remove_container(identity: str) -> None:
    for _attempt in range(5):
        # A container that runs systemd sometimes loses a race while stopping; the next try works.
        if _podman("rm", "-f", "-t", "1", identity, check=False, quiet=True) == 0:
            return
        time.sleep(1)


def _ours(checkout: str) -> bool:
    return checkout == str(CHECKOUT) or not Path(checkout).exists()


def _labelled(*command: str) -> list[tuple[str, str]]:
    """Return (id or name, checkout) of what carries our label."""
    listing = subprocess.run(
        ["podman", *command, "--filter", f"label={LABEL}", "--format", "json"],
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        check=False,
    )
    found = []
    for item in json.loads(listing.stdout or "[]") or []:
        labels = item.get("Labels") or item.get("labels") or {}
        found.append((item.get("Id") or item.get("name"), labels[LABEL]))
    return found


def _images(label: str) -> list[str]:
    """Return the names of the images with that label, all names of one in one line; its id when it has none."""
    listing = subprocess.run(
        ["podman", "images", "--filter", f"label={label}", "--format", "json"],
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        check=False,
    )
    return [" ".join(item.get("Names") or [item["Id"]]) for item in json.loads(listing.stdout or "[]") or []]


@contextlib.contextmanager
def _locked() -> Iterator[None]:
    with _LOCK.open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def _podman(*arguments: str, check: bool = True, quiet: bool = False) -> int:
    output = subprocess.DEVNULL if quiet else sys.stderr
    return subprocess.run(
        ["podman", *arguments], stdin=subprocess.DEVNULL, stdout=output, stderr=output, check=check
    ).returncode


def main() -> int:
    """``image`` builds what is missing; ``env`` prints what a shell has to evaluate before it uses podman."""
    command, *kinds = sys.argv[1:] or [""]
    if command == "image" and set(kinds) <= set(KINDS):
        if os.geteuid() != 0:
            print("The containers need root (debootstrap, systemd in containers).", file=sys.stderr)
            return 1
        status = 0
        for kind in kinds or KINDS:
            try:
                print(ensure_image(kind))
            except subprocess.CalledProcessError as error:
                print(f"THE IMAGE '{kind}' COULD NOT BE BUILT, what needs it will fail: {error}", file=sys.stderr)
                status = 1
        return status
    if command == "env" and not kinds:
        variables = {
            **environment(),
            "LAB_IMAGE": image_name(BOOKWORM),
            "LAB_IMAGE_MYSQL97": image_name(MYSQL97),
            "LAB_IMAGE_MARIADB118": image_name(MARIADB118),
            "LAB_PREFIX": PREFIX,
            "LAB_LABEL": LABEL,
            "LAB_CHECKOUT": str(CHECKOUT),
        }
        for name, value in variables.items():
            print(f"export {name}={shlex.quote(value)}")
        return 0
    print(f"usage: containers image [KIND...] | env, with KIND one of {', '.join(KINDS)}", file=sys.stderr)
    return 2


if __name__ == "__main__":
    sys.exit(main())
