"""What is compiled from the golden cases, and whether a real Envoy takes it."""

from pathlib import Path

import pytest

from mesh.vocabulary import Dialect
from tests.support.golden import CONDITIONS, FILES, Case, cases
from tests.support.static_envoy import StaticConfig

CASES = cases()
INPUTS = frozenset({"input.yaml", "proxy.yaml"})


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_compiled(case: Case, update_golden: bool) -> None:
    """Every output is as its file says, and every file has its output."""
    outputs = dict(case.outputs())
    if update_golden:
        for file in {*FILES, CONDITIONS} - outputs.keys():
            (case.path / file).unlink(missing_ok=True)
        for file, text in outputs.items():
            (case.path / file).write_text(text)
    found = {path.name: path.read_text() for path in case.path.iterdir() if path.name not in INPUTS}
    assert found.keys() == outputs.keys(), "golden files and outputs differ; see --update-golden"
    for file, text in outputs.items():
        assert found[file].splitlines() == text.splitlines(), f"{case.name}/{file} reads otherwise"


def test_every_dialect_and_protocol_has_a_case() -> None:
    """The cases cover what can attach."""
    seen = {(case.proxy.dialect, case.proxy.delta) for case in CASES}
    assert seen >= {(Dialect.GOSSAMER, True), (Dialect.ENVOY, True), (Dialect.ENVOY, False), (Dialect.GRPC, False)}


@pytest.mark.envoy
def test_real_envoy_accepts_every_case(tmp_path: Path) -> None:
    """One bootstrap of all that is compiled for Envoys, as static resources, passes Envoy's own validation."""
    config = StaticConfig(tmp_path)
    for case in CASES:
        if case.proxy.dialect is Dialect.ENVOY:
            config.add(case.name, case.compiled[0], case.proxy.tls_dir)
    config.validate()
    assert len(config.listeners) > 5
    assert len(config.clusters) > 10
