"""The leader is killed in the middle of everything; what was acknowledged is consumed."""

import os

import pytest
import trio

from broker.config import NameserverConfig, RouteMode
from tests.interop import table
from tests.interop.conftest import LOCKS_SHORTER
from tests.interop.running import TOGETHER, possible, side_by_side
from tests.process.kit import ProcessGroup


@pytest.fixture(scope="module")
def hurt_group(tmp_path_factory):
    """A group of three whose leaders are killed, and come back for the next test."""
    group = ProcessGroup(tmp_path_factory.mktemp("hurt"), broker=LOCKS_SHORTER)
    trio.run(group.__aenter__)
    yield group
    trio.run(group.__aexit__, None, None, None)


@pytest.mark.parametrize("scenarios", TOGETHER, ids="-".join)
async def test_a_leader_killed_in_the_middle_costs_no_acknowledged_message(
    scenarios, kinds, hurt_group, tmp_path
):
    hurt_group.start_missing()
    await hurt_group.leader()
    await side_by_side(possible(kinds, scenarios), hurt_group, tmp_path, kill_leader=True)


@pytest.mark.skipif(os.environ.get("INTEROP") != "all", reason="a minute; INTEROP=all runs it")
async def test_a_single_broker_name_costs_the_time_to_the_next_route(kinds, tmp_path):
    """As RocketMQ has it: nothing is sent until the client asks for a new route."""
    single = NameserverConfig(route=RouteMode.SINGLE)
    async with ProcessGroup(tmp_path / "group", nameserver=single) as group:
        cases = await side_by_side(
            possible(kinds, ["sync"]),
            group,
            tmp_path,
            kill_leader=True,
            circumstance=table.KILLED_SINGLE,
        )
    # One whose own retries last longer than a failover may get through.
    assert any(case.facts["failed"] != "0" for case in cases)
