"""Secrets that travel by SDS over ADS: the mesh's roots, and the user's own; never a key that the mesh made.

Owns:   their resources and names, where a transport socket gets them from, what is missing of a `credentialName`.
Not:    who is given the user's (services.gets_secrets).
Source: envoy.extensions.transport_sockets.tls.v3.Secret; decision 15; Istio's names for `credentialName`.
Invariant: the same roots give the same bytes, whatever their order in the store.

    credentialName: c    resource                 from
    certificate, key     kubernetes://c           Secret c
    roots                kubernetes://c-cacert    Secret c-cacert, else Secret c
"""

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field

from envoy.extensions.transport_sockets.tls.v3.common_pb2 import CertificateValidationContext
from envoy.extensions.transport_sockets.tls.v3.secret_pb2 import SdsSecretConfig
from envoy.extensions.transport_sockets.tls.v3.secret_pb2 import Secret as SdsSecret

from controlplane.compiler.resources import ADS, make_resource, sources_of
from controlplane.compiler.types import Resource, Source
from controlplane.policy.objects import PolicyObject
from controlplane.policy.secret import Secret
from controlplane.policy.traffic_policy import ClientTLSSettings, TLSMode
from mesh.xds import type_url
from mesh.xds.names import TRUST_SECRET, USER_SECRETS

Secrets = Mapping[tuple[str, str], PolicyObject]  # by namespace and name
_ROOTS = "-cacert"


@dataclass(frozen=True, slots=True, kw_only=True, order=True)
class Credential:
    """One half of what a `credentialName` means: certificate with key, or roots. `granted`: of another namespace."""

    namespace: str
    name: str
    roots: bool
    granted: bool = False

    @property
    def resource(self) -> str:
        """The name on the wire."""
        name = f"{self.namespace}/{self.name}" if self.granted else self.name
        return roots_name(name) if self.roots else certificate_name(name)


@dataclass(frozen=True, slots=True, kw_only=True)
class CredentialInputs:
    """PEM, all but the name without repr."""

    name: str
    chain: str = field(default="", repr=False)
    key: str = field(default="", repr=False)
    roots: str = field(default="", repr=False)
    sources: tuple[Source, ...] = ()


def bundle(roots: Mapping[str, str]) -> tuple[str, ...]:
    """The certificates in a fixed order, as the inputs of `build_trust`."""
    return tuple(f"{roots[name].strip()}\n" for name in sorted(roots))


def build_trust(certificates: Iterable[str]) -> Resource:
    """The roots that every certificate of the mesh chains to."""
    context = CertificateValidationContext()
    context.trusted_ca.inline_string = "".join(certificates)
    return make_resource(type_url.SECRET, TRUST_SECRET, SdsSecret(name=TRUST_SECRET, validation_context=context))


def trust_config() -> SdsSecretConfig:
    """Where a transport socket gets it from."""
    return SdsSecretConfig(name=TRUST_SECRET, sds_config=ADS)


# --- the user's own


def certificate_name(credential: str) -> str:
    """The resource with certificate and key."""
    return f"{USER_SECRETS}{credential}"


def roots_name(credential: str) -> str:
    """The resource with the roots."""
    return f"{USER_SECRETS}{credential}{_ROOTS}"


def credential_config(name: str) -> SdsSecretConfig:
    """Where a transport socket gets the resource `name` from."""
    return SdsSecretConfig(name=name, sds_config=ADS)


def credentials_of(settings: ClientTLSSettings | None, namespace: str) -> Iterator[Credential]:
    """What the `credentialName` of a DestinationRule in `namespace` means; nothing without one."""
    if settings is None or not settings.credential_name or settings.mode not in (TLSMode.SIMPLE, TLSMode.MUTUAL):
        return
    if settings.mode is TLSMode.MUTUAL:
        yield Credential(namespace=namespace, name=settings.credential_name, roots=False)
    if not settings.insecure_skip_verify:
        yield Credential(namespace=namespace, name=settings.credential_name, roots=True)


def credential_inputs(wanted: Credential, secrets: Secrets) -> CredentialInputs | None:
    """What the resource is made of, or None when no Secret holds it."""
    for item in _candidates(wanted, secrets):
        spec = item.spec_as(Secret)
        if wanted.roots and spec.roots:
            return CredentialInputs(name=wanted.resource, roots=spec.roots, sources=sources_of((item,)))
        if not wanted.roots and spec.certificate is not None:
            chain, key = spec.certificate
            return CredentialInputs(name=wanted.resource, chain=chain, key=key, sources=sources_of((item,)))
    return None


def _candidates(wanted: Credential, secrets: Secrets) -> Iterator[PolicyObject]:
    for name in (f"{wanted.name}{_ROOTS}", wanted.name) if wanted.roots else (wanted.name,):
        found = secrets.get((wanted.namespace, name))
        if found is not None:
            yield found


def build_credential(inputs: CredentialInputs) -> Resource:
    """The resource."""
    secret = SdsSecret(name=inputs.name)
    if inputs.roots:
        secret.validation_context.trusted_ca.inline_string = inputs.roots
    else:
        secret.tls_certificate.certificate_chain.inline_string = inputs.chain
        secret.tls_certificate.private_key.inline_string = inputs.key
    return make_resource(type_url.SECRET, inputs.name, secret, inputs.sources)


def missing(wanted: Credential, secrets: Secrets) -> str:
    """What is not there, in words; nothing when all is."""
    if credential_inputs(wanted, secrets) is not None:
        return ""
    what = "ca.crt or cacert" if wanted.roots else "tls.crt and tls.key, or cert and key"
    if next(_candidates(wanted, secrets), None) is None:
        return f"there is no Secret {wanted.name} in namespace {wanted.namespace}"
    return f"the Secret {wanted.name} in namespace {wanted.namespace} holds no {what}"
