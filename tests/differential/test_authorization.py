"""RBAC: every condition and its opposite, the actions, shadow rules, and tricks with paths and headers."""

import asyncio
from typing import Any

import pytest

from tests.differential.case import Case, get, post
from tests.differential.conftest import Check
from tests.differential.pair import ORIGIN, Pair, World
from tests.support import decoding
from tests.support.decoding import ROUTER, Json, typed

ANY: Json = {"any": True}
NEVER: Json = {"not_rule": ANY}


def policy(permission: Json = ANY, principal: Json = ANY) -> Json:
    return {"permissions": [permission], "principals": [principal]}


def rules(action: str, **policies: Json) -> Json:
    return {"action": action, "policies": policies}


def rbac(**fields: Any) -> Json:
    return {"name": "envoy.filters.http.rbac", "typed_config": typed("filters.http.rbac.v3.RBAC", **fields)}


def header(name: str, **fields: Any) -> Json:
    return {"header": {"name": name, **fields}}


def path(**matcher: Any) -> Json:
    return {"url_path": {"path": matcher}}


def cidr(address: str, length: int) -> Json:
    return {"address_prefix": address, "prefix_len": length}


def template(text: str) -> Json:
    config = {
        "@type": "type.googleapis.com/envoy.extensions.path.match.uri_template.v3.UriTemplateMatchConfig",
        "path_template": text,
    }
    name = "envoy.path.match.uri_template.uri_template_matcher"
    return {"uri_template": {"name": name, "typed_config": config}}


# Listener -> the condition that lets a request in.
PERMISSIONS: dict[str, Json] = {
    "any": ANY,
    "path-exact": path(exact="/a"),
    "path-prefix": path(prefix="/a"),
    "path-suffix": path(suffix="a"),
    "path-contains": path(contains="/a/"),
    "path-case": path(exact="/A", ignore_case=True),
    "path-regex": path(safe_regex={"regex": "/a.*"}),
    "template-one": template("/t/*/u"),
    "template-rest": template("/t/**"),
    "method": header(":method", string_match={"exact": "GET"}),
    "host": header(":authority", string_match={"exact": "A.example", "ignore_case": True}),
    "host-suffix": header(":authority", string_match={"suffix": ".example", "ignore_case": True}),
    "path-header": header(":path", string_match={"exact": "/a"}),
    "header": header("x-a", string_match={"exact": "1"}),
    "header-present": header("x-a", present_match=True),
    "header-absent": header("x-a", present_match=False),
    "header-inverted": header("x-a", string_match={"exact": "1"}, invert_match=True),
    "port": {"destination_port_range": {"start": 1, "end": 65536}},
    "no-port": {"destination_port": 1},
    "local": {"destination_ip": cidr("127.0.0.0", 8)},
    "local-not": {"destination_ip": cidr("10.0.0.0", 8)},
    "and": {"and_rules": {"rules": [path(prefix="/a"), header("x-a", present_match=True)]}},
    "or": {"or_rules": {"rules": [path(exact="/a"), header("x-a", present_match=True)]}},
    "nested": {"not_rule": {"or_rules": {"rules": [{"not_rule": path(prefix="/a")}, path(exact="/a/secret")]}}},
    "told": {"metadata": {"filter": "nobody", "path": [{"key": "a"}], "value": {"present_match": True}}},
    "not-told": {"metadata": {"filter": "nobody", "path": [{"key": "a"}], "value": {"present_match": False}}},
    "told-null": {"metadata": {"filter": "nobody", "path": [{"key": "a"}], "value": {"null_match": {}}}},
    "told-inverted": {
        "metadata": {
            "filter": "nobody", "path": [{"key": "a"}], "value": {"string_match": {"exact": "b"}}, "invert": True,
        }
    },
}  # fmt: skip
PRINCIPALS: dict[str, Json] = {
    "authenticated": {"authenticated": {}},
    "named": {"authenticated": {"principal_name": {"safe_regex": {"regex": ".*"}}}},
    "direct": {"direct_remote_ip": cidr("127.0.0.0", 8)},
    "direct-host": {"direct_remote_ip": cidr("127.0.0.1", 32)},
    "direct-other": {"direct_remote_ip": cidr("10.0.0.0", 8)},
    "direct-all": {"direct_remote_ip": {"address_prefix": "0.0.0.0"}},
    "direct-v6": {"direct_remote_ip": cidr("::", 0)},
    "remote": {"remote_ip": cidr("192.0.2.0", 24)},
    "remote-v6": {"remote_ip": cidr("2001:db8::", 32)},
    "caller-header": header("x-a", string_match={"prefix": "1"}),
    "caller-path": {"url_path": {"path": {"prefix": "/a"}}},
    "both": {"and_ids": {"ids": [header("x-a", present_match=True), {"direct_remote_ip": cidr("127.0.0.1", 32)}]}},
    "either": {"or_ids": {"ids": [{"remote_ip": cidr("192.0.2.0", 24)}, header("x-a", present_match=True)]}},
}


