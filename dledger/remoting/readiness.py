"""Received bytes go to plain functions, out of the event loop's own poll.

A task that waits for its socket costs a system call to say so, a turn of the loop, and a step
through all its coroutines: for a message alone that is as much as to parse it.  Here a socket stays
registered, and what is to be done with its bytes is called as soon as the poll has told that they
are there.  All sockets that were readable are read before anything else happens, once each, so that
what they brought together can share an entry of the log (`after_reads`), and that no time-out is
judged while what it is about lies unread.  And when all of that has woken no task, and no time-out
is due, the sockets are waited for again at once, without a turn of the loop in between.  What is to
be done at a time (`dledger.remoting.alarm`) is called from here, too.

trio has no hook for that, so its epoll manager is replaced by one that waits in another epoll, in
which trio's own is one descriptor more.  Where trio is not as expected (another system, another
version) `hot_sockets` says so, and everything goes by tasks.
"""

from __future__ import annotations

import sys
from math import inf
from typing import TYPE_CHECKING, Any, Final, Protocol

import trio
from trio.lowlevel import enable_ki_protection

from dledger.remoting.busy_wait import BusyWait

if TYPE_CHECKING:
    from collections.abc import Callable

try:
    if sys.platform != "linux":
        raise ImportError("epoll is Linux's")
    import select

    from trio._core._io_epoll import EpollIOManager
    from trio._core._run import GLOBAL_RUN_CONTEXT, SystemClock
except ImportError:  # another system, or a trio that has changed
    is_supported = False
else:
    is_supported = True
    _FIELDS: Final = ("_epoll", "_registered", "_force_wakeup", "_force_wakeup_fd")
    _RUNNER_FIELDS: Final = (
        "runq", "deadlines", "clock", "waiting_for_idle", "clock_autojump_threshold",
        "instruments",
    )  # fmt: skip
    _NO_INSTRUMENTS: Final = {"_all"}
    _POLL_SECONDS_MAX: Final = 24 * 3600.0  # as trio has it: no poll can wait for ever

    class _OthersRead(list[tuple[int, int]]):
        """No events of trio's, and not its time-out either, which is all that may be false."""

        def __bool__(self) -> bool:
            return True

    class _Manager(EpollIOManager):
        """trio's manager, one level down."""

        def __init__(self, stock: EpollIOManager, runner: Any) -> None:  # noqa: ANN401 - trio's
            for name in _FIELDS:
                setattr(self, name, getattr(stock, name))
            self._runner = runner
            self._stock_fd = self._epoll.fileno()
            self.sockets = HotSockets(self._stock_fd, runner)
            self._hot_epoll = self.sockets.epoll

        def get_events(self, timeout: float) -> Any:  # noqa: ANN401 - trio's own business
            is_stock = False
            sockets, runner = self.sockets, self._runner
            sockets.alone_until = -inf
            until = runner.clock.deadline_to_sleep_time
            while True:
                is_due, wait = False, timeout
                if sockets.due != inf:
                    left = until(sockets.due)
                    is_due = left <= 0
                    if left < wait:
                        wait = max(left, 0.0)
                # All at once, as trio would have run all their tasks: behind some clients' requests
                # the time-outs are judged, and a peer's heartbeat must not be among what is left.
                # So what is called because it is due was due before this poll.
                busy_wait = sockets.busy_wait
                if busy_wait is None:
                    events = self._hot_epoll.poll(wait, sockets.count + 1)
                else:
                    events = busy_wait.poll(self._hot_epoll.poll, wait, sockets.count + 1)
                if events:
                    sockets.is_reading = True
                    for fd, _ in events:
                        if fd == self._stock_fd:
                            is_stock = True
                        else:
                            sockets.read(fd)
                    sockets.end_reads()
                elif wait == timeout and not is_due:
                    return events
                if is_due:
                    sockets.call_due()
                if is_stock:
                    return super().get_events(0) or _OthersRead()
                # Where no task has anything to do, a turn of the loop would only come back here.
                if runner.waiting_for_idle or runner.clock_autojump_threshold != inf:
                    return _OthersRead()
                if runner.runq:
                    # An instrument would take a wait inside of a turn for a task that blocks.
                    if (
                        len(runner.runq) == 1
                        and sockets.has_real_time
                        and runner.instruments.keys() == _NO_INSTRUMENTS
                    ):
                        sockets.alone_until = runner.deadlines.next_deadline()
                    return _OthersRead()
                deadline = runner.deadlines.next_deadline()
                timeout = min(until(deadline), _POLL_SECONDS_MAX)
                if timeout <= 0:
                    return _OthersRead()

        def close(self) -> None:
            self._hot_epoll.close()
            super().close()


