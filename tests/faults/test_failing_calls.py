# Copyright (c) 2026, mysql_ops contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Every system call that a capture and a publication make to a disk fails once: what is said, and what is left."""

from __future__ import annotations

import errno
import itertools
import os
import shutil
from pathlib import Path

import pytest

from ansible_collections.mysql_ops.replica_backup.plugins.module_utils._archive import job
from ansible_collections.mysql_ops.replica_backup.plugins.module_utils._archive.verify import verify
from ansible_collections.mysql_ops.replica_backup.tests.lab import inject
from ansible_collections.mysql_ops.replica_backup.tests.lab.crash import EVERY_POINT
from ansible_collections.mysql_ops.replica_backup.tests.lab.faults import Faults, bad_sets, sets_below
from ansible_collections.mysql_ops.replica_backup.tests.lab.inject import Injection, Outcome
from ansible_collections.mysql_ops.replica_backup.tests.unit.plugins.module_utils._archive.set_support import (
    Site,
    discovery,
    make_site,
    write_list,
)

ERRORS = ("ENOSPC", "EIO", "EDQUOT", "EROFS")
# Every n-th call of each kind, beginning at another one where FAULTS_TURN says so.
STRIDE = 1 if EVERY_POINT else 6
TURN = int(os.environ.get("FAULTS_TURN", "0"))


@pytest.fixture
def datadir(tmp_path: Path) -> Path:
    root = tmp_path / "mysql"
    (root / "db").mkdir(parents=True)
    (root / "ibdata1").write_bytes(os.urandom(100_000))
    (root / "db" / "t1.ibd").write_bytes(b"page" * 4000)
    os.link(root / "db" / "t1.ibd", root / "db" / "t2.ibd")
    (root / "link").symlink_to("db/t1.ibd")
    return root


@pytest.mark.parametrize("form", ["tar", "copy"])
@pytest.mark.parametrize("syscall", inject.SYSCALLS)
def test_a_call_fails(datadir: Path, tmp_path: Path, faults: Faults, form: str, syscall: str) -> None:
    def fresh() -> Site:
        for name in ("spool", "state"):
            shutil.rmtree(tmp_path / name, ignore_errors=True)
        return make_site(datadir, tmp_path / "spool", tmp_path / "state")

    site = fresh()
    request = site.request(form=form)
    seen = inject.run(lambda: job.present(request), tmp_path / "calls")
    assert not seen.raised, seen.text
    # The look at every process of the machine, whether one is the server, is not what this is about.
    paths = seen.opened(str(tmp_path)) if syscall == "openat" else set()
    if paths:
        fresh()
        seen = inject.run(lambda: job.present(request), tmp_path / "calls", paths=paths)
    errors = itertools.cycle(ERRORS)
    for number in range(1 + TURN % STRIDE, seen.count()[syscall] + 1, STRIDE):
        injection = Injection(syscall, number, next(errors))
        site = fresh()
        outcome = inject.run(lambda: job.present(request), tmp_path / "calls", injection, paths=paths)
        if outcome.hit:
            judge(site, form, injection, outcome, faults)


def judge(site: Site, form: str, injection: Injection, outcome: Outcome, faults: Faults) -> None:
    bad = bad_sets(sets_below([site.spool]))
    faults.count(f"{injection} while a {form} set was made", server_up=True, bad_sets=len(bad))
    where = f"{outcome.hit}\n{outcome.raised}: {outcome.text}"
    assert not bad, where
    if outcome.raised:
        assert outcome.clear, where
        assert injection.error in outcome.text or os.strerror(getattr(errno, injection.error)) in outcome.text, where
    else:
        assert verify(site.paths.directory).files == 6, where
    captured = os.path.exists(site.paths.head) or os.path.exists(site.paths.manifest)
    if not captured and injection.syscall != "unlink":
        assert site.left() == [], where
    # And the next run.
    job.remove(site.request())
    write_list(site, discovery(site.tree))
    job.present(site.request(form=form))
    assert verify(site.paths.directory).files == 6, where
