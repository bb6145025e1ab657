"""Connections beyond the limit: what they ask first is answered with the reason, then they end.

Closed without a word they would look like a broken network, and be made again at once.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

import trio

from dledger.remoting.connection import Connection
from dledger.remoting.errors import ConnectionLostError, RemoteProtocolError
from dledger.remoting.frame import encode_frame

if TYPE_CHECKING:
    from collections.abc import Callable

    from dledger.remoting.command import Command
    from dledger.remoting.network import ByteStream

# Of a flood the rest is closed without a word: it costs too much.  Each holds a descriptor, too, so
# where few connections are allowed, as few descriptors are, those to be told are fewer.
AT_ONCE_MAX: Final = 100
AT_ONCE_MIN: Final = 8
_CONNECTIONS_FOR_ONE: Final = 10
SECONDS_MAX: Final = 1.0  # from the connection to its end
FRAME_SIZE_MAX: Final = 64 * 1024  # bytes; a larger first request is not waited for


class TurnedAway:
    """The connections of one server that are being told that they are too many."""

    def __init__(
        self, refusal: Callable[[Command], Command] | None, *, connections_max: int
    ) -> None:
        """Turn nobody away yet.

        Args:
            refusal: makes the answer to a request; None: nobody is told anything.
            connections_max: connections that are served at a time.
        """
        self._refusal = refusal
        self._at_once_max = min(AT_ONCE_MAX, AT_ONCE_MIN + connections_max // _CONNECTIONS_FOR_ONE)
        self._scopes: set[trio.CancelScope] = set()

    def take(self, stream: ByteStream, nursery: trio.Nursery) -> None:
        """See to it that *stream* ends; unless there are many, a task of *nursery* tells why."""
        if self._refusal is None or len(self._scopes) >= self._at_once_max:
            stream.close()
            return
        scope = trio.CancelScope()
        self._scopes.add(scope)
        nursery.start_soon(self._tell, stream, scope, self._refusal)

    def end(self) -> None:
        """End them all now."""
        for scope in self._scopes:
            scope.cancel()

    async def _tell(
        self, stream: ByteStream, scope: trio.CancelScope, refusal: Callable[[Command], Command]
    ) -> None:
        connection = Connection(frame_size_max=FRAME_SIZE_MAX, header_size_max=FRAME_SIZE_MAX)
        scope.deadline = trio.current_time() + SECONDS_MAX
        try:
            with scope:
                told = False
                while data := await stream.receive_some():
                    if told:
                        continue  # what is closed with bytes unread is reset, answer and all
                    connection.receive_data(data)
                    for request in connection.commands():
                        if not request.is_oneway and not request.is_response:
                            stream.send_now(encode_frame(refusal(request)))
                            told = True
                    if told:
                        stream.end_sending()
        except (RemoteProtocolError, ConnectionLostError):
            pass  # no client of ours, or gone: there is nobody to tell
        finally:
            self._scopes.discard(scope)
            stream.close()
