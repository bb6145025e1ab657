"""A laboratory for each test; without the rights for one the tests are skipped, and say why."""

import pytest

from jepsen_like.real.features import missing
from jepsen_like.real.lab import Lab


@pytest.fixture(autouse=True)
def _needs_a_lab():
    if reasons := missing():
        pytest.skip("no laboratory here: " + "; ".join(reasons))


@pytest.fixture
async def lab():
    async with Lab(nodes=["n1", "n2"], clients=["c1"], seed=7) as lab:
        yield lab
