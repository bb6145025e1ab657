"""A thread with the connections in it, for receivers and senders that live elsewhere.

The client proper runs under trio.  Under asyncio, and where there is no event loop, it runs in a
thread of its own, and *calls* are handed over to it: appended to a deque, with one wake-up for as
many as there are.  A message that is sent is a call without a task.

A call that is given up is cancelled over there, and waited for: then nothing of it goes on.  A
message that has been handed over is an exception, as it is for trio: it may be written.
"""

from __future__ import annotations

import atexit
import contextlib
import functools
import inspect
import logging
import threading
import weakref
from collections import deque
from typing import TYPE_CHECKING, Any, Protocol

import trio

from broker.client.errors import ClosedError
from dledger.remoting.waker import Waker

if TYPE_CHECKING:
    from collections.abc import Callable

    from broker.client.consumer import Consumer
    from broker.client.producer import Producer
    from broker.client.results import SendResult
    from broker.client.send_many import OutMessage
    from broker.client.session import TrioSession

ATEXIT_SECONDS = 2.0  # longest time the interpreter waits for a client that nobody closed

_LOG = logging.getLogger("broker.client")


class PortalJob(Protocol):
    """Something to be done in the portal's thread."""

    def start(self, nursery: trio.Nursery) -> None:
        """Do it, or have a task of *nursery* do it; must not raise."""

    def give_up(self, error: Exception) -> None:
        """Take note that it will not be done, for *error*."""


class PortalCall:
    """A function to be called over there, awaited if need be, and its result brought back.

    A subclass says how, by `finish`.
    """

    __slots__ = ("_function", "_is_cancelled", "_is_taken", "_scope")

    def __init__(self, function: Callable[[], object]) -> None:
        self._function = function
        self._scope: trio.CancelScope | None = None
        self._is_cancelled = False
        self._is_taken = False  # `finish` is called, now or later

    def finish(self, result: object, error: BaseException | None) -> None:
        """Take what the function returned or raised; called once, in the portal's thread."""
        raise AssertionError("a subclass finishes")

    def start(self, nursery: trio.Nursery) -> None:
        """See `PortalJob`."""
        self._is_taken = True
        nursery.start_soon(self._run)

    def give_up(self, error: Exception) -> None:
        """See `PortalJob`."""
        self._is_taken = True
        self.finish(None, error)

    def cancel(self) -> None:
        """Cancel it; in the portal's thread, when all that was submitted has been taken."""
        self._is_cancelled = True
        if self._scope is not None:
            self._scope.cancel()
        elif not self._is_taken:  # its caller was interrupted before it was submitted
            self._is_taken = True
            self.finish(None, ClosedError("the call was interrupted before it began"))

    async def _run(self) -> None:
        result: object = None
        error: BaseException | None = ClosedError("the client was closed meanwhile")
        try:
            with trio.CancelScope() as self._scope:
                if self._is_cancelled:
                    self._scope.cancel()
                result = self._function()
                if inspect.isawaitable(result):
                    result = await result
                error = None
        except Exception as failure:  # noqa: BLE001 - handed on to whoever called
            error = failure
        finally:
            self.finish(result, error)


class Opening:
    """Opens a producer or a consumer over there, and knows whether it has.

    Whoever is interrupted while it waits for that has nothing to close, so it closes what is open.
    """

    def __init__(self, real: Producer | Consumer) -> None:
        self.is_done = False
        self._real = real

    async def __call__(self) -> None:
        """Open it."""
        await self._real.__aenter__()
        self.is_done = True

    async def undo(self, error: BaseException) -> None:
        """Close it again, for *error*."""
        await self._real.__aexit__(type(error), error, error.__traceback__)


class SendJob:
    """One message to be sent; see `broker.client.batch.Place`. A subclass says who is told."""

    __slots__ = ("custom_sleep_data", "is_abandoned", "message", "pumps", "topic", "unique_id")

    def __init__(self, pumps: SendPumps, topic: str, message: OutMessage) -> None:
        self.pumps = pumps
        self.topic = topic
        self.message = message
        self.custom_sleep_data: Any = None
        self.unique_id = ""
        self.is_abandoned = False  # nobody waits any more; not sent, if it has not been yet

    def settle(self, result: SendResult | Exception) -> None:
        """Take what became of the message; in the portal's thread."""
        raise AssertionError("a subclass settles")

    def start(self, nursery: trio.Nursery) -> None:
        """See `PortalJob`."""
        self.pumps.take(self, nursery)

    def give_up(self, error: Exception) -> None:
        """See `PortalJob`."""
        self.settle(error)


