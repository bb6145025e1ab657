"""A group whose nodes are restarted one after another, by the commands an operator has."""

import json
import re
import signal
import sys
import urllib.error
import urllib.request

import pytest
import trio

from broker.cli import node_operations
from broker.cli.local_group import GroupPlan, LocalGroup, find_base_port
from broker.client.errors import NoBrokerError
from tests.process.kit import ProcessGroup, eventually
from tests.process.load import Load

pytestmark = [pytest.mark.process, pytest.mark.slow]


async def try_run(*arguments):
    return await trio.run_process(
        [sys.executable, "-m", "broker.cli.main", *map(str, arguments)],
        capture_stdout=True,
        capture_stderr=True,
        check=False,
    )


async def run(*arguments, code=0):
    done = await try_run(*arguments)
    assert done.returncode == code, (done.stdout.decode(), done.stderr.decode())
    return done.stdout.decode() + done.stderr.decode()


def page(node, path):
    """Return status and body of one page of a node's."""
    url = f"http://127.0.0.1:{node.config.metrics.port}{path}"
    try:
        with urllib.request.urlopen(url, timeout=10) as answer:
            return answer.status, answer.read().decode()
    except urllib.error.HTTPError as error:
        with error:
            return error.code, error.read().decode()


async def test_each_node_drained_stopped_and_started_again_costs_no_send(tmp_path):
    async with ProcessGroup(tmp_path) as group, Load(group) as load:
        await load.more()
        servers = ",".join(group.addresses)
        for node in group:
            assert f"{node.node_id} may be stopped" in await run(
                "node", "drain", node.node_id, "-s", servers
            )
            await node.terminate()
            await load.more(50)
            node.start()

            async def is_ready(node=node):
                try:
                    status, _ = await trio.to_thread.run_sync(page, node, "/readyz")
                except OSError:
                    return False  # it does not listen yet
                return status == 200

            await eventually(f"{node.node_id} is ready", is_ready)
            await load.more(50)
        told = await run("node", "drain", "n9", "-s", servers, code=1)
        assert "no node 'n9'" in told
        await load.prove()


async def test_restart_of_a_local_group_is_one_node_at_a_time(tmp_path):
    plan = GroupPlan(base_port=find_base_port(3))
    local = LocalGroup.find_or_create(tmp_path, plan)
    await run("up", "--detach", "--data", tmp_path)
    try:
        async with Load(local) as load:
            await load.more(100)
            told = await run("restart", "--data", tmp_path)
            await load.more(50)
            await load.stop_sending()
    finally:
        await run("down", "--data", tmp_path)
    assert not load.failures
    assert sorted(re.findall(r"^(n\d) restarted", told, re.MULTILINE)) == ["n1", "n2", "n3"]


async def test_a_node_out_of_its_group_is_alive_and_not_ready(tmp_path, monkeypatch):
    async with ProcessGroup(tmp_path) as group:
        leader = await group.leader()
        left, other = group.others(leader)

        async def is_ready():
            return page(left, "/readyz")[0] == 200

        await eventually("it takes part", is_ready)
        leader.kill()
        other.kill()

        async def is_unready():
            status, text = page(left, "/readyz")
            return status == 503 and "nobody leads" in json.loads(text)["reason"]

        await eventually("it notices", is_unready)
        assert page(left, "/healthz")[0] == 200
        assert "raft_has_leader" in page(left, "/metrics")[1]
        other.start()
        await group.leader()
        monkeypatch.setattr(node_operations, "DRAIN_SECONDS", 1.0)

        async def is_refused():
            with pytest.raises(NoBrokerError) as caught:  # it says what kept it from that last
                await node_operations.drain_node(group.addresses, left.node_id)
            return "must not be stopped now: only 1 others answer" in str(caught.value)

        await eventually("a majority without it is missed", is_refused)


async def test_the_log_level_changes_by_request_and_by_signal(tmp_path):
    async with ProcessGroup(tmp_path, count=1) as group:
        (node,) = group

        async def is_told():
            found = await try_run("node", "log-level", "n1", "debug", "-s", node.address)
            return b"n1 logs debug and above" in found.stdout

        await eventually("it answers in time", is_told)
        assert "log level is debug, was info" in node.log

        node.signal(signal.SIGHUP)

        async def is_back():
            return "log level is info, was debug" in node.log

        await eventually("the file's level counts again", is_back)
        assert node.is_running
