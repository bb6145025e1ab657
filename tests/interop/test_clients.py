"""Each client can be had, and does on a group that is left alone what it can."""

import pytest

from tests.interop.clients import KINDS
from tests.interop.running import SCENARIOS, TOGETHER, possible, side_by_side


def test_no_scenario_is_left_out():
    assert sorted(name for names in TOGETHER for name in names) == sorted(SCENARIOS)


@pytest.mark.parametrize("kind", KINDS, ids=str)
def test_it_is_there(kind):
    if why := kind.why_not():
        pytest.skip(f"no {kind.package}: {why}")


@pytest.mark.parametrize("scenarios", TOGETHER, ids="-".join)
async def test_each_client_does_what_it_can(scenarios, kinds, shared_group, tmp_path):
    await side_by_side(possible(kinds, scenarios), shared_group, tmp_path)
