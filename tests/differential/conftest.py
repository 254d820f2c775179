"""One pair per module: `WORLD` of the module is what both serve."""

import asyncio
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.differential.case import Case
from tests.differential.differences import judge
from tests.differential.pair import Pair, running_pair

Check = Callable[[Case], None]


@pytest.fixture(scope="module")
def runner() -> Iterator[asyncio.Runner]:
    with asyncio.Runner() as made:
        yield made


@pytest.fixture(scope="module")
def pair(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory, runner: asyncio.Runner
) -> Iterator[Pair]:
    folder: Path = tmp_path_factory.mktemp("pair")
    context = running_pair(folder, request.module.WORLD)
    made = runner.run(context.__aenter__())
    yield made
    runner.run(context.__aexit__(None, None, None))


@pytest.fixture
def check(pair: Pair, runner: asyncio.Runner) -> Check:
    """Run a case on both; they agree, but for what the differences say."""
    return lambda case: judge(case, *runner.run(pair.run(case)))
