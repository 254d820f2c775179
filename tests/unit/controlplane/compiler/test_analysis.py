"""Analysis: a mesh in, codes at objects and fields out; each case says everything that is found in it."""

from dataclasses import dataclass
from typing import Any

import pytest

from controlplane.compiler.analysis import analyse
from controlplane.compiler.compile import Compiler
from controlplane.compiler.messages import CATALOGUE, Severity, message_of
from controlplane.compiler.types import Condition
from controlplane.model.mesh_state import Changes, MeshState
from mesh.vocabulary import ObjectRef
from tests.support.compiling import instance, mesh_of, put


def service(spec: str, *, name: str = "x") -> str:
    """A Service."""
    return f"apiVersion: v1\nkind: Service\nmetadata: {{name: {name}}}\nspec: {spec}\n"


SERVICE = service("{selector: {app: a}, ports: [{name: http, port: 80}]}", name="a")
TWO_PORTS = """\
apiVersion: v1
kind: Service
metadata: {name: b}
spec:
  selector: {app: b}
  ports: [{name: http, port: 80, targetPort: 3001}, {name: http-admin, port: 81, targetPort: 3002}]
"""
A = "a.default.svc.cluster.local"
TO_A = "route: [{destination: {host: a}}]"
Found = tuple[str, str, str]  # code, object, path


@dataclass(frozen=True)
class Case:
    """`text` is laid over SERVICE, TWO_PORTS, and an instance of each; `found` is all that is found."""

    name: str
    text: str
    found: tuple[Found, ...]


def virtual_service(http: str, *, name: str = "x", hosts: str = "a", more: str = "", metadata: str = "") -> str:
    """`http` is YAML of the list of rules."""
    return (
        f"apiVersion: networking.istio.io/v1\nkind: VirtualService\nmetadata: {{name: {name}{metadata}}}\n"
        f"spec: {{hosts: [{hosts}], http: [{http}]{more}}}\n"
    )


def rule(spec: str, *, name: str = "x", namespace: str = "default", kind: str = "DestinationRule") -> str:
    """An object of that kind."""
    version = "security.istio.io/v1" if kind == "PeerAuthentication" else "networking.istio.io/v1"
    return f"apiVersion: {version}\nkind: {kind}\nmetadata: {{name: {name}, namespace: {namespace}}}\nspec: {spec}\n"


VS, DR, PA, SE, SVC = (
    f"{kind} default/x"
    for kind in ("VirtualService", "DestinationRule", "PeerAuthentication", "ServiceEntry", "Service")
)
TLS = "tls: {mode: SIMPLE, insecureSkipVerify: true}"

