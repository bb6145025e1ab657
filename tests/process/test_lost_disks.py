"""Members that come back with nothing, or so late that the log has moved on without them."""

import pytest

from dledger.config import KIB, MIB
from tests.process.kit import ProcessGroup, eventually
from tests.process.load import Load

pytestmark = [pytest.mark.process, pytest.mark.slow]


async def test_a_wiped_follower_is_filled_again(tmp_path):
    async with ProcessGroup(tmp_path) as group, Load(group) as load:
        await load.more()
        follower = (await group.followers())[0]
        follower.kill()
        follower.wipe()
        await load.more()

        follower.start()

        await _votes_again(follower)
        await load.prove()


async def test_a_leader_that_lost_its_disk_comes_back_as_a_follower(tmp_path):
    async with ProcessGroup(tmp_path) as group, Load(group) as load:
        await load.more()
        leader = await group.leader()
        leader.kill()
        leader.wipe()
        await load.more()

        leader.start()

        await _votes_again(leader)
        await load.prove()


@pytest.mark.parametrize("is_wiped", [False, True], ids=["late", "fresh"])
async def test_a_member_behind_retention_gets_the_state_and_then_the_log(tmp_path, is_wiped):
    """And can lead afterwards: what it was given knows the producers' sequences."""
    async with (
        ProcessGroup(
            tmp_path,
            segment_size=128 * KIB,
            log_size_max=MIB,
            checkpoint_interval_ms=200,
        ) as group,
        Load(group, body_size=1500) as load,
    ):
        await load.more(50)
        late = (await group.followers())[0]
        status = await late.told()
        late.kill()
        if is_wiped:
            late.wipe()
        leader = await group.leader()

        async def has_moved_on():
            now = await leader.status()
            return now is not None and now.begin_index > status.end_index + 1

        await eventually("retention drops what the member lacks", has_moved_on)
        late.start()

        await _votes_again(late)
        assert (await late.told()).begin_index > status.end_index
        assert await group.handed_over(load.client, late.node_id) is late
        await load.more()
        await load.prove()


async def _votes_again(node):
    async def takes_part():
        status = await node.status()
        # A voter may be elected, as soon as it is one.
        return status is not None and status.role in ("FOLLOWER", "LEADER") and status.is_ready

    await eventually(f"{node.node_id} takes part as a voter", takes_part)
