"""Ask every node of a group how it stands, each over a connection of its own.

A node that is frozen or dead costs no more than the time allowed, and the others answer meanwhile.
"""

from __future__ import annotations

import dataclasses
import json
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import trio

from broker.cli.name_servers import ask_groups, merge, why_none
from broker.client.requests import failure_text
from broker.errors import HeaderError
from broker.protocol.bodies import GroupStatus
from broker.protocol.request_code import RequestCode
from broker.protocol.response_code import ResponseCode
from dledger.clock import SystemClock
from dledger.config import parse_address
from dledger.remoting.client import open_remoting_client
from dledger.remoting.command import Command
from dledger.remoting.errors import RemotingError
from dledger.remoting.tcp import TcpNetwork

if TYPE_CHECKING:
    from collections.abc import Iterable

    from dledger.remoting.network import Network

ANSWER_SECONDS = 1.0

LEADER = "LEADER"


@dataclass(frozen=True, slots=True, kw_only=True)
class NodeAnswer:
    """What one node said, or why it said nothing."""

    address: str  # host:port it was asked at
    node_id: str = "?"
    status: GroupStatus | None = None
    details: dict[str, Any] = field(default_factory=dict)  # all it said, as JSON has it
    problem: str = ""
    is_refusal: bool = False  # it answered, and would not say: a name server, or one that is full
    is_stranger: bool = False  # it answered that it does not know the question: it is no node
    # How far its clock is ahead of ours, to within half the time the question took; None: untold.
    clock_skew_seconds: float | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class GroupView:
    """What all nodes of a group said at about the same time."""

    answers: tuple[NodeAnswer, ...]
    name_servers: tuple[str, ...] = ()  # addresses by which the nodes were found

    @property
    def leader(self) -> NodeAnswer | None:
        """The node that leads in the latest term and serves; None while there is none."""
        leaders = [
            answer
            for answer in self.answers
            if answer.status and answer.status.role.upper() == LEADER and answer.status.is_ready
        ]
        return max(leaders, key=_term, default=None)

    @property
    def answering(self) -> list[NodeAnswer]:
        """The nodes that answered."""
        return [answer for answer in self.answers if answer.status is not None]

    @property
    def member_count(self) -> int:
        """How many nodes the group has, reachable or not."""
        counts = [len(answer.status.members) for answer in self.answers if answer.status]
        return max(counts, default=len(self.answers))

    @property
    def is_healthy(self) -> bool:
        """Whether a leader serves and a majority of the nodes answers."""
        return self.leader is not None and 2 * len(self.answering) > self.member_count


async def ask_node(
    address: str, *, seconds: float = ANSWER_SECONDS, network: Network | None = None
) -> NodeAnswer:
    """Ask the node at *address* how it stands; never raises for what the node does."""
    host, port = parse_address(address)
    answer: Command | None = None
    problem = f"no answer within {seconds:g} s"
    asked_at = answered_at = 0.0
    with trio.move_on_after(seconds):
        try:
            async with open_remoting_client(network or TcpNetwork(), host, port) as client:
                request = Command(code=RequestCode.GET_GROUP_STATUS)
                asked_at = trio.current_time()
                answer = await client.request(request, timeout_seconds=seconds)
                answered_at = trio.current_time()
        except RemotingError as error:
            problem = str(error)
    if answer is None:
        return NodeAnswer(address=address, problem=problem)
    if answer.code:
        return NodeAnswer(
            address=address,
            problem=failure_text(answer),
            is_refusal=True,
            is_stranger=answer.code == ResponseCode.REQUEST_CODE_NOT_SUPPORTED,
        )
    found = read_answer(address, _body(answer))
    if found.status is None or found.status.wall_ms < 0:  # nodes of 0.1 do not tell
        return found
    middle_ms = SystemClock().wall_ms() - (answered_at - asked_at) * 500
    return dataclasses.replace(found, clock_skew_seconds=(found.status.wall_ms - middle_ms) / 1000)


def read_answer(address: str, body: bytes) -> NodeAnswer:
    """Return what *body*, the answer of the node at *address*, says."""
    try:
        status = GroupStatus.decode(body)
    except HeaderError as error:
        return NodeAnswer(address=address, problem=f"answer not understood: {error}")
    return NodeAnswer(
        address=address, node_id=status.node_id, status=status, details=json.loads(body)
    )


async def ask_group(
    addresses: Iterable[str], *, seconds: float = ANSWER_SECONDS, network: Network | None = None
) -> GroupView:
    """Ask the nodes at *addresses*, and those that they name as members, how they stand.

    Where an address is a name server's, the nodes of the one group that it knows are asked.
    """
    answers: dict[str, NodeAnswer] = {}
    wanted = list(dict.fromkeys(addresses))
    asked: list[str] = []
    names: dict[str, str] = {}
    name_servers: list[str] = []

    async def ask(address: str) -> None:
        answers[address] = await ask_node(address, seconds=seconds, network=network)

    while wanted:
        asked += wanted
        async with trio.open_nursery() as nursery:
            for address in wanted:
                nursery.start_soon(ask, address)
        strangers = [address for address in wanted if answers[address].is_stranger]
        if strangers:
            nodes = await _ask_strangers(strangers, answers, seconds, network or TcpNetwork())
            name_servers += [address for address in strangers if address not in answers]
            asked = [address for address in asked if address in answers]
            known = {*answers, *name_servers}  # one name server may name another as a node
            wanted = [address for address in nodes if address not in known]
            if wanted:
                continue
        known_ids = {answer.node_id for answer in answers.values() if answer.status}
        for answer in list(answers.values()):
            if answer.status is not None:
                for member in answer.status.members:
                    names[member.address] = member.node_id
        # A node may be reached under another name than it is known by: ask nobody twice.
        wanted = [
            address
            for address, node_id in names.items()
            if address not in answers and node_id not in known_ids
        ]
    named = [
        answer
        if answer.status is not None or answer.address not in names
        else dataclasses.replace(answer, node_id=names[answer.address])
        for answer in (answers[address] for address in asked)
    ]
    return GroupView(
        answers=tuple(sorted(named, key=lambda answer: _order(answer.node_id))),
        name_servers=tuple(name_servers),
    )


async def _ask_strangers(
    strangers: list[str], answers: dict[str, NodeAnswer], seconds: float, network: Network
) -> tuple[str, ...]:
    """Return the nodes that name servers name; their own answers go, or say why there are none.

    A name server is no node, whatever one says of it or of itself.
    """
    told = await ask_groups(strangers, seconds=seconds, network=network)
    named = {
        name: tuple(address for address in nodes if address not in told)
        for name, nodes in merge(told.values()).items()
    }
    groups = {name: nodes for name, nodes in named.items() if nodes}
    if len(groups) == 1 or any(answer.status is not None for answer in answers.values()):
        for address in told:
            del answers[address]
        return next(iter(groups.values())) if len(groups) == 1 else ()
    for address in told:
        answers[address] = dataclasses.replace(answers[address], problem=why_none(address, groups))
    return ()


def _term(answer: NodeAnswer) -> int:
    return answer.status.term if answer.status else -1


def _order(node_id: str) -> tuple[bool, int, str]:
    return (node_id == "?", len(node_id), node_id)


def _body(command: Command) -> bytes:
    body = command.body
    return b"".join(body) if isinstance(body, list) else bytes(body)
