"""The receiving half of the protocol, without I/O: bytes in, commands out.

    connection.receive_data(data)
    while commands := connection.commands():
        ...

A server that has something to gain from requests which are alike asks for `pieces` instead.

Commands in front of a broken frame are returned first; the next call raises.  After that the
connection is done for: nobody can tell where the next frame would begin.
"""

from __future__ import annotations

import struct
from collections import deque
from typing import TYPE_CHECKING, Protocol

from dledger.remoting.command import Buffer, Command, SerializeType
from dledger.remoting.errors import RemoteProtocolError
from dledger.remoting.frame import FRAME_SIZE_MAX, PREFIX_SIZE
from dledger.remoting.header_codec import (
    MSGPACK_ARRAY,
    MSGPACK_ERRORS,
    NOT_AN_ARRAY_OF_7,
    decode_header,
    decode_msgpack,
    refuse_header,
)

if TYPE_CHECKING:
    from dledger.remoting.frame_run import FrameGroup

    Pieces = list[list[Command] | FrameGroup]

_PREFIX = struct.Struct(">II")
_LENGTH = struct.Struct(">I")
_MSGPACK = SerializeType.MSGPACK.value
LOOK_MIN = 4  # frames; for fewer nobody looks whether they can be read together


class FindRun(Protocol):
    """`dledger.remoting.frame_run.RunFinder.find`."""

    def __call__(
        self, data: bytes, at: int, *, frame_size_max: int
    ) -> tuple[FrameGroup | None, int]:
        """Return the run that begins at *at* of *data*, and where to look for the next one."""
        ...


