"""Has the event loop of another thread call a function, for one system call.

trio's own way (`TrioToken.run_sync_soon`) wakes a task, through a socket, and so takes two more
system calls and a turn of the loop.  Here the function is called out of the loop's poll
(`dledger.remoting.readiness`), where that can be had.
"""

from __future__ import annotations

import os
import weakref
from typing import TYPE_CHECKING

import trio

from dledger.remoting.readiness import hot_sockets

if TYPE_CHECKING:
    from collections.abc import Callable

    from dledger.remoting.readiness import HotSockets


class Waker:
    """Calls one function in the event loop it was made in, whoever wakes it."""

    def __init__(self, call: Callable[[], object]) -> None:
        """Make it in the event loop's thread.

        Args:
            call: what is called; must not wait.  What it raises ends the event loop.
        """
        self._call = call
        self._token = trio.lowlevel.current_trio_token()
        self._hot: HotSockets | None = None
        self._fd = -1
        hot = hot_sockets() if hasattr(os, "eventfd") else None
        if hot is None:
            return
        try:
            self._fd = os.eventfd(0, os.EFD_CLOEXEC | os.EFD_NONBLOCK)
        except OSError:
            return  # out of descriptors: trio's own way, then
        # Closed no sooner than nobody can write to it any more: the number may be another's then.
        weakref.finalize(self, os.close, self._fd).atexit = False
        try:
            hot.add(self._fd, self._read)
        except OSError:
            self._fd = -1
            return
        self._hot = hot

    def wake(self) -> None:
        """Have the function called soon; from any thread. Several calls may be answered by one.

        Once the event loop has ended nothing is called, and the caller may not hear of it: whoever
        counts on the call has to know by other means that nothing comes any more.

        Raises:
            trio.RunFinishedError: the event loop has ended; only where trio's own way is gone.
        """
        if self._fd >= 0:
            os.eventfd_write(self._fd, 1)
        else:
            self._token.run_sync_soon(self._call)

    def close(self) -> None:
        """Call the function no more; in the event loop's thread."""
        hot, self._hot = self._hot, None
        if hot is not None:
            hot.remove(self._fd)

    def _read(self) -> None:
        try:
            os.eventfd_read(self._fd)
        except BlockingIOError:
            return
        hot = self._hot  # the call may close this waker, and raise
        assert hot is not None
        try:
            self._call()
        except BaseException as error:  # noqa: BLE001 - as an error of a task would
            hot.fail(error)
