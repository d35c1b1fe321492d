# Copyright (c) 2026, mysql_ops contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""How servers spell the name of a channel or connection inside file names.

``relay-log-@0j@0020x.info`` belongs to the connection ``\u00c3 X``: lower case first, then everything but ASCII
letters, digits and ``_`` is escaped. Source: manual, "Mapping of Identifiers to File Names". The codes of single
letters and the lower case were recorded from MariaDB 10.11 (``CONVERT(... USING filename)``, ``LOWER``) and compared
with the names of files that it and MySQL 9.7 made.
"""

from __future__ import annotations

import os
import re

# First code point of a block of letters, then two characters for each; ".." has no code of its own.
_NATIONAL = (
    (
        0x00C0,
        "0G0H0I0J0K0L0M0N0O0P0Q0R0S0T0U0V0W0X0Y0Z1G1H1I..1K1L1M1N1O1P1Q1j0g0h0i0j0k0l0m0n0o0p0q0r0s0t0u0v0w0x0y0z"
        "1g1h1i..1k1l1m1n1o1p1q1r1S1s1T1t1U1u1V1v1W1w1X1x1Y1y1Z1z2G2g2H2h2I2i2J2j2K2k2L2l2M2m2N2n2O2o2P2p2Q2q2R2r"
        "2S2s2T2t2U2u2V2v..2w2X2x2Y2y2Z2z3g3H3h3I3i3J3j3K3k3L3l3M3m3N3n3O3o3p3Q3q3R3r3S3s3T3t3U3u3V3v3W3w3X3x3Y3y"
        "3Z3z4G4g4H4h4I4i4J4j4K4k4L4l4M4m4N4n4O4o4P4p4Q4q4R4r4S4s1R4T4t4U4u4V4v4wgaQfHahaIaiaRfJajaTfUfKakalaZbWf"
        "YfMamaJgMgnaSgRgOaoapaqaYgHhraKhSasaTataUauaVhVavaYhwaxaYayaJiZazaLiMiGbgbHbhbTiIbibjbkbNbnbmb.........."
        "Ob..obPb..pbQb..qbRbrbSbsbTbtbUbubVbvbWbwbXbxbYbybzbGcgcHchcIcicJcjcKckcLclcMcmcNcncOcocpcQc..qcRcrcNa.."
        "ScscTctcUcucVcvcWcwcXcxcYcycZczcGdgdHdhdIdidJdjdKdkdLdldMdmdNdndOdodPdpdQdqdRdrdRasdTdtdUdudVdvdWdwdXdxd"
        "YdydZdzdGegeHeheiejekelemeneOePepePaQereseVi............................nfofpfqfrfsftfufvfwfxfyfzfgghgig"
        "jgkglgmgngogpgqgrgsgtgugvgwgxgygzgghhhihjhkhlhmhnhohphqhrhshthuhvhwhxhyhzhgihiiijikiliminioipiqirisitiui"
        "viwixiyizigjhjijjjkjljmjnjojpjqjrjsjtjujvjwjxjyjzjgkhkik................................................"
        "........................................................................................................"
        "........................................................................................................"
        "........................................................................................................"
        "....................................................................6G..6H6I6J..7S..7T7U5y6L7W6N6O6P6Q6R"
        "7X6T8W6V6W6X6Y6Z8I7H..8Y7K7L8H7N7O7P7Q7R6g6h6i6j6k6l6m6n6o6p6q6r6s6t6u6v6w6x6y6z7g7h7i7j7k7l7m7n7o7p7q7r"
        "7s7t7u..7w7x7Y7Z8G8h8i8j..8k8L8l8M8m8N8n8O8o8P8p8Q8q8R8r8S8s8T8t8U8u8V8v8w8x8y8z..9g9h..9i....9j9k9L9M9N"
        "S1T1U1V1W1X1Y1Z1G2H2I2J2K2L2M2N2G0H0I0J0K0L0M0N0O0P0Q0R0S0T0U0V0W0X0Y0Z0G1H1I1J1K1L1M1N1O1P1Q1R1g0h0i0j0"
        "k0l0m0n0o0p0q0r0s0t0u0v0w0x0y0z0g1h1i1j1k1l1m1n1o1p1q1r1s1t1u1v1w1x1y1z1g2h2i2j2k2l2m2n2O2o2P2p2Q2q2R2r2"
        "S2s2T2t2U2u2V2v2W2w2X2x2Y2y2Z2z2G3g3H3h3I3i3J3j3K3k3................M3m3N3n3O3o3P3p3Q3q3R3r3S3s3T3t3U3u3"
        "V3v3W3w3X3x3Y3y3Z3z3G4g4H4h4I4i4J4j4K4k4L4l4M4m4N4n4O4o4P4p4Q4q4R4r4S4s4T4U4u4V4v4W4w4X4x4Y4y4Z4z4G5g5.."
        "I5i5J5j5K5k5L5l5M5m5N5n5O5o5P5p5Q5q5R5r5S5s5T5t5U5u5V5v5W5w5X5x5Y5y5Z5z5G6g6H6h6I6i6............P6p6Q6q6"
        "R6r6S6s6T6t6U6u6V6v6W6w6",
    ),
    (
        0x0531,
        "H7I7J7K7L7M7N7O7P7Q7R7S7T7U7V7W7X7Y7Z7G8H8I8J8K8L8M8N8O8P8Q8R8S8T8U8V8W8X8......................h7i7j7k7"
        "l7m7n7o7p7q7r7s7t7u7v7w7x7y7z7g8h8i8j8k8l8m8n8o8p8q8r8s8t8u8v8w8x8",
    ),
    (
        0x1E00,
        "GlglHlhlIlilJljlKlklLlllMlmlNlnlOlolPlplQlqlRlrlSlslTltlUlulVlvlWlwlXlxlYlylZlzlGmgmHmhmImimJmjmKmkmLmlm"
        "MmmmNmnmOmomPmpmQmqmRmrmSmsmTmtmUmumVmvmWmwmXmxmYmymZmzmGngnHnhnIninJnjnKnknLnlnMnmnNnnnGponPnpnQnqnRnrn"
        "SnsnTntnUnunVnvnWnwnXnxnYnynZnznGogoHohoIoioJojoKokoLoloMomoNonoOoooPopoQoqoRoroSosoTotoUouovowoxoyozogp"
        "........LplpMpmpNpnpOpopPpppQpqpRprpSpspTptpUpupVpvpWpwpXpxpYpypZpzpGqgqHqhqIqiqJqjqKqkqLqlqMqmqNqnqOqoq"
        "PqpqQqqqRqrqSqsqTqtqUquqVqvqWqwqXqxqYqyqZqzqGrgrHrhrIrirJrjrKrkrLrlrMrmrNrnrOrorPrpr............gshsisjs"
        "kslsmsnsGsHsIsJsKsLsMsNsospsqsrsssts....OsPsQsRsSsTs....yszsgthtitjtktltYsZsGtHtItJtKtLtmtntotptqtrtsttt"
        "MtNtOtPtQtRtStTtutvtwtxtytzt....UtVtWtXtYtZt....kulumunuoupuquru..Lu..Nu..Pu..RuwuxuyuzugvhvivjvWuXuYuZu"
        "GvHvIvJvkvlvmvnvovpvqvrvsvtvuvvvwvxv....gwhwiwjwkwlwmwnwGwHwIwJwKwLwMwNwowpwqwrwswtwuwvwOwPwQwRwSwTwUwVw"
        "wwxwywzwgxhxixjxWwXwYwZwGxHxIxJxkxlxmxnxox..qxrxKxLxKvLvNx..........sxtxux..wxxxMvNvOvPvTx......yxzxgyhy"
        "....kylyYxZxQvRv........nyoypyqyrysytyuyNyOyUvVvSy..........xyyy....hzizSvTvWvXvYy",
    ),
    (0x2160, "G9H9I9J9K9L9M9N9O9P9Q9R9S9T9U9V9g9h9i9j9k9l9m9n9o9p9q9r9s9t9u9v9"),
    (
        0x24B6,
        "@A@B@C@D@E@F@G@H@I@J@K@L@M@N@O@P@Q@R@S@T@U@V@W@X@Y@Z@a@b@c@d@e@f@g@h@i@j@k@l@m@n@o@p@q@r@s@t@u@v@w@x@y@z",
    ),
    (
        0xFF21,
        "A@B@C@D@E@F@G@H@I@J@K@L@M@N@O@P@Q@R@S@T@U@V@W@X@Y@Z@............a@b@c@d@e@f@g@h@i@j@k@l@m@n@o@p@q@r@s@t@"
        "u@v@w@x@y@z@",
    ),
)
_CODES = {
    chr(first + number // 2): codes[number : number + 2]
    for first, codes in _NATIONAL
    for number in range(0, len(codes), 2)
    if codes[number] != "."
}
_LETTERS = {code: letter for letter, code in _CODES.items()}
_SAFE = re.compile(r"[0-9A-Za-z_]")
_ESCAPED = re.compile(r"@(?:([0-9a-f]{4})|(.{2}))", re.DOTALL)

# The servers' table of lower case is older than Python's: it knows these planes of Unicode only ...
_CASED_PLANES = frozenset({0x00, 0x01, 0x02, 0x03, 0x04, 0x05, 0x1E, 0x1F, 0x21, 0x24, 0xFF})
# ... and of those leaves some letters as they are.
_NOT_CASED = frozenset(
    "\u0220\u023a\u023b\u023d\u023e\u0241\u0243\u0244\u0245\u0246\u0248\u024a\u024c\u024e\u0370\u0372\u0376\u037f"
    "\u03cf\u03d8\u03f4\u03f7\u03f9\u03fa\u03fd\u03fe\u03ff\u048a\u04c0\u04c5\u04c9\u04cd\u04f6\u04fa\u04fc\u04fe"
    "\u0500\u0502\u0504\u0506\u0508\u050a\u050c\u050e\u0510\u0512\u0514\u0516\u0518\u051a\u051c\u051e\u0520\u0522"
    "\u0524\u0526\u0528\u052a\u052c\u052e\u1e9e\u1efa\u1efc\u1efe\u2132\u2183"
)


def _lower_letter(letter: str) -> str:
    if letter == "\u0130":
        return "i"
    if ord(letter) >> 8 not in _CASED_PLANES or letter in _NOT_CASED:
        return letter
    return letter.lower()


def lower_case(name: str) -> str:
    """A channel's name as the server compares it."""
    return "".join(map(_lower_letter, name))


