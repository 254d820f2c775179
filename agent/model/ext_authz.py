"""A service that is asked whether a request may pass.

Source: envoy/extensions/filters/http/ext_authz/v3/ext_authz.proto, the HTTP service.
"""

from dataclasses import dataclass

from agent.model.matchers import StringMatcher
from agent.model.rbac import MetadataIs


@dataclass(frozen=True, slots=True, kw_only=True)
class ExternalAuthorization:
    """`enabled_by`: only requests about which an earlier filter has told so are asked about; None = all.

    `request_headers`: shown to the service beside those that always are. `to_upstream` and `appended_upstream`: of its
    answer, set on the request and added to it; `to_client` (None = all) and `to_client_allowed`: sent to the client
    when it denies and when it allows.
    """

    cluster: str
    timeout_s: float
    path_prefix: str = ""
    added_headers: tuple[tuple[str, str], ...] = ()
    request_headers: tuple[StringMatcher, ...] = ()
    disallowed_headers: tuple[StringMatcher, ...] = ()
    to_upstream: tuple[StringMatcher, ...] = ()
    appended_upstream: tuple[StringMatcher, ...] = ()
    to_client: tuple[StringMatcher, ...] | None = None
    to_client_allowed: tuple[StringMatcher, ...] = ()
    fail_open: bool = False
    status_on_error: int = 403
    enabled_by: MetadataIs | None = None
    stat_prefix: str = ""
