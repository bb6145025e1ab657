"""Requests that may be repeated: asked of the leader, or of anybody, until the time is up."""

from __future__ import annotations

from typing import TYPE_CHECKING

import trio

from broker.client.errors import NoBrokerError, RequestFailedError
from broker.errors import (
    GroupNotFoundError,
    InvalidFilterError,
    InvalidMessageError,
    NoPermissionError,
    TopicNotFoundError,
)
from broker.protocol.response_code import ResponseCode
from dledger.remoting.errors import ConnectFailedError, NotConnectedError, RemotingError

if TYPE_CHECKING:
    from collections.abc import Callable

    from broker.client.leader_finder import LeaderFinder
    from broker.client.links import Links
    from dledger.remoting.command import Command

REQUEST_ID_BITS = 53  # as many as a float from 0 to 1 has
RETRY_DELAY_MIN = 0.005  # seconds
RETRY_DELAY_MAX = 0.200
NODE_RETRY_DELAY = 0.020  # seconds before the next node is asked, when any of them will do

NEVER_SENT = (ConnectFailedError, NotConnectedError)
# Nothing was done, or doing it twice is the same as once: ask again.
RETRYABLE = frozenset(
    {
        ResponseCode.SYSTEM_BUSY,
        ResponseCode.SERVICE_NOT_AVAILABLE,
        ResponseCode.FLOW_CONTROL,
        ResponseCode.NOT_LEADER,
        ResponseCode.NOT_READY,
        ResponseCode.OUTCOME_UNKNOWN,
    }
)


def leader_hint(answer: Command) -> str:
    """Return the address or the id *answer* names as the leader's, or ""."""
    fields = answer.ext_fields
    return str(fields.get("leaderAddress") or fields.get("leaderId") or "")


def failure_text(answer: Command) -> str:
    """Return what *answer*, which is no success, says."""
    try:
        name = ResponseCode(answer.code).name
    except ValueError:
        name = f"code {answer.code}"
    return f"{name}: {answer.remark}" if answer.remark else name


def error_of(answer: Command, what: str, node: str) -> Exception:
    """Return the error for an answer that is final; *what* names the request."""
    text = f"{what}, asked of {node}: {failure_text(answer)}"
    if answer.code == ResponseCode.TOPIC_NOT_EXIST:
        # A topic that is there may lack the queue that was asked for.
        advice = "" if "create it" in text or "queue " in text else "; create the topic first"
        return TopicNotFoundError(f"{text}{advice}")
    if answer.code == ResponseCode.SUBSCRIPTION_GROUP_NOT_EXIST:
        return GroupNotFoundError(text)
    if answer.code == ResponseCode.NO_PERMISSION:
        return NoPermissionError(text)
    if answer.code == ResponseCode.SUBSCRIPTION_PARSE_FAILED:
        return InvalidFilterError(text)
    if answer.code == ResponseCode.MESSAGE_ILLEGAL:
        return InvalidMessageError(text)
    return RequestFailedError(text, code=answer.code)


