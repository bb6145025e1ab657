"""What an operator does: topics, consumer groups, offsets, who leads."""

from __future__ import annotations

import datetime
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import trio

from broker.client.errors import RequestFailedError
from broker.errors import BrokerError, HeaderError
from broker.protocol.bodies import GroupStatus, TopicEntry, decode_topic_table
from broker.protocol.descriptions import (
    GroupDescription,
    OffsetReset,
    Rate,
    TopicDescription,
    decode_body,
)
from broker.protocol.headers import (
    CreateGroupRequest,
    CreateTopicRequest,
    DeleteGroupRequest,
    DeleteTopicRequest,
    GroupRequest,
    LeadershipTransferRequest,
    ResetOffsetsRequest,
    TopicRequest,
)
from broker.protocol.request_code import RequestCode
from broker.protocol.subscription_group import (
    SubscriptionGroupConfig,
    decode_group_table,
    encode_group,
)
from broker.protocol.topic_attributes import ATTRIBUTE_NAMES, format_attributes
from dledger.remoting.command import Command

if TYPE_CHECKING:
    from collections.abc import Iterable

    from broker.client.group_access import FindsGroups, GroupAccess
    from broker.protocol.header_fields import Header

DEFAULT_QUEUE_COUNT = 8


class Admin:
    """Requests about the group itself. Every method raises `ClientError`s that say what to do."""

    def __init__(self, groups: FindsGroups) -> None:
        self._groups = groups

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
        group = await self._groups.of_topic(name)
        await group.routes.create(name, queue_count, attributes=attributes)

    async def alter_topic(
        self,
        name: str,
        *,
        queue_count: int | None = None,
        write_queue_count: int | None = None,
        perm: int | None = None,
        order: bool | None = None,
        retention_ms: int | None = None,
        retention_bytes: int | None = None,
        acks: str | None = None,
        flush: str | None = None,
    ) -> None:
        """Change what is given of topic *name*; all else stays as it is.

        Args:
            name: of the topic.
            queue_count: how many queues it is to have; not fewer than it has.
            write_queue_count: how many of them take messages; fewer than *queue_count* while a
                topic is made narrower, None: all.
            perm: what may be done: 4 read, 2 write, 1 inherit, added up.
            order: RocketMQ's flag; changes nothing here.
            retention_ms: as for `create_topic`.
            retention_bytes: as for `create_topic`.
            acks: as for `create_topic`.
            flush: as for `create_topic`.

        Raises:
            TopicNotFoundError: there is no such topic.
            InvalidMessageError: a value is not allowed, or the topic has more queues.
        """
        group = await self._groups.of_topic(name)
        header = CreateTopicRequest(
            topic=name,
            read_queue_nums=queue_count,
            write_queue_nums=queue_count if write_queue_count is None else write_queue_count,
            perm=perm,
            order=order,
            attributes=_attributes(retention_ms, retention_bytes, acks, flush),
            only_if_there=True,
            request_id=group.requests.new_id(),
        )
        await self._change(
            group, RequestCode.UPDATE_AND_CREATE_TOPIC, header, f"alter topic {name}"
        )
        group.routes.forget(name)

    async def delete_topic(self, name: str) -> None:
        """Delete topic *name* with its messages and what groups have committed in it.

        A topic created again by that name goes on at the offsets where its queues ended. There need
        be no such topic.
        """
        group = await self._groups.of_topic(name)
        header = DeleteTopicRequest(topic=name, request_id=group.requests.new_id())
        await self._change(
            group, RequestCode.DELETE_TOPIC_IN_BROKER, header, f"delete topic {name}"
        )
        group.routes.forget(name)

    async def list_topics(self) -> list[TopicEntry]:
        """Return all topics, by name."""
        group = await self._groups.only("list topics")
        answer = await group.requests.ask_leader(
            lambda: Command(RequestCode.GET_ALL_TOPIC_CONFIG.value), "list topics"
        )
        return sorted(decode_topic_table(_body(answer)))

    async def describe_topic(self, name: str, *, node: str | None = None) -> TopicDescription:
        """Return what there is of topic *name*: ends, times, sizes and rates.

        Args:
            name: of the topic.
            node: address of the node to ask; None asks the leader, or whoever answers, and adds
                what goes out of the others that can be asked.

        Raises:
            TopicNotFoundError: there is no such topic.
        """
        header, what = TopicRequest(topic=name), f"describe topic {name}"

        def request() -> Command:
            return Command(RequestCode.DESCRIBE_TOPIC.value, ext_fields=header.encode())

        group = await self._groups.of_topic(name)
        if node is not None:
            answer = await group.requests.ask_node(node, request(), what)
            return decode_body(_body(answer), TopicDescription)
        first, answer = await group.requests.ask_any(request, what)
        found = decode_body(_body(answer), TopicDescription)
        rates = [found.out_rate]
        asked = {found.node_id}

        async def add(other: str) -> None:
            try:
                more = await self.describe_topic(name, node=other)
            except BrokerError:  # a node that is down, or has not heard of the topic yet
                return
            if more.node_id not in asked:  # one node may have two addresses
                asked.add(more.node_id)
                rates.append(more.out_rate)

        async with trio.open_nursery() as nursery:
            for other in group.requests.leader.nodes:
                if other != first:
                    nursery.start_soon(add, other)
        return replace(found, out_rate=sum_rates(rates))

    async def list_groups(self) -> list[SubscriptionGroupConfig]:
        """Return all consumer groups, by name."""
        group = await self._groups.only("list groups")
        answer = await group.requests.ask_leader(
            lambda: Command(RequestCode.GET_ALL_SUBSCRIPTIONGROUP_CONFIG.value), "list groups"
        )
        return decode_group_table(_body(answer))

    async def describe_group(self, name: str) -> GroupDescription:
        """Return what group *name* has, and how far it has come in every topic.

        Raises:
            GroupNotFoundError: there is no such group.
        """
        header, what = GroupRequest(consumer_group=name), f"describe group {name}"
        group = await self._groups.only(what)
        answer = await group.requests.ask_leader(
            lambda: Command(RequestCode.DESCRIBE_CONSUMER_GROUP.value, ext_fields=header.encode()),
            what,
        )
        return decode_body(_body(answer), GroupDescription)

    async def create_group(self, name: str, **settings: Any) -> None:  # noqa: ANN401
        """Create consumer group *name*, or give the one there is these settings and no others.

        Args:
            name: of the group.
            settings: fields of `SubscriptionGroupConfig`: ``consume_enable``, ``retry_times_max``,
                ``retry_delays_ms`` and so on.

        Raises:
            InvalidMessageError: no group can have that name, or a value is not allowed.
        """
        await self._put_group(SubscriptionGroupConfig(group=name, **settings))

    async def alter_group(self, name: str, **settings: Any) -> None:  # noqa: ANN401
        """Change some settings of group *name*; see `create_group`.

        Raises:
            GroupNotFoundError: there is no such group.
            InvalidMessageError: a value is not allowed.
        """
        config = (await self.describe_group(name)).config
        await self._put_group(replace(config, **settings))

    async def delete_group(self, name: str) -> None:
        """Delete group *name* with all it has committed; there need be none.

        A consumer of it that still runs makes it again.
        """
        what = f"delete group {name}"
        group = await self._groups.only(what)
        header = DeleteGroupRequest(group_name=name, request_id=group.requests.new_id())
        await self._change(group, RequestCode.DELETE_SUBSCRIPTIONGROUP, header, what)

    async def reset_offsets(
        self,
        group: str,
        topic: str,
        to: str | int | datetime.datetime | None = None,
        *,
        shift: int | None = None,
        queue: int | None = None,
        dry_run: bool = False,
    ) -> OffsetReset:
        """Have *group* go on elsewhere in *topic*, in all queues at once; return where that is.

        A consumer of this client that runs goes on at the new place, and no commit that is on its
        way undoes it.  Consumers of other clients have to be stopped before.

        Args:
            group: whose offsets; it need not exist.
            topic: in which they are.
            to: "earliest" or "first", "latest" or "last", a queue offset, or a time: the first
                message stored then or later. Beyond the ends of a queue its ends are meant.
            shift: instead of *to*, how many messages on, or back where it is below 0.
            queue: the only queue meant; None: all.
            dry_run: say what would be, and change nothing.

        Raises:
            TopicNotFoundError: there is no such topic or queue.
            NoBrokerError: nobody answered in time; it may have happened.
        """
        place = await self._groups.of_topic(topic)
        header = ResetOffsetsRequest(
            consumer_group=group,
            topic=topic,
            queue_id=-1 if queue is None else queue,
            dry_run=dry_run,
            request_id=place.requests.new_id(),
            **_place(to, shift),
        )
        answer = await place.requests.ask_leader(
            lambda: Command(RequestCode.RESET_CONSUMER_OFFSETS.value, ext_fields=header.encode()),
            f"reset of group {group} in topic {topic}",
        )
        return decode_body(_body(answer), OffsetReset)

    async def group_status(self, node: str | None = None) -> GroupStatus:
        """Return how the group stands, as one node sees it.

        Args:
            node: address of the node to ask, once; None asks the leader, or whoever answers.
        """
        request = Command(RequestCode.GET_GROUP_STATUS.value)
        if node is None:
            group = await self._groups.only("group status")
            node, answer = await group.requests.ask_any(
                lambda: Command(RequestCode.GET_GROUP_STATUS.value), "group status"
            )
        else:
            group = await self._groups.of_node(node, "group status")
            answer = await group.requests.ask_node(node, request, "group status")
        try:
            return GroupStatus.decode(_body(answer))
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
        what = f"transfer of leadership to {target or 'any other node'}"
        group = await self._groups.only(what)
        answer = await group.requests.ask_leader(
            lambda: Command(RequestCode.LEADERSHIP_TRANSFER.value, ext_fields=header.encode()),
            what,
            is_repeatable=False,
        )
        return str(answer.ext_fields.get("leaderId") or "")

    async def _change(
        self, group: GroupAccess, code: RequestCode, header: Header, what: str
    ) -> None:
        await group.requests.ask_leader(
            lambda: Command(code.value, ext_fields=header.encode()), what
        )

    async def _put_group(self, config: SubscriptionGroupConfig) -> None:
        what = f"create group {config.group}"
        group = await self._groups.only(what)
        header = CreateGroupRequest(request_id=group.requests.new_id())
        await group.requests.ask_leader(
            lambda: Command(
                RequestCode.UPDATE_AND_CREATE_SUBSCRIPTIONGROUP.value,
                ext_fields=header.encode(),
                body=encode_group(config),
            ),
            what,
        )

    async def max_offset(self, topic: str, queue: int) -> int:
        """Return the offset the next message of that queue will get."""
        place = await self._groups.of_topic(topic)
        return await place.offsets.max_offset(topic, queue)

    async def min_offset(self, topic: str, queue: int) -> int:
        """Return the offset of the oldest message of that queue that is kept."""
        place = await self._groups.of_topic(topic)
        return await place.offsets.min_offset(topic, queue)

    async def committed_offset(self, group: str, topic: str, queue: int) -> int | None:
        """Return the offset *group* goes on at, or None when it has committed none."""
        place = await self._groups.of_topic(topic)
        return await place.offsets.committed(group, topic, queue)

    async def group_progress(self, group: str, topic: str, queue: int) -> tuple[int | None, int]:
        """Return the offset *group* goes on at, or None, and the epoch its last reset began."""
        place = await self._groups.of_topic(topic)
        return await place.offsets.progress(group, topic, queue)

    async def commit_offset(
        self, group: str, topic: str, queue: int, queue_offset: int, *, epoch: int | None = None
    ) -> bool:
        """Have *group* go on at *queue_offset*; a lower offset than it has is ignored.

        Args:
            group: who consumed.
            topic: what.
            queue: of *topic*.
            queue_offset: of the next message to consume.
            epoch: what `group_progress` said when the consumer began; None: it does not matter.

        Returns:
            False when it does not count, as the group was put elsewhere since *epoch* began.
        """
        place = await self._groups.of_topic(topic)
        return await place.offsets.commit(group, topic, queue, queue_offset, epoch=epoch)