def escape(name: str) -> str:
    """The part of file names that stands for a channel; "" for the default one. ``name`` may have any case."""
    return "".join(_escape_letter(letter) for letter in lower_case(name))


def _escape_letter(letter: str) -> str:
    if _SAFE.match(letter):
        return letter
    code = _CODES.get(letter)
    return f"@{code}" if code else f"@{ord(letter):04x}"


def unescape(escaped: str) -> str:
    """The name, in lower case, that ``escape`` turned into ``escaped``. Raises ValueError for what it never gives."""

    def letter(match: re.Match[str]) -> str:
        if match[1]:
            return chr(int(match[1], 16))
        if match[2] not in _LETTERS:
            raise ValueError(f"@{match[2]} stands for no letter")
        return _LETTERS[match[2]]

    name = _ESCAPED.sub(letter, escaped)
    if escape(name) != escaped:
        raise ValueError(f"{escaped!r} is no escaped name of a channel")
    return name


def channel_file(path: str, channel: str) -> str:
    """The path that a file of the default channel has for another one: ``a/b.c.info`` -> ``a/b.c-NAME.info``."""
    if not channel:
        return path
    head, tail = os.path.split(path)
    stem, dot, extension = tail.rpartition(".")
    return os.path.join(head, f"{stem}-{escape(channel)}.{extension}" if dot else f"{tail}-{escape(channel)}")
