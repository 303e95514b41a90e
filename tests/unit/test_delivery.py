"""What the header of a message says of an attempt."""

from typing import Any

import pytest

from jobworker.worker.attempt.delivery import Delivery

_HEADER: dict[str, Any] = {"execution": "018e5e3a-7c3b-7c3b-8c3b-0123456789ab", "attempt": 1, "job": "j"}


def test_what_it_says() -> None:
    assert Delivery.from_header(_HEADER, "7").execution == _HEADER["execution"]


@pytest.mark.parametrize("execution", ["../../../x", "a/b", "", ".", "a.b", "a\0", "x" * 65, "a\n"])
def test_an_id_that_names_a_place_among_files_is_refused(execution: str) -> None:
    with pytest.raises(ValueError, match="the id of the execution is invalid"):
        Delivery.from_header({**_HEADER, "execution": execution}, "7")


@pytest.mark.parametrize("attempt", ["1", "../x", 0, -1, 1.5, True, None, 2**40])
def test_a_number_of_an_attempt_that_is_none_is_refused(attempt: Any) -> None:
    with pytest.raises(ValueError, match="the number of the attempt is invalid"):
        Delivery.from_header({**_HEADER, "attempt": attempt}, "7")