class Due(Protocol):
    """Something that is to be done at a time."""

    due: float  # second of the loop's clock; infinite: never

    def ring(self) -> None:
        """Do it: the time has come. *due* is infinite again."""
        ...


class Settled(Protocol):
    """Something that a task waits for."""

    is_settled: bool


class HotSockets:
    """The sockets of one event loop that are read out of its poll, and what waits for a time."""

    def __init__(self, other_fd: int, runner: Any) -> None:  # noqa: ANN401 - trio's own
        """Begin with none, and *other_fd*, which is not read but waited for with them.

        Args:
            other_fd: the event loop's own epoll.
            runner: the event loop.

        Raises:
            OSError: there is no descriptor or no memory left.
        """
        self._runner = runner
        self._now = runner.clock.current_time
        # Whether time goes by itself; virtual time goes by what tasks wait for.
        self.has_real_time = getattr(
            runner.clock, "goes_by_itself", type(runner.clock) is SystemClock
        )
        self._other_fd = other_fd
        # Until then the task that is about to run has the turn of the loop for itself.
        self.alone_until = -inf
        self.due = inf  # the earliest of `_timed`, or before it
        self._timed: list[Due] = []
        self.epoll = select.epoll()
        try:
            self.epoll.register(other_fd, select.EPOLLIN)
        except OSError:
            self.epoll.close()
            raise
        self.busy_wait: BusyWait | None = None  # None: sleep at once
        self.is_reading = False
        self._readers: dict[int, Callable[[], None]] = {}
        self._after: dict[Callable[[], None], None] = {}  # in order
        self._failure: BaseException | None = None
        self._watcher: trio.lowlevel.Task | None = None  # raises it
        trio.lowlevel.spawn_system_task(self._watch)

    @property
    def count(self) -> int:
        """How many they are."""
        return len(self._readers)

    def add(self, fd: int, reader: Callable[[], None]) -> None:
        """Call *reader*, which may not raise, whenever *fd* is readable, until `remove`.

        Raises:
            OSError: the kernel does not watch it, and nothing was done.
        """
        self.epoll.register(fd, select.EPOLLIN)
        self._readers[fd] = reader

    def remove(self, fd: int) -> None:
        """Call nobody any more; before *fd* is closed."""
        del self._readers[fd]
        self.epoll.unregister(fd)

    def read(self, fd: int) -> None:
        """Have *fd* read, unless a reader before it in this pass has taken it out."""
        reader = self._readers.get(fd)
        if reader is not None:
            reader()

    @enable_ki_protection
    def wait_in_place(self, task: trio.lowlevel.Task, settled: Settled, now: float) -> None:
        """Read sockets until something is *settled*, or something else is to be done.

        For a task, inside its turn, where the loop would do nothing but wait for sockets: no other
        task runs or could run, no time-out is due, and it is not cancelled.  As soon as one of that
        changes this returns, and the task has to park.  It saves the parking and the turn.

        Args:
            task: the one that runs.
            settled: whose `is_settled` is looked at after each pass.
            now: second of the loop's clock, read in this turn.
        """
        if now >= self.alone_until:
            return
        runner, busy_wait = self._runner, self.busy_wait
        cancel_status = task._cancel_status  # noqa: SLF001 - a scope's public face asks them all
        while not runner.runq and not cancel_status.effectively_cancelled:
            wait = min(runner.deadlines.next_deadline(), self.due) - now
            if wait <= 0:
                return
            wait = min(wait, _POLL_SECONDS_MAX)
            if busy_wait is None:
                events = self.epoll.poll(wait, len(self._readers) + 1)
            else:
                events = busy_wait.poll(self.epoll.poll, wait, len(self._readers) + 1)
            if not events:
                return
            self.is_reading = True
            is_other = False
            for fd, _ in events:
                if fd == self._other_fd:
                    is_other = True
                else:
                    self.read(fd)
            self.end_reads()
            if is_other or settled.is_settled:
                return
            now = self._now()

    def add_timed(self, timed: Due) -> None:
        """Have *timed* ring when it is due, until `remove_timed`."""
        self._timed.append(timed)
        self.due = min(self.due, timed.due)

    def remove_timed(self, timed: Due) -> None:
        """Let *timed* ring no more."""
        self._timed.remove(timed)

    def call_due(self) -> None:
        """Have those ring whose time has come, and only once each: the poll comes before more."""
        now, self.due = self._now(), inf
        for timed in tuple(self._timed):
            if timed.due <= now:
                timed.due = inf
                timed.ring()
        self.due = min((timed.due for timed in self._timed), default=inf)

    def after_reads(self, call: Callable[[], None]) -> None:
        """See the function."""
        if self.is_reading:
            self._after[call] = None
        else:
            call()

    def end_reads(self) -> None:
        """Call what waits for the end of the pass."""
        self.is_reading = False
        while self._after:
            after, self._after = self._after, {}
            try:
                for call in after:
                    call()
            except BaseException as error:  # noqa: BLE001 - `_watch` raises it
                self.fail(error)
                return

    def fail(self, error: BaseException) -> None:
        """Have *error* end the event loop."""
        self._failure = error
        watch, self._watcher = self._watcher, None
        if watch is not None:
            trio.lowlevel.reschedule(watch)

    async def _watch(self) -> None:
        """Raise what went wrong where there is no task: that ends everything."""

        def abort(_: object) -> trio.lowlevel.Abort:
            self._watcher = None
            return trio.lowlevel.Abort.SUCCEEDED

        if self._failure is None:
            self._watcher = trio.lowlevel.current_task()
            await trio.lowlevel.wait_task_rescheduled(abort)
        if self._failure is not None:
            raise self._failure


