"""A laboratory for each test; without the rights for one the tests are skipped, and say why."""

from pathlib import Path

import pytest

from jepsen_like.real.features import missing
from jepsen_like.real.lab import Lab


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items):
    """A laboratory runs processes in real time: one at a time, as groups of real nodes do."""
    here = Path(__file__).parent
    for item in items:
        if item.path.is_relative_to(here):
            item.add_marker(pytest.mark.process)


@pytest.fixture(autouse=True)
def _needs_a_lab():
    if reasons := missing():
        pytest.skip("no laboratory here: " + "; ".join(reasons))


@pytest.fixture
async def lab():
    async with Lab(nodes=["n1", "n2"], clients=["c1"], seed=7) as lab:
        yield lab
