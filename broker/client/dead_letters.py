"""Messages that a group has given up: what they are, and sent to the group once more.

They lie in the topic ``%DLQ%GROUP``, oldest first.  How far somebody has dealt with them is an
offset that the group has committed there, as for what it reads.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from broker.client.errors import CorruptAnswerError
from broker.client.lookup import decode_found
from broker.errors import CorruptRecordError, InvalidMessageError, TopicNotFoundError
from broker.message.limits import DLQ_PREFIX, check_group
from broker.message.properties import RETRY_TOPIC
from broker.protocol.headers import ConsumerSendBackRequest, PullMessageRequest
from broker.protocol.request_code import RequestCode
from broker.protocol.response_code import ResponseCode
from dledger.remoting.command import Command

if TYPE_CHECKING:
    from broker.client.group_access import FindsGroups, GroupAccess
    from broker.client.message import Message

QUEUE = 0  # the only one. Source: RocketMQ ``DLQ_NUMS_PER_GROUP``
PULL_COUNT_MAX = 64  # messages of one request
_LOOKER = "TOOLS_CONSUMER"  # RocketMQ's MixAll.TOOLS_CONSUMER_GROUP: it commits nothing
_NONE_THERE = frozenset({int(ResponseCode.PULL_NOT_FOUND), int(ResponseCode.PULL_OFFSET_MOVED)})


class DeadLetters:
    """The dead letters of one group; see `Client.dead_letters`.

    Every method raises `NoBrokerError` when nobody answers in time.

    >>> async def main() -> None:
    ...     async with broker.connect("127.0.0.1:9876") as mq:
    ...         async with mq.producer() as producer:
    ...             await producer.send("letters", b"nobody can read this")
    ...         async with mq.consumer("postmen", "letters") as consumer:
    ...             (await anext(consumer)).dead_letter()
    ...         letters = mq.dead_letters("postmen")
    ...         for message in await letters.read():
    ...             print(message.topic, message.body)
    ...         print(await letters.resend_all(), await letters.count())
    ...         async with mq.consumer("postmen", "letters") as consumer:
    ...             print((await anext(consumer)).body)
    >>> trio.run(main)
    letters b'nobody can read this'
    1 0
    b'nobody can read this'
    """

    def __init__(self, group: str, groups: FindsGroups) -> None:
        check_group(group)
        self.group = group
        self.topic = DLQ_PREFIX + group
        self._groups = groups

    async def count(self) -> int:
        """Return how many there are that nobody has dealt with."""
        try:
            at = await self._place()
            begin = await self._begin(at)
            return max(await at.offsets.max_offset(self.topic, QUEUE) - begin, 0)
        except TopicNotFoundError:
            return 0  # the group has never given one up

    async def read(self, limit: int = 64, *, start: int | None = None) -> list[Message]:
        """Return the oldest of them, in the order in which they were given up.

        `Message.topic` is where each was sent first; `Message.queue_offset` its number here.

        Args:
            limit: most messages to return.
            start: number of the first; None: the first that nobody has dealt with. 0: all kept.
        """
        if limit < 1:
            raise ValueError(f"limit = {limit}: must be at least 1")
        try:
            place = await self._place()
            if start is None:
                at = await self._begin(place)
            else:
                at = max(start, await self._first_kept(place))
            result: list[Message] = []
            while len(result) < limit:
                more = await self._pull(place, at, min(limit - len(result), PULL_COUNT_MAX))
                if not more:
                    break
                result += more
                at = more[-1].queue_offset + 1
        except TopicNotFoundError:
            return []
        return result

    async def resend(self, message: Message, *, count_anew: bool = True) -> None:
        """Have *message* come to the group once more, and to no other that reads its topic.

        It stays here, too; `done` says that it is dealt with.  When an answer is lost it may come
        twice.

        Args:
            message: one that `read` has returned.
            count_anew: as if it had never failed; otherwise its next failure is its last again.

        Raises:
            InvalidMessageError: the broker does not have it any more, or it is no dead letter.
        """
        if message.properties.get(RETRY_TOPIC) is None:
            raise InvalidMessageError(f"{message!r} is no dead letter: no group has given it up")
        header = ConsumerSendBackRequest(
            offset=message.position,
            group=self.group,
            delay_millis=0,
            origin_msg_id=message.message_id,
            origin_topic=message.topic,
            max_reconsume_times=None if count_anew else message.reconsume_times + 1,
            count_anew=count_anew,
        )
        place = await self._place()
        await place.requests.ask_leader(
            lambda: Command(RequestCode.CONSUMER_SEND_MSG_BACK.value, ext_fields=header.encode()),
            f"dead letter {message.message_id} to group {self.group}",
        )

    async def done(self, message: Message) -> None:
        """Say that *message* and all before it are dealt with."""
        place = await self._place()
        await place.offsets.commit(self.group, self.topic, QUEUE, message.queue_offset + 1)

    async def resend_all(self, limit: int | None = None) -> int:
        """Have all that nobody has dealt with come to the group once more; return how many.

        Args:
            limit: only so many, the oldest; None: all that are there when it is called.
        """
        wanted = await self.count()
        if limit is not None:
            wanted = min(wanted, limit)
        sent = 0
        while sent < wanted:
            messages = await self.read(min(wanted - sent, PULL_COUNT_MAX))
            if not messages:
                break
            for message in messages:
                await self.resend(message)
                sent += 1
            await self.done(messages[-1])
        return sent

    async def _place(self) -> GroupAccess:
        """Return the broker group in which they lie."""
        return await self._groups.of_topic(self.topic)

    async def _begin(self, place: GroupAccess) -> int:
        committed = await place.offsets.committed(self.group, self.topic, QUEUE)
        return max(committed or 0, await self._first_kept(place))

    async def _first_kept(self, place: GroupAccess) -> int:
        return await place.offsets.min_offset(self.topic, QUEUE)

    async def _pull(self, place: GroupAccess, queue_offset: int, count: int) -> list[Message]:
        header = PullMessageRequest(
            consumer_group=_LOOKER,
            topic=self.topic,
            queue_id=QUEUE,
            queue_offset=queue_offset,
            max_msg_nums=count,
            sys_flag=0,
        )
        what = f"dead letters of group {self.group} from {queue_offset} on"
        node, answer = await place.requests.ask_any(
            lambda: Command(RequestCode.PULL_MESSAGE.value, ext_fields=header.encode()),
            what,
            accept=_NONE_THERE,
        )
        if answer.code != ResponseCode.SUCCESS:
            return []
        assert not isinstance(answer.body, list), "received bodies are one buffer"
        try:
            found = decode_found(bytes(answer.body))
        except CorruptRecordError as error:
            raise CorruptAnswerError(
                f"{what}: the answer of {node} fails its checks: {error}; compare the nodes' logs "
                "(dledger log verify)"
            ) from error
        for message in found:
            message.topic = message.properties.get(RETRY_TOPIC, self.topic)
        return found
