"""Work that blocks (a sync, an allocation), done beside the event loop one job after another.

The seam is `Worker`: the simulator swaps in one that lets virtual time pass instead of a thread.
"""

from __future__ import annotations

import queue
import threading
from typing import TYPE_CHECKING, Protocol

import trio

if TYPE_CHECKING:
    from collections.abc import Callable


class Worker(Protocol):
    """Runs jobs in the order of submission, never two at once."""

    def submit(self, job: Callable[[], None], done: Callable[[BaseException | None], None]) -> None:
        """Run *job* beside the event loop, then *done* on it with what the job raised, if anything.

        Neither call may be lost: after `close` pending jobs are still run to their end, but their
        *done* may not be called any more.
        """
        ...

    def take_up(self) -> None:
        """Have jobs that have ended know it, though nobody has been told yet; *done* comes later.

        For who is about to judge by the time that a job has taken so far.
        """
        ...

    def drain(self) -> None:
        """Wait until all jobs submitted have run; blocks, so only for rare and grave moments."""
        ...

    def close(self) -> None:
        """Take no more jobs and let the last one finish."""
        ...


class DataSync:
    """A job that may be one sync of one file: the kernel can then be asked for it without a thread.

    `dledger.sync_ring` does so; any other worker calls it as it would any job.  No abstract class:
    to ask whether something is one of those takes calls, and is asked for each message.
    """

    def __call__(self) -> None:
        """Do all of it; blocking."""
        raise AssertionError("a subclass syncs")

    def begin(self) -> int | None:
        """Return the descriptor whose data is to be synced; None: there is more to do, call it.

        `end` or `take_back` follows once that has been done.
        """
        raise AssertionError("a subclass begins")

    def end(self, error: OSError | None) -> None:
        """Hear how the sync went; raises what a call of the job would have."""
        raise AssertionError("a subclass ends")

    def take_back(self) -> None:
        """Hear that the sync did not even begin: the job is called in its place."""
        raise AssertionError("a subclass takes back")


class ThreadWorker:
    """One daemon thread; its own, because trio's thread cache costs twice the round trip."""

    def __init__(self, name: str) -> None:
        self._token = trio.lowlevel.current_trio_token()
        self._jobs: queue.SimpleQueue[
            tuple[Callable[[], None], Callable[[BaseException | None], None]] | None
        ] = queue.SimpleQueue()
        self._thread = threading.Thread(target=self._run, name=name, daemon=True)
        self._thread.start()

    def submit(self, job: Callable[[], None], done: Callable[[BaseException | None], None]) -> None:
        """See `Worker.submit`."""
        self._jobs.put((job, done))

    def take_up(self) -> None:
        """See `Worker.take_up`. The thread has run them itself: they know."""

    def drain(self) -> None:
        """See `Worker.drain`."""
        reached = threading.Event()
        self._jobs.put((reached.set, lambda _: None))
        reached.wait()

    def close(self) -> None:
        """See `Worker.close`."""
        self._jobs.put(None)

    def join(self, timeout_seconds: float) -> bool:
        """Wait for the thread to end after `close`; return whether it did."""
        self._thread.join(timeout_seconds)
        return not self._thread.is_alive()

    def _run(self) -> None:
        while (item := self._jobs.get()) is not None:
            job, done = item
            failure: BaseException | None = None
            try:
                job()
            except BaseException as error:  # noqa: BLE001 - handed to the event loop, not swallowed
                failure = error
            try:
                self._token.run_sync_soon(done, failure)
            except trio.RunFinishedError:
                return
            # The next may be long in coming, and a job holds what it wrote: megabytes of units.
            del item, job, done, failure
