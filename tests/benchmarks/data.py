# Copyright (c) 2026, mysql_ops contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Data directories to measure with: seeded, of any size, and about as compressible as a real one."""

from __future__ import annotations

import random
from pathlib import Path

PAGE = 16 * 1024
MIB = 1024 * 1024
_POOL = 2048
_WORDS = 4000
# Of a MariaDB datadir of 2.5 GiB: 8.5 % of the pages are empty, and zstd -1 shrinks the whole to about 41 %.
_KINDS = (("zero", 0.085), ("random", 0.06), ("text", 0.42), ("numbers", 0.435))


def _page(kind: str, rng: random.Random, words: list[bytes]) -> bytes:
    if kind == "zero":
        return bytes(PAGE)
    if kind == "random":
        return rng.randbytes(PAGE)
    parts = bytearray()
    while len(parts) < PAGE:
        if kind == "text":
            parts += rng.choice(words) + b" "
        else:
            parts += rng.randrange(1 << 22).to_bytes(8, "big") + bytes(4)
    return bytes(parts[:PAGE])


def make_words(rng: random.Random) -> list[bytes]:
    return [bytes(rng.choices(b"abcdefghijklmnopqrstuvwxyz", k=rng.randint(2, 11))) for _word in range(_WORDS)]


def random_page(rng: random.Random, words: list[bytes]) -> bytes:
    """A page of a kind that is drawn as often as in a real data directory."""
    (kind,) = rng.choices([kind for kind, _weight in _KINDS], [weight for _kind, weight in _KINDS])
    return _page(kind, rng, words)


def make_datadir(target: Path, size: int, seed: int = 1) -> int:
    """Fill ``target`` with about ``size`` bytes: half in many small tables, half in a few large files.

    Returns the number of regular files.
    """
    rng = random.Random(seed)
    words = make_words(rng)
    kinds = [kind for kind, _weight in _KINDS]
    weights = [weight for _kind, weight in _KINDS]
    pool = [_page(kind, rng, words) for kind in rng.choices(kinds, weights, k=_POOL)]
    target.mkdir(parents=True)
    count = 0

    def write(path: Path, length: int) -> None:
        nonlocal count
        with open(path, "wb") as stream:
            for number in range(max(1, length // PAGE)):
                # The number of the page, as in a real one, keeps any two from being the same.
                stream.write(count.to_bytes(4, "big") + number.to_bytes(4, "big") + rng.choice(pool)[8:])
        count += 1

    for index, share in enumerate((0.03, 0.07, 0.10, 0.30)):
        write(target / ("ibdata1" if index == 0 else f"big{index}.ibd"), int(size * share))
    left = size // 2
    table = 0
    while left > 0:
        folder = target / f"db{table % 10}"
        folder.mkdir(exist_ok=True)
        length = rng.choice((64 * 1024, 96 * 1024, 112 * 1024, 2 * MIB))
        write(folder / f"t{table}.ibd", min(length, left))
        (folder / f"t{table}.frm").write_bytes(rng.randbytes(900))
        count += 1
        left -= length
        table += 1
    return count
