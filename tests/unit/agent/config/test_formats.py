"""Format strings, as the worker compiles them."""

import pytest

from agent.config.fields import Refused
from agent.config.formats import format_string


@pytest.mark.parametrize("text", ["", "plain", "100%%", "%START_TIME(%Y/%m/%d)%", "%REQ(A?B):10%", "a %PROTOCOL% b"])
def test_good_formats(text: str) -> None:
    assert format_string(text, "p") == text


@pytest.mark.parametrize("text", ["%", "5%", "%req(a)%", "%NOPE%", "%REQ(a", "%REQ(a(b))%", "%REQ()%"])
def test_bad_formats(text: str) -> None:
    with pytest.raises(Refused) as caught:
        format_string(text, "p")
    assert caught.value.path == "p"
    assert caught.value.reason.startswith("found ")
