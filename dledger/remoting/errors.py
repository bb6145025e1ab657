"""What may go wrong between two ends of a connection, sorted by what the caller may do next."""

from __future__ import annotations


class RemotingError(Exception):
    """Base class; never raised itself."""


class LocalProtocolError(RemotingError):
    """Our own mistake: this command cannot be put on the wire.  Nothing was sent."""


class RemoteProtocolError(RemotingError):
    """The other end sent what is not the protocol: close this one connection.

    Attributes:
        opaque: the request the bytes belong to, where that could still be read; None otherwise.
        serialize_type: how that request was written, as the number on the wire; None if unknown.
    """

    def __init__(
        self, message: str, *, opaque: int | None = None, serialize_type: int | None = None
    ) -> None:
        super().__init__(message)
        self.opaque = opaque
        self.serialize_type = serialize_type


class ConnectFailedError(RemotingError):
    """There is no connection, and nothing was sent: try again, or another address."""


class NotConnectedError(RemotingError):
    """The connection was gone before the call: nothing was sent, connect again."""


class ConnectionLostError(RemotingError):
    """The connection broke: the outcome of what was sent and not answered is unknown."""


class ConnectionClosedError(ConnectionLostError):
    """This side closed the connection or the listener while somebody still waited on it."""


class RequestTimeoutError(RemotingError):
    """No answer in time.  The outcome is unknown, and a late answer is thrown away."""


class ListenFailedError(RemotingError):
    """The address cannot be listened on; the message names it, the reason and the remedy."""


class AddressInUseError(ListenFailedError):
    """Another process listens there already."""
