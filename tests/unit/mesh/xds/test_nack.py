"""Which resources were refused: told by our agent, read by the control plane."""

from google.protobuf.any_pb2 import Any as AnyMessage
from google.rpc.error_details_pb2 import BadRequest, DebugInfo
from google.rpc.status_pb2 import Status
from hypothesis import given
from hypothesis import strategies as st

from mesh.xds.nack import error_detail, rejected_names

reasons = st.dictionaries(st.text(max_size=30), st.text(max_size=30), max_size=5)


@given(reasons)
def test_what_is_told_is_read(rejected: dict[str, str]) -> None:
    status = Status.FromString(error_detail(rejected).SerializeToString())
    assert rejected_names(status.details) == rejected
    assert status.code == 3
    assert all(name in status.message and reason in status.message for name, reason in rejected.items())


def test_a_long_list_is_told_whole_and_its_sentence_is_bounded() -> None:
    rejected = {f"outbound|80||service-{i}": "no such field" for i in range(1000)}
    status = error_detail(rejected)
    assert len(status.message) == 4096
    assert rejected_names(status.details) == rejected


def test_other_details_say_nothing() -> None:
    other = AnyMessage()
    other.Pack(DebugInfo(detail="outbound|80||a"))
    assert rejected_names([]) == {}
    assert rejected_names([other, AnyMessage(type_url="nonsense", value=b"x")]) == {}


@given(st.binary(max_size=60))
def test_a_detail_that_is_damaged_says_nothing_and_harms_nothing(value: bytes) -> None:
    ours = error_detail({"good": "reason"}).details[0]
    damaged = AnyMessage(type_url=ours.type_url, value=value)
    found = rejected_names([damaged, ours])
    assert found["good"] == "reason"
    assert AnyMessage(type_url=ours.type_url).Is(BadRequest.DESCRIPTOR)
