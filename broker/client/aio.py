"""The client under asyncio: the same classes, with what waits handed over to a portal's thread.

Whoever sends waits for an `asyncio.Future`; what is acknowledged together is told together, with
one wake-up of the event loop.
"""

from __future__ import annotations

import asyncio
import contextlib
import functools
import inspect
from collections import deque
from typing import TYPE_CHECKING, Any, TypeVar

from broker.client.consumer import Consumer
from broker.client.errors import ClosedError
from broker.client.handout import SharedHandout
from broker.client.portal import Opening, Portal, PortalCall, SendJob, SendPumps, call_blocking
from broker.client.producer import CHECKPOINT_EVERY, Producer
from broker.client.send_many import ManySends, OutMessage

if TYPE_CHECKING:
    from collections.abc import AsyncIterable, Callable, Coroutine, Iterable, Mapping
    from datetime import datetime
    from types import TracebackType

    from broker.client.acks import Acks, Flush
    from broker.client.admin import Admin
    from broker.client.consumer_options import Subscription
    from broker.client.dead_letters import DeadLetters
    from broker.client.delays import Seconds
    from broker.client.handout import Handout
    from broker.client.intake import Body
    from broker.client.leader_finder import LeaderFinder
    from broker.client.lookup import Lookup
    from broker.client.producer_options import ProducerOptions
    from broker.client.results import SendResult
    from broker.client.send_loop import ProducerStats
    from broker.client.session import TrioSession
    from broker.client.starts import Start

T = TypeVar("T")


class AsyncioPortal:
    """A portal and the event loop it answers to."""

    def __init__(self, session: TrioSession) -> None:
        self.portal = Portal(session)
        self._loop = asyncio.get_running_loop()
        self._answers: deque[tuple[asyncio.Future[Any], object, BaseException | None]] = deque()
        self._is_woken = False

    async def begin(self) -> None:
        """Start the thread, and return when it is ready."""
        begun = self.future()
        self.portal.begin(lambda error: self.answer(begun, None, error))
        await begun

    async def end(self) -> None:
        """Close the connections and return when the thread has ended."""
        over = self.future()
        self.portal.end(lambda: self.answer(over, None, None))
        await _even_if_cancelled(over, None)

    def future(self) -> asyncio.Future[Any]:
        """Return a future for `answer`."""
        return self._loop.create_future()

    def answer(
        self, future: asyncio.Future[Any], result: object, error: BaseException | None
    ) -> None:
        """Have *future* resolved in its own thread; called in the portal's."""
        self._answers.append((future, result, error))
        if not self._is_woken:
            self._is_woken = True
            try:
                self._loop.call_soon_threadsafe(self._take_answers)
            except RuntimeError:
                return  # the event loop is closed, and nobody waits for anything there

    def _take_answers(self) -> None:
        self._is_woken = False
        answers = self._answers
        while answers:
            future, result, error = answers.popleft()
            if future.done():
                continue  # cancelled
            if error is None:
                future.set_result(result)
            else:
                future.set_exception(error)

    async def call(self, function: Callable[..., object], *args: Any, **options: Any) -> Any:  # noqa: ANN401 - any function
        """Call *function* over there and return its result, awaited if need be.

        When this is cancelled, *function* is, too, and has ended before the cancellation goes on.
        """
        if asyncio.get_running_loop() is not self._loop:
            raise RuntimeError("this client belongs to another event loop: open one in each")
        future = self.future()
        call = _AsyncioCall(functools.partial(function, *args, **options), self, future)
        self.portal.submit(call)
        return await _even_if_cancelled(future, lambda: self.portal.cancel(call))

    async def open(self, real: Producer | Consumer) -> None:
        """Open *real* over there; when this is cancelled, it is closed before that goes on."""
        opening = Opening(real)
        try:
            await self.call(opening)
        except asyncio.CancelledError as error:
            if opening.is_done:
                with contextlib.suppress(ClosedError):  # so is it
                    await self.call(opening.undo, error)
            raise


async def _even_if_cancelled(
    future: asyncio.Future[Any], on_cancelled: Callable[[], None] | None
) -> object:
    """Return the result of *future*; when cancelled, raise that, but wait for *future* first."""
    cancelled: asyncio.CancelledError | None = None
    while not future.done():
        try:
            await asyncio.wait([future])
        except asyncio.CancelledError as error:
            if cancelled is None and on_cancelled is not None:
                on_cancelled()
            cancelled = error
    if cancelled is not None:
        future.exception()  # looked at: it is nobody's any more
        raise cancelled
    return future.result()


