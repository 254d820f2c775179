"""The words of rate limits that both planes, and Envoys between them, must agree on.

Source: envoy/service/ratelimit/v3/rls.proto; CEL attributes of Envoy.
"""

from typing import Final

DOMAIN: Final = "gossamer"
LIMIT_KEY: Final = "limit"  # the first entry of each descriptor: which limit it is for
MATCH_KEY: Final = "match"
MATCHED: Final = "true"
# What descriptors tell by an expression: of all of CEL, agents know these.
URL_PATH_EXPRESSION: Final = "request.url_path"
PRINCIPAL_EXPRESSION: Final = "connection.uri_san_peer_certificate"