class Connection:
    """Turns the bytes of one connection into commands.

    Memory is bound by what was received: a length is believed only as far as its bytes come.

    Attributes:
        frame_size_max: bytes of the largest frame taken from now on.
    """

    __slots__ = (
        "_error",
        "_find_run",
        "_header_size_max",
        "_inbox",
        "_partial",
        "_ready",
        "frame_size_max",
    )

    def __init__(
        self,
        *,
        frame_size_max: int = FRAME_SIZE_MAX,
        header_size_max: int = FRAME_SIZE_MAX,
        find_run: FindRun | None = None,
    ) -> None:
        """Begin with nothing received.

        Args:
            frame_size_max: bytes of the largest frame taken.
            header_size_max: bytes of the largest header taken.
            find_run: finds the runs among `pieces`; None: there are none.
        """
        assert frame_size_max >= PREFIX_SIZE
        self._find_run = find_run
        self._header_size_max = header_size_max
        self.frame_size_max = frame_size_max
        self._inbox: deque[tuple[bytes, int]] = deque()  # and where to begin
        self._partial = bytearray()  # the bytes so far of a frame that spans receives
        self._ready: deque[Command] = deque()  # parsed, and waiting for next_command
        # What it says, opaque and serialize type.  Not the error itself: its traceback holds the
        # frame that was refused, and this connection, in a ring that only the collector finds.
        self._error: tuple[str, int | None, int | None] | None = None

    @property
    def has_more(self) -> bool:
        """Whether `commands` or `pieces` might find something, or raise."""
        return bool(self._inbox or self._ready) or self._error is not None

    @property
    def is_between_frames(self) -> bool:
        """Whether the next byte to come begins a frame, and nothing waits to be taken."""
        return not (self._partial or self._inbox or self._ready) and self._error is None

    @property
    def partial_size(self) -> int:
        """Bytes kept of a frame that has begun to arrive."""
        return len(self._partial)

    def receive_data(self, data: Buffer, *, start: int = 0) -> None:
        """Take received bytes, in order.

        Bodies will be views into *data*: bytes are kept as they are, anything that could still
        change is copied.  After an error they are thrown away.

        Args:
            data: what was received.
            start: where in *data* to begin; other than 0 only if `is_between_frames`.
        """
        if self._error is not None:
            return
        self._inbox.append((data if type(data) is bytes else bytes(data), start))

    def lone_command(self, data: bytes) -> Command | None:
        """Return the command that *data* is, if it is one sound frame of ours and nothing else.

        A message alone comes so, and asks for no list, loop or look at what else is there.

        Args:
            data: what was received; where None is returned nothing was taken of it, and
                `receive_data` and `pieces` are there for it, and say what is wrong with it.
        """
        size = len(data)
        if size < PREFIX_SIZE or not self.is_between_frames:
            return None
        length, mark = _PREFIX.unpack_from(data)
        body_at = PREFIX_SIZE + (mark & 0xFFFFFF)
        if (
            length + 4 != size
            or size > self.frame_size_max
            or mark >> 24 != _MSGPACK
            or body_at > size
            or body_at - PREFIX_SIZE > self._header_size_max
        ):
            return None
        header = data[PREFIX_SIZE:body_at]
        try:
            command = decode_msgpack(header)
        except MSGPACK_ERRORS:
            return None
        if header[0] != MSGPACK_ARRAY:
            return None
        if not command.ext_fields:
            command.ext_fields = {}  # nil stands for none
        if body_at != size:
            command.body = memoryview(data)[body_at:]
        return command

    def commands(self) -> list[Command]:
        """Return every whole command that has arrived, in order; empty when there is none yet.

        Raises:
            RemoteProtocolError: the bytes are no frame; always again from then on.
        """
        found = list(self._ready)
        self._ready.clear()
        self._take_in(found, None)
        return found

    def pieces(self) -> Pieces:
        """Return the same in order, runs of requests that are alike by themselves.

        Raises:
            RemoteProtocolError: as `commands`.
        """
        assert not self._ready, "take the next commands first"
        pieces: Pieces = []
        found: list[Command] = []
        self._take_in(found, pieces)
        if found:
            pieces.append(found)
        return pieces

    def _take_in(self, found: list[Command], pieces: Pieces | None) -> None:
        """Parse what has arrived; *found* gets the commands behind the last run."""
        while self._inbox and self._error is None:
            try:
                data, start = self._inbox.popleft()
                self._parse(data, start, found, pieces)
            except RemoteProtocolError as error:
                self._error = (str(error), error.opaque, error.serialize_type)
                self._inbox.clear()
                self._partial = bytearray()
        if self._error is not None and not found and not pieces:
            message, opaque, serialize_type = self._error
            raise RemoteProtocolError(message, opaque=opaque, serialize_type=serialize_type)

    def next_command(self) -> Command | None:
        """Return the next whole command, or None when more bytes are needed.

        Raises:
            RemoteProtocolError: as `commands`.
        """
        if not self._ready:
            self._ready.extend(self.commands())
        return self._ready.popleft() if self._ready else None

    def receive_eof(self) -> None:
        """Check that the other end stopped between two frames; call after the last `commands`.

        Raises:
            RemoteProtocolError: it stopped inside a frame.
        """
        assert not self._inbox, "take the commands first"
        if self._partial:
            wanted = (
                f"of {_LENGTH.unpack_from(self._partial)[0] + 4}"
                if len(self._partial) >= _LENGTH.size
                else "of at least 8"
            )
            raise RemoteProtocolError(
                f"connection ended after {len(self._partial)} bytes of a frame {wanted}"
            )

    def _parse(
        self, data: bytes, position: int, found: list[Command], pieces: Pieces | None
    ) -> None:
        """Append the commands that *data* completes from *position* on; keep what it only begins.

        In front of a run what was found goes to *pieces*, and the run behind it.
        """
        view = memoryview(data)
        if self._partial:
            assert position == 0
            position = self._complete_partial(view, found)
        end = len(data)
        # The loop of the hot path: about a microsecond for a small frame, so no calls but the
        # needed ones, and no copy.
        unpack = _PREFIX.unpack_from
        decode = decode_msgpack
        append = found.append
        size_max = self.frame_size_max
        header_size_max = self._header_size_max
        find_run = self._find_run
        runs_from = end if find_run is None or pieces is None else position
        while end - position >= PREFIX_SIZE:
            length, mark = unpack(data, position)
            if not 4 <= length <= size_max - 4:
                raise self._refuse_length(length, view[position:])
            stop = position + 4 + length
            if stop > end:
                break
            header_at = position + PREFIX_SIZE
            body_at = header_at + (mark & 0xFFFFFF)
            if body_at > stop or mark & 0xFFFFFF > header_size_max:
                raise self._refuse_header_length(length, mark)
            if mark >> 24 == _MSGPACK:
                if runs_from <= position and end - position >= LOOK_MIN * (4 + length):
                    assert find_run is not None
                    assert pieces is not None
                    run, runs_from = find_run(data, position, frame_size_max=size_max)
                    if run is not None:
                        if found:
                            pieces.append(found[:])
                            found.clear()
                        pieces.append(run)
                        position = run.end
                        continue
                header = data[header_at:body_at]
                try:
                    command = decode(header)
                    if header[0] != MSGPACK_ARRAY:
                        raise ValueError(NOT_AN_ARRAY_OF_7)
                except MSGPACK_ERRORS as error:
                    raise refuse_header(_MSGPACK, header, error) from None
                if not command.ext_fields:
                    command.ext_fields = {}  # nil stands for none
            else:
                command = decode_header(mark >> 24, data[header_at:body_at])
            if body_at != stop:
                command.body = view[body_at:stop]
            append(command)
            position = stop
        if position < end:
            self._partial += view[position:]
            self._check_prefix()

    def _complete_partial(self, view: memoryview, found: list[Command]) -> int:
        """Feed the kept frame from *view*; return how many bytes of it were taken.

        Every byte is copied once, however small the pieces: linear in the size of the frame.
        """
        taken = 0
        if len(self._partial) < PREFIX_SIZE:
            taken = min(PREFIX_SIZE - len(self._partial), len(view))
            self._partial += view[:taken]
            self._check_prefix()
            if len(self._partial) < PREFIX_SIZE:
                return taken
        length: int
        length, mark = _PREFIX.unpack_from(self._partial)
        missing = 4 + length - len(self._partial)
        self._partial += view[taken : taken + missing]
        taken = min(taken + missing, len(view))
        if len(self._partial) == 4 + length:
            frame = memoryview(self._partial).toreadonly()
            self._partial = bytearray()
            body_at = PREFIX_SIZE + (mark & 0xFFFFFF)
            command = decode_header(mark >> 24, frame[PREFIX_SIZE:body_at])
            if body_at != len(frame):
                command.body = frame[body_at:]
            found.append(command)
        return taken

    def _check_prefix(self) -> None:
        """Refuse the kept frame as soon as its length is known, before more of it is read."""
        if len(self._partial) < _LENGTH.size:
            return
        (length,) = _LENGTH.unpack_from(self._partial)
        if not 4 <= length <= self.frame_size_max - 4:
            raise self._refuse_length(length, memoryview(self._partial))
        if len(self._partial) >= PREFIX_SIZE:
            _, mark = _PREFIX.unpack_from(self._partial)
            if mark & 0xFFFFFF > min(length - 4, self._header_size_max):
                raise self._refuse_header_length(length, mark)

    def _refuse_length(self, length: int, start: memoryview) -> RemoteProtocolError:
        """Return the error for a frame that begins with *start*, naming its request if known."""
        if length < 4:
            return RemoteProtocolError(
                f"frame length {length} leaves no room for the header length"
            )
        error = RemoteProtocolError(
            f"frame of {length + 4} bytes is over the limit of {self.frame_size_max}; "
            "send less at a time"
        )
        if len(start) >= PREFIX_SIZE:
            _, mark = _PREFIX.unpack_from(start)
            header = start[PREFIX_SIZE : PREFIX_SIZE + (mark & 0xFFFFFF)]
            if len(header) == mark & 0xFFFFFF:
                try:
                    command = decode_header(mark >> 24, bytes(header))
                except RemoteProtocolError:
                    return error  # too long and broken besides: the length is reason enough
                error.opaque, error.serialize_type = command.opaque, command.serialization.value
        return error

    def _refuse_header_length(self, length: int, mark: int) -> RemoteProtocolError:
        size = mark & 0xFFFFFF
        if size > length - 4:
            return RemoteProtocolError(
                f"header length {size} is over the {length - 4} bytes left in its frame"
            )
        return RemoteProtocolError(
            f"header of {size} bytes is over the limit of {self._header_size_max}; "
            "send less beside the body"
        )
