"""Cursors: a list accepts only the cursors that it issued."""

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from jobworker.domain.errors import InvalidCursor
from jobworker.store.pagination import Paginator

texts = st.text(st.characters(codec="utf-8"), max_size=40)
listings = st.builds(
    Paginator, texts, st.dictionaries(texts, st.none() | texts | st.integers(-(2**53), 2**53), max_size=3), st.just(str)
)


@given(listings, texts)
def test_parsed_cursor_equals_the_formatted_one(listing: Paginator[str], key: str) -> None:
    assert listing.parse_cursor(listing.build_cursor(key)) == key
    assert listing.parse_cursor(None) is None


@given(listings, listings, texts)
def test_cursor_of_another_list_rejected(listing: Paginator[str], other_listing: Paginator[str], key: str) -> None:
    def essence(paginator: Paginator[str]) -> object:
        return paginator.name, {name: value for name, value in paginator.filters.items() if value is not None}

    assume(essence(listing) != essence(other_listing))
    with pytest.raises(InvalidCursor):
        other_listing.parse_cursor(listing.build_cursor(key))


@given(listings, texts, st.data())
def test_changed_cursor_rejected(listing: Paginator[str], key: str, data: st.DataObject) -> None:
    cursor = listing.build_cursor(key)
    at = data.draw(st.integers(0, len(cursor) - 1))
    changed = cursor[:at] + data.draw(st.characters(codec="utf-8")) + cursor[at + 1 :]
    assume(changed != cursor)
    with pytest.raises(InvalidCursor):
        listing.parse_cursor(changed)


@given(listings, st.text())
def test_arbitrary_text_rejected_as_cursor(listing: Paginator[str], text: str) -> None:
    with pytest.raises(InvalidCursor):
        listing.parse_cursor(text)
