# Copyright (c) 2026, mysql_ops contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Counts tests and faults in a directory of JUnit XML files; the last line printed is ``N passed, N failed``."""

from __future__ import annotations

import collections
import sys
from pathlib import Path
from xml.etree import ElementTree

from ansible_collections.mysql_ops.replica_backup.tests.lab.faults import (
    BAD_SETS,
    FIGURES,
    INJECTED,
    LEFT_DOWN,
    SURVIVED,
)


def main() -> int:
    """Print what failed and the figures; fail when a test failed, none ran, or a fault was not survived."""
    passed = failed = skipped = 0
    faults: collections.Counter[str] = collections.Counter()
    for path in sorted(Path(sys.argv[1]).glob("*.xml")):
        for case in ElementTree.parse(path).iter("testcase"):
            if case.find("failure") is not None or case.find("error") is not None:
                failed += 1
                print(f"FAILED {path.stem}: {case.get('classname')} {case.get('name')}")
            elif case.find("skipped") is not None:
                skipped += 1
            else:
                passed += 1
            for item in case.iter("property"):
                if item.get("name") in FIGURES:
                    faults[str(item.get("name"))] += int(str(item.get("value")))
    print(
        f"faults: {faults[INJECTED]} injected, {faults[SURVIVED]} survived,"
        f" {faults[LEFT_DOWN]} servers left down, {faults[BAD_SETS]} bad sets offered"
    )
    print(f"{passed} passed, {failed} failed" + (f", {skipped} skipped" if skipped else ""))
    return int(failed > 0 or passed == 0 or faults[SURVIVED] != faults[INJECTED])


if __name__ == "__main__":
    sys.exit(main())
