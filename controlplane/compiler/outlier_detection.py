"""outlierDetection of a DestinationRule as Envoy's message.

Source: control-plane.md 2.4.6; decision 3 (always_eject_one_host unless the user gives a percent); decision 22 and
        gRFC A50 (gRPC knows success rate and failure percentage only).
"""

from envoy.config.cluster.v3.outlier_detection_pb2 import OutlierDetection as Message
from google.protobuf.wrappers_pb2 import BoolValue, UInt32Value

from controlplane.compiler.resources import duration
from controlplane.policy.traffic_policy import OutlierDetection
from mesh.vocabulary import Dialect

# A host that fails only now and then is what consecutive errors let pass: so nearly all must fail.
GRPC_FAILURE_PERCENT = 85
_GRPC_MINIMUM_HOSTS = 1


def outlier_detection(settings: OutlierDetection, dialect: Dialect, *, istio: bool) -> Message:
    """`istio`: Istio's own behaviour was asked for (decision 2)."""
    message = Message(
        interval=duration(settings.interval_s),
        base_ejection_time=duration(settings.base_ejection_time_s),
        max_ejection_percent=UInt32Value(value=settings.istio_max_ejection_percent),
        enforcing_success_rate=UInt32Value(value=0),
    )
    if dialect is Dialect.GRPC:
        _approximate(message, settings)
        return message
    if settings.explicit_max_ejection_percent is None and not istio:
        message.always_eject_one_host.CopyFrom(BoolValue(value=True))
    _consecutive_5xx(message, settings.consecutive_5xx)
    _consecutive_gateway(message, settings.consecutive_gateway_failure)
    if settings.split_external_local_origin_errors:
        message.split_external_local_origin_errors = True
        message.consecutive_local_origin_failure.value = settings.consecutive_local_origin_failure
        message.enforcing_consecutive_local_origin_failure.value = 100
        message.enforcing_local_origin_success_rate.value = 0
    return message


def grpc_request_volume(settings: OutlierDetection) -> int:
    """Requests in one interval that a gRPC client wants to see before it judges a host."""
    wanted = [count for count in (settings.consecutive_5xx, settings.consecutive_gateway_failure) if count]
    return min(wanted, default=0)


def _consecutive_5xx(message: Message, count: int) -> None:
    message.enforcing_consecutive_5xx.value = 100 if count else 0
    if count:
        message.consecutive_5xx.value = count


def _consecutive_gateway(message: Message, count: int) -> None:
    # Envoy's own default is to detect but not to enforce: always say which.
    message.enforcing_consecutive_gateway_failure.value = 100 if count else 0
    if count:
        message.consecutive_gateway_failure.value = count


def _approximate(message: Message, settings: OutlierDetection) -> None:
    volume = grpc_request_volume(settings)
    message.enforcing_failure_percentage.value = 100 if volume else 0
    message.failure_percentage_threshold.value = GRPC_FAILURE_PERCENT
    message.failure_percentage_minimum_hosts.value = _GRPC_MINIMUM_HOSTS
    message.failure_percentage_request_volume.value = max(volume, 1)
