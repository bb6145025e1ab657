"""Syncs by the kernel's own threads, asked for through io_uring: no thread of ours in between.

A thread that syncs has to have the interpreter's lock before it can begin, and again before it can
say that it is done, while the event loop holds it and is busy.  The ring is told what to sync in
one system call, begins at once, and its descriptor becomes readable at the end, as a socket's does.

    io_uring_setup    a queue for one request and one for its completion, in memory shared with us
    io_uring_enter    "there is a request"; or: wait for a completion
    IORING_OP_FSYNC   with IORING_FSYNC_DATASYNC: what fdatasync(2) does

Linux has it from 5.4 on; containers and administrators often forbid it.  `make_sync_worker` then
gives a thread, which does the same.  Structures: ``linux/io_uring.h``; nothing here is more than
the manual pages io_uring_setup(2) and io_uring_enter(2) tell.
"""

from __future__ import annotations

import contextlib
import ctypes
import errno
import logging
import mmap
import os
import struct
import sys
from collections import deque
from typing import TYPE_CHECKING

import trio

from dledger.config import SyncBy
from dledger.errors import ConfigError
from dledger.remoting.readiness import hot_sockets
from dledger.worker import DataSync, ThreadWorker

if TYPE_CHECKING:
    from collections.abc import Callable

    from dledger.remoting.readiness import HotSockets
    from dledger.worker import Worker

logger = logging.getLogger(__name__)

_SETUP, _ENTER = 425, 426  # numbers of the calls, on every architecture
_SINGLE_MMAP = 1 << 0  # feature: both queues in one mapping (Linux 5.4)
_REQUESTS_OFFSET = 0x10000000  # IORING_OFF_SQES
_GET_EVENTS = 1 << 0  # flag of io_uring_enter: wait
_FSYNC, _DATA_ONLY = 3, 1  # IORING_OP_FSYNC, IORING_FSYNC_DATASYNC

# struct io_uring_params: ten words (entries, ..., features at 5, ...), then where things are.
_PARAMS_SIZE = 120
_WORDS = struct.Struct("10I")
_PLACES = struct.Struct("8I")  # head, tail, mask, count, ..., array at 6; completions at 5
_PLACES_OF_REQUESTS, _PLACES_OF_COMPLETIONS = 40, 80
# struct io_uring_sqe: opcode, flags, priority, descriptor, offset, address, length, flags, mark.
_REQUEST = struct.Struct("BBHiQQIIQ")
_REQUEST_SIZE = 64
_COMPLETION = struct.Struct("QiI")  # mark, result, flags
_NUMBER = struct.Struct("I")

# Results that say that the request did not even begin: no thread of the kernel's could be had.
_NOT_BEGUN = frozenset({errno.ECANCELED, errno.EAGAIN})


class SyncNotBegunError(Exception):
    """The kernel had no means to begin the sync; nothing has happened to the file."""


