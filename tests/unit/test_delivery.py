"""Validation of the attempt's header in a message."""

from typing import Any

import pytest

from jobworker.worker.attempt.delivery import Delivery

_HEADER: dict[str, Any] = {"execution": "018e5e3a-7c3b-7c3b-8c3b-0123456789ab", "attempt": 1, "job": "j"}


def test_delivery_header_parsed() -> None:
    assert Delivery.from_header(_HEADER, "7").execution == _HEADER["execution"]


@pytest.mark.parametrize("execution", ["../../../x", "a/b", "", ".", "a.b", "a\0", "x" * 65, "a\n"])
def test_execution_id_with_path_characters_rejected(execution: str) -> None:
    with pytest.raises(ValueError, match="the id of the execution is invalid"):
        Delivery.from_header({**_HEADER, "execution": execution}, "7")


@pytest.mark.parametrize("attempt", ["1", "../x", 0, -1, 1.5, True, None, 2**40])
def test_invalid_attempt_number_rejected(attempt: Any) -> None:
    with pytest.raises(ValueError, match="the number of the attempt is invalid"):
        Delivery.from_header({**_HEADER, "attempt": attempt}, "7")
