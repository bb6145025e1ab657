"""Nodes that die by SIGKILL, one after another or all at once."""

import shutil

import pytest

from dledger.config import FlushDiskType
from tests.process.kit import ProcessGroup
from tests.process.load import Load

pytestmark = [pytest.mark.process, pytest.mark.slow]


async def test_ten_leaders_killed_in_a_row_cost_no_message(tmp_path):
    async with ProcessGroup(tmp_path) as group, Load(group) as load:
        for _ in range(10):
            await load.more()
            leader = await group.leader()
            leader.kill()
            await load.more()
            leader.start()
        await group.leader()
        await load.prove()


async def test_a_killed_follower_is_not_missed_and_catches_up(tmp_path):
    async with ProcessGroup(tmp_path) as group, Load(group) as load:
        await load.more()
        follower = (await group.followers())[0]

        follower.kill()
        await load.more()
        follower.start()

        await group.leader()
        await load.prove()


async def test_a_group_killed_at_once_comes_back_with_every_message(tmp_path):
    """And one of them lost its derived files meanwhile, which its start makes again."""
    async with ProcessGroup(tmp_path) as group, Load(group) as load:
        await load.more()
        for node in group:
            node.kill()
        shutil.rmtree(group["n2"].data / "derived")

        group.start_missing()
        await group.leader()

        await load.more()
        await load.prove()


async def test_with_async_flush_a_killed_process_loses_nothing_either(tmp_path):
    """The page cache outlives the process; only a power loss would take it."""
    async with (
        ProcessGroup(tmp_path, flush_disk_type=FlushDiskType.ASYNC_FLUSH) as group,
        Load(group) as load,
    ):
        await load.more()
        leader = await group.leader()
        leader.kill()
        await load.more()
        leader.start()
        await group.leader()
        await load.prove()