def hot_sockets() -> HotSockets | None:
    """Return those of the event loop that runs; None: it has no such thing, or cannot now."""
    if not is_supported:
        return None
    runner = GLOBAL_RUN_CONTEXT.runner
    if runner.is_guest:
        return None  # of another event loop: it is polled in a thread
    manager = runner.io_manager
    if type(manager) is not _Manager:
        if type(manager) is not EpollIOManager or any(not hasattr(manager, f) for f in _FIELDS):
            return None
        if any(not hasattr(runner, field) for field in _RUNNER_FIELDS):
            return None
        if not hasattr(trio.lowlevel.current_task(), "_cancel_status"):
            return None
        try:
            runner.io_manager = manager = _Manager(manager, runner)
        except OSError:
            return None  # out of descriptors, perhaps: by tasks until there is one
    return manager.sockets


def timed_sockets() -> HotSockets | None:
    """Return `hot_sockets` where time goes by itself."""
    sockets = hot_sockets()
    return sockets if sockets is not None and sockets.has_real_time else None


def after_reads(call: Callable[[], None]) -> None:
    """Call *call*, once, when all sockets that are readable now have been read.

    At once where nothing is being read.  What it raises ends the event loop.
    """
    sockets = hot_sockets()
    if sockets is None:
        call()
    else:
        sockets.after_reads(call)


def wait_busily(seconds: float) -> bool:
    """Have the event loop that runs ask again for up to *seconds* before it sleeps.

    See `dledger.remoting.busy_wait`.

    Returns:
        Whether it will; not where time does not go by itself, or sockets are read by tasks.
    """
    sockets = timed_sockets()
    if sockets is None:
        return False
    sockets.busy_wait = BusyWait(seconds)
    return True


def busy_wait_seconds() -> float | None:
    """Return how long the event loop that runs has waited busily; None: it never does."""
    sockets = timed_sockets()
    if sockets is None or sockets.busy_wait is None:
        return None
    return sockets.busy_wait.spent_seconds