class SyncRing:
    """An io_uring for one sync at a time.

    Nobody else writes to the request queue, so its numbers are kept here.  The kernel reads it in
    the very call that announces a request; a completion is read after the kernel has woken us, and
    waking orders its writes before our reads.  So no barriers are needed.
    """

    def __init__(self) -> None:
        """Set it up.

        Raises:
            OSError: the system has none, or does not let us.
        """
        library = ctypes.CDLL(None, use_errno=True)
        # Asking takes some microseconds; to let go of the interpreter's lock would cost more.
        library_with_lock = ctypes.PyDLL(None, use_errno=True)
        self._call, self._call_with_lock = library.syscall, library_with_lock.syscall
        params = ctypes.create_string_buffer(_PARAMS_SIZE)
        self.fd = self._call(ctypes.c_long(_SETUP), ctypes.c_uint(1), params)
        if self.fd < 0:
            raise _last_error()
        try:
            words = _WORDS.unpack_from(params, 0)
            if not words[5] & _SINGLE_MMAP:
                raise OSError(errno.ENOSYS, "io_uring without IORING_FEAT_SINGLE_MMAP")
            _, tail_at, _, _, _, _, array_at, _ = _PLACES.unpack_from(params, _PLACES_OF_REQUESTS)
            places = _PLACES.unpack_from(params, _PLACES_OF_COMPLETIONS)
            head_at, done_at, _, self._count, _, self._completions_at, _, _ = places
            size = max(
                array_at + words[0] * _NUMBER.size,
                self._completions_at + self._count * _COMPLETION.size,
            )
            shared = mmap.MAP_SHARED | mmap.MAP_POPULATE
            self._queues = mmap.mmap(self.fd, size, shared)
            self._requests = mmap.mmap(self.fd, _REQUEST_SIZE, shared, offset=_REQUESTS_OFFSET)
        except BaseException:
            os.close(self.fd)
            raise
        # What is shared with the kernel, word by word.
        self._words = memoryview(self._queues).cast("I")
        self._tail_word = tail_at // _NUMBER.size
        self._head_word = head_at // _NUMBER.size
        self._done_word = done_at // _NUMBER.size
        self._asked_fd = -1  # whom the request speaks of: mostly the same file again and again
        self._begun_count = self._ended_count = 0  # modulo 2**32, as the kernel counts
        number, fd = ctypes.c_long(_ENTER), ctypes.c_int(self.fd)
        nothing = (None, ctypes.c_size_t(0))
        self._submit = (number, fd, ctypes.c_uint(1), ctypes.c_uint(0), ctypes.c_uint(0), *nothing)
        self._wait = (
            number, fd, ctypes.c_uint(0), ctypes.c_uint(1), ctypes.c_uint(_GET_EVENTS), *nothing,
        )  # fmt: skip

    def begin(self, fd: int) -> bool:
        """Ask for the data of *fd* to be made durable; whether the kernel took it.

        The last one has ended; the kernel holds the file from here on.
        """
        assert self._begun_count == self._ended_count, "one at a time"
        if fd != self._asked_fd:
            _REQUEST.pack_into(self._requests, 0, _FSYNC, 0, 0, fd, 0, 0, 0, _DATA_ONLY, 0)
            self._asked_fd = fd
        tail = self._words[self._tail_word] = (self._begun_count + 1) & 0xFFFF_FFFF
        if self._call_with_lock(*self._submit) != 1:
            self._words[self._tail_word] = self._begun_count
            return False
        self._begun_count = tail
        return True

    def take(self) -> bool:
        """Return whether the sync has ended; the descriptor is readable then.

        Raises:
            OSError: it has, and it failed.
            SyncNotBegunError: it has not been begun and will not be.
        """
        head = self._ended_count
        if self._words[self._done_word] == head:
            return False
        place = self._completions_at + head % self._count * _COMPLETION.size
        result = _COMPLETION.unpack_from(self._queues, place)[1]
        self._ended_count = self._words[self._head_word] = (head + 1) & 0xFFFF_FFFF
        if -result in _NOT_BEGUN:
            raise SyncNotBegunError
        if result < 0:
            raise OSError(-result, os.strerror(-result))
        return True

    def wait(self) -> None:
        """Return when `take` may have something; blocking."""
        while self._call(*self._wait) < 0:
            error = _last_error()
            if error.errno != errno.EINTR:
                raise error

    def close(self) -> None:
        """Let go of it; a sync under way goes on, and nobody hears of its end."""
        if self.fd >= 0:
            self._words.release()
            self._queues.close()
            self._requests.close()
            os.close(self.fd)
            self.fd = -1


