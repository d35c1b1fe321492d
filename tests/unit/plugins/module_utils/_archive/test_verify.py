# Copyright (c) 2026, mysql_ops contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Sets verified as they are, and after each way in which a set can go wrong."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import tarfile
import typing as t
from pathlib import Path

import pytest

from ansible_collections.mysql_ops.replica_backup.plugins.module_utils._archive import job
from ansible_collections.mysql_ops.replica_backup.plugins.module_utils._archive.verify import (
    find_sets,
    verify,
    verify_all,
)
from ansible_collections.mysql_ops.replica_backup.plugins.module_utils._errors import RefusedError, ReplicaBackupError
from ansible_collections.mysql_ops.replica_backup.tests.unit.plugins.module_utils._archive.set_support import (
    BACKUP_ID,
    HOST,
    Site,
)

WAYS = (("tar", "none"), ("tar", "zstd"), ("zip", "zstd"), ("copy", "none"))


def made(site: Site, form: str = "tar", compression: str = "none") -> Path:
    job.present(site.request(form=form, compression=compression))
    return Path(site.paths.directory)


def data(directory: Path) -> Path:
    (found,) = [path for path in directory.iterdir() if path.name.startswith("data")]
    return found


def flip(path: Path, offset: int) -> None:
    raw = bytearray(path.read_bytes())
    raw[offset] ^= 0x10
    path.write_bytes(raw)


@pytest.mark.parametrize(("form", "compression"), WAYS)
def test_a_good_set(site: Site, form: str, compression: str) -> None:
    directory = made(site, form, compression)
    result = verify(str(directory))
    manifest = json.loads((directory / "manifest.json").read_text())
    assert result.files == len(manifest["files"])
    assert result.to_result()["verified"] is True
    assert (result.backup.host, result.backup.backup_id) == (HOST, BACKUP_ID)
    assert result.warnings == ()


def test_a_set_that_was_made_before_the_manifest_told_of_the_capture(site: Site) -> None:
    directory = made(site)
    rewrite(directory, lambda value: value.pop("capture"))
    assert verify(str(directory)).to_result()["verified"] is True


@pytest.mark.parametrize("place", [0.02, 0.3, 0.7, 0.999])
@pytest.mark.parametrize(("form", "compression"), [way for way in WAYS if way[0] != "copy"])
def test_a_flipped_bit_anywhere(site: Site, form: str, compression: str, place: float) -> None:
    directory = made(site, form, compression)
    part = data(directory)
    flip(part, int(part.stat().st_size * place))
    with pytest.raises(ReplicaBackupError) as caught:
        verify(str(directory))
    assert caught.value.facts["verified"] is False
    assert not isinstance(caught.value, RefusedError)


