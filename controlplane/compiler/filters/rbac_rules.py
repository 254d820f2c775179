"""One rule of an AuthorizationPolicy as Envoy's RBAC policy.

Owns:   each attribute as a permission or principal; what happens to a rule with one that cannot be tested.
Not:    which policies there are and how they add up (rbac).
Source: istio pilot/pkg/security/authz/model; control-plane.md 2.5; gRFC A41 (what gRPC tests).
Differs: the port is known where the filter stands, so it is decided here; an attribute of which one value cannot be
        tested counts as one that cannot be tested at all (Istio keeps the others, which narrows a DENY).
Invariant: what cannot be tested makes ALLOW narrower and DENY, AUDIT and CUSTOM wider: an error never lets in.
"""

import ipaddress
import re
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import TypeVar

from envoy.config.core.v3.address_pb2 import CidrRange
from envoy.config.core.v3.extension_pb2 import TypedExtensionConfig
from envoy.config.rbac.v3.rbac_pb2 import Permission, Policy, Principal, SourcedMetadata
from envoy.config.route.v3.route_components_pb2 import HeaderMatcher
from envoy.extensions.path.match.uri_template.v3.uri_template_match_pb2 import UriTemplateMatchConfig
from envoy.type.matcher.v3.metadata_pb2 import MetadataMatcher
from envoy.type.matcher.v3.path_pb2 import PathMatcher
from envoy.type.matcher.v3.regex_pb2 import RegexMatcher
from envoy.type.matcher.v3.string_pb2 import StringMatcher
from envoy.type.matcher.v3.value_pb2 import ListMatcher, OrMatcher, ValueMatcher

from controlplane.compiler.filters.jwt_authn import NAME as JWT_FILTER
from controlplane.compiler.filters.jwt_authn import PAYLOAD
from controlplane.compiler.resources import packed
from controlplane.policy.authorization_policy import Operation, Rule, Source, When
from controlplane.policy.rules.authorization_policy import CLAIMS_KEY, HEADERS_KEY, name_in_brackets
from mesh.vocabulary import Dialect

