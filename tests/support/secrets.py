"""Secrets and rules that name them, for tests of `credentialName`."""

import base64

# Signs itself, until 2120.
CERTIFICATE = """\
-----BEGIN CERTIFICATE-----
MIIBITCByKADAgECAgEBMAoGCCqGSM49BAMCMA8xDTALBgNVBAMMBHRlc3QwIBcN
MjAwMTAxMDAwMDAwWhgPMjEyMDAxMDEwMDAwMDBaMA8xDTALBgNVBAMMBHRlc3Qw
WTATBgcqhkjOPQIBBggqhkjOPQMBBwNCAARgEg0//WV/RBvF2QFaYf7klX73sebe
oDBlV1G9UqATkSZ5zXuoK6tIUx6J69SPe1WmE3l/4o42RXpA/XjMCf/WoxMwETAP
BgNVHRMBAf8EBTADAQH/MAoGCCqGSM49BAMCA0gAMEUCIQCSWuvm7hvkB+h7Ftah
GAMEQ7D9vy38PLfg8w0FERaIggIgQaeOAY32ecIhv/TzR18ZFKMh/va+BsqAK1Bx
vN+c1K0=
-----END CERTIFICATE-----
"""
KEY = """\
-----BEGIN PRIVATE KEY-----
MIGHAgEAMBMGByqGSM49AgEGCCqGSM49AwEHBG0wawIBAQQgbBnfYTC0ruN85xb0
ctq2UHAVF1gHVIqIvbyyVPXfA/uhRANCAARgEg0//WV/RBvF2QFaYf7klX73sebe
oDBlV1G9UqATkSZ5zXuoK6tIUx6J69SPe1WmE3l/4o42RXpA/XjMCf/W
-----END PRIVATE KEY-----
"""
# The same key written otherwise.
NEXT_KEY = """\
-----BEGIN EC PRIVATE KEY-----
MHcCAQEEIGwZ32EwtK7jfOcW9HLatlBwFRdYB1SKiL28slT13wP7oAoGCCqGSM49
AwEHoUQDQgAEYBINP/1lf0QbxdkBWmH+5JV+97Hm3qAwZVdRvVKgE5Emec17qCur
SFMeievUj3tVphN5f+KONkV6QP14zAn/1g==
-----END EC PRIVATE KEY-----
"""
# What nobody may be shown.
PRIVATE = (KEY.splitlines()[1], NEXT_KEY.splitlines()[1])
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