def sum_rates(rates: Iterable[Rate]) -> Rate:
    """Return what *rates* add up to."""
    found = list(rates)
    return Rate(
        messages_per_second=round(sum(rate.messages_per_second for rate in found), 3),
        bytes_per_second=round(sum(rate.bytes_per_second for rate in found), 1),
    )


def _place(to: str | int | datetime.datetime | None, shift: int | None) -> dict[str, Any]:
    if (to is None) == (shift is None):
        raise ValueError("give either a place to go to, or shift")
    if shift is not None:
        return {"to": "shift", "value": shift}
    if isinstance(to, datetime.datetime):
        return {"to": "time", "value": round(to.timestamp() * 1000)}
    if isinstance(to, int):
        return {"to": "offset", "value": to}
    to = {"first": "earliest", "last": "latest"}.get(str(to), to)  # as consumers say it
    if to not in ("earliest", "latest"):
        raise ValueError(f'to = {to!r}: use "earliest", "latest", a queue offset or a datetime')
    return {"to": to}


def _body(answer: Command) -> bytes | bytearray | memoryview:
    body = answer.body
    assert not isinstance(body, list), "received bodies are one buffer"
    return body


def _attributes(*values: int | str | None) -> str:
    """Return the attributes of a topic as text, in the order of `ATTRIBUTE_NAMES`; None: as is."""
    return format_attributes(
        {
            name: str(value) if value else None
            for name, value in zip(ATTRIBUTE_NAMES, values, strict=True)
            if value is not None
        }
    )
