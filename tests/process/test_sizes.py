"""Groups of other sizes and on other addresses."""

import socket

import pytest

from tests.process.kit import ProcessGroup
from tests.process.load import Load

pytestmark = [pytest.mark.process, pytest.mark.slow]


def _hosts():
    """A name, and the IPv6 loopback where the machine has one."""
    hosts = ["localhost"]
    with socket.socket(socket.AF_INET6) as probe:
        try:
            probe.bind(("::1", 0))
        except OSError:
            return hosts
    return [*hosts, "::1"]


async def test_a_group_of_one_goes_on_where_it_was_killed(tmp_path):
    async with ProcessGroup(tmp_path, count=1) as group, Load(group) as load:
        for _ in range(2):
            await load.more()
            group["n1"].kill()
            group["n1"].start()
        await load.more()
        await load.prove()


async def test_a_group_of_five_bears_two_dead(tmp_path):
    async with ProcessGroup(tmp_path, count=5) as group, Load(group) as load:
        await load.more()
        leader = await group.leader()
        follower = group.others(leader)[0]
        leader.kill()
        follower.kill()

        await load.more()
        group.start_missing()

        await group.leader()
        await load.prove()


@pytest.mark.parametrize("host", _hosts())
async def test_a_group_lives_on_a_name_or_an_ipv6_address(tmp_path, host):
    async with ProcessGroup(tmp_path, host=host) as group, Load(group) as load:
        await load.more()
        leader = await group.leader()
        leader.kill()
        await load.more()
        leader.start()
        await group.leader()
        await load.prove(rebuild=False)
