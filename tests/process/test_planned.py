"""Changes of leadership that an operator asks for: no client may notice."""

import pytest

from tests.process.kit import ProcessGroup
from tests.process.load import Load

pytestmark = [pytest.mark.process, pytest.mark.slow]


async def test_handing_over_under_load_fails_no_send(tmp_path):
    """Nor does it hold one up, which `tests/node/test_handing_over.py` times, in virtual time."""
    async with ProcessGroup(tmp_path) as group, Load(group) as load:
        await load.more()
        for _ in range(6):
            await group.handed_over(load.client)
            await load.more(100)
        await load.prove()


async def test_the_lead_goes_to_the_member_named(tmp_path):
    async with ProcessGroup(tmp_path) as group, Load(group) as load:
        for node in group:
            assert await group.handed_over(load.client, node.node_id) is node
            await load.more(50)
        await load.prove(rebuild=False)


async def test_a_rolling_restart_fails_no_send(tmp_path):
    async with ProcessGroup(tmp_path) as group, Load(group) as load:
        await load.more()
        leader = await group.leader()
        for node in [leader, *group.others(leader)]:
            await node.terminate()
            await load.more(100)
            node.start()
            await group.leader()
            await load.more(100)
        await load.prove()