class Requests:
    """Asks nodes of the group, and asks again when something is in the way."""

    def __init__(
        self,
        links: Links,
        leader: LeaderFinder,
        *,
        request_timeout: float,
        group_timeout: float,
        chance: Callable[[], float] = lambda: 0.5,
    ) -> None:
        """Prepare to ask.

        Args:
            links: the connections.
            leader: who leads.
            request_timeout: seconds one node may take to answer.
            group_timeout: seconds until a request is given up.
            chance: returns a number from 0 to below 1, for the jitter of delays.
        """
        self.links = links
        self.leader = leader
        self.request_timeout = request_timeout
        self.group_timeout = group_timeout
        self._chance = chance

    def new_id(self) -> int:
        """Return a number for one request, the same for all attempts at it: it is done once."""
        return int(self._chance() * (1 << REQUEST_ID_BITS))

    async def ask_leader(
        self,
        make_request: Callable[[], Command],
        what: str,
        *,
        accept: frozenset[int] = frozenset(),
        is_repeatable: bool = True,
    ) -> Command:
        """Return the leader's answer: a success or one of the codes in *accept*.

        Args:
            make_request: builds the request, once for each attempt.
            what: names it in errors, with topic and queue.
            accept: other response codes the caller understands.
            is_repeatable: doing it twice is the same as once; otherwise it is asked again only when
                nothing was done, and an answer may take as long as all attempts together.

        Raises:
            NoBrokerError: nobody answered in time; a write may still happen.
            TopicNotFoundError, NoPermissionError, RequestFailedError: the leader refused.
        """
        delay = RETRY_DELAY_MIN
        finder = self.leader
        with trio.move_on_after(self.group_timeout):
            while True:
                node = await finder.wait()
                link = self.links[node]
                try:
                    answer = await link.request(
                        make_request(),
                        timeout_seconds=self.request_timeout
                        if is_repeatable
                        else self.group_timeout,
                        # The node is not silent as long as it works at it, leader or not.
                        is_slow=not is_repeatable,
                    )
                except RemotingError as error:
                    if not is_repeatable and not isinstance(error, NEVER_SENT):
                        raise NoBrokerError(
                            f"{what}, asked of {node}: {error}; it may have been done: look before "
                            "you ask again"
                        ) from error
                    # Silent about this request is not silent: it may wait for its disk.
                    if trio.current_time() - link.received_at >= self.request_timeout:
                        finder.suspect(node, str(error))
                    else:
                        finder.last_failure = str(error)
                else:
                    if answer.code == ResponseCode.SUCCESS or answer.code in accept:
                        finder.hint(leader_hint(answer))
                        return answer
                    if answer.code not in RETRYABLE:
                        raise error_of(answer, what, node)
                    if answer.code == ResponseCode.NOT_LEADER:
                        finder.suspect(node, f"{node}: {failure_text(answer)}")
                        finder.hint(leader_hint(answer))
                    else:
                        finder.last_failure = f"{node}: {failure_text(answer)}"
                await trio.sleep(delay * (0.75 + 0.5 * self._chance()))
                delay = min(delay * 2, RETRY_DELAY_MAX)
        raise self.no_broker(what)

    async def ask_any(
        self,
        make_request: Callable[[], Command],
        what: str,
        *,
        accept: frozenset[int] = frozenset(),
    ) -> tuple[str, Command]:
        """Return a node's address and its answer; nodes are asked in turn, the leader first.

        Raises:
            NoBrokerError: nobody answered in time.
            TopicNotFoundError, NoPermissionError, RequestFailedError: a node refused.
        """
        finder = self.leader
        with trio.move_on_after(self.group_timeout):
            while True:
                for node in finder.nodes:
                    try:
                        answer = await self.links[node].request(
                            make_request(), timeout_seconds=self.request_timeout
                        )
                    except RemotingError as error:
                        finder.suspect(node, str(error))
                        continue
                    if answer.code == ResponseCode.SUCCESS or answer.code in accept:
                        return node, answer
                    if answer.code not in RETRYABLE:
                        raise error_of(answer, what, node)
                    finder.last_failure = f"{node}: {failure_text(answer)}"
                await trio.sleep(NODE_RETRY_DELAY * (0.75 + 0.5 * self._chance()))
        raise self.no_broker(what)

    async def ask_node(self, node: str, request: Command, what: str) -> Command:
        """Return the success of one attempt at one node.

        Raises:
            NoBrokerError: the node could not be asked.
            TopicNotFoundError, NoPermissionError, RequestFailedError: it refused.
        """
        try:
            answer = await self.links[node].request(request, timeout_seconds=self.request_timeout)
        except RemotingError as error:
            raise NoBrokerError(f"{what}, asked of {node}: {error}") from error
        if answer.code != ResponseCode.SUCCESS:
            raise error_of(answer, what, node)
        return answer

    def no_broker(self, what: str) -> NoBrokerError:
        """Return the error for *what*, which nobody has answered in time."""
        nodes = ", ".join(self.leader.nodes)
        return NoBrokerError(
            f"{what}: no answer within {self.group_timeout:g} s from {nodes}; last: "
            f"{self.leader.last_failure}; see whether a majority of the group runs (dledger status)"
        )
