"""What Istio's and Kubernetes' users write is taken, in every served version, and means what it means there."""

from typing import Any

import pytest

from controlplane.policy.admission import Admitted, admit
from controlplane.policy.destination_rule import DestinationRule
from controlplane.policy.http_route import DEFAULT_RETRY_ON, HTTPRoute, RetrySettings
from controlplane.policy.kinds import KINDS
from controlplane.policy.load_balancer import SimpleLB
from controlplane.policy.manifests import load_documents
from controlplane.policy.objects import PolicyObject, decode, encode
from controlplane.policy.peer_authentication import MutualTLSMode, PeerAuthentication
from controlplane.policy.protocols import Protocol
from controlplane.policy.service import Service
from controlplane.policy.service_entry import Location, Resolution, ServiceEntry
from controlplane.policy.spec import Spec
from controlplane.policy.traffic_policy import MAX_CONCURRENT_STREAMS, UNLIMITED, TLSMode
from controlplane.policy.virtual_service import VirtualService
from controlplane.policy.workload_entry import MAX_WEIGHT, WorkloadEntry
from tests.support.bad_policies import manifest
from tests.support.good_policies import in_all_versions

GOOD = list(in_all_versions())


def admitted(text: str) -> PolicyObject:
    (document,) = load_documents(text, source="good.yaml")
    verdict = admit(document.value)
    assert isinstance(verdict, Admitted), verdict
    return verdict.object


def spec(kind: str, text: str) -> Any:
    return admitted(manifest(kind, text)).spec


def http(rule: str) -> HTTPRoute:
    found = spec("VirtualService", f"{{hosts: [a], http: [{{route: [{{destination: {{host: a}}}}], {rule}}}]}}")
    return found.http[0]  # type: ignore[no-any-return]


@pytest.mark.parametrize("text", [text for _, text in GOOD], ids=[name for name, _ in GOOD])
def test_admitted_and_kept(text: str) -> None:
    """Admitted; stored in the storage version; read back the same; served again in the version it came in."""
    (document,) = load_documents(text, source="good.yaml")
    found = admitted(text)
    assert decode(encode(found)) == found
    assert found.manifest()["apiVersion"] == found.kind.storage_api_version
    version = document.value["apiVersion"].rpartition("/")[2]
    again = admit(found.manifest(version))
    assert isinstance(again, Admitted)
    assert again.object == found
    assert hash(found) == hash(decode(encode(found)))


def test_every_version_of_every_kind_is_tried() -> None:
    """Namespace, which has nothing to say, aside."""
    tried = {(name.partition("-")[0], name.rpartition("-")[2]) for name, _ in GOOD}
    served = {(info.kind, version) for info in KINDS for version in info.versions if info.kind != "Namespace"}
    assert tried == served


def test_versions_are_one_object() -> None:
    """The same manifest in another version is the same object: applied again it is unchanged."""
    by_name: dict[str, set[PolicyObject]] = {}
    for name, text in GOOD:
        by_name.setdefault(name.rpartition("-")[0], set()).add(admitted(text))
    assert all(len(objects) == 1 for objects in by_name.values())


def test_nothing_is_written_into_what_the_user_wrote() -> None:
    """Defaults stay out of the stored form, and durations and numbers keep their spelling."""
    found = admitted(manifest("DestinationRule", "{host: a, trafficPolicy: {outlierDetection: {interval: 60s}}}"))
    assert found.spec_json == b'{"host":"a","trafficPolicy":{"outlierDetection":{"interval":"60s"}}}'


def test_null_is_absent() -> None:
    found = admitted(manifest("DestinationRule", "{host: a, trafficPolicy: null, subsets: null}"))
    assert found.spec_json == b'{"host":"a"}'


@pytest.mark.parametrize(
    ("text", "seconds"),
    [("5s", 5.0), ("1m30s", 90.0), ("100ms", 0.1), ("1.5h", 5400.0), ("1500000us", 1.5), ("0.5s", 0.5)],
)
def test_durations(text: str, seconds: float) -> None:
    assert http(f"timeout: {text}").timeout_s == seconds


def test_defaults_of_a_route() -> None:
    """2.3.9, 2.3.10: two retries of Istio's set, no time-out; attempts 0 switches off; a part keeps the rest."""
    plain = http("name: a")
    assert plain.timeout_s is None
    assert http("timeout: 0s").timeout_s is None
    assert plain.retry_settings == RetrySettings(attempts=2, retry_on=DEFAULT_RETRY_ON)
    assert "503" not in DEFAULT_RETRY_ON
    assert http("retries: {attempts: 0}").retry_settings is None
    partial = http("retries: {attempts: 5, perTryTimeout: 1s}").retry_settings
    assert partial == RetrySettings(attempts=5, retry_on=DEFAULT_RETRY_ON, per_try_timeout_s=1.0)
    codes = http("retries: {attempts: 1, retryOn: '503,reset'}").retry_settings
    assert codes is not None
    assert codes.retriable_status_codes == (503,)
    assert codes.retry_on == ("reset", "retriable-status-codes")
    assert http("fault: {abort: {httpStatus: 500}}").fault.abort.effective_percent == 0  # type: ignore[union-attr]
    assert http("mirror: {host: b}").mirror_policies[0].effective_percent == 100