def _listeners() -> dict[str, Json]:
    made: dict[str, Json] = {}
    for name, permission in PERMISSIONS.items():
        made[name] = {"http_filters": [rbac(rules=rules("ALLOW", p=policy(permission))), ROUTER]}
        negated = policy({"not_rule": permission})
        made[f"not-{name}"] = {"http_filters": [rbac(rules=rules("ALLOW", p=negated)), ROUTER]}
    for name, principal in PRINCIPALS.items():
        made[name] = {"http_filters": [rbac(rules=rules("ALLOW", p=policy(ANY, principal))), ROUTER]}
        negated = policy(ANY, {"not_id": principal})
        made[f"not-{name}"] = {"http_filters": [rbac(rules=rules("ALLOW", p=negated)), ROUTER]}
    return made


SECRET = {"ns[x]-policy[secret]-rule[0]": policy(path(prefix="/secret"))}
OPEN = {"b": policy(path(prefix="/open")), "a": policy(path(prefix="/open/a"))}
SHADOW = {"rules": {"x": 1}}
ACTIONS: dict[str, list[Json]] = {
    "off": [rbac()],
    "nothing": [rbac(rules=rules("ALLOW"))],
    "deny-nothing": [rbac(rules=rules("DENY"))],
    "deny": [rbac(rules=rules("DENY", **SECRET))],
    "deny-names": [rbac(rules=rules("DENY", **{"z last": policy(), "a first": policy(path(prefix="/x"))}))],
    "allow": [rbac(rules=rules("ALLOW", **OPEN))],
    "log": [rbac(rules=rules("LOG", **SECRET))],
    "both": [rbac(rules=rules("DENY", **SECRET)), rbac(rules=rules("ALLOW", all=policy(path(prefix="/"))))],
    "shadow": [rbac(shadow_rules=rules("DENY", **SECRET), shadow_rules_stat_prefix="dry_")],
    "shadow-and-real": [
        rbac(
            rules=rules("ALLOW", **OPEN), rules_stat_prefix="real_", shadow_rules=rules("ALLOW", x=policy(NEVER)),
            shadow_rules_stat_prefix="dry_",
        )
    ],
    "marked": [
        rbac(shadow_rules=rules("DENY", **SECRET), shadow_rules_stat_prefix="mark_"),
        rbac(rules=rules("DENY", seen=policy({"metadata": {
            "filter": "envoy.filters.http.rbac", "path": [{"key": "mark_shadow_effective_policy_id"}],
            "value": {"string_match": {"prefix": "ns["}},
        }}))),
    ],
    "result": [
        rbac(shadow_rules=rules("DENY", **SECRET)),
        rbac(rules=rules("DENY", seen=policy({"metadata": {
            "filter": "envoy.filters.http.rbac", "path": [{"key": "shadow_engine_result"}],
            "value": {"string_match": {"exact": "denied"}},
        }}))),
    ],
}  # fmt: skip
NORMAL = {"normalize_path": True}
WORLD = World(
    routes={
        "r": decoding.configuration(
            decoding.host(decoding.route({"cluster": "origin"}), domains=["*"]),
            decoding.host(
                {"match": {"prefix": "/"}, "direct_response": {"status": 204}}, name="direct", domains=["direct"]
            ),
            decoding.host(
                decoding.route({"cluster": "origin"}, {"path": "/only"}), name="empty", domains=["empty"]
            ),
            decoding.host(
                decoding.route(
                    {"cluster": "origin"},
                    typed_per_filter_config={
                        "envoy.filters.http.rbac": {
                            "@type": "type.googleapis.com/envoy.config.route.v3.FilterConfig",
                            "disabled": True,
                        }
                    },
                ),
                name="off",
                domains=["off"],
            ),
        )
    },
    clusters=(ORIGIN,),
    listeners={
        "http": {},
        **_listeners(),
        **{f"action-{name}": {"http_filters": [*filters, ROUTER]} for name, filters in ACTIONS.items()},
        "edge": {
            "http_filters": [rbac(rules=rules("ALLOW", p=policy(ANY, PRINCIPALS["remote"]))), ROUTER],
            "use_remote_address": True,
        },
        "tricks-deny": {"http_filters": [rbac(rules=rules("DENY", **SECRET)), ROUTER], **NORMAL},
        "tricks-allow": {
            "http_filters": [
                rbac(rules=rules("ALLOW", p=policy({"and_rules": {"rules": [
                    path(prefix="/open/"), {"not_rule": path(prefix="/open/secret")}]}}))),
                ROUTER,
            ],
            **NORMAL,
        },
        "tricks-merged": {
            "http_filters": [rbac(rules=rules("DENY", **SECRET)), ROUTER], **NORMAL, "merge_slashes": True,
        },
        "tallied": {"http_filters": [*ACTIONS["shadow-and-real"], *ACTIONS["deny"], ROUTER]},
    },
)  # fmt: skip

