"""Starts that must not succeed: one clear line each, an exit code, and no traceback."""

import dataclasses
import json
import shutil
import socket

import pytest
import trio

import broker
from dledger.config import KIB
from tests.process.kit import NodeProcess, ProcessGroup, eventually

pytestmark = [pytest.mark.process, pytest.mark.slow]


@pytest.fixture(scope="module")
def used(tmp_path_factory):
    """Return the folder of a node, a group of one, that was killed with messages in its log."""
    folder = tmp_path_factory.mktemp("used")

    async def fill():
        async with (
            ProcessGroup(folder, count=1, segment_size=64 * KIB) as group,
            broker.connect(group.addresses) as client,
            client.producer() as producer,
        ):
            for number in range(20):
                await producer.send("filled", b"%d" % number * 100)
            group["n1"].kill()
            return group["n1"].config

    return folder / "n1", trio.run(fill)


@pytest.fixture
def node(used, tmp_path):
    """Return a node with a copy of that folder."""
    folder, config = used
    shutil.copytree(folder / "data", tmp_path / "node" / "data")
    return NodeProcess(tmp_path / "node", config)


async def last_line(node):
    """Start *node*, which has to fail; return its last line."""
    node.start()
    assert await node.ended() == 1, node.log
    assert "Traceback" not in node.log
    return node.log.strip().splitlines()[-1]


def damage(path, offset):
    with path.open("r+b") as file:
        file.seek(offset)
        found = file.read(1)
        file.seek(offset)
        file.write(bytes([found[0] ^ 0xFF]))


async def test_the_undamaged_folder_starts(node):
    node.start()

    async def leads():
        status = await node.status()
        return status is not None and status.is_ready

    await eventually("the node leads", leads)
    await node.terminate()


@pytest.mark.parametrize("which", ["broker", "peer"])
async def test_a_port_in_use_is_named(tmp_path, which):
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        group = ProcessGroup(tmp_path, count=3)
        config = group["n1"].config
        mine = dataclasses.replace(config.member, **{f"{which}_port": port})
        node = group["n1"]
        node.write_config(dataclasses.replace(config, members=(mine, *config.members[1:])))

        line = await last_line(node)

    assert str(port) in line
    assert "in use" in line


async def test_another_node_s_folder_is_refused(node):
    other = dataclasses.replace(node.config.member, node_id="n2")
    node.write_config(dataclasses.replace(node.config, node_id="n2", members=(other,)))

    line = await last_line(node)

    assert "node_id is 'n1' in the data folder and 'n2' in the configuration" in line


async def test_another_group_s_folder_is_refused(node):
    node.write_config(dataclasses.replace(node.config, group="others"))

    line = await last_line(node)

    assert "group is 'proof' in the data folder and 'others' in the configuration" in line


async def test_a_folder_of_a_newer_format_is_refused(node):
    path = node.data / "identity.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "format_version": 9}))

    line = await last_line(node)

    assert "format_version is 9" in line
    assert "start the newer dledger" in line


async def test_a_folder_in_use_is_refused(node, tmp_path):
    node.start()

    async def answers():
        return await node.status()

    await eventually("the first node runs", answers)
    second = NodeProcess(
        tmp_path / "second", dataclasses.replace(node.config, data_folder=str(node.data))
    )

    line = await last_line(second)

    assert str(node.data) in line
    assert "another process" in line
    await node.terminate()


@pytest.mark.parametrize("name", ["vote", "checkpoint"])
async def test_a_damaged_small_file_is_named_with_its_remedy(node, name):
    damage(node.data / name, 20)

    line = await last_line(node)

    assert str(node.data / name) in line
    assert "move the data folder aside" in line


async def test_a_missing_vote_file_is_refused(node):
    (node.data / "vote").unlink()

    line = await last_line(node)

    assert f"{node.data}/vote is missing" in line


async def test_damage_in_the_middle_of_the_log_is_named_with_its_remedy(node):
    """What was synced and then damaged is no torn tail, and must not be cut."""
    segment = sorted((node.data / "commitlog").iterdir())[0]
    size = len(segment.read_bytes().rstrip(b"\0"))
    damage(segment, size // 2)
    before = segment.read_bytes()

    line = await last_line(node)

    assert str(segment) in line
    assert "move the data folder aside" in line
    assert segment.read_bytes() == before


async def test_a_wrong_member_list_is_refused_by_both_sides_in_a_line(tmp_path):
    group = ProcessGroup(tmp_path)
    wrong = group["n1"]
    first, second, third = wrong.config.members
    elsewhere = dataclasses.replace(third, peer_port=third.peer_port + 1)
    wrong.write_config(dataclasses.replace(wrong.config, members=(first, second, elsewhere)))

    async def both_say_why():
        return all("has member list" in node.log for node in (wrong, group["n2"]))

    try:
        wrong.start()
        group["n2"].start()
        await eventually("both sides say why they refuse", both_say_why)
        assert "Traceback" not in wrong.log + group["n2"].log
        assert "refused by n2" in wrong.log
        said = [line for line in wrong.log.splitlines() if "has member list" in line]
        assert len(said) == 1, "a reason is told once, not at every try"
    finally:
        for node in group.running:
            node.kill()
