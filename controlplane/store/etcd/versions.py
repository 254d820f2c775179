"""Which etcd versions must not be trusted with what. Pure.

Source: etcd-io/etcd #13766 (3.5.0-3.5.2 lose committed transactions on a member that is killed under load; fixed in
        3.5.3), the recommendation 3.4.22+ and 3.5.6+ (kubernetes/website #40816): 3.5.0-3.5.5 and 3.4.20-3.4.21
        have defragmentation and membership defects.
"""

_RECOMMENDED = "run 3.5.6 or newer, 3.6, or 3.4.22 or newer"


def parse_version(text: str) -> tuple[int, int, int] | None:
    """`3.5.1`, also with a suffix (`3.6.0-rc.1`); None for anything else."""
    parts = text.strip().removeprefix("v").split("-")[0].split(".")
    if len(parts) != 3 or not all(part.isdigit() for part in parts):
        return None
    major, minor, patch = (int(part) for part in parts)
    return major, minor, patch


def warning_for(text: str, *, members: int) -> str:
    """What to say about this version in a cluster of `members`; empty when nothing is known against it.

    A single member is not affected by the losses: there is no other member to differ from.
    """
    version = parse_version(text)
    if version is None:
        return f"cannot tell what etcd version {text!r} is"
    if version < (3, 4, 0):
        return f"etcd {text} is older than the API that the watch needs; {_RECOMMENDED}"
    if members <= 1:
        return ""
    if (3, 5, 0) <= version <= (3, 5, 2):
        return f"etcd {text} can lose committed writes on a member that is killed under load; {_RECOMMENDED}"
    if (3, 5, 0) <= version < (3, 5, 6) or (3, 4, 20) <= version < (3, 4, 22):
        return f"etcd {text} has known defects in a cluster; {_RECOMMENDED}"
    return ""