def test_a_flipped_bit_anywhere_is_told_and_nothing_else_is_raised(site: Site) -> None:
    directory = made(site)
    part = data(directory)
    good = part.read_bytes()
    # Headers, extended headers, the maps of sparse files, names, data, padding, the end.
    for offset in (*range(0, 20_000, 61), *range(20_000, len(good), max(1, len(good) // 200))):
        raw = bytearray(good)
        raw[offset] ^= 1 << offset % 8
        part.write_bytes(raw)
        with pytest.raises(ReplicaBackupError) as caught:
            verify(str(directory))
        assert caught.value.facts["verified"] is False


def test_a_flipped_bit_of_one_file_is_named(site: Site) -> None:
    directory = made(site)
    part = data(directory)
    offset = part.read_bytes().index(b"page" * 100)
    flip(part, offset)
    with pytest.raises(
        ReplicaBackupError, match=r"datadir/db/t1\.ibd, SHA-256.*not the archive that was written"
    ) as caught:
        verify(str(directory))
    assert caught.value.facts["file"] == "datadir/db/t1.ibd"
    assert caught.value.facts["part_sha256_matches"] is False


@pytest.mark.parametrize("damage", ["bit", "missing", "additional", "cut", "link"])
def test_a_damaged_copy(site: Site, damage: str) -> None:
    directory = made(site, "copy")
    victim = directory / "data" / "datadir" / "ibdata1"
    if damage == "bit":
        flip(victim, 1000)
    elif damage == "missing":
        victim.unlink()
    elif damage == "additional":
        (victim.parent / "more").touch()
    elif damage == "cut":
        os.truncate(victim, 299_999)
    else:
        (victim.parent / "link").unlink()
        (victim.parent / "link").symlink_to("elsewhere")
    with pytest.raises(ReplicaBackupError) as caught:
        verify(str(directory))
    assert caught.value.facts["verified"] is False


def test_a_copy_that_another_user_fetched_is_good(site: Site) -> None:
    directory = made(site, "copy")
    for path in (directory / "data").rglob("*"):
        if not path.is_symlink():
            path.chmod(0o700 if path.is_dir() else 0o600)
    verify(str(directory))


def test_an_archive_cut_short(site: Site) -> None:
    directory = made(site, "tar", "zstd")
    part = data(directory)
    os.truncate(part, part.stat().st_size - 100)
    with pytest.raises(ReplicaBackupError, match="is cut short"):
        verify(str(directory))


@pytest.mark.parametrize("change", ["missing", "additional", "other mode"])
def test_an_archive_made_anew_with_other_members(site: Site, change: str, tmp_path: Path) -> None:
    """The manifest's own size and hash of the part are adjusted: only the members tell."""
    directory = made(site)
    part = data(directory)
    rebuilt = tmp_path / "rebuilt.tar"
    with tarfile.open(part, errorlevel=1) as old, tarfile.open(rebuilt, "w", format=tarfile.PAX_FORMAT) as new:
        for member in old:
            if member.name.endswith("/ibdata1"):
                if change == "missing":
                    continue
                if change == "other mode":
                    member.mode = 0o666
            new.addfile(member, old.extractfile(member) if member.isreg() else None)
        if change == "additional":
            new.addfile(tarfile.TarInfo("datadir/zzz"))
    shutil.copy(rebuilt, part)
    manifest = directory / "manifest.json"
    digest = subprocess.run(["sha256sum", str(part)], stdout=subprocess.PIPE, text=True, check=True).stdout.split()[0]
    value = json.loads(manifest.read_text())
    value["parts"][0].update(bytes=part.stat().st_size, sha256=digest)
    manifest.write_text(json.dumps(value))
    with pytest.raises(ReplicaBackupError) as caught:
        verify(str(directory))
    assert caught.value.facts["verified"] is False


def test_the_archive_of_another_set(site: Site, tmp_path: Path) -> None:
    directory = made(site)
    other = bytearray(data(directory).read_bytes())
    other[other.index(b"page" * 100)] ^= 1
    data(directory).write_bytes(other)
    with pytest.raises(ReplicaBackupError, match="not the archive that was written"):
        verify(str(directory))


@pytest.mark.parametrize("how", ["other hash", "cut", "longer", "gone"])
def test_sums_that_do_not_agree(site: Site, how: str) -> None:
    directory = made(site)
    sums = directory / "SHA256SUMS"
    if how == "other hash":
        flip(sums, 3)
    elif how == "cut":
        os.truncate(sums, sums.stat().st_size - 1)
    elif how == "longer":
        with sums.open("ab") as stream:
            stream.write(b"0" * 64 + b"  more\n")
    else:
        sums.unlink()
    with pytest.raises(ReplicaBackupError, match="SHA256SUMS") as caught:
        verify(str(directory))
    assert caught.value.facts["file"] == "SHA256SUMS"


def test_a_second_archive_in_the_set(site: Site) -> None:
    directory = made(site)
    (directory / "data.zip").touch()
    with pytest.raises(ReplicaBackupError, match="more than one archive"):
        verify(str(directory))


def test_a_note_in_the_set_is_a_warning(site: Site) -> None:
    directory = made(site)
    (directory / "README").touch()
    assert verify(str(directory)).warnings == (f"{directory} also holds README, which the set does not know",)


def rewrite(directory: Path, change: t.Callable[[dict[str, t.Any]], object]) -> None:
    path = directory / "manifest.json"
    value = json.loads(path.read_text())
    change(value)
    path.write_text(json.dumps(value))


def link_away(path: Path) -> None:
    path.symlink_to(path.rename(path.with_name("x")).name)


REFUSALS: dict[str, tuple[t.Callable[[Path], object], str]] = {
    "no directory": (shutil.rmtree, "no such directory"),
    "no manifest": (lambda d: (d / "manifest.json").unlink(), "it has no manifest"),
    "no part": (lambda d: data(d).unlink(), "is missing"),
    "a link as part": (lambda d: link_away(data(d)), "not what the manifest"),
    "format of tomorrow": (lambda d: rewrite(d, lambda v: v.update(format=2)), "does not know"),
    "cut": (lambda d: os.truncate(d / "manifest.json", 500), "is no manifest"),
    "no key": (lambda d: rewrite(d, lambda v: v.pop("channels")), "is not complete"),
    "not clean": (lambda d: rewrite(d, lambda v: v.update(clean_stop={"clean": False})), "proven backup"),
    "odd id": (lambda d: rewrite(d, lambda v: v.update(backup_id="../../x")), "proven backup"),
    "odd part": (lambda d: rewrite(d, lambda v: v["parts"][0].update(name="../data.tar")), "that no set has"),
    "parts that are none": (lambda d: rewrite(d, lambda v: v["parts"].clear()), "names no part"),
    "a part without a name": (lambda d: rewrite(d, lambda v: v["parts"].append({})), "does not describe"),
    "a part twice": (lambda d: rewrite(d, lambda v: v["parts"].append(v["parts"][0])), "do not belong together"),
    "no hash": (lambda d: rewrite(d, lambda v: v["parts"][0].pop("sha256")), "does not describe"),
}


@pytest.mark.parametrize("why", REFUSALS)
def test_what_is_no_set(site: Site, why: str) -> None:
    directory = made(site)
    change, message = REFUSALS[why]
    change(directory)
    with pytest.raises(RefusedError, match=message):
        verify(str(directory))


def test_all_sets_are_read_before_the_first_bad_one_fails(site: Site, tmp_path: Path) -> None:
    directory = made(site)
    root = tmp_path / "sets" / HOST
    root.mkdir(parents=True)
    for name in ("a", "b", "c", "unfinished"):
        shutil.copytree(directory, root / name)
    flip(data(root / "a"), 2000)
    (root / "unfinished" / "manifest.json").unlink()
    assert find_sets([f"{root}/*", f" {root}/b/ "]) == tuple(str(root / name) for name in "abc")
    with pytest.raises(ReplicaBackupError, match="1 of 3 sets are bad") as caught:
        verify_all([f"{tmp_path}/sets/*/*"])
    assert [result["verified"] for result in caught.value.facts["sets"]] == [False, True, True]
    assert len(verify_all([f"{root}/[bc]"])) == 2
    with pytest.raises(RefusedError, match="There is no backup set"):
        find_sets([f"{tmp_path}/nothing/*"])
    with pytest.raises(RefusedError, match="it has no manifest"):
        find_sets([f"{root}/unfinished"])
