"""Secrets and rules that name them, for tests of `credentialName`. `hunter2` stands where a private key stands."""

import base64

CERTIFICATE = "-----BEGIN CERTIFICATE-----\nMIIB\n-----END CERTIFICATE-----\n"
KEY = "-----BEGIN PRIVATE KEY-----\nMIIBhunter2A\n-----END PRIVATE KEY-----\n"
CLIENT, ROOTS = "kubernetes://client", "kubernetes://client-cacert"
SERVICE_ENTRY = """\
apiVersion: networking.istio.io/v1
kind: ServiceEntry
metadata: {name: outside}
spec:
  hosts: [outside.example.com]
  resolution: STATIC
  ports: [{number: 80, name: http, protocol: HTTP, targetPort: 443}]
  endpoints: [{address: 10.1.0.1}]
"""
RULE = """\
apiVersion: networking.istio.io/v1
kind: DestinationRule
metadata: {name: outside}
spec: {host: outside.example.com, trafficPolicy: {tls: {mode: MUTUAL, credentialName: client}}}
"""


def encoded(text: str) -> str:
    """As `data` has it."""
    return base64.b64encode(text.encode()).decode()


def tls_secret(
    name: str = "client", *, chain: str = CERTIFICATE, key: str = KEY, roots: str = CERTIFICATE, generation: int = 1
) -> str:
    """A manifest of type kubernetes.io/tls."""
    return (
        f"apiVersion: v1\nkind: Secret\nmetadata: {{name: {name}, generation: {generation}}}\ntype: kubernetes.io/tls\n"
        f"data: {{tls.crt: {encoded(chain)}, tls.key: {encoded(key)}, ca.crt: {encoded(roots)}}}\n"
    )
