"""Each client can be had, and each scenario runs on a group that is left alone."""

import pytest

from tests.interop.clients import KINDS
from tests.interop.running import SCENARIOS, possible, side_by_side


@pytest.mark.parametrize("kind", KINDS, ids=str)
def test_it_is_there(kind):
    if why := kind.why_not():
        pytest.skip(f"no {kind.package}: {why}")


@pytest.mark.parametrize("scenario", SCENARIOS)
async def test_each_client_does_what_it_can(scenario, kinds, shared_group, tmp_path):
    await side_by_side(possible(kinds, [scenario]), shared_group, tmp_path)
