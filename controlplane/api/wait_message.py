"""The end of a wait as the gRPC control API tells it. Pure."""

from controlplane.api.revisions import ACKNOWLEDGED, REJECTED, TIMEOUT, Waited
from mesh.api.v1 import control_pb2

_OUTCOMES = {
    ACKNOWLEDGED: control_pb2.Wait.ACKNOWLEDGED,
    REJECTED: control_pb2.Wait.REJECTED,
    TIMEOUT: control_pb2.Wait.TIMEOUT,
}


def wait_message(waited: Waited) -> control_pb2.Wait:
    """Every pending node stands in `pending`, also one of which nothing more is known."""
    state = waited.state
    told = {item["node"] for item in state["waits_for"]}
    untold = [{"node": node, "type": "", "name": "", "waits_for": ""} for node in state["pending"] if node not in told]
    return control_pb2.Wait(
        outcome=_OUTCOMES[waited.outcome],
        acknowledged=state["acked"],
        pending=[
            control_pb2.Wait.Pending(
                node=item["node"], type=item["type"], resource=item["name"], waits_for=item["waits_for"]
            )
            for item in [*state["waits_for"], *untold]
        ],
        rejected=[
            control_pb2.Wait.Rejection(node=item["node"], resource=why["name"], reason=why["reason"])
            for item in state["rejected"]
            for why in item["reasons"]
        ],
        silent_replicas=[item["replica"] for item in state.get("silent", ())],
    )