class RingWorker(ThreadWorker):
    """A worker that has the kernel sync, and a thread for whatever else it is given."""

    def __init__(self, name: str, ring: SyncRing) -> None:
        """Take over *ring*; to be called inside the event loop."""
        super().__init__(name)
        self._ring = ring
        self._in_ring: tuple[DataSync, Callable[[BaseException | None], None]] | None = None
        self._in_thread_count = 0
        self._waiting: deque[tuple[Callable[[], None], Callable[[BaseException | None], None]]] = (
            deque()
        )
        self._scope = trio.CancelScope()
        self._hot = hot_sockets()
        trio.lowlevel.spawn_system_task(self._watch)

    def submit(self, job: Callable[[], None], done: Callable[[BaseException | None], None]) -> None:
        """See `Worker.submit`."""
        if self._in_ring is not None:
            self._waiting.append((job, done))  # behind what the ring does
        elif self._in_thread_count or not isinstance(job, DataSync) or (fd := job.begin()) is None:
            self._submit_to_thread(job, done)
        elif self._ring.begin(fd):
            self._in_ring = job, done
        else:
            job.take_back()
            self._submit_to_thread(job, done)

    def take_up(self) -> None:
        """See `Worker.take_up`."""
        if (ended := self._finish()) is not None:
            done, failure = ended
            self._token.run_sync_soon(done, failure)

    def drain(self) -> None:
        """See `Worker.drain`."""
        while self._in_ring is not None:
            self._ring.wait()
            self._finish()
        super().drain()

    def close(self) -> None:
        """See `Worker.close`."""
        super().close()
        with contextlib.suppress(trio.RunFinishedError):
            self._token.run_sync_soon(self._scope.cancel)

    def _submit_to_thread(
        self, job: Callable[[], None], done: Callable[[BaseException | None], None]
    ) -> None:
        def done_here(failure: BaseException | None) -> None:
            self._in_thread_count -= 1
            done(failure)

        self._in_thread_count += 1
        super().submit(job, done_here)

    async def _watch(self) -> None:
        ring, hot = self._ring, self._hot
        try:
            with self._scope:
                if hot is not None and self._becomes_hot(hot):
                    try:
                        await trio.sleep_forever()
                    finally:
                        hot.remove(ring.fd)
                while True:
                    await trio.lowlevel.wait_readable(ring.fd)
                    self._finish_and_tell()
        finally:
            ring.close()

    def _becomes_hot(self, hot: HotSockets) -> bool:
        try:
            hot.add(self._ring.fd, self.on_readable)
        except OSError:
            return False  # the kernel watches no more: by this task, as long as there is one
        return True

    def on_readable(self) -> None:
        """Hear that the ring has done something; called out of the event loop's poll."""
        assert self._hot is not None
        try:
            self._finish_and_tell()
        except BaseException as error:  # noqa: BLE001 - ends the event loop
            self._hot.fail(error)

    def _finish_and_tell(self) -> None:
        if (ended := self._finish()) is not None:
            done, failure = ended
            done(failure)

    def _finish(self) -> tuple[Callable[[BaseException | None], None], BaseException | None] | None:
        """Take up what the ring has done, if it has, and go on with what waits.

        Returns:
            Who is to be told, and what went wrong if anything did.
        """
        if self._in_ring is None:
            return None
        job, done = self._in_ring
        error: OSError | None = None
        try:
            if not self._ring.take():
                return None
        except OSError as found:
            error = found
        except SyncNotBegunError:
            job.take_back()
            self._in_ring = None
            self._submit_to_thread(job, done)
            self._go_on()
            return None
        self._in_ring = None
        failure: BaseException | None = None
        try:
            job.end(error)
        except BaseException as found:  # noqa: BLE001 - handed to the event loop, not swallowed
            failure = found
        self._go_on()
        return done, failure

    def _go_on(self) -> None:
        while self._waiting and self._in_ring is None:
            self.submit(*self._waiting.popleft())


def make_sync_worker(name: str, sync_by: SyncBy) -> Worker:
    """Return who syncs the log.

    Raises:
        ConfigError: *sync_by* asks for io_uring, and there is none.
    """
    if sync_by is SyncBy.THREAD or (sync_by is SyncBy.AUTO and sys.platform != "linux"):
        return ThreadWorker(name)
    try:
        if sys.platform != "linux":
            raise OSError(errno.ENOSYS, "only Linux has it")
        ring = SyncRing()
    except OSError as error:
        if sync_by is SyncBy.IO_URING:
            raise ConfigError(
                f"sync_by = io_uring, but io_uring cannot be had ({error.strerror}); a container "
                "may forbid it, or kernel.io_uring_disabled: allow it, or set sync_by = auto"
            ) from error
        logger.info("a thread syncs the log: io_uring cannot be had (%s)", error.strerror)
        return ThreadWorker(name)
    return RingWorker(name, ring)


def _last_error() -> OSError:
    number = ctypes.get_errno()
    return OSError(number, os.strerror(number))
