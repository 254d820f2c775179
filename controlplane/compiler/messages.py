"""The catalogue of what analysis can say: code, name and severity of each finding. Pure.

Owns:   Istio's codes where Istio has the message, GSM codes where it has none; which condition has which.
Not:    finding anything (findings, route_reach), the words about one object.
Source: control-plane.md 2.6; istio.io "Configuration analysis messages".
"""

from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum

from controlplane.compiler.types import Condition


class Severity(StrEnum):
    """Error: requests fail or go elsewhere. Warning: something has no effect. Info: it could be clearer."""

    ERROR = "Error"
    WARNING = "Warning"
    INFO = "Info"

    @property
    def rank(self) -> int:
        """0 is the worst."""
        return list(Severity).index(self)


@dataclass(frozen=True, slots=True)
class Message:
    """One kind of finding. `instances`: it depends on which instances are registered, which files do not say."""

    code: str
    name: str
    severity: Severity
    summary: str
    instances: bool = False


_E, _W, _I = Severity.ERROR, Severity.WARNING, Severity.INFO

CATALOGUE: Mapping[str, Message] = {
    message.code: message
    for message in (
        Message("IST0101", "ReferencedResourceNotFound", _E, "a host, port or subset that a route names is not there"),
        Message("IST0106", "SchemaValidationError", _E, "the object would be refused"),
        Message("IST0109", "ConflictingMeshGatewayVirtualServiceHosts", _E, "two VirtualServices for one host"),
        Message("IST0112", "VirtualServiceDestinationPortSelectorRequired", _E, "the service has several ports"),
        Message("IST0118", "PortNameIsNotUnderNamingConvention", _I, "neither name nor appProtocol says the protocol"),
        Message("IST0127", "NoMatchingWorkloadsFound", _W, "a selector selects no workload", instances=True),
        Message("IST0128", "NoServerCertificateVerificationDestinationLevel", _W, "the server is not verified"),
        Message("IST0129", "NoServerCertificateVerificationPortLevel", _W, "the server is not verified on a port"),
        Message("IST0130", "VirtualServiceUnreachableRule", _W, "earlier rules take all its requests"),
        Message("IST0131", "VirtualServiceIneffectiveMatch", _I, "an earlier match takes all its requests"),
        Message("IST0132", "VirtualServiceHostNotFoundInGateway", _W, "a gateway has none of the rule's hosts"),
        Message("IST0145", "ConflictingGateways", _E, "another Gateway has the port or the host"),
        Message(
            "IST0161", "InvalidGatewayCredential", _E, "the Secret of a server holds no certificate", instances=True
        ),
        Message("IST0173", "DestinationRuleSubsetNotSelectPods", _E, "a subset selects no instance", instances=True),
        Message("IST0174", "UnknownDestinationRuleHost", _W, "a DestinationRule for a host that is not there"),
        Message("GSM0101", "NotEnforced", _W, "proxies do not do what a field says"),
        Message("GSM0102", "Approximated", _I, "Envoys or gRPC clients do something alike"),
        Message("GSM0103", "SharedClusters", _W, "another rule holds for all workloads of a node"),
        Message("GSM0104", "PolicyConflict", _W, "an older object decides"),
        Message("GSM0105", "SelectorInRootNamespace", _W, "a selector in the root namespace selects nothing"),
        Message("GSM0106", "HostAlreadyDefined", _W, "another object defines the host"),
        Message("GSM0107", "NoMatchingPort", _E, "the targetPort fits no port of an instance", instances=True),
        Message("GSM0108", "NoCertificates", _E, "a port stays closed: the proxy has no certificates"),
        Message("GSM0109", "Rejected", _E, "proxies refuse what the object makes"),
        Message("GSM0110", "Unreadable", _E, "the stored value cannot be read"),
        Message("GSM0111", "UnsupportedProtocol", _I, "agents do not speak HTTP/2 to the servers of a port"),
        Message("GSM0112", "NoRoute", _W, "a gateway's port has no rule of its kind: nothing is served"),
        Message("GSM0113", "OutsideOfRoot", _W, "a delegate's rule does not lie within that of the root"),
        Message("GSM0114", "KeysNotFetched", _E, "the keys of an issuer could not be fetched: its tokens are refused"),
        Message("GSM0120", "NotAccepted", _E, "a Gateway, listener or route of the Gateway API is not accepted"),
        Message("GSM0121", "RefNotResolved", _E, "a reference of the Gateway API is not permitted or of no known kind"),
        Message("GSM0115", "KeysNotRenewed", _W, "the latest fetch of an issuer's keys has failed"),
        Message("GSM0100", "Other", _W, "something needs attention"),
    )
}

_BY_REASON: Mapping[str, str] = {
    "UnsupportedField": "GSM0101",
    "UnsupportedProtocol": "GSM0111",
    "OutsideOfRoot": "GSM0113",
    "SecretNotGiven": "GSM0101",
    "OtherNamespace": "GSM0101",
    "NoRoute": "GSM0112",
    "GrpcClient": "GSM0102",
    "GrpcServer": "GSM0102",
    "EnvoyProxy": "GSM0102",
    "SharedClusters": "GSM0103",
    "OtherObjectWins": "GSM0104",
    "SelectorInRootNamespace": "GSM0105",
    "HostAlreadyDefined": "GSM0106",
    "NoMatchingPort": "GSM0107",
    "KeysNotFetched": "GSM0114",
    "KeysNotRenewed": "GSM0115",
    "NoCertificates": "GSM0108",
    "ProxyRejected": "GSM0109",
    "Unreadable": "GSM0110",
}


def message_of(condition: Condition) -> Message:
    """The kind of finding that a condition is."""
    return CATALOGUE[condition.code or _BY_REASON.get(condition.reason, "GSM0100")]
