"""All fuzz targets, by name."""

from tests.fuzz import config, http1, manifests, texts
from tests.fuzz.target import Target

TARGETS: dict[str, Target] = {
    target.name: target for module in (http1, texts, config, manifests) for target in module.TARGETS
}