REQUESTS: dict[str, bytes] = {
    "plain": get(b"/"),
    "a": get(b"/a"),
    "a with a query": get(b"/a?x=/b"),
    "deeper": get(b"/a/b"),
    "secret below": get(b"/a/secret"),
    "upper": get(b"/A"),
    "post": post(b"/a"),
    "host": get(b"/", host=b"a.EXAMPLE"),
    "host with a port": get(b"/", host=b"a.example:80"),
    "header": get(b"/", b"X-A: 1"),
    "another header": get(b"/", b"X-A: 2"),
    "two headers": get(b"/", b"X-A: 2", b"X-A: 1"),
    "empty header": get(b"/", b"X-A:"),
    "header on a": get(b"/a", b"x-a: 1"),
    "forwarded": get(b"/", b"X-Forwarded-For: 192.0.2.7"),
    "forwarded twice": get(b"/", b"X-Forwarded-For: 192.0.2.7, 10.0.0.1"),
    "forwarded v6": get(b"/", b"X-Forwarded-For: 2001:db8::7"),
    "forwarded nonsense": get(b"/", b"X-Forwarded-For: nobody"),
    "template": get(b"/t/one/u"),
    "template, deeper": get(b"/t/one/two/u"),
    "template, bare": get(b"/t/"),
    "template, encoded": get(b"/t/a%2Fb/u"),
    "template, odd": get(b"/t/a|b/u"),
}
TRICKS: tuple[bytes, ...] = (
    b"/secret", b"/secret/", b"/secret?x", b"/secret#x", b"//secret", b"///secret", b"/./secret", b"/x/../secret",
    b"/x/%2e%2e/secret", b"/%2e/secret", b"/%73ecret", b"/%53ecret", b"/secret%2f", b"/%2fsecret", b"/secret;x",
    b"/;/secret", b"/SECRET", b"/secre%74", b"/secret%00", b"/x//../secret", b"/x/..;/secret", b"/open/../secret",
    b"/open/%2e%2e%2fsecret", b"/open/x", b"/open/secret", b"/open//secret", b"/open/./secret", b"/open/x/../secret",
    b"/open/%73ecret", b"/open/..", b"/../open/x", b"/open/secre%54", b"/open/?/secret", b"/%",
)  # fmt: skip
# What the agent refuses and Envoy passes on, whatever the rules (differences-from-envoy.md).
_STRICTER = (b"/secret%00", b"/secret#x")


