"""Every node is asked by itself, and one that says nothing is shown with the reason."""

import functools
import json

import msgspec
import pytest
import trio

from broker.cli.ask import GroupView, NodeAnswer, ask_group, ask_node, read_answer
from broker.cli.status_table import kept_lines, problems, status_json, status_table, verdict
from broker.protocol.bodies import GroupStatus
from broker.protocol.request_code import RequestCode
from dledger.remoting.command import response
from dledger.remoting.server import RemotingServer
from tests.cli.statuses import status_in
from tests.fakes.network import MemoryNetwork

PORTS = {"n1": 9876, "n2": 9877, "n3": 9878}
status_of = functools.partial(status_in, {name: f"memory:{port}" for name, port in PORTS.items()})


def answer_of(node_id, **changes):
    return read_answer(f"memory:{PORTS[node_id]}", status_of(node_id, **changes).encode())


def silent(node_id):
    return NodeAnswer(address=f"memory:{PORTS[node_id]}", node_id=node_id, problem="it is [dead]")


def text_of(view, capsys):
    status_table(view).print()
    return capsys.readouterr().out


class FakeNode:
    """Answers GET_GROUP_STATUS with a status, an error code or not at all."""

    def __init__(self, status=None, *, code=0):
        self.status = status
        self.code = code
        self.asked = 0

    def on_opened(self, session):
        pass

    def on_closed(self, session):
        pass

    def on_commands(self, session, commands, *, ends_pass=True):
        for command in commands:
            assert command.code == RequestCode.GET_GROUP_STATUS
            self.asked += 1
            if self.code:
                session.reply(response(command, self.code, "out of order"))
            elif self.status is not None:
                session.reply(response(command, 0, body=self.status.encode()))


@pytest.fixture
async def network(autojump_clock, nursery):
    """A memory network with a method that puts a fake node on it."""
    found = MemoryNetwork()

    async def serve(node_id, node):
        server = RemotingServer(found, host="memory", port=PORTS[node_id], handler=node)
        await nursery.start(server.serve)
        return node

    found.serve = serve
    return found


async def test_all_members_are_asked_when_one_is_named(autojump_clock, network):
    for node_id in PORTS:
        await network.serve(node_id, FakeNode(status_of(node_id)))

    view = await ask_group(["memory:9878"], network=network)

    assert [answer.node_id for answer in view.answers] == ["n1", "n2", "n3"]
    assert view.leader.node_id == "n2"
    assert view.is_healthy


async def test_a_dead_and_a_frozen_node_are_told_apart(network, autojump_clock):
    await network.serve("n2", FakeNode(status_of("n2")))
    await network.serve("n3", FakeNode())
    began = trio.current_time()

    view = await ask_group([f"memory:{port}" for port in PORTS.values()], network=network)

    dead, _, frozen = view.answers
    assert (dead.node_id, frozen.node_id) == ("n1", "n3")
    assert "connect" in dead.problem
    assert "1 s" in frozen.problem
    assert trio.current_time() - began == pytest.approx(1, abs=0.1)
    assert view.leader.node_id == "n2"
    assert not view.is_healthy


async def test_a_node_that_refuses_is_shown_with_its_words(autojump_clock, network):
    await network.serve("n1", FakeNode(code=14))

    answer = await ask_node("memory:9876", network=network)

    assert answer.status is None
    assert answer.problem == "SERVICE_NOT_AVAILABLE: out of order"


async def test_a_node_known_by_another_name_is_asked_once(autojump_clock, network):
    """localhost:9876 and 127.0.0.1:9876 are the same node; it shows as one row."""
    node = await network.serve("n1", FakeNode(status_of("n1", leader="n1")))
    await network.serve("n2", FakeNode(status_of("n2", leader="n1")))
    await network.serve("n3", FakeNode(status_of("n3", leader="n1")))

    view = await ask_group(["other-name:9876"], network=network)

    assert node.asked == 1
    assert len(view.answers) == 3


def test_an_answer_that_is_no_status_is_a_problem():
    assert "not understood" in read_answer("memory:9876", b"{}").problem


def test_the_table_shows_role_lag_and_memory(capsys):
    view = GroupView(answers=(answer_of("n1", end=90, commit=88), answer_of("n2"), silent("n3")))

    lines = [line.split() for line in text_of(view, capsys).splitlines()]

    follower = ["n1", "follower", "3", "memory:9876", "88", "90", "10", "sync", "50.0", "MiB"]
    leader = ["n2", "leader", "3", "memory:9877", "100", "100", "0", "sync", "50.0", "MiB"]
    assert lines[1:3] == [follower, leader]
    assert lines[3] == ["n3", "unreachable", "memory:9878"]
    assert problems(view) == ["n3: it is [dead]"]


