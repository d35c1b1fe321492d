# Copyright (c) 2026, mysql_ops contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Names of channels inside file names, as real servers wrote them."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ansible_collections.mysql_ops.replica_backup.plugins.module_utils._channel_names import (
    channel_file,
    escape,
    lower_case,
    unescape,
)

# Every letter with a code of its own and every one whose lower case is in question is in some recorded name.
RECORDED: list[tuple[str, str]] = json.loads(
    (Path(__file__).parent / "fixtures" / "channel_file_names.json").read_text()
)["names"]


@pytest.mark.parametrize(("name", "escaped"), RECORDED, ids=[str(number) for number in range(len(RECORDED))])
def test_as_the_servers_write_them(name: str, escaped: str) -> None:
    assert escape(name) == escaped
    assert unescape(escaped) == lower_case(name)


@settings(deadline=None)
@given(st.text(st.characters(max_codepoint=0xFFFF, exclude_categories=["Cs"]), max_size=64))
def test_both_ways(name: str) -> None:
    escaped = escape(name)
    assert escaped.isascii() and "/" not in escaped and "." not in escaped
    assert unescape(escaped) == lower_case(name)
    assert escape(lower_case(name)) == escaped


@settings(deadline=None)
@given(st.text(st.sampled_from("@0j2dgGx.zé \n/"), max_size=12))
def test_anything_else_is_refused(text: str) -> None:
    try:
        name = unescape(text)
    except ValueError:
        return
    assert escape(name) == text


@pytest.mark.parametrize("text", ["A", "@0G", "@zz", "@00", "a b", "@002D", "@0061", "x.y"])
def test_what_no_server_writes(text: str) -> None:
    with pytest.raises(ValueError, match=r"."):
        unescape(text)


@pytest.mark.parametrize(
    ("path", "channel", "expected"),
    [
        ("/d/relay-log.info", "", "/d/relay-log.info"),
        ("/d/relay-log.info", "A b", "/d/relay-log-a@0020b.info"),
        ("x.y/mi", "c", "x.y/mi-c"),
        ("/x/c.d.info", "c", "/x/c.d-c.info"),
        ("idx.foo", "c", "idx-c.foo"),
    ],
)
def test_the_name_goes_before_the_last_extension(path: str, channel: str, expected: str) -> None:
    assert channel_file(path, channel) == expected
