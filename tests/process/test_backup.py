"""A group is backed up under load, and another one begins from that."""

import json
import sys

import pytest
import trio

from broker.cli.log_commands import verify_logs
from broker.cli.node_reader import read_topic
from tests.process.kit import ProcessGroup
from tests.process.load import QUEUE_COUNT, TOPIC, Load, _seen, check_reader

pytestmark = [pytest.mark.process, pytest.mark.slow]


async def run(*arguments):
    """Run the command; return what it printed."""
    done = await trio.run_process(
        [sys.executable, "-m", "broker.cli.main", *map(str, arguments)],
        capture_stdout=True,
        capture_stderr=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr.decode()
    return done.stdout.decode()


async def test_a_new_group_has_all_that_was_acknowledged_before_the_backup_began(tmp_path):
    backup = tmp_path / "backup"
    async with ProcessGroup(tmp_path / "old") as group, Load(group) as load:
        await load.more(500)
        follower = (await group.followers())[0]
        before = list(load.acknowledged)
        told = await run("backup", backup, "-c", follower.folder / "node.toml", "--json")
        await load.more(200)
        await load.prove(rebuild=False)

    assert json.loads(told)["is_hot"]
    result = verify_logs(backup, (follower.data,))
    assert result["ok"], result
    assert result["against"][0]["identical_index"] == json.loads(told)["end_index"]
    again = ProcessGroup(tmp_path / "new")
    for node in again:
        await run("restore", backup, "-c", node.folder / "node.toml", "--into", "new-group")
    async with again as group:
        await group.settled()
        for node in group:
            found = await read_topic(node.address, TOPIC, queue_count=QUEUE_COUNT)
            check_reader(node.node_id, [_seen(message) for message in found], before)


async def test_a_member_that_lost_its_disk_begins_with_a_backup(tmp_path):
    backup = tmp_path / "backup"
    async with ProcessGroup(tmp_path / "group") as group, Load(group) as load:
        await load.more(300)
        lost, other = await group.followers()
        await run("backup", backup, "-c", other.folder / "node.toml")
        lost.kill()
        lost.wipe()
        await load.more(200)
        await run("restore", backup, "-c", lost.folder / "node.toml", "--into", "living-group")
        lost.start()
        await group.leader()
        await load.more(100)
        await load.prove()
    assert "joining in term" in lost.log
    assert "this node may vote from now on: caught up" in lost.log
