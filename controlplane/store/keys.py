"""The key layout in the store, and nothing else (decision 16). Every key is written and read here."""

from dataclasses import dataclass

ROOT = "/gossamer/v1/"
OBJECTS = ROOT + "obj/"
STATUS = ROOT + "status/"
NODES = ROOT + "node/"
INSTANCES = ROOT + "inst/"
EJECTIONS = ROOT + "eject/"
CLAIMS = ROOT + "claim/"
# Fetched keys of token issuers, by the SHA-256 of their URL.
JWKS = ROOT + "jwks/"
TOKENS = ROOT + "token/"
CA = ROOT + "ca/"
CA_ROOTS = CA + "root/"
CA_SIGNER = CA + "signer"
CA_ROTATION = CA + "rotation"
CA_CONFIRMED = CA + "confirmed/"
GRANTS = CA + "grant/"
APPLIES = ROOT + "apply/"
REPLICAS = ROOT + "replica/"
SCHEMA = ROOT + "schema"
ROLLOUTS = ROOT + "rollout/"
ROLLOUT_REPORTS = ROOT + "rollout-report/"
# Which rollout is under way and what it holds: written once at its begin, deleted with its end.
ROLLOUT_ACTIVE = ROOT + "rollout-active"
ROLLOUT_LEADER = ROOT + "rollout-leader"
# Not below ROOT: every replica watches and, at its start, reads all of that, and what was before is large.
_HISTORY_ROOT = "/gossamer/history/v1/"
HISTORY = _HISTORY_ROOT + "change/"
HISTORY_HORIZON = _HISTORY_ROOT + "horizon"
# Neither: what replicas have reserved of rate limits changes with the traffic.
_LIMITS = "/gossamer/limits/v1/"

# Kubernetes' core group is empty; a key part never is.
_CORE = "core"


@dataclass(frozen=True, slots=True, order=True)
class ObjectKey:
    """Group (empty = core), plural, namespace and name of a stored object."""

    group: str
    plural: str
    namespace: str
    name: str

    def object_key(self) -> str:
        return OBJECTS + self._tail()

    def status_prefix(self) -> str:
        return STATUS + self._tail() + "/"

    def status_key(self, replica: str) -> str:
        return self.status_prefix() + replica

    def _tail(self) -> str:
        return f"{self.group or _CORE}/{self.plural}/{self.namespace}/{self.name}"

    @classmethod
    def parse(cls, key: str) -> "ObjectKey":
        """From an object or status key. Raises ValueError on any other key."""
        for prefix, expected in ((OBJECTS, 4), (STATUS, 5)):
            if key.startswith(prefix):
                parts = key[len(prefix) :].split("/")
                # Only the namespace may be empty: of a kind that has none.
                if len(parts) == expected and all(parts[:2] + parts[3:]):
                    return cls("" if parts[0] == _CORE else parts[0], parts[1], parts[2], parts[3])
        raise ValueError(f"found key {key!r}, expected one below {OBJECTS} or {STATUS}")

    @classmethod
    def find(cls, key: str) -> "ObjectKey | None":
        """As `parse`; None on any other key, also one that somebody else wrote below our prefixes."""
        try:
            return cls.parse(key)
        except ValueError:
            return None


def objects_prefix(group: str, plural: str, namespace: str = "") -> str:
    """All objects of a kind, in one namespace or in all."""
    prefix = f"{OBJECTS}{group or _CORE}/{plural}/"
    return f"{prefix}{namespace}/" if namespace else prefix


def node_key(node: str) -> str:
    return NODES + node


def instance_key(namespace: str, node: str, instance: str) -> str:
    return f"{INSTANCES}{namespace}/{node}/{instance}"


def ejection_key(cluster: str, endpoint: str, node: str) -> str:
    # Cluster names hold '|' but never '/', so the parts stay separable.
    return f"{EJECTIONS}{cluster}/{endpoint}/{node}"


def claim_key(node: str) -> str:
    """Which machine is the node at present, on the node's lease."""
    return CLAIMS + node


def token_key(token_id: str) -> str:
    return TOKENS + token_id


def ca_root_key(root_id: str) -> str:
    return CA_ROOTS + root_id


def ca_confirmed_key(replica: str) -> str:
    """What a replica has done of the rotation that is under way, on its lease."""
    return CA_CONFIRMED + replica


def grant_key(node: str) -> str:
    """What a joined node may claim. Apart from the node's own record, which its agent's reports rewrite."""
    return GRANTS + node


def apply_key(ulid: str) -> str:
    return APPLIES + ulid


def history_key(ulid: str) -> str:
    """What the objects of an apply were before it; beside the record, under the same ULID."""
    return HISTORY + ulid


def limit_key(window_s: int, index: int, digest: str) -> str:
    """How much of a window of a rate limit is reserved, on the window's lease."""
    return f"{_LIMITS}{window_s}/{index}/{digest}"


def replica_key(replica: str) -> str:
    return REPLICAS + replica


def rollout_key(rollout: str) -> str:
    return ROLLOUTS + rollout


def rollout_report_key(replica: str) -> str:
    """What a replica says of the rollout that is under way, on its lease."""
    return ROLLOUT_REPORTS + replica
