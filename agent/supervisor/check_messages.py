"""Questions of workers as CheckRequests, and CheckResponses as answers.

Not:    asking (authorizers), what an answer does to a request (agent.filters.checks).
Source: envoy/service/auth/v3/{attribute_context,external_auth}.proto; Envoy's check_request_utils.cc and
        ext_authz_grpc_impl.cc: text that is not UTF-8 has "!" in the place of what is none; without a status code the
        request may pass; an answer that denies says 403 unless it has another status.
Invariant: what denies is never taken for no answer, with which a request may pass, whatever else it says.
"""

import codecs
from collections.abc import Iterable

from envoy.config.core.v3.address_pb2 import Address
from envoy.config.core.v3.base_pb2 import HeaderValueOption
from envoy.service.auth.v3.attribute_context_pb2 import AttributeContext
from envoy.service.auth.v3.external_auth_pb2 import CheckRequest, CheckResponse, DeniedHttpResponse
from google.protobuf.struct_pb2 import Struct, Value

from agent.filters.forwarded import host_of
from agent.model.ext_authz import (
    FORBIDDEN,
    Change,
    CheckAnswer,
    CheckPeer,
    CheckQuestion,
    CheckVerdict,
    HeaderChange,
)

_REPLACED = "gossamer.replaced"
_CHANGES = {
    HeaderValueOption.APPEND_IF_EXISTS_OR_ADD: Change.ADD,
    HeaderValueOption.ADD_IF_ABSENT: Change.ADD_IF_ABSENT,
    HeaderValueOption.OVERWRITE_IF_EXISTS_OR_ADD: Change.SET,
    HeaderValueOption.OVERWRITE_IF_EXISTS: Change.SET_IF_PRESENT,
}
_NANO = 1_000_000_000
codecs.register_error(_REPLACED, lambda error: ("!" * _length(error), _end(error)))


def _length(error: UnicodeError) -> int:
    assert isinstance(error, UnicodeDecodeError)
    return error.end - error.start


def _end(error: UnicodeError) -> int:
    assert isinstance(error, UnicodeDecodeError)
    return error.end


def text_of(data: bytes) -> str:
    """As text, whatever it is."""
    return data.decode("utf-8", _REPLACED)


# --- questions


def check_request(question: CheckQuestion) -> CheckRequest:
    """What the service is asked."""
    message = CheckRequest()
    attributes = message.attributes
    _fill_peer(attributes.source, question.source)
    _fill_peer(attributes.destination, question.destination)
    request = attributes.request
    request.time.FromNanoseconds(int(question.time_s * _NANO))
    _fill_request(request.http, question)
    attributes.context_extensions.update(dict(question.context))
    attributes.metadata_context.SetInParent()
    attributes.route_metadata_context.SetInParent()
    for name, found in question.metadata.items():
        attributes.metadata_context.filter_metadata[name].update(found)
    return message


def _fill_peer(message: AttributeContext.Peer, peer: CheckPeer) -> None:
    _fill_address(message.address, peer.address)
    message.principal = text_of(peer.principal)
    message.service = text_of(peer.service)
    message.certificate = peer.certificate


def _fill_address(message: Address, address: str) -> None:
    port = address.rpartition(":")[2]
    message.socket_address.address = host_of(address)
    message.socket_address.port_value = int(port) if port.isdigit() else 0


def _fill_request(message: AttributeContext.HttpRequest, question: CheckQuestion) -> None:
    message.id = question.request_id
    message.method = text_of(question.method)
    message.path = text_of(question.path)
    message.host = text_of(question.host)
    message.scheme = text_of(question.scheme)
    message.protocol = question.protocol
    message.size = question.size
    message.headers.update({text_of(name): text_of(value) for name, value in question.headers})
    if question.body is None:
        return
    if question.as_bytes:
        message.raw_body = question.body
    else:
        message.body = text_of(question.body)


# --- answers


def check_answer(number: int, response: CheckResponse) -> CheckAnswer:
    """What the service says."""
    metadata = _metadata(response)
    if not response.status.code:
        return _allowed(number, response, metadata)
    which = response.WhichOneof("http_response")
    if which == "error_response":
        return _refusal(number, CheckVerdict.ERROR, response.error_response, 0, metadata)
    denied = response.denied_response if which == "denied_response" else DeniedHttpResponse()
    return _refusal(number, CheckVerdict.DENIED, denied, FORBIDDEN, metadata)


def failed(number: int) -> CheckAnswer:
    """Nobody has answered."""
    return CheckAnswer(number=number, verdict=CheckVerdict.ERROR)


def _invalid(number: int) -> CheckAnswer:
    return CheckAnswer(number=number, verdict=CheckVerdict.INVALID)


def _allowed(number: int, response: CheckResponse, metadata: dict[str, object] | None) -> CheckAnswer:
    allowed = response.ok_response
    answer = _changes(allowed.response_headers_to_add, Change.ADD)
    if answer is None:
        return _invalid(number)
    return CheckAnswer(
        number=number,
        verdict=CheckVerdict.OK,
        request=tuple(_of_request(option) for option in allowed.headers),
        removed=tuple(name.encode() for name in allowed.headers_to_remove),
        answer=answer,
        query=tuple((item.key.encode(), item.value.encode()) for item in allowed.query_parameters_to_set),
        query_removed=tuple(name.encode() for name in allowed.query_parameters_to_remove),
        metadata=metadata,
    )


def _refusal(
    number: int, verdict: CheckVerdict, own: DeniedHttpResponse, default: int, metadata: dict[str, object] | None
) -> CheckAnswer:
    changes = _changes(own.headers, Change.JOIN)
    if changes is None:
        return _invalid(number)
    status = own.status.code if 200 <= own.status.code <= 599 else default
    return CheckAnswer(
        number=number,
        verdict=verdict,
        status=status,
        body=own.body.encode(),
        answer=changes,
        metadata=metadata,
    )


def _of_request(option: HeaderValueOption) -> HeaderChange:
    """Of a request only the older field is looked at: what it does not append is set."""
    kind = Change.JOIN if option.HasField("append") and option.append.value else Change.SET
    return HeaderChange(option.header.key.encode(), option.header.value.encode(), kind)


def _changes(options: Iterable[HeaderValueOption], appended: Change) -> tuple[HeaderChange, ...] | None:
    """Of an answer. None: there is one of no known kind. `appended`: what the older field means by appending."""
    found: list[HeaderChange] = []
    for option in options:
        if option.HasField("append"):
            kind = appended if option.append.value else Change.SET
        elif option.append_action in _CHANGES:
            kind = _CHANGES[option.append_action]
        else:
            return None
        found.append(HeaderChange(option.header.key.encode(), option.header.value.encode(), kind))
    return tuple(found)


def _metadata(response: CheckResponse) -> dict[str, object] | None:
    """The older field takes precedence."""
    older = response.ok_response if response.WhichOneof("http_response") == "ok_response" else None
    own = (
        older.dynamic_metadata
        if older is not None and older.HasField("dynamic_metadata")
        else response.dynamic_metadata
    )
    return _values(own) or None


def _values(message: Struct) -> dict[str, object]:
    return {name: _value(value) for name, value in message.fields.items()}


def _value(message: Value) -> object:
    """Also infinity, which protobuf takes for no JSON."""
    match message.WhichOneof("kind"):
        case "struct_value":
            return _values(message.struct_value)
        case "list_value":
            return [_value(item) for item in message.list_value.values]
        case "bool_value":
            return message.bool_value
        case "number_value":
            return message.number_value
        case "string_value":
            return message.string_value
    return None