_TELLING = {
    "path": ("a", "a with a query", "deeper", "secret below", "upper", "header on a"),
    "template": ("template", "template, deeper", "template, bare", "template, encoded", "template, odd"),
    "host": ("plain", "host", "host with a port"),
    "header": ("plain", "header", "another header", "two headers", "empty header", "header on a"),
}


def _telling(name: str) -> tuple[str, ...]:
    """The requests that tell a condition from its neighbours."""
    return _TELLING.get(name.partition("-")[0], ("plain", "a", "secret below", "header on a"))


def _shown(text: bytes) -> str:
    return text.decode("latin-1").replace("/", "|")


CASES = [
    *(
        Case(name=f"{name}: {request}", listener=name, send=(REQUESTS[request],))
        for name in PERMISSIONS
        for request in _telling(name)
    ),
    *(
        Case(name=f"not-{name}: {request}", listener=f"not-{name}", send=(REQUESTS[request],))
        for name in PERMISSIONS
        for request in ("plain", "a", "header")
    ),
    *(
        Case(name=f"{prefix}{name}: {request}", listener=f"{prefix}{name}", send=(REQUESTS[request],))
        for name in PRINCIPALS
        for prefix in ("", "not-")
        for request in ("a", "header", "forwarded twice", "forwarded v6", "forwarded nonsense")
    ),
    *(
        Case(name=f"action {name}: {_shown(target)}", listener=f"action-{name}", send=(get(target),))
        for name in ACTIONS
        for target in (b"/", b"/secret", b"/secret/x?y", b"/open/a", b"/x")
    ),
    *(
        Case(name=f"{name}: {_shown(target)}", listener=name, send=(get(target),))
        for name in ("tricks-deny", "tricks-allow", "tricks-merged")
        for target in TRICKS
        if target not in _STRICTER
    ),
    *(
        Case(name=f"edge: {request}", listener="edge", send=(REQUESTS[request],), differs="loopback-peer")
        for request in ("plain", "forwarded")
    ),
    Case(name="direct", listener="action-deny", send=(get(b"/secret", host=b"direct"),)),
    Case(name="no route", listener="action-deny", send=(get(b"/x", host=b"empty"),)),
    Case(name="no route, denied", listener="action-deny", send=(get(b"/secret", host=b"empty"),)),
    Case(name="switched off by the route", listener="action-deny", send=(get(b"/secret", host=b"off"),)),
    *(
        Case(
            name=f"post: {name}",
            listener=name,
            send=(REQUESTS["post"],),
            differs="" if name in ("any", "path-exact", "path-prefix", "or") else "answered-before-the-body",
        )
        for name in ("any", "path-exact", "path-prefix", "or", "method", "and")
    ),
    Case(name="head", listener="action-deny", send=(get(b"/secret", method=b"HEAD"),)),
    Case(name="grpc", listener="action-deny", send=(get(b"/secret", b"content-type: application/grpc"),)),
    Case(name="a body", listener="action-deny", send=(post(b"/secret"),), differs="answered-before-the-body"),
]


@pytest.mark.envoy
@pytest.mark.parametrize("case", CASES, ids=str)
def test_the_same(case: Case, check: Check) -> None:
    check(case)


@pytest.mark.envoy
def test_the_same_is_counted(pair: Pair, runner: asyncio.Runner) -> None:
    async def run() -> tuple[dict[str, int], dict[str, int]]:
        for target in (b"/", b"/open", b"/open/a", b"/secret"):
            await pair.run(Case(name="one", listener="tallied", send=(get(target),)))
        return await pair.counted("http.tallied.rbac.", Case(name="last", send=(get(),)))

    envoy, agent = runner.run(run())
    assert agent == {name: value for name, value in envoy.items() if value}
    assert len(agent) == 4
