"""StringMatch: exactly one of exact, prefix, regex; none of them = the header or parameter is present.

Source: istio.io/api networking/v1 StringMatch.
"""

from controlplane.policy.scalars import Text
from controlplane.policy.spec import Spec


class StringMatch(Spec):
    """One way to compare a string. At most one field is set."""

    exact: Text | None = None
    prefix: Text | None = None
    regex: Text | None = None

    @property
    def is_presence(self) -> bool:
        """Whether it asks only that the value be there: nothing set, or the regex `*`, which is no RE2."""
        return self.regex == "*" or (self.exact is None and self.prefix is None and self.regex is None)
