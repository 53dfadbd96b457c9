"""Looking for many strings at once finds what looking for each by itself finds."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from ortforge.build.diagnose.fixed_strings import FixedStrings

# Few letters, so that strings overlap, repeat, and begin alike.
letters = st.binary(max_size=200).map(lambda some: bytes(b"ab\n"[each % 3] for each in some))
strings = st.lists(letters.filter(bool).map(lambda some: some[:20]), max_size=8)


def one_by_one(strings: list[bytes], block: bytes) -> list[tuple[int, bytes]]:
    return sorted((at, each) for each in set(strings) for at in range(len(block)) if block.startswith(each, at))


@given(strings, letters)
def test_every_place_of_every_string_is_found_in_order(strings: list[bytes], block: bytes) -> None:
    assert FixedStrings(strings).find(block) == one_by_one(strings, block)


@given(st.binary(min_size=8, max_size=16), st.binary(max_size=64), st.binary(max_size=64))
def test_wherever_it_stands(string: bytes, before: bytes, after: bytes) -> None:
    assert (len(before), string) in FixedStrings([string]).find(before + string + after)


def test_no_strings_and_no_block() -> None:
    assert FixedStrings([]).find(b"a block") == []
    assert FixedStrings([b"fatal error: "]).find(b"") == []