CASES = (
    Case("nothing", virtual_service(f"{{{TO_A}}}"), ()),
    Case(
        "unknown-host",
        virtual_service("{route: [{destination: {host: nobody}}]}"),
        (("IST0101", VS, "spec.http[0].route[0].destination.host"),),
    ),
    Case(
        "unknown-host-of-the-second-target",
        virtual_service("{route: [{destination: {host: a}, weight: 9}, {destination: {host: nobody}, weight: 1}]}"),
        (("IST0101", VS, "spec.http[0].route[1].destination.host"),),
    ),
    Case(
        "unknown-port",
        virtual_service("{route: [{destination: {host: a, port: {number: 81}}}]}"),
        (("IST0101", VS, "spec.http[0].route[0].destination.port.number"),),
    ),
    Case(
        "unknown-subset",
        virtual_service("{route: [{destination: {host: a, subset: v1}}]}"),
        (("IST0101", VS, "spec.http[0].route[0].destination.subset"),),
    ),
    Case(
        "subset-of-a-rule-that-is-not-exported",
        virtual_service("{route: [{destination: {host: a, subset: v1}}]}")
        + "---\n"
        + rule(f"{{host: {A}, exportTo: [.], subsets: [{{name: v1, labels: {{version: v1}}}}]}}", namespace="other"),
        (("IST0101", VS, "spec.http[0].route[0].destination.subset"),),
    ),
    Case(
        "unknown-mirror",
        virtual_service(f"{{{TO_A}, mirror: {{host: nobody}}}}"),
        (("IST0101", VS, "spec.http[0].mirror.host"),),
    ),
    Case(
        "unknown-delegate",
        virtual_service("{delegate: {name: nobody}}"),
        (("IST0101", VS, "spec.http[0].delegate"),),
    ),
    Case(
        "delegate-of-another-namespace-that-is-private",
        virtual_service("{delegate: {name: rules, namespace: other}}")
        + "---\n"
        + rule(f"{{exportTo: ['.'], http: [{{{TO_A}}}]}}", kind="VirtualService", name="rules", namespace="other"),
        (("IST0101", VS, "spec.http[0].delegate"),),
    ),
    Case(
        "delegate-outside-of-the-root",
        virtual_service("{match: [{uri: {prefix: /in}}], delegate: {name: rules}}")
        + "---\n"
        + rule(f"{{http: [{{match: [{{uri: {{prefix: /out}}}}], {TO_A}}}]}}", kind="VirtualService", name="rules"),
        (("GSM0113", "VirtualService default/rules", "spec.http[0].match"),),
    ),
    Case(
        "delegate-that-sends-nowhere",
        virtual_service("{delegate: {name: rules}}")
        + "---\n"
        + rule("{http: [{route: [{destination: {host: nobody}}]}]}", kind="VirtualService", name="rules"),
        (("IST0101", "VirtualService default/rules", "spec.http[0].route[0].destination.host"),),
    ),
    Case(
        "two-virtual-services-for-one-host",
        virtual_service(f"{{{TO_A}}}", name="first") + "---\n" + virtual_service(f"{{{TO_A}}}", hosts="z.example, a"),
        (("IST0109", VS, "spec.hosts[1]"),),
    ),
    Case(
        "both-of-them-merge",
        virtual_service(f"{{{TO_A}}}", name="first", metadata=", annotations: {gossamer.mesh/merge: 'true'}")
        + "---\n"
        + virtual_service(f"{{{TO_A}}}", metadata=", annotations: {gossamer.mesh/merge: 'true'}"),
        (),
    ),
    Case(
        "only-one-of-them-merges",
        virtual_service(f"{{{TO_A}}}", name="first")
        + "---\n"
        + virtual_service(f"{{{TO_A}}}", metadata=", annotations: {gossamer.mesh/merge: 'true'}"),
        (("IST0109", VS, "spec.hosts[0]"),),
    ),
    Case(
        "port-of-the-request",
        virtual_service("{route: [{destination: {host: b}}]}", hosts="c.example, a"),
        (),
    ),
    Case(
        "port-required-for-a-port-that-it-lacks",
        service("{selector: {app: a}, ports: [{name: http, port: 99}]}", name="c")
        + "---\n"
        + virtual_service("{route: [{destination: {host: b}}]}", hosts="c"),
        (("IST0112", VS, "spec.http[0].route[0].destination"),),
    ),
    Case(
        "port-without-a-protocol",
        service("{selector: {app: a}, ports: [{port: 80}]}"),
        (("IST0118", SVC, "spec.ports[0]"),),
    ),
    Case(
        "port-with-appProtocol",
        service("{selector: {app: a}, ports: [{port: 80, appProtocol: http}]}"),
        (),
    ),
    Case(
        "policy-without-workloads",
        rule("{selector: {matchLabels: {app: nobody}}, mtls: {mode: STRICT}}", kind="PeerAuthentication"),
        (("IST0127", PA, "spec.selector"),),
    ),
    Case(
        "policy-with-workloads",
        rule("{selector: {matchLabels: {app: a}}, mtls: {mode: STRICT}}", kind="PeerAuthentication"),
        (),
    ),
    Case(
        "rule-without-workloads",
        rule("{host: a, workloadSelector: {matchLabels: {app: nobody}}}"),
        (("IST0127", DR, "spec.workloadSelector"),),
    ),
    Case(
        "service-entry-without-workloads",
        rule(
            "{hosts: [x.example], ports: [{number: 80, name: http, protocol: HTTP}], resolution: STATIC, "
            "workloadSelector: {labels: {app: nobody}}}",
            kind="ServiceEntry",
        ),
        (("IST0127", SE, "spec.workloadSelector"),),
    ),
    Case(
        "server-not-verified",
        rule(f"{{host: a, trafficPolicy: {{{TLS}}}}}"),
        (("IST0128", DR, "spec.trafficPolicy.tls"),),
    ),
    Case(
        "server-of-a-subset-not-verified",
        rule(f"{{host: a, subsets: [{{name: v1, labels: {{version: v1}}, trafficPolicy: {{{TLS}}}}}]}}"),
        (("IST0128", DR, "spec.subsets[0].trafficPolicy.tls"),),
    ),
    Case(
        "server-on-a-port-not-verified",
        rule(f"{{host: a, trafficPolicy: {{portLevelSettings: [{{port: {{number: 80}}, {TLS}}}]}}}}"),
        (("IST0129", DR, "spec.trafficPolicy.portLevelSettings[0].tls"),),
    ),
    Case(
        "rule-behind-a-catch-all",
        virtual_service(f"{{{TO_A}}}, {{match: [{{uri: {{exact: /a}}}}], {TO_A}}}"),
        (("IST0130", VS, "spec.http[1]"),),
    ),
    Case(
        "rule-behind-the-root-prefix",
        virtual_service(f"{{match: [{{uri: {{prefix: /}}}}], {TO_A}}}, {{{TO_A}}}"),
        (("IST0130", VS, "spec.http[1]"),),
    ),
    Case(
        "rule-behind-a-shorter-prefix",
        virtual_service(
            f"{{match: [{{uri: {{prefix: /a}}}}], {TO_A}}}, "
            f"{{match: [{{uri: {{prefix: /ab}}, method: {{exact: GET}}}}, {{uri: {{exact: /a/b}}}}], {TO_A}}}"
        ),
        (("IST0130", VS, "spec.http[1]"),),
    ),
    Case(
        "rule-behind-a-header-that-it-demands-too",
        virtual_service(
            f"{{match: [{{headers: {{x-a: {{}}}}}}], {TO_A}}}, {{match: [{{headers: {{x-a: {{exact: b}}}}}}], {TO_A}}}"
        ),
        (("IST0130", VS, "spec.http[1]"),),
    ),
    Case(
        "rules-that-only-look-alike",
        virtual_service(
            f"{{match: [{{uri: {{prefix: /ab}}}}], {TO_A}}}, {{match: [{{uri: {{prefix: /a}}}}], {TO_A}}}, "
            f"{{match: [{{uri: {{prefix: /c}}, headers: {{x: {{exact: y}}}}}}], {TO_A}}}, "
            f"{{match: [{{uri: {{prefix: /c}}}}], {TO_A}}}, "
            f"{{match: [{{uri: {{prefix: /d}}, withoutHeaders: {{x: {{exact: y}}}}}}], {TO_A}}}, "
            f"{{match: [{{uri: {{prefix: /d}}}}], {TO_A}}}, "
            f"{{match: [{{uri: {{regex: '/e.*'}}}}], {TO_A}}}, {{match: [{{uri: {{exact: /e1}}}}], {TO_A}}}, "
            f"{{match: [{{port: 80, uri: {{prefix: /f}}}}], {TO_A}}}, {{match: [{{uri: {{prefix: /f}}}}], {TO_A}}}, "
            f"{{match: [{{sourceLabels: {{app: b}}}}], {TO_A}}}, {{{TO_A}}}"
        ),
        (),
    ),
    Case(
        "match-that-an-earlier-one-takes",
        virtual_service(
            f"{{match: [{{uri: {{prefix: /a}}}}], {TO_A}}}, "
            f"{{match: [{{uri: {{prefix: /b}}}}, {{uri: {{prefix: /a/b}}}}], {TO_A}}}"
        ),
        (("IST0131", VS, "spec.http[1].match[1]"),),
    ),
    Case(
        "match-twice-in-one-rule",
        virtual_service(f"{{match: [{{uri: {{exact: /a}}}}, {{uri: {{exact: /a}}}}], {TO_A}}}"),
        (("IST0131", VS, "spec.http[0].match[1]"),),
    ),
    Case(
        "match-in-other-case",
        virtual_service(
            f"{{match: [{{uri: {{prefix: /A}}, ignoreUriCase: true}}], {TO_A}}}, "
            f"{{match: [{{uri: {{exact: /aB}}}}, {{uri: {{exact: /c}}}}], {TO_A}}}"
        ),
        (("IST0131", VS, "spec.http[1].match[0]"),),
    ),
    Case(
        "subset-selects-nothing",
        rule("{host: a, subsets: [{name: v1, labels: {version: v1}}, {name: v9, labels: {version: v9}}]}"),
        (("IST0173", DR, "spec.subsets[1]"),),
    ),
    Case("rule-for-an-unknown-host", rule("{host: nobody}"), (("IST0174", DR, "spec.host"),)),
    Case("rule-for-a-wildcard", rule("{host: '*.svc.cluster.local'}"), ()),
    Case(
        "field-that-is-not-enforced",
        virtual_service(f"{{{TO_A}, match: [{{statPrefix: a}}]}}"),
        (("GSM0101", VS, "spec.http[0].match[0].statPrefix"),),
    ),
    Case(
        "two-rules-for-one-host",
        rule("{host: a, trafficPolicy: {loadBalancer: {simple: RANDOM}}}", name="first")
        + "---\n"
        + rule("{host: a, trafficPolicy: {loadBalancer: {simple: ROUND_ROBIN}}}"),
        (("GSM0104", DR, ""),),
    ),
    Case(
        "two-policies-for-one-namespace",
        rule("{mtls: {mode: STRICT}}", name="first", kind="PeerAuthentication")
        + "---\n"
        + rule("{mtls: {mode: DISABLE}}", kind="PeerAuthentication"),
        (("GSM0104", PA, ""),),
    ),
    Case(
        "selector-in-the-root-namespace",
        rule("{selector: {matchLabels: {app: a}}}", kind="PeerAuthentication", namespace="istio-system"),
        (("GSM0105", "PeerAuthentication istio-system/x", "spec.selector"),),
    ),
    Case(
        "host-defined-twice",
        rule(
            "{hosts: [a.default.svc.cluster.local], ports: [{number: 80, name: http, protocol: HTTP}], "
            "resolution: STATIC}",
            kind="ServiceEntry",
        ),
        (("GSM0106", SE, ""),),
    ),
    Case(
        "target-port-that-no-instance-has",
        service("{selector: {app: b}, ports: [{name: http, port: 80, targetPort: 9999}]}"),
        (("GSM0107", SVC, "spec.ports[0]"),),
    ),
    Case(
        "several-at-once",
        virtual_service(
            "{route: [{destination: {host: nobody}}]}, {match: [{uri: {exact: /x}}], route: [{destination: {host: b}}]}"
        ),
        (("IST0101", VS, "spec.http[0].route[0].destination.host"), ("IST0130", VS, "spec.http[1]")),
    ),
)  # fmt: skip


