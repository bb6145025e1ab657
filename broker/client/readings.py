"""All that one consumer reads, and what it does about it in the background.

Its topics, the group's retry topic among them; its seat in the group; what is pulled ahead; commits
from time to time; and the end of it all, when what is done is committed before others go on.
"""

from __future__ import annotations

import contextlib
import logging
import threading
from typing import TYPE_CHECKING

import trio

from broker.client.errors import USE_WITH, ClosedError
from broker.client.group_member import Seat
from broker.client.handout import ConsumerStats, Handout
from broker.client.offset_file import FileOffsets, FileStarts, OffsetFile
from broker.client.prefetch import Prefetch
from broker.client.send_backs import SendBacks
from broker.client.topic_reading import Surroundings, TopicReading
from broker.errors import BrokerError, InvalidMessageError, NoPermissionError
from broker.message.limits import RETRY_PREFIX
from broker.message.tags import parse_tag_expression

if TYPE_CHECKING:
    from collections.abc import Callable

    from broker.client.broker_groups import BrokerGroups
    from broker.client.consumer_options import Subscription
    from broker.client.group_access import GroupAccess
    from broker.client.offsets import Offsets
    from broker.client.progress import QueueProgress
    from broker.client.routes import Route
    from broker.client.starts import Starts

_LOG = logging.getLogger("broker.client")


