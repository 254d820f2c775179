"""An authorization service over gRPC that is not ours: grpcio's server in threads, told what to say to which path."""

import threading
import time
from collections.abc import Iterator, Mapping
from concurrent import futures
from contextlib import contextmanager
from typing import Any

import grpc
from envoy.config.core.v3.base_pb2 import HeaderValueOption
from envoy.service.auth.v3.external_auth_pb2 import CheckRequest, CheckResponse
from google.protobuf.json_format import ParseDict

METHOD = "Check"
SERVICE = "envoy.service.auth.v3.Authorization"
Json = dict[str, Any]
FORBIDDEN = 7  # as gRPC names it: PERMISSION_DENIED


def allowing(**fields: Any) -> CheckResponse:
    """Fields of OkHttpResponse."""
    return ParseDict({"status": {"code": 0}, "ok_response": fields}, CheckResponse())


def denying(**fields: Any) -> CheckResponse:
    """Fields of DeniedHttpResponse."""
    return ParseDict({"status": {"code": FORBIDDEN}, "denied_response": fields}, CheckResponse())


def erring(**fields: Any) -> CheckResponse:
    return ParseDict({"status": {"code": FORBIDDEN}, "error_response": fields}, CheckResponse())


def field(key: str, value: str, action: int | None = None, *, append: bool | None = None) -> Json:
    """A HeaderValueOption: by its action, or by the older `append`."""
    made: Json = {"header": {"key": key, "value": value}}
    if action is not None:
        made["append_action"] = action
    if append is not None:
        made["append"] = append
    return made


ADD = HeaderValueOption.APPEND_IF_EXISTS_OR_ADD
ADD_IF_ABSENT = HeaderValueOption.ADD_IF_ABSENT
SET = HeaderValueOption.OVERWRITE_IF_EXISTS_OR_ADD
SET_IF_PRESENT = HeaderValueOption.OVERWRITE_IF_EXISTS


class Authorizer:
    """`answers` by the path without its query: a response, a gRPC status, seconds to wait before one, or "wait", for
    `go_on`; else the request may pass.

    `seen`: what it was asked; `metadata`: with which fields of the call; `waiting`: calls that wait now; `ended`: those
    whose client has left meanwhile.
    """

    def __init__(self, answers: Mapping[str, Any] | None = None, host: str = "127.0.0.1") -> None:
        self.host = host
        self.answers = dict(answers or {})
        self.seen: list[CheckRequest] = []
        self.metadata: list[dict[str, Any]] = []
        self.ended = 0
        self.peers: set[str] = set()  # URIs of clients' certificates
        self.port = 0
        self.waiting = 0
        self.go_on = threading.Event()

    def check(self, request: CheckRequest, context: grpc.ServicerContext) -> CheckResponse:
        self.metadata.append(dict(context.invocation_metadata()))
        self.seen.append(request)
        self.peers.update(name.decode() for name in context.auth_context().get("x509_subject_alternative_name", ()))
        answer = self.answers.get(request.attributes.request.http.path.partition("?")[0], allowing())
        if answer == "wait":
            self._wait(context)
            answer = allowing()
        if isinstance(answer, float):
            time.sleep(answer)
            answer = allowing()
        if isinstance(answer, grpc.StatusCode):
            context.abort(answer, "as told")
        assert isinstance(answer, CheckResponse)
        return answer

    def _wait(self, context: grpc.ServicerContext) -> None:
        self.waiting += 1
        while context.is_active() and not self.go_on.is_set():
            self.go_on.wait(0.01)
        self.waiting -= 1
        if not context.is_active():
            self.ended += 1

    def server(self, port: int = 0, credentials: Any = None, threads: int = 8) -> grpc.Server:
        """Not started. `port`: 0 = a free one."""
        server = grpc.server(
            futures.ThreadPoolExecutor(threads),
            options=(("grpc.so_reuseport", 0), ("grpc.max_receive_message_length", -1)),
        )
        handler = grpc.unary_unary_rpc_method_handler(
            self.check,
            request_deserializer=CheckRequest.FromString,
            response_serializer=CheckResponse.SerializeToString,
        )
        server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler(SERVICE, {METHOD: handler}),))
        address = f"{self.host}:{port}"
        self.port = (
            server.add_secure_port(address, credentials)
            if credentials is not None
            else server.add_insecure_port(address)
        )
        return server

    @contextmanager
    def running(self, port: int = 0, credentials: Any = None, threads: int = 8) -> Iterator["Authorizer"]:
        server = self.server(port, credentials, threads)
        server.start()
        try:
            yield self
        finally:
            self.go_on.set()
            server.stop(0).wait()