def test_defaults_of_a_traffic_policy() -> None:
    """2.1, 2.4.6: pools without limit, Istio's numbers for outlier detection, least request."""
    policy = spec("DestinationRule", "{host: a, trafficPolicy: {connectionPool: {tcp: {}}, outlierDetection: {}}}")
    pool, outlier = policy.traffic_policy.connection_pool, policy.traffic_policy.outlier_detection
    assert (pool.max_connections, pool.max_pending_requests, pool.max_requests, pool.max_retries) == (UNLIMITED,) * 4
    assert (pool.connect_timeout_s, pool.tcp_idle_timeout_s, pool.http_idle_timeout_s) == (10.0, 3600.0, 3600.0)
    assert (pool.max_requests_per_connection, pool.max_concurrent_streams) == (0, MAX_CONCURRENT_STREAMS)
    assert (outlier.consecutive_5xx, outlier.consecutive_gateway_failure) == (5, 0)
    assert outlier.consecutive_local_origin_failure == 0
    assert (outlier.interval_s, outlier.base_ejection_time_s) == (10.0, 30.0)
    assert (outlier.explicit_max_ejection_percent, outlier.istio_max_ejection_percent) == (None, 10)
    assert outlier.healthy_panic_threshold_percent == 0
    balancer = spec("DestinationRule", "{host: a, trafficPolicy: {loadBalancer: {localityLbSetting: {}}}}")
    assert balancer.traffic_policy.load_balancer.algorithm is SimpleLB.LEAST_REQUEST
    tls = spec("DestinationRule", "{host: a, trafficPolicy: {tls: {}}}")
    assert tls.traffic_policy.tls.mode is TLSMode.DISABLE


def test_zero_of_a_wrapper_is_not_unset() -> None:
    """2.4.6: 0 disables where Istio uses wrappers, and means the default where it does not."""
    outlier = spec(
        "DestinationRule",
        "{host: a, trafficPolicy: {outlierDetection: {consecutive5xxErrors: 0, maxEjectionPercent: 0}}}",
    ).traffic_policy.outlier_detection
    assert outlier.consecutive_5xx == 0
    assert outlier.explicit_max_ejection_percent is None
    split = spec(
        "DestinationRule", "{host: a, trafficPolicy: {outlierDetection: {splitExternalLocalOriginErrors: true}}}"
    ).traffic_policy.outlier_detection
    assert split.consecutive_local_origin_failure == 5
    pool = spec("DestinationRule", "{host: a, trafficPolicy: {connectionPool: {tcp: {maxConnections: 0}}}}")
    assert pool.traffic_policy.connection_pool.max_connections == UNLIMITED


def test_defaults_of_the_other_kinds() -> None:
    virtual: VirtualService = spec("VirtualService", "{hosts: [a], http: [{route: [{destination: {host: a}}]}]}")
    assert (virtual.effective_gateways, virtual.effective_export_to) == (("mesh",), ("*",))
    entry: ServiceEntry = spec("ServiceEntry", "{hosts: [a.b], ports: [{number: 80, name: x}]}")
    assert (entry.location, entry.resolution) == (Location.MESH_EXTERNAL, Resolution.NONE)
    assert entry.ports[0].effective_protocol is Protocol.UNSUPPORTED
    assert entry.ports[0].effective_target_port == 80
    workload: WorkloadEntry = spec("WorkloadEntry", "{address: 10.0.0.1}")
    assert workload.effective_weight == 1
    heavy: WorkloadEntry = spec("WorkloadEntry", "{address: 10.0.0.1, weight: 4294967295}")
    assert heavy.effective_weight == MAX_WEIGHT
    peer: PeerAuthentication = spec("PeerAuthentication", "{}")
    assert peer.mode is MutualTLSMode.UNSET
    rule: DestinationRule = spec("DestinationRule", "{host: a, workloadSelector: {matchLabels: {a: b}}}")
    assert rule.effective_export_to == (".",)
    service: Service = spec("Service", "{ports: [{name: http2-x, port: 80}, {name: x, port: 81, appProtocol: https}]}")
    assert [port.effective_protocol for port in service.ports] == [Protocol.HTTP2, Protocol.HTTPS]
    assert [port.effective_target_port for port in service.ports] == [80, 81]


@pytest.mark.parametrize(
    ("name", "kind", "text", "warning"),
    [
        ("unreachable", "VirtualService",
         "{hosts: [a], http: [{route: [{destination: {host: a}}]}, {name: b, route: [{destination: {host: b}}]}]}",
         "spec.http[1]: is never reached"),
        ("mirror-percent", "VirtualService",
         "{hosts: [a], http: [{route: [{destination: {host: a}}], mirror: {host: b}, mirrorPercent: 5}]}",
         "spec.http[0].mirrorPercent: is deprecated"),
        ("consecutive-errors", "DestinationRule",
         "{host: a, trafficPolicy: {outlierDetection: {consecutiveErrors: 5}}}", "use consecutive5xxErrors"),
        ("failover", "DestinationRule",
         "{host: a, trafficPolicy: {loadBalancer: {localityLbSetting: {failover: [{from: a, to: b}]}}}}",
         "fails over only when outlierDetection stands beside it"),
        ("weight", "WorkloadEntry", "{address: 10.0.0.1, weight: 70000}", "spec.weight: counts as 65535"),
        ("selector", "PeerAuthentication", "{selector: {}}", "selects every workload of the namespace"),
    ],
    ids=lambda value: value if value.replace("-", "").isalpha() and value.islower() else "",
)  # fmt: skip
def test_warned_of_but_taken(name: str, kind: str, text: str, warning: str) -> None:
    """What is allowed and probably not meant."""
    (document,) = load_documents(manifest(kind, text), source=name)
    verdict = admit(document.value)
    assert isinstance(verdict, Admitted)
    assert any(warning in found for found in verdict.warnings), verdict.warnings


def test_specs_are_frozen_and_hashable_through_and_through() -> None:
    """A whole policy can be part of a cache key."""
    for _, text in GOOD:
        found = admitted(text)
        assert isinstance(found.spec, Spec)
        assert hash(found.spec) == hash(admitted(text).spec)
