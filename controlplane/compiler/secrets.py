"""Secrets that travel by SDS over ADS: the mesh's roots, never a key (decision 15).

Source: envoy.extensions.transport_sockets.tls.v3.Secret; decision 15.
Invariant: the same roots give the same bytes, whatever their order in the store.
"""

from collections.abc import Iterable, Mapping

from envoy.extensions.transport_sockets.tls.v3.common_pb2 import CertificateValidationContext
from envoy.extensions.transport_sockets.tls.v3.secret_pb2 import SdsSecretConfig, Secret

from controlplane.compiler.resources import ADS, make_resource
from controlplane.compiler.types import Resource
from mesh.xds import type_url
from mesh.xds.names import TRUST_SECRET


def bundle(roots: Mapping[str, str]) -> tuple[str, ...]:
    """The certificates in a fixed order, as the inputs of `build_trust`."""
    return tuple(f"{roots[name].strip()}\n" for name in sorted(roots))


def build_trust(certificates: Iterable[str]) -> Resource:
    """The roots that every certificate of the mesh chains to."""
    context = CertificateValidationContext()
    context.trusted_ca.inline_string = "".join(certificates)
    return make_resource(type_url.SECRET, TRUST_SECRET, Secret(name=TRUST_SECRET, validation_context=context))


def trust_config() -> SdsSecretConfig:
    """Where a transport socket gets it from."""
    return SdsSecretConfig(name=TRUST_SECRET, sds_config=ADS)