class SendPumps:
    """Messages for one producer, in order for each topic; lives in the portal's thread."""

    def __init__(self, producer: Producer) -> None:
        self._producer = producer
        self._waiting: dict[str, deque[SendJob]] = {}  # topics that are not ready, and for what

    def take(self, job: SendJob, nursery: trio.Nursery) -> None:
        """Send the message, or as soon as its topic is known and the buffer has room."""
        if self._waiting:
            waiting = self._waiting.get(job.topic)
            if waiting is not None:
                waiting.append(job)
                return
        if not self._submit(job):
            self._waiting[job.topic] = deque((job,))
            nursery.start_soon(self._wait_for, job.topic)

    def _submit(self, job: SendJob) -> bool:
        if job.is_abandoned:
            return True
        try:
            return self._producer.submit(job, job.topic, job.message)
        except Exception as error:  # noqa: BLE001 - of this message, and told to its sender
            job.settle(error)
            return True

    async def _wait_for(self, topic: str) -> None:
        waiting = self._waiting[topic]
        try:
            while waiting:
                if self._submit(waiting[0]):
                    waiting.popleft()
                    continue
                try:
                    await self._producer.make_ready(topic)
                except Exception as error:  # noqa: BLE001 - told to the sender who met it
                    waiting.popleft().settle(error)
        finally:
            del self._waiting[topic]
            for job in waiting:  # the client is closing
                job.settle(ClosedError("the client was closed: the message was not sent"))


class Portal:
    """The thread."""

    def __init__(self, session: TrioSession) -> None:
        self._session = session
        self._jobs: deque[PortalJob] = deque()
        self._is_woken = False
        self._is_over = False
        self._is_ended = False
        self._token: trio.lowlevel.TrioToken | None = None
        self._waker: Waker | None = None
        self._nursery: trio.Nursery | None = None
        self._end: trio.Event | None = None
        self._thread = threading.Thread(target=self._run, name="broker-client", daemon=True)
        self._on_begun: Callable[[BaseException | None], None] | None = None
        self._on_over: Callable[[], None] | None = None

    def begin(self, on_begun: Callable[[BaseException | None], None]) -> None:
        """Start the thread; *on_begun* is called in it once the session is open, or has failed."""
        self._on_begun = on_begun
        _PORTALS.add(self)
        self._thread.start()

    def submit(self, job: PortalJob) -> None:
        """Have *job* done over there; it is given up when the portal is closed. From any thread."""
        self._jobs.append(job)
        if not self._is_woken:
            try:
                self._is_woken = True
                self._wake_for_jobs()
            except BaseException:  # Ctrl-C: others rely on a wake-up that may not have been
                self._wake_for_jobs()
                raise
        if self._is_over:
            self._give_up_jobs()

    def cancel(self, call: PortalCall) -> None:
        """Cancel *call*, submitted or not, which ends soon afterwards. From any thread."""
        self._wake(functools.partial(self._cancel, call))
        if self._is_over:
            self._give_up_jobs()

    def end(self, on_over: Callable[[], None]) -> None:
        """Close the session; *on_over* is called in the thread when nothing more happens there."""
        self._on_over = on_over
        self._is_ended = True
        self._wake(self._stop)
        if self._is_over:
            on_over()

    def end_and_join(self, seconds: float | None = None) -> None:
        """Close the session and wait for the thread to end, so long at most."""
        self._is_ended = True
        self._wake(self._stop)
        if self._thread.ident is not None:
            self._thread.join(seconds)

    # --- inside -------------------------------------------------------------------------------

    def _wake_for_jobs(self) -> None:
        if self._waker is not None and not self._is_over:
            try:
                self._waker.wake()
            except trio.RunFinishedError:
                return  # `_run` gives up what is there

    def _wake(self, function: Callable[[], object]) -> None:
        if self._token is not None and not self._is_over:
            try:
                self._token.run_sync_soon(function)
            except trio.RunFinishedError:
                return  # `_run` gives up what is there

    def _stop(self) -> None:
        if self._end is not None:
            self._end.set()

    def _take_jobs(self) -> None:
        # Before they are looked at: whoever comes later wakes again.
        self._is_woken = False
        nursery = self._nursery
        if nursery is None or nursery.cancel_scope.cancel_called:
            self._give_up_jobs()
            return
        jobs = self._jobs
        while jobs:
            jobs.popleft().start(nursery)

    def _cancel(self, call: PortalCall) -> None:
        self._take_jobs()
        call.cancel()

    def _give_up_jobs(self) -> None:
        while self._jobs:
            try:
                job = self._jobs.popleft()
            except IndexError:  # another thread was faster
                return
            job.give_up(ClosedError("the client is closed: open another one"))

    def _run(self) -> None:
        _HERE.is_portal = True
        try:
            trio.run(self._main)
        except BaseException as error:  # noqa: BLE001 - a thread has nobody to raise it to
            self._tell_begun(error)
            _LOG.exception("the client's thread ended with an error")
        finally:
            self._is_over = True
            self._give_up_jobs()
            _PORTALS.discard(self)
            if self._on_over is not None:
                self._on_over()

    async def _main(self) -> None:
        self._token = trio.lowlevel.current_trio_token()
        self._end = trio.Event()
        if self._is_ended:  # before there was anybody to be woken
            self._end.set()
        self._waker = Waker(self._take_jobs)
        try:
            await self._session.open()
            try:
                async with trio.open_nursery() as self._nursery:
                    self._tell_begun(None)
                    await self._end.wait()
                    self._nursery.cancel_scope.cancel()
            finally:
                await self._session.close()
        finally:
            self._waker.close()

    def _tell_begun(self, error: BaseException | None) -> None:
        on_begun, self._on_begun = self._on_begun, None
        if on_begun is not None:
            on_begun(error)


