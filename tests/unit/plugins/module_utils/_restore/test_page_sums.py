# Copyright (c) 2026, mysql_ops contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Page checksums computed for many pages at once, against the algorithms written down byte by byte."""

from __future__ import annotations

import random
import struct
import typing as t
from pathlib import Path

import pytest

from ansible_collections.mysql_ops.replica_backup.plugins.module_utils._restore import page_sums

SIZE = 4096


def crc32c(data: bytes | bytearray) -> int:
    value = 0xFFFFFFFF
    for byte in data:
        value ^= byte
        for _bit in range(8):
            value = value >> 1 ^ (0x82F63B78 if value & 1 else 0)
    return value ^ 0xFFFFFFFF


def fold(data: bytes | bytearray) -> int:
    """ut_fold_binary of MySQL's ut0rnd.ic, with 64-bit numbers as there."""
    value = 0
    for byte in data:
        value = ((((value ^ byte ^ 1653893711) << 8) + value) ^ 1463735687) + byte
        value &= 0xFFFFFFFFFFFFFFFF
    return value & 0xFFFFFFFF


def page(content: bytes, algorithm: str, log_number: int = 7 << 33 | 5) -> bytes:
    raw = bytearray(content)
    raw[16:24] = struct.pack(">Q", log_number)
    raw[-4:] = raw[20:24]
    if algorithm == "crc32":
        value = crc32c(raw[4:26]) ^ crc32c(raw[38:-8])
        raw[:4] = raw[-8:-4] = struct.pack(">I", value)
    elif algorithm == "innodb":
        raw[:4] = struct.pack(">I", (fold(raw[4:26]) + fold(raw[38:-8])) & 0xFFFFFFFF)
        raw[-8:-4] = struct.pack(">I", fold(raw[:26]))
    else:
        raw[:4] = raw[-8:-4] = struct.pack(">I", 0xDEADBEEF)
    return bytes(raw)


@pytest.fixture(scope="module")
def pages() -> dict[str, bytes]:
    content = random.Random(1).randbytes(SIZE)
    return {name: page(content, name) for name in ("crc32", "innodb", "none")} | {"zero": bytes(SIZE)}


def test_the_check_value_of_crc32c() -> None:
    assert page_sums.crcs(b"123456789", 9, 0, 9) == [0xE3069283]


def test_many_at_once_are_as_one_by_one() -> None:
    data = random.Random(2).randbytes(64 * 20)
    parts = [data[at : at + 64] for at in range(0, len(data), 64)]
    assert page_sums.crcs(data, 64, 3, 61) == [crc32c(part[3:61]) for part in parts]
    assert page_sums.folds(data, 64, 3, 61) == [fold(part[3:61]) for part in parts]


@pytest.mark.parametrize("names", [["crc32"] * 3, ["innodb", "zero", "crc32", "none", "innodb"], ["zero"], []])
def test_good_pages_of_every_algorithm(pages: dict[str, bytes], names: list[str], tmp_path: Path) -> None:
    path = tmp_path / "t.ibd"
    path.write_bytes(b"".join(pages[name] for name in names))
    assert page_sums.first_bad_page(str(path), SIZE) is None


@pytest.mark.parametrize("algorithm", ["crc32", "innodb"])
@pytest.mark.parametrize("offset", [2, 10, 30, 100, SIZE - 9, SIZE - 6, SIZE - 2])
def test_a_flipped_bit_anywhere(pages: dict[str, bytes], algorithm: str, offset: int, tmp_path: Path) -> None:
    bad = bytearray(pages[algorithm])
    bad[offset] ^= 1
    path = tmp_path / "t.ibd"
    path.write_bytes(pages[algorithm] + pages["zero"] + bytes(bad) + pages[algorithm])
    found = page_sums.first_bad_page(str(path), SIZE)
    if 26 <= offset < 38:
        # Neither algorithm covers what is stamped into the first page of a file only.
        assert found is None
    else:
        assert found is not None and found.page == 2
        assert ("two log numbers" in found.detail) == (offset == SIZE - 2)


def test_chunks_gaps_and_an_end_within_a_page(
    pages: dict[str, bytes], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(page_sums, "_CHUNK", 2 * SIZE)
    bad = b"\1" + pages["crc32"][1:]
    path = tmp_path / "t.ibd"
    path.write_bytes(pages["crc32"] * 3 + bad * 2 + pages["crc32"])
    ticks: list[int] = []
    found = page_sums.first_bad_page(str(path), SIZE, tick=lambda: ticks.append(1))
    assert found is not None and found.page == 3 and len(ticks) == 2
    assert page_sums.first_bad_page(str(path), SIZE, [range(3, 5)]) is None
    path.write_bytes(pages["crc32"] * 3 + b"x")
    found = page_sums.first_bad_page(str(path), SIZE)
    assert found is not None and (found.page, found.detail) == (3, "the file ends in the middle of a page")


def test_a_tick_may_end_it(pages: dict[str, bytes], tmp_path: Path) -> None:
    def tick() -> t.NoReturn:
        raise TimeoutError

    path = tmp_path / "t.ibd"
    path.write_bytes(pages["crc32"])
    with pytest.raises(TimeoutError):
        page_sums.first_bad_page(str(path), SIZE, tick=tick)