def test_what_is_kept_and_how_full_the_disks_are_is_told(capsys):
    view = GroupView(
        answers=(
            answer_of("n1", disk_percent=74.6, begin_time_ms=1_700_000_000_000, begin_index=5000),
            answer_of("n2", disk_percent=92.0, write_refusal="92.0 % of the disk are used"),
            answer_of("n3"),
        )
    )

    text = text_of(view, capsys)
    lines = kept_lines(view)

    assert "75 %" in text
    assert "92 %" in text
    assert lines[0].startswith("n1: the log from entry 5,000 on, the oldest message is of 2023-11-")
    assert lines[1] == "n2 and n3: the log from entry 1 on"
    assert lines[2] == "n2 takes no messages: 92.0 % of the disk are used"
    follower = GroupView(answers=(answer_of("n1", write_refusal="91.0 %"),))
    assert kept_lines(follower)[1] == "n1 would take no messages as the leader: 91.0 %"


def test_a_status_of_an_older_node_says_nothing_of_its_disk():
    fields = msgspec.json.decode(status_of("n1").encode())
    for name in ("begin_time_ms", "disk_used", "disk_available", "disk_percent", "write_refusal"):
        del fields[name]

    status = GroupStatus.decode(msgspec.json.encode(fields))

    assert (status.disk_percent, status.begin_time_ms, status.write_refusal) == (-1.0, -1, "")


def test_a_node_that_is_not_ready_is_shown_so(capsys):
    text = text_of(GroupView(answers=(answer_of("n2", is_ready=False),)), capsys)

    assert "leader, not ready" in text


def test_a_name_server_is_not_taken_for_a_node_that_is_down(capsys):
    answer = NodeAnswer(address="memory:1", problem="this is a name server", is_refusal=True)
    view = GroupView(answers=(answer,))

    assert "refuses" in text_of(view, capsys)
    assert "what was asked refused" in verdict(view)
    assert "dledger up" not in verdict(view)


@pytest.mark.parametrize(
    ("answers", "words", "is_healthy"),
    [
        ([answer_of("n1"), answer_of("n2"), answer_of("n3")], "n2 leads 'local' in term 3", True),
        ([answer_of("n1"), answer_of("n2"), silent("n3")], "2 of 3 nodes answer", True),
        ([silent("n1"), answer_of("n2"), silent("n3")], "only 1 of 3 nodes answer", False),
        ([answer_of("n1"), silent("n2"), answer_of("n3")], "nobody leads; 2 of 3", False),
        ([silent("n1"), silent("n2"), silent("n3")], "no node answers; `dledger up`", False),
        (
            [answer_of("n1"), answer_of("n2", is_ready=False), answer_of("n3")],
            "nobody leads; 3 of 3",
            False,
        ),
    ],
)
def test_the_verdict_says_whether_the_group_works(answers, words, is_healthy):
    view = GroupView(answers=tuple(answers))

    assert words in verdict(view)
    assert view.is_healthy is is_healthy


def test_of_two_that_claim_to_lead_the_later_term_counts():
    """A leader that was frozen does not know yet that its time is over."""
    old = answer_of("n1", leader="n1", term=3)
    new = answer_of("n2", leader="n2", term=4)

    assert GroupView(answers=(old, new)).leader is new


def test_json_holds_what_the_table_shows():
    view = GroupView(answers=(answer_of("n1", end=90), answer_of("n2"), silent("n3")))

    found = json.loads(json.dumps(status_json(view)))

    assert found["healthy"] is True
    assert (found["leader"], found["term"]) == ("n2", 3)
    assert [node["reachable"] for node in found["nodes"]] == [True, True, False]
    assert found["nodes"][0]["lag"] == 10
    assert found["nodes"][0]["flush_disk_type"] == "SYNC_FLUSH"
    assert found["nodes"][2]["problem"] == "it is [dead]"


async def test_unknown_nodes_stand_in_the_order_in_which_they_were_named(autojump_clock, network):
    addresses = ["memory:1", "memory:3", "memory:2"]

    view = await ask_group(addresses, network=network)

    assert [answer.address for answer in view.answers] == addresses