class BlockingCall(PortalCall):
    """A call whose caller's thread waits for it."""

    __slots__ = ("_error", "_is_finished", "_result", "_settled")

    def __init__(self, function: Callable[[], object]) -> None:
        super().__init__(function)
        # Taken twice by who waits. Ctrl-C may strike anywhere in the Python code of an Event.
        self._settled = threading.Lock()
        self._settled.acquire()
        self._is_finished = False
        self._result: object = None
        self._error: BaseException | None = None

    def finish(self, result: object, error: BaseException | None) -> None:
        """See `PortalCall`."""
        self._result, self._error = result, error
        self._is_finished = True
        self._settled.release()

    def run(self, portal: Portal) -> Any:  # noqa: ANN401 - what the function returns
        """Have it done; return what the function returned, or raise what it raised."""
        try:
            portal.submit(self)
            self._settled.acquire()
        except BaseException:  # KeyboardInterrupt, most likely: it shall not go on over there
            portal.cancel(self)
            if not self._is_finished:
                self._settled.acquire(timeout=ATEXIT_SECONDS)
            raise
        if self._error is not None:
            try:
                raise self._error
            finally:
                self._error = None  # it holds this frame, and this frame held it
        return self._result


def call_blocking(portal: Portal, function: Callable[..., Any], *args: Any, **options: Any) -> Any:  # noqa: ANN401 - any function
    """Call *function* in the portal's thread and return its result, awaited if need be."""
    if is_in_portal():
        raise RuntimeError("this thread has the connections in it: who waits here waits for ever")
    return BlockingCall(functools.partial(function, *args, **options)).run(portal)


def open_blocking(portal: Portal, real: Producer | Consumer) -> None:
    """Open *real* in the portal's thread; what interrupts this (Ctrl-C) leaves it closed."""
    opening = Opening(real)
    try:
        call_blocking(portal, opening)
    except BaseException as error:
        if opening.is_done:
            with contextlib.suppress(ClosedError):  # so is it
                call_blocking(portal, opening.undo, error)
        raise


class LeftCall(PortalCall):
    """A call nobody waits for."""

    __slots__ = ()

    def finish(self, result: object, error: BaseException | None) -> None:
        """See `PortalCall`."""
        if error is not None:
            _LOG.warning("closing what was collected as garbage: %s", error)


def close_blocking(portal: Portal, function: Callable[..., Any], *args: object) -> None:
    """As `call_blocking`, for what closes something.

    The garbage collector closes generators, and runs in any thread, a portal's too: that one has
    it done and does not wait, as it would wait for itself.
    """
    if is_in_portal():
        portal.submit(LeftCall(functools.partial(function, *args)))
    else:
        call_blocking(portal, function, *args)


def is_in_portal() -> bool:
    """Whether this thread is a portal's, of whichever client."""
    return getattr(_HERE, "is_portal", False)


_HERE = threading.local()
_PORTALS: weakref.WeakSet[Portal] = weakref.WeakSet()


@atexit.register
def _end_forgotten() -> None:
    """Close what nobody closed, so that the other side hears of it at once."""
    for portal in list(_PORTALS):
        portal.end_and_join(ATEXIT_SECONDS)