class _AsyncioCall(PortalCall):
    __slots__ = ("_future", "_portal")

    def __init__(
        self, function: Callable[[], object], portal: AsyncioPortal, future: asyncio.Future[Any]
    ) -> None:
        super().__init__(function)
        self._portal = portal
        self._future = future

    def finish(self, result: object, error: BaseException | None) -> None:
        self._portal.answer(self._future, result, error)


class _AsyncioSend(SendJob):
    __slots__ = ("_future", "_portal")

    def __init__(
        self,
        portal: AsyncioPortal,
        future: asyncio.Future[SendResult],
        pumps: SendPumps,
        topic: str,
        message: OutMessage,
    ) -> None:
        super().__init__(pumps, topic, message)
        self._portal = portal
        self._future = future

    def settle(self, result: SendResult | Exception) -> None:
        if isinstance(result, Exception):
            self._portal.answer(self._future, None, result)
        else:
            self._portal.answer(self._future, result, None)


class AsyncioSession:
    """See `broker.client.session.Session`."""

    def __init__(self, inner: TrioSession) -> None:
        self._inner = inner
        self._portal = AsyncioPortal(inner)

    @property
    def finder(self) -> LeaderFinder:
        """Who leads."""
        return self._inner.finder

    @property
    def client_id(self) -> str:
        """How the broker knows this client."""
        return self._inner.client_id

    @property
    def admin(self) -> Admin:
        """What an operator does."""
        return _over_there(self._portal, self._inner.admin)

    @property
    def messages(self) -> Lookup:
        """Messages found by what is known of them."""
        return _over_there(self._portal, self._inner.messages)

    def dead_letters(self, group: str) -> DeadLetters:
        """Messages that a group has given up."""
        return _over_there(self._portal, self._inner.dead_letters(group))

    def producer(self, name: str, options: ProducerOptions) -> Producer:
        """Return a producer that is not open yet."""
        return AsyncioProducer(self._portal, self._inner.producer(name, options))

    def consumer(self, subscription: Subscription) -> Consumer:
        """Return a consumer that is not open yet."""
        real = self._inner.consumer(subscription, handout=SharedHandout())
        return AsyncioConsumer(self._portal, real)

    async def open(self) -> None:
        """Start the thread."""
        await self._portal.begin()

    async def close(self) -> None:
        """Close every connection, and end the thread."""
        await self._portal.end()


class AsyncioProducer(Producer):
    """A producer whose connections are in a portal's thread."""

    def __init__(self, portal: AsyncioPortal, real: Producer) -> None:
        self.name = real.name
        self.options = real.options
        self._portal = portal
        self._real = real
        self._pumps = SendPumps(real)

    @property
    def stats(self) -> ProducerStats:
        """What this producer has done so far."""
        return self._real.stats

    @property
    def buffered_size(self) -> int:
        """Bytes of records that are not settled yet."""
        return self._real.buffered_size

    async def send(
        self,
        topic: str,
        body: Body,
        *,
        key: str | Iterable[str] | None = None,
        tag: str | None = None,
        properties: Mapping[str, str] | None = None,
        queue: int | None = None,
        ordering_key: str | None = None,
        acks: Acks | None = None,
        flush: Flush | None = None,
        delay: Seconds | None = None,
        deliver_at: datetime | None = None,
        delay_level: int | None = None,
    ) -> SendResult:
        """See `Producer.send`."""
        if type(body) is not bytes and isinstance(body, bytearray | memoryview):
            body = bytes(body)  # it is read later, when the caller may have changed it
        portal = self._portal
        future = portal.future()
        job = _AsyncioSend(
            portal,
            future,
            self._pumps,
            topic,
            OutMessage(
                body,
                key,
                tag,
                properties,
                queue,
                ordering_key,
                acks,
                flush,
                delay,
                deliver_at,
                delay_level,
            ),
        )
        portal.portal.submit(job)
        try:
            result: SendResult = await future
        except asyncio.CancelledError:
            job.is_abandoned = True
            raise
        return result

    async def send_many(
        self,
        topic: str,
        messages: Iterable[Body | OutMessage] | AsyncIterable[Body | OutMessage],
    ) -> list[SendResult]:
        """See `Producer.send_many`."""
        many = ManySends(topic)
        chunk: list[Body | OutMessage] = []
        if hasattr(messages, "__aiter__"):
            async for message in messages:
                chunk.append(message)
                if len(chunk) == CHECKPOINT_EVERY and not await self._put_chunk(many, chunk):
                    break
        else:
            for message in messages:
                chunk.append(message)
                if len(chunk) == CHECKPOINT_EVERY and not await self._put_chunk(many, chunk):
                    break
        await self._put_chunk(many, chunk)
        results: list[SendResult] = await self._portal.call(many.wait)
        return results

    async def _put_chunk(self, many: ManySends, chunk: list[Body | OutMessage]) -> bool:
        taken, chunk[:] = chunk[:], []
        is_going_on: bool = await self._portal.call(self._real.put_chunk, many, taken)
        return is_going_on

    async def flush(self) -> None:
        """See `Producer.flush`."""
        await self._portal.call(self._real.flush)

    async def close(self) -> None:
        """See `Producer.close`."""
        await self._portal.call(self._real.close)

    async def __aenter__(self) -> Producer:
        await self._portal.open(self._real)
        return self