class Readings:
    """What is behind a `Consumer`, in the thread of the connections."""

    def __init__(
        self,
        subscription: Subscription,
        *,
        nursery: trio.Nursery,
        groups: BrokerGroups,
        chance: Callable[[], float],
        handout: Handout,
    ) -> None:
        options = subscription.options
        self.subscription = subscription
        self.handout = handout
        self.stats = ConsumerStats()
        self.prefetch = Prefetch(
            size_max=options.prefetch_bytes,
            count_max=options.prefetch_count,
            one_by_one=options.ordered,
        )
        self._nursery = nursery
        self._groups = groups
        self._chance = chance
        self._keeper: SendBacks | None = None
        self._by_topic: dict[str, TopicReading] = {}  # none before it is opened
        self._file: OffsetFile | None = None  # of a broadcasting consumer that has one
        self._seat: Seat | None = None
        self._inner: trio.Nursery | None = None
        self._scope = trio.CancelScope()
        self._is_closed = True  # until it is opened
        self._was_opened = False
        self._commit_wanted = trio.Event()
        self._token: trio.lowlevel.TrioToken | None = None
        self._thread = 0

    def _settle_in(self, place: GroupAccess) -> None:
        """Take it that the topics lie in the broker group *place*."""
        self._requests = place.requests
        self._membership = place.membership
        self.starts: Starts = place.starts
        subscription = self.subscription
        if subscription.is_shared:
            self._keeper = SendBacks(
                place.requests,
                group=subscription.group,
                retries_max=subscription.options.retries_max,
                call_soon=self._call_soon,
                prefetch=self.prefetch if subscription.options.ordered else None,
            )
        offsets = place.offsets
        if self._file is not None:
            offsets = FileOffsets(place.requests, self._file)
            self.starts = FileStarts(offsets, place.starts, self._file)
        self._by_topic = self._make_readings(place, offsets)

    def _make_readings(self, place: GroupAccess, offsets: Offsets) -> dict[str, TopicReading]:
        subscription = self.subscription
        around = Surroundings(
            subscription=subscription,
            requests=place.requests,
            offsets=offsets,
            starts=self.starts,
            chance=self._chance,
            stats=self.stats,
            prefetch=self.prefetch,
            handout=self.handout,
            keeper=self._keeper,
            on_settled=self._note_settled if subscription.is_shared else None,
        )
        tags = parse_tag_expression(subscription.options.tags)
        found = {
            topic: TopicReading(topic, around, tags=tags, on_parted=self._on_parted)
            for topic in subscription.topics
        }
        if subscription.is_shared:
            retry_topic = RETRY_PREFIX + subscription.group
            found[retry_topic] = TopicReading(
                retry_topic, around, tags=None, is_retry=True, on_parted=self._on_parted
            )
        return found

    @property
    def _name(self) -> str:
        subscription = self.subscription
        return f"consumer of topic {subscription.topics[0]} for group {subscription.group}"

    # --- what there is ------------------------------------------------------------------------

    def of(self, topic: str | None = None) -> TopicReading:
        """Return what is read of *topic*, which None means the first.

        Raises:
            ValueError: it is not read.
            ClosedError: nothing is read yet.
        """
        topics = self.subscription.topics
        if topic is not None and topic not in topics:
            raise ValueError(f"topic {topic} is not read here; these are: {', '.join(topics)}")
        if not self._by_topic:
            raise ClosedError(f"{self._name} is not open: {USE_WITH}")
        return self._by_topic[topics[0] if topic is None else topic]

    def queue(self, queue: int, topic: str | None = None) -> QueueProgress:
        """Return how far one queue has come.

        Raises:
            ValueError: it is not read.
        """
        reading = self.of(topic)
        found = reading.queues.get(queue)
        if found is None:
            raise ValueError(
                f"queue {queue} of topic {reading.topic} is not read here; these are: "
                f"{', '.join(map(str, sorted(reading.queues))) or 'none'}"
            )
        return found

    def named(self, queues: tuple[int, ...], topic: str | None) -> list[QueueProgress]:
        """Return those of *queues*, all of *topic*, or all there are."""
        if queues or topic is not None:
            return [self.queue(queue, topic) for queue in queues or self.of(topic).queues]
        return self.prefetch.progresses

    # --- handing out --------------------------------------------------------------------------

    async def gather(self, handout: Handout, count_max: int, linger: float) -> None:
        """Gather a batch of so many messages; what is there, or what comes within *linger* s."""
        while not handout.gather(count_max):
            if not handout.gathered_count:
                await self.fill()
            elif self.prefetch.is_ready:
                self._take_turn()
            elif linger <= 0:
                break
            else:
                with trio.move_on_after(linger):
                    while not handout.gather(count_max):
                        await self.fill()
                break

    async def fill(self) -> None:
        """Wait for messages and have them handed out.

        Raises:
            ClosedError: nothing comes any more.
            Exception: what a queue's reader met that will not pass.
        """
        self.handout.use_up()
        prefetch = self.prefetch
        while not prefetch.is_ready:
            self._check_reading()
            self._pass_over()
            if self._is_parting():
                self._commit_wanted.set()
            await prefetch.wait()
        # Also when there is plenty: others want their turn, and a cancellation its effect.
        await trio.lowlevel.checkpoint()
        self._take_turn()

    async def fill_within(self, wait: float | None) -> bool:
        """As `fill`, for so many seconds at most; whether there are messages."""
        if wait is None:
            await self.fill()
            return True
        if wait <= 0 and not self.prefetch.is_ready:
            self._check_reading()
            await trio.lowlevel.checkpoint()
            return False
        with trio.move_on_after(max(wait, 0.001)) as scope:
            await self.fill()
        return not scope.cancelled_caught

    def _check_reading(self) -> None:
        if self._is_closed:
            what = "is closed; open another one"
            if not self._was_opened:
                what = f"is not open: {USE_WITH}"
            raise ClosedError(f"{self._name} {what}")
        for progress in self.prefetch.progresses:
            if progress.reader.error is not None:
                raise progress.reader.error

    def _take_turn(self) -> None:
        taken = self.prefetch.take()
        if taken is not None:
            self.handout.take_up(*taken)

    def _pass_over(self, *, settled: bool = False) -> None:
        """Have what a filter passed over count as done, where nobody has a message before it.

        Args:
            settled: whether the message in the receiver's hand is done, too.
        """
        if self.subscription.options.tags is None:
            return
        handout = self.handout
        with handout.exclusive:
            for progress in self.prefetch.progresses:
                reader = progress.reader
                if (
                    progress.handed_out < reader.next_offset
                    and not reader.batches
                    and not handout.has(progress, settled=settled)
                ):
                    progress.skip_to(reader.next_offset)

    # --- opening and closing ------------------------------------------------------------------

    async def open(self) -> None:
        """Begin to read; returns once it is known which queues and from where.

        Raises:
            BrokerError: the topic or the group may not be read, or nobody answered.
        """
        self._token = trio.lowlevel.current_trio_token()
        self._thread = threading.get_ident()
        subscription = self.subscription
        place = await self._groups.of_topics(subscription.topics)
        routes = [await self._readable_route(place, topic) for topic in subscription.topics]
        told = self._told_queues(routes[0].read_queue_count)
        await self._open_file(routes[0].broker_name)
        try:
            self._settle_in(place)
            await self._nursery.start(self._run)
            assert self._inner is not None
            if subscription.is_member:
                seat = Seat(subscription=subscription, readings=self._by_topic, nursery=self._inner)
                await self._membership.join(seat)
                self._seat = seat
            else:
                await self.of().add(told, subscription.start, self._inner)
            await self._save_file()
        except BaseException:
            self._is_closed = True
            self._scope.cancel()
            self._close_file()
            raise

    async def _open_file(self, broker_group: str) -> None:
        wanted = self.subscription.options.offset_file
        if wanted is not None:
            file = OffsetFile(wanted, group=self.subscription.group)
            await file.open(broker_group)
            self._file = file

    async def _save_file(self) -> None:
        if self._file is not None:
            await self._file.save()

    def _close_file(self) -> None:
        if self._file is not None:
            self._file.close()

    async def close(self, error: BaseException | None) -> None:
        """Stop reading, commit what is done, and let the other members have the queues.

        Raises:
            NoBrokerError: nobody took the last commit in time.
        """
        self._is_closed = True
        self.prefetch.wake()
        for reading in self._by_topic.values():
            reading.stop()
        try:
            if error is None:
                await self._finish(settles=self.subscription.options.auto_commit)
                return
            try:
                with trio.move_on_after(self._requests.request_timeout, shield=True):
                    await self._finish(settles=False)
            except BrokerError as failure:
                self._warn("last commit", failure)
        finally:
            seat, self._seat = self._seat, None
            if seat is not None:
                with trio.move_on_after(self._requests.request_timeout, shield=True):
                    await self._membership.leave(seat)
            self._scope.cancel()
            self._close_file()

    async def _finish(self, *, settles: bool) -> None:
        if self._keeper is not None:
            with trio.move_on_after(self._requests.group_timeout):
                await self._keeper.drain()
        if settles:
            self._settle_all()
        await self._commit_done()

    async def _readable_route(self, place: GroupAccess, topic: str) -> Route:
        route = await place.routes.get(topic)
        if not route.is_readable:
            raise NoPermissionError(
                f"topic {topic} may not be read: perm {route.perm}, "
                f"{route.read_queue_count} queues for reading; alter the topic first"
            )
        return route

    def _told_queues(self, count: int) -> tuple[int, ...]:
        wanted = self.subscription.queues
        if wanted is None:
            wanted = tuple(range(count))
        for queue_id in wanted:
            if not 0 <= queue_id < count:
                raise InvalidMessageError(
                    f"topic {self.subscription.topics[0]} has no queue {queue_id}: it has 0 to "
                    f"{count - 1}; name others, or none to read all"
                )
        return wanted

    # --- committing ---------------------------------------------------------------------------

    async def commit_all(self) -> None:
        """Commit everything handed out, but for what is open or left.

        Raises:
            NoBrokerError: nobody took it in time.
        """
        self._settle_all()
        await self._commit_done()

    def _settle_all(self) -> None:
        for reading in self._by_topic.values():
            reading.settle_all()
        self._pass_over(settled=True)

    async def _commit_done(self) -> None:
        for reading in self._by_topic.values():
            await reading.commit()
        await self._save_file()

    async def _commit_regularly(self) -> None:
        while True:
            with trio.move_on_after(self.subscription.options.commit_interval):
                await self._commit_wanted.wait()
            self._commit_wanted = trio.Event()
            self._pass_over()
            try:
                await self._commit_done()
            except BrokerError as error:
                # The topic is gone, say: the readers hear of it themselves.
                self._warn("commit", error)

    def _warn(self, what: str, error: Exception) -> None:
        topics = ", ".join(self.subscription.topics)
        _LOG.warning("%s of group %s in topic %s: %s", what, self.subscription.group, topics, error)

    # --- what happens -------------------------------------------------------------------------

    async def _run(self, *, task_status: trio.TaskStatus[None]) -> None:
        finder = self._requests.leader
        finder.listen(self._on_leader)
        try:
            with self._scope:
                async with trio.open_nursery() as self._inner:
                    for reading in self._by_topic.values():
                        self._inner.start_soon(reading.run)
                    if self._keeper is not None:
                        self._inner.start_soon(self._keeper.run)
                    self._is_closed = False
                    self._was_opened = True
                    task_status.started()
                    await self._commit_regularly()
        finally:
            finder.unlisten(self._on_leader)
            self._is_closed = True
            self.prefetch.wake()  # whoever waits hears that nothing comes any more

    def _on_leader(self) -> None:
        for progress in self.prefetch.progresses:
            progress.reader.on_leader()

    def _is_parting(self) -> bool:
        return any(reading.parting for reading in self._by_topic.values())

    def _on_parted(self, topic: str, queue: int) -> None:
        if self._seat is not None and self.subscription.options.ordered:
            self._membership.look_again(self.subscription.group)

    def _note_settled(self) -> None:
        """Hear, in whichever thread, that somebody said what became of a message."""
        if self.subscription.options.ordered or self._is_parting():
            self._call_soon(self._on_settled)

    def _on_settled(self) -> None:
        if self._is_parting():
            self._commit_wanted.set()
        self.prefetch.wake()

    def _call_soon(self, function: Callable[[], object]) -> None:
        if threading.get_ident() == self._thread:
            function()
        elif self._token is not None:
            with contextlib.suppress(trio.RunFinishedError):  # closed: nothing more is to be done
                self._token.run_sync_soon(function)