def mesh(text: str) -> MeshState:
    two: dict[str, Any] = {
        "ports": [
            {"name": "one", "port": 3001, "protocol": "HTTP", "inbound_port": 20000},
            {"name": "two", "port": 3002, "protocol": "HTTP", "inbound_port": 20001},
        ]
    }
    base = put(
        mesh_of(f"{SERVICE}---\n{TWO_PORTS}"),
        instance("a1", service="a", version="v1"),
        instance("b1", service="b", **two),
    )  # fmt: skip
    return base.with_changes(Changes(revision=9, objects=tuple(mesh_of(text).objects.values())))


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_what_is_found(case: Case) -> None:
    found = analyse(mesh(case.text))
    assert sorted((item.code, str(item.ref), item.path) for item in found) == sorted(case.found)


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_what_needs_attention_is_a_condition_too(case: Case) -> None:
    """One source of truth: whatever is no mere hint stands on the object with the same words."""
    state = mesh(case.text)
    conditions = Compiler().conditions(state)
    for item in analyse(state):
        if item.severity is not Severity.INFO:
            assert any(own.ref == item.ref and item.message in own.message for own in conditions), item


def test_the_worst_comes_first() -> None:
    found = analyse(mesh(CASES[-1].text + "---\n" + rule("{host: nobody}")))
    ranks = [item.severity.rank for item in found]
    assert ranks == sorted(ranks)


def test_files_alone_say_nothing_about_instances() -> None:
    """Which instances there are is not in files, and a registration may make a host that is not there."""
    text = (
        virtual_service("{route: [{destination: {host: nobody}}]}")
        + "---\n"
        + rule("{host: a, subsets: [{name: v9, labels: {version: v9}}]}")
        + "---\n"
        + rule("{selector: {matchLabels: {app: nobody}}}", kind="PeerAuthentication")
    )
    found = analyse(mesh_of(f"{SERVICE}---\n{text}"), only_files=True)
    assert [(item.code, item.severity) for item in found] == [("IST0101", Severity.WARNING)]
    assert found[0].message.endswith("there is no service nobody.default.svc.cluster.local in these files")


def test_every_code_stands_once_and_under_its_own_name() -> None:
    assert all(code == message.code for code, message in CATALOGUE.items())
    assert len({message.name for message in CATALOGUE.values()}) == len(CATALOGUE)


def test_a_condition_of_a_new_reason_is_still_a_finding() -> None:
    """A reason that the catalogue does not know yet is not lost."""
    unknown = Condition(ObjectRef("", "Service", "default", "x"), "Odd", "True", "NeverSeen", "m")
    assert message_of(unknown).code == "GSM0100"
