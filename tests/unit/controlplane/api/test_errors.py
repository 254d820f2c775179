"""Every error code has one HTTP status, one reason and one gRPC status, and meshctl knows the reason again."""

import grpc

from controlplane.api.errors import ANSWERS, grpc_status, status_object
from controlplane.cli.refusals import refusal_of
from mesh.errors import ErrorCode, MeshError


def test_every_code_has_an_answer() -> None:
    assert set(ANSWERS) == set(ErrorCode)


def test_meshctl_reads_the_code_that_the_server_meant() -> None:
    own = {ErrorCode.SETTINGS, ErrorCode.INTERNAL}  # both are faults of the server to its clients
    for code in set(ErrorCode) - own:
        told = status_object(MeshError(code, "why", subject="what", hint="help"))
        assert refusal_of(told, status=told["code"], url="/").code is code
        assert told["message"] == "what: why (help)"


def test_a_full_store() -> None:
    full = MeshError(ErrorCode.NO_SPACE, "no room")
    assert status_object(full)["code"] == 507
    assert grpc_status(full) is grpc.StatusCode.RESOURCE_EXHAUSTED