_ANY = "*"
_SPIFFE = "spiffe://"
_TEMPLATE = "envoy.path.match.uri_template.uri_template_matcher"
T = TypeVar("T")
C = TypeVar("C", Permission, Principal)
Texts = tuple[str, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Site:
    """Where rules are enforced. `port`: the workload's own, or the gateway's; `http`: requests are looked at."""

    dialect: Dialect
    port: int
    http: bool


class CannotTest(Exception):
    """An attribute that the site cannot test: its name and why."""

    def __init__(self, attribute: str, reason: str) -> None:
        super().__init__(f"{attribute} {reason}")


@dataclass(frozen=True, slots=True)
class Made:
    """`policy` is None when the rule cannot allow anything; `problems`: what could not be tested, in words."""

    policy: Policy | None
    problems: tuple[str, ...] = ()


def rule_policy(rule: Rule, namespace: str, site: Site, *, wide: bool) -> Made:
    """`namespace`: of the policy; `wide`: an attribute that cannot be tested is left out instead of the rule."""
    writer = _Writer(namespace, site)
    problems: list[str] = []
    permissions = [_all(Permission, _kept(writer.operation(to, rule.when), problems)) for to in _operations(rule)]
    principals = [_all(Principal, _kept(writer.source(one, rule.when), problems)) for one in _sources(rule)]
    found = tuple(dict.fromkeys(problems))
    if found and not wide:
        return Made(None, found)
    return Made(Policy(permissions=permissions, principals=principals), found)


def never() -> Policy:
    """The policy that matches nothing."""
    permission, principal = Permission(), Principal()
    permission.not_rule.any = True
    principal.not_id.any = True
    return Policy(permissions=[permission], principals=[principal])


def always() -> Policy:
    """The policy that matches everything."""
    return Policy(permissions=[Permission(any=True)], principals=[Principal(any=True)])


_Thunk = Callable[[], C]


def _kept(thunks: Iterable[_Thunk[C]], problems: list[str]) -> list[C]:
    """The conditions that can be tested."""
    found: list[C] = []
    for make in thunks:
        try:
            found.append(make())
        except CannotTest as error:
            problems.append(str(error))
    return found


def _operations(rule: Rule) -> tuple[Operation, ...]:
    found = tuple(to.operation for to in rule.to if to.operation is not None)
    return found or (Operation(),)


def _sources(rule: Rule) -> tuple[Source, ...]:
    found = tuple(one.source for one in rule.from_ if one.source is not None)
    return found or (Source(),)


class _Writer:
    """The attributes of one rule."""

    def __init__(self, namespace: str, site: Site) -> None:
        self._namespace = namespace
        self._site = site

    # --- what is asked

    def operation(self, wanted: Operation, whens: tuple[When, ...]) -> Iterator[_Thunk[Permission]]:
        """All that must hold."""
        yield from _field(Permission, wanted.hosts, wanted.not_hosts, self._host)
        yield from _field(Permission, wanted.methods, wanted.not_methods, self._method)
        yield from _field(Permission, wanted.paths, wanted.not_paths, self._path)
        yield from _field(Permission, wanted.ports, wanted.not_ports, self._port)
        tests = {"destination.ip": _destination_ip, "destination.port": self._port, "connection.sni": self._sni}
        for when in whens:
            if when.key in tests:
                yield from _field(Permission, when.values, when.not_values, tests[when.key])

    def _host(self, value: str) -> Permission:
        self._only_http("hosts")
        return Permission(header=header_matcher(":authority", value, ignore_case=True))

    def _method(self, value: str) -> Permission:
        self._only_http("methods")
        return Permission(header=header_matcher(":method", value))

    def _path(self, value: str) -> Permission:
        self._only_http("paths")
        if "{*}" not in value and "{**}" not in value:
            return Permission(url_path=PathMatcher(path=text_matcher(value)))
        if self._site.dialect is Dialect.GRPC:
            raise CannotTest("paths", "with templates are not for gRPC servers")
        template = value.replace("{**}", "**").replace("{*}", "*")
        config = TypedExtensionConfig(
            name=_TEMPLATE, typed_config=packed(UriTemplateMatchConfig(path_template=template))
        )
        return Permission(uri_template=config)

    def _port(self, value: str) -> Permission:
        """Where the filter stands there is but one port, and it may be called otherwise on the wire."""
        permission = Permission()
        if int(value) == self._site.port:
            permission.any = True
        else:
            permission.not_rule.any = True
        return permission

    def _sni(self, value: str) -> Permission:
        if self._site.dialect is not Dialect.ENVOY:
            raise CannotTest("connection.sni", "is for Envoys only")
        return Permission(requested_server_name=text_matcher(value))

    # --- who asks

    def source(self, wanted: Source, whens: tuple[When, ...]) -> Iterator[_Thunk[Principal]]:
        """All that must hold."""
        for values, others, make in (
            (wanted.principals, wanted.not_principals, _principal),
            (wanted.request_principals, wanted.not_request_principals, self._request_principal),
            (wanted.namespaces, wanted.not_namespaces, _namespace),
            (wanted.service_accounts, wanted.not_service_accounts, self._account),
            (wanted.trust_domains, wanted.not_trust_domains, _trust_domain),
            (wanted.ip_blocks, wanted.not_ip_blocks, _source_ip),
            (wanted.remote_ip_blocks, wanted.not_remote_ip_blocks, _remote_ip),
        ):
            yield from _field(Principal, values, others, make)
        for when in whens:
            test = self._test(when.key)
            if test is not None:
                yield from _field(Principal, when.values, when.not_values, test)

    def _test(self, key: str) -> Callable[[str], Principal] | None:
        fixed: dict[str, Callable[[str], Principal]] = {
            "source.ip": _source_ip,
            "remote.ip": _remote_ip,
            "source.namespace": _namespace,
            "source.serviceAccount": self._account,
            "source.trustDomain": _trust_domain,
            "source.principal": _principal,
            "request.auth.principal": self._request_principal,
            "request.auth.audiences": lambda value: self._claim(("aud",), value, key),
            "request.auth.presenter": lambda value: self._claim(("azp",), value, key),
        }
        if key in fixed:
            return fixed[key]
        if key.startswith(HEADERS_KEY):
            return lambda value: self._header(key, value)
        if key.startswith(CLAIMS_KEY):
            return lambda value: self._claim(name_in_brackets(key, CLAIMS_KEY), value, key)
        return None

    def _account(self, value: str) -> Principal:
        namespace, slash, name = value.partition("/")
        if not slash:
            namespace, name = self._namespace, value
        return _authenticated(
            _regex(f"spiffe://.+/ns/{re.escape(namespace)}/(.+/|)sa/{re.escape(name)}(/.+)?")
        )  # fmt: skip

    def _header(self, key: str, value: str) -> Principal:
        self._only_http(key)
        name = name_in_brackets(key, HEADERS_KEY)[0]
        if self._site.dialect is Dialect.GRPC and name.lower().startswith("grpc-"):
            raise CannotTest(key, "is no header that gRPC servers test")
        return Principal(header=header_matcher(name, value))

    def _request_principal(self, value: str) -> Principal:
        """`issuer/subject`; the issuer may be a URL, so the last slash counts."""
        self._has_tokens("requestPrincipals")
        issuer, subject = request_principal(value)
        both = [_claim((name,), ValueMatcher(string_match=test)) for name, test in (("iss", issuer), ("sub", subject))]
        return Principal(and_ids=Principal.Set(ids=both))

    def _claim(self, names: Texts, value: str, key: str) -> Principal:
        """A claim that is the value, or a list that has it."""
        self._has_tokens(key)
        text = ValueMatcher(string_match=text_matcher(value))
        either = OrMatcher(value_matchers=[text, ValueMatcher(list_match=ListMatcher(one_of=text))])
        return _claim(names, ValueMatcher(or_match=either))

    def _only_http(self, attribute: str) -> None:
        if not self._site.http:
            raise CannotTest(attribute, "can be tested on HTTP ports only")

    def _has_tokens(self, attribute: str) -> None:
        self._only_http(attribute)
        if self._site.dialect is Dialect.GRPC:
            raise CannotTest(attribute, "cannot be tested by gRPC servers, which know no tokens")


# --- attributes that every site can test


def _principal(value: str) -> Principal:
    if value == _ANY:
        return _authenticated(_regex(".+"))
    if value.startswith(_ANY):
        return _authenticated(StringMatcher(suffix=value[1:]))
    if value.endswith(_ANY):
        return _authenticated(StringMatcher(prefix=_SPIFFE + value[:-1]))
    return _authenticated(StringMatcher(exact=_SPIFFE + value))


def _namespace(value: str) -> Principal:
    return _authenticated(_regex(f".*/ns/{_glob(value)}/.*"))


def _trust_domain(value: str) -> Principal:
    return _authenticated(_regex(f"spiffe://{_glob(value)}/.*"))


def _glob(value: str) -> str:
    """A part of an identity, as a regular expression."""
    return "[^/]*".join(re.escape(part) for part in value.split(_ANY))


def _authenticated(name: StringMatcher) -> Principal:
    return Principal(authenticated=Principal.Authenticated(principal_name=name))


def _source_ip(value: str) -> Principal:
    return Principal(direct_remote_ip=cidr(value))


def _remote_ip(value: str) -> Principal:
    return Principal(remote_ip=cidr(value))


def _destination_ip(value: str) -> Permission:
    return Permission(destination_ip=cidr(value))


def cidr(value: str) -> CidrRange:
    """A block, or one address."""
    network = ipaddress.ip_network(value, strict=False)
    message = CidrRange(address_prefix=str(network.network_address))
    message.prefix_len.value = network.prefixlen
    return message


def text_matcher(value: str, *, ignore_case: bool = False) -> StringMatcher:
    """`abc`, `abc*`, `*abc`, or `*` for whatever is not empty."""
    if value == _ANY:
        return _regex(".+")
    if value.startswith(_ANY):
        return StringMatcher(suffix=value[1:], ignore_case=ignore_case)
    if value.endswith(_ANY):
        return StringMatcher(prefix=value[:-1], ignore_case=ignore_case)
    return StringMatcher(exact=value, ignore_case=ignore_case)


def header_matcher(name: str, value: str, *, ignore_case: bool = False) -> HeaderMatcher:
    """Of a header; `*`: it is there."""
    if value == _ANY:
        return HeaderMatcher(name=name, present_match=True)
    return HeaderMatcher(name=name, string_match=text_matcher(value, ignore_case=ignore_case))


def request_principal(value: str) -> tuple[StringMatcher, StringMatcher]:
    """(issuer, subject) of `issuer/subject` with a wildcard at one end."""
    issuer, slash, subject = value.rpartition("/")
    if value == _ANY:
        return _regex(".+"), _regex(".+")
    if not slash:
        if value.startswith(_ANY):
            return _regex(".+"), text_matcher(value)
        # Without a subject only a prefix of the issuer can be meant; the exact form names nobody.
        return text_matcher(value), _regex(".+") if value.endswith(_ANY) else StringMatcher(exact="")
    if value.startswith(_ANY):
        return text_matcher(issuer), StringMatcher(exact=subject)
    return StringMatcher(exact=issuer), text_matcher(subject) if value.endswith(_ANY) else StringMatcher(exact=subject)


def _claim(names: Texts, value: ValueMatcher) -> Principal:
    message = MetadataMatcher(filter=JWT_FILTER, value=value)
    for name in (PAYLOAD, *names):
        message.path.add(key=name)
    return Principal(sourced_metadata=SourcedMetadata(metadata_matcher=message))


def _regex(pattern: str) -> StringMatcher:
    return StringMatcher(safe_regex=RegexMatcher(regex=pattern))


# --- combining


def _field(kind: type[C], values: Texts, others: Texts, make: Callable[[str], C]) -> Iterator[_Thunk[C]]:
    """One of `values`, none of `others`."""
    if values:
        yield lambda: _one(kind, [make(value) for value in values])
    if others:
        yield lambda: _not(kind, _one(kind, [make(value) for value in others]))


def _one(kind: type[C], found: list[C]) -> C:
    if len(found) == 1:
        return found[0]
    if kind is Permission:
        return Permission(or_rules=Permission.Set(rules=found))
    return Principal(or_ids=Principal.Set(ids=found))


def _all(kind: type[C], found: list[C]) -> C:
    if not found:
        return kind(any=True)
    if len(found) == 1:
        return found[0]
    if kind is Permission:
        return Permission(and_rules=Permission.Set(rules=found))
    return Principal(and_ids=Principal.Set(ids=found))


def _not(kind: type[C], found: C) -> C:
    return Permission(not_rule=found) if kind is Permission else Principal(not_id=found)
