"""Errors that a user can understand."""

from mesh.errors import ErrorCode, MeshError


def test_an_error_says_subject_message_and_hint() -> None:
    error = MeshError(ErrorCode.INVALID, "found 7, expected 1", subject="spec.port", hint="use 1")
    assert str(error) == "spec.port: found 7, expected 1 (use 1)"
    assert (error.code, error.message, error.subject, error.hint) == (
        ErrorCode.INVALID,
        "found 7, expected 1",
        "spec.port",
        "use 1",
    )


def test_parts_that_are_missing_leave_no_trace() -> None:
    assert str(MeshError(ErrorCode.INTERNAL, "it broke")) == "it broke"
    assert str(MeshError(ErrorCode.INTERNAL, "it broke", subject="etcd")) == "etcd: it broke"
    assert str(MeshError(ErrorCode.INTERNAL, "it broke", hint="try again")) == "it broke (try again)"


def test_codes_are_distinct_words() -> None:
    assert len({str(code) for code in ErrorCode}) == len(ErrorCode)
    assert all(code == code.lower() and " " not in code for code in ErrorCode)