class AsyncioConsumer(Consumer):
    """A consumer whose connections are in a portal's thread; what is at hand is handed out here."""

    def __init__(self, portal: AsyncioPortal, real: Consumer) -> None:
        super().__init__(real._readings)  # noqa: SLF001 - of the class this is derived from
        self._portal = portal
        self._real = real

    async def fill(self) -> None:
        """See `Consumer.fill`."""
        await self._portal.call(self._real.fill)

    async def fill_within(self, wait: float | None) -> bool:
        """See `Consumer.fill_within`."""
        is_filled: bool = await self._portal.call(self._real.fill_within, wait)
        return is_filled

    async def gather(self, handout: Handout, count_max: int, linger: float) -> None:
        """Gather a batch; what `batches` does is based on it."""
        await self._portal.call(self._real.gather, handout, count_max, linger)

    def seek(self, queue: int, queue_offset: int, *, topic: str | None = None) -> None:
        """See `Consumer.seek`."""
        call_blocking(self._portal.portal, self._real.seek, queue, queue_offset, topic=topic)

    async def seek_to(
        self, start: Start, *, queues: Iterable[int] | None = None, topic: str | None = None
    ) -> dict[int, int]:
        """See `Consumer.seek_to`."""
        found: dict[int, int] = await self._portal.call(
            self._real.seek_to, start, queues=queues, topic=topic
        )
        return found

    def pause(self, *queues: int, topic: str | None = None) -> None:
        """See `Consumer.pause`."""
        call_blocking(self._portal.portal, self._real.pause, *queues, topic=topic)

    def resume(self, *queues: int, topic: str | None = None) -> None:
        """See `Consumer.resume`."""
        call_blocking(self._portal.portal, self._real.resume, *queues, topic=topic)

    async def lag(self, *, topic: str | None = None) -> dict[int, int]:
        """See `Consumer.lag`."""
        found: dict[int, int] = await self._portal.call(self._real.lag, topic=topic)
        return found

    async def commit(self) -> None:
        """See `Consumer.commit`."""
        await self._portal.call(self._real.commit)

    async def __aenter__(self) -> Consumer:
        await self._portal.open(self._real)
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        try:
            await self._portal.call(self._real.__aexit__, kind, error, traceback)
        except ClosedError:
            if error is None:
                raise


def _over_there(portal: AsyncioPortal, real: T) -> T:
    """Return an object with the methods of *real*, each of which runs in the portal's thread."""
    made: Any = _passing_class(type(real))  # type: ignore[arg-type] # a class has a hash
    found: T = object.__new__(made)
    found.__dict__.update(vars(real), _portal=portal, _real=real)
    return found


@functools.cache
def _passing_class(kind: type[Any]) -> type[Any]:
    methods = {
        name: _passing(member)
        for name, member in inspect.getmembers(kind, inspect.iscoroutinefunction)
        if not name.startswith("_")
    }
    return type(f"Asyncio{kind.__name__}", (kind,), methods)


def _passing(method: Callable[..., Coroutine[Any, Any, Any]]) -> Callable[..., Any]:
    @functools.wraps(method)
    async def pass_on(self: Any, *args: Any, **options: Any) -> Any:  # noqa: ANN401 - any method
        bound = functools.partial(method, self._real, *args, **options)
        return await self._portal.call(bound)

    return pass_on
