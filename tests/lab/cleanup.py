# Copyright (c) 2026, mysql_ops contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Removes what a run left behind: processes, mounts, scratch directories, containers and networks.

``leftovers`` takes only what no living run of this checkout uses, ``everything`` takes all of this checkout.
Nothing of another checkout is touched while that one exists.
"""

from __future__ import annotations

import sys

from ansible_collections.mysql_ops.replica_backup.tests.lab import containers, scratch


def main() -> int:
    """Clean up as the only argument says."""
    everything = sys.argv[1:] == ["everything"]
    if not everything and sys.argv[1:] != ["leftovers"]:
        print("usage: cleanup leftovers|everything", file=sys.stderr)
        return 2
    for root in scratch.abandoned(everything=everything):
        scratch.remove(root)
    containers.remove_all(images=everything)
    return 0


if __name__ == "__main__":
    sys.exit(main())
