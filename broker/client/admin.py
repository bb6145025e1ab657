"""What an operator does: topics, offsets, who leads."""

from __future__ import annotations

from typing import TYPE_CHECKING

from broker.client.errors import RequestFailedError
from broker.errors import HeaderError
from broker.protocol.bodies import GroupStatus, TopicEntry, decode_topic_table
from broker.protocol.headers import LeadershipTransferRequest
from broker.protocol.request_code import RequestCode
from broker.protocol.topic_attributes import ATTRIBUTE_NAMES, format_attributes
from dledger.remoting.command import Command

if TYPE_CHECKING:
    from broker.client.offsets import Offsets
    from broker.client.requests import Requests
    from broker.client.routes import RouteCache

DEFAULT_QUEUE_COUNT = 8


class Admin:
    """Requests about the group itself. Every method raises `ClientError`s that say what to do."""

    def __init__(self, requests: Requests, routes: RouteCache, offsets: Offsets) -> None:
        self._requests = requests
        self._routes = routes
        self._offsets = offsets

    async def create_topic(
        self,
        name: str,
        queue_count: int = DEFAULT_QUEUE_COUNT,
        *,
        retention_ms: int | None = None,
        retention_bytes: int | None = None,
        acks: str | None = None,
        flush: str | None = None,
    ) -> None:
        """Create topic *name*, or change the number of its queues and what else is given.

        Args:
            name: of the topic.
            queue_count: how many queues it is to have; not fewer than it has.
            retention_ms: how long its messages are kept; 0: as the broker has it.
            retention_bytes: how many bytes of messages it keeps; 0: no bound of its own.
            acks: whose copies an ack stands on: "leader", "majority", "all"; "": the broker's.
            flush: whether on their disks: "sync", "async"; "": the broker's.

        Raises:
            InvalidTopicError: no topic can have that name.
            InvalidMessageError: a value is not allowed, or the topic has more queues.
        """
        if queue_count < 1:
            raise ValueError(f"queue_count = {queue_count}: must be at least 1")
        attributes = _attributes(retention_ms, retention_bytes, acks, flush)
        await self._routes.create(name, queue_count, attributes=attributes)

    async def list_topics(self) -> list[TopicEntry]:
        """Return all topics, by name."""
        answer = await self._requests.ask_leader(
            lambda: Command(RequestCode.GET_ALL_TOPIC_CONFIG.value), "list topics"
        )
        assert not isinstance(answer.body, list), "received bodies are one buffer"
        return sorted(decode_topic_table(answer.body))

    async def group_status(self, node: str | None = None) -> GroupStatus:
        """Return how the group stands, as one node sees it.

        Args:
            node: address of the node to ask, once; None asks the leader, or whoever answers.
        """
        request = Command(RequestCode.GET_GROUP_STATUS.value)
        if node is None:
            node, answer = await self._requests.ask_any(
                lambda: Command(RequestCode.GET_GROUP_STATUS.value), "group status"
            )
        else:
            answer = await self._requests.ask_node(node, request, "group status")
        assert not isinstance(answer.body, list), "received bodies are one buffer"
        try:
            return GroupStatus.decode(answer.body)
        except HeaderError as error:
            raise RequestFailedError(
                f"group status, asked of {node}: {error}; is it a node of this version?",
                code=answer.code,
            ) from error

    async def transfer_leadership(self, target: str | None = None) -> str:
        """Hand the lead over, and return the id of the node that has it then.

        Asked once: when the connection breaks meanwhile, look who leads before asking again.

        Args:
            target: id of the node that is to lead; None leaves the choice to the leader.
        """
        header = LeadershipTransferRequest(transferee_id=target or "")
        answer = await self._requests.ask_leader(
            lambda: Command(RequestCode.LEADERSHIP_TRANSFER.value, ext_fields=header.encode()),
            f"transfer of leadership to {target or 'any other node'}",
            is_repeatable=False,
        )
        return str(answer.ext_fields.get("leaderId") or "")

    async def max_offset(self, topic: str, queue: int) -> int:
        """Return the offset the next message of that queue will get."""
        return await self._offsets.max_offset(topic, queue)

    async def min_offset(self, topic: str, queue: int) -> int:
        """Return the offset of the oldest message of that queue that is kept."""
        return await self._offsets.min_offset(topic, queue)

    async def committed_offset(self, group: str, topic: str, queue: int) -> int | None:
        """Return the offset *group* goes on at, or None when it has committed none."""
        return await self._offsets.committed(group, topic, queue)

    async def commit_offset(self, group: str, topic: str, queue: int, queue_offset: int) -> None:
        """Have *group* go on at *queue_offset*; a lower offset than it has is ignored."""
        await self._offsets.commit(group, topic, queue, queue_offset)


def _attributes(*values: int | str | None) -> str:
    """Return the attributes of a topic as text, in the order of `ATTRIBUTE_NAMES`; None: as is."""
    return format_attributes(
        {
            name: str(value) if value else None
            for name, value in zip(ATTRIBUTE_NAMES, values, strict=True)
            if value is not None
        }
    )
