"""Commands in the log and the parts of the state they change.

The body of an entry of channel 1 is one msgpack array of commands, each ``[kind, args]`` with
*kind* a string and *args* a map.  A part registers the kinds it knows.  Whether a command makes
sense is checked before it is proposed; once it is in the log it is applied by every node, and comes
to a result: applying never fails for what a user asked.

A client that does not hear of an outcome asks again, and its first request may still be on its way,
for seconds: applied a second time, behind somebody else's change, it would undo that.  So a command
may carry the number of its request, *once*; the results of the last `ONCE_MAX` of them are part of
the state, and one that comes again comes to the same result and changes nothing.

A kind nobody knows was written by a newer version.  A node that skipped it would from then on
differ from the others, so it stops instead.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple, Protocol, runtime_checkable

import msgpack

from dledger.errors import PoisonEntryError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping

    Buffer = bytes | bytearray | memoryview


ONCE = "once"
ONCE_MAX = 1000  # requests remembered: topics, groups, resets; not the commits of consumers


class MetadataCommand(NamedTuple):
    """One change to be made on every node."""

    kind: str
    args: dict[str, Any]

    def only_once(self, request_id: int | None) -> MetadataCommand:
        """Return the command with the number of its request, if it has one."""
        if request_id is None:
            return self
        return self._replace(args=self.args | {ONCE: request_id})


class StatePart(Protocol):
    """One piece of the replicated state."""

    @property
    def name(self) -> str:
        """Name of its piece of the snapshot."""
        ...

    @property
    def appliers(self) -> Mapping[str, Callable[[Mapping[str, Any]], Any]]:
        """For each kind of command what applies its args and returns the result."""
        ...

    @property
    def followers(self) -> Mapping[str, Callable[[Mapping[str, Any]], None]]:
        """For kinds of command that another part applies, what they change here besides."""
        ...

    def snapshot(self) -> Any:  # noqa: ANN401 - plain lists, maps, strings and numbers
        """Return the whole piece in plain values, in an order that follows from the content.

        None where there is none, and then the snapshot has nothing of this part.
        """
        ...

    def restore(self, snapshot: Any) -> None:  # noqa: ANN401
        """Become what `snapshot` was taken of; None: as before the first command.

        Raises:
            ValueError, TypeError, KeyError: *snapshot* is none of this part's.
        """
        ...


@runtime_checkable
class DeletesTopics(Protocol):
    """A part with commands that take the messages of a topic along."""

    def take_deleted(self) -> list[str]:
        """Return the topics deleted since the last call."""
        ...


@runtime_checkable
class TrimsQueues(Protocol):
    """A part with commands that take messages off the beginning of queues."""

    def take_trimmed(self) -> list[tuple[str, int, int]]:
        """Return topic, queue id and new beginning of queues trimmed since the last call."""
        ...


def encode_commands(commands: Iterable[MetadataCommand]) -> bytes:
    """Return the body of the entry that carries *commands*."""
    body: bytes = msgpack.packb([[command.kind, command.args] for command in commands])
    return body


def decode_commands(body: Buffer) -> list[MetadataCommand]:
    """Return the commands of an entry.

    Raises:
        PoisonEntryError: *body* is no array of commands.
    """
    try:
        commands = msgpack.unpackb(body, strict_map_key=False)
        result = [MetadataCommand(kind, args) for kind, args in commands]
    except (ValueError, TypeError, msgpack.UnpackException) as error:
        raise PoisonEntryError(
            f"no array of metadata commands: {type(error).__name__}: {error}"
        ) from error
    for kind, args in result:
        if not isinstance(kind, str) or not isinstance(args, dict):
            raise PoisonEntryError(f"{kind!r} with {type(args).__name__} is no metadata command")
    return result


class StateMachine:
    """All parts together."""

    def __init__(self, parts: Iterable[StatePart]) -> None:
        self._parts = {part.name: part for part in parts}
        self._appliers: dict[str, Callable[[Mapping[str, Any]], Any]] = {}
        for part in self._parts.values():
            for kind, apply in part.appliers.items():
                assert kind not in self._appliers, f"{kind} is registered twice"
                self._appliers[kind] = apply
        self._followers: dict[str, list[Callable[[Mapping[str, Any]], None]]] = {}
        for _, part in sorted(self._parts.items()):
            for kind, follow in part.followers.items():
                self._followers.setdefault(kind, []).append(follow)
        self._once: dict[int, Any] = {}  # request -> result, the oldest first
        self._deleting = [part for part in self._parts.values() if isinstance(part, DeletesTopics)]
        self._trimming = [part for part in self._parts.values() if isinstance(part, TrimsQueues)]

    def apply_entry(self, body: Buffer) -> list[Any]:
        """Apply the commands of one entry; return what each came to.

        Raises:
            PoisonEntryError: a command is of a kind or form this version does not know.
        """
        results: list[Any] = []
        for kind, args in decode_commands(body):
            apply = self._appliers.get(kind)
            if apply is None:
                raise PoisonEntryError(f"metadata command {kind!r} is unknown")
            try:
                request_id = args.pop(ONCE, None)
                if request_id is not None and request_id in self._once:
                    results.append(self._once[request_id])
                    continue
                results.append(apply(args))
                for follow in self._followers.get(kind, ()):
                    follow(args)
                if request_id is not None:
                    self._remember(request_id, results[-1])
            except (KeyError, TypeError, ValueError) as error:
                raise PoisonEntryError(
                    f"metadata command {kind!r} has unknown args: {error!r}"
                ) from error
        return results

    def _remember(self, request_id: int, result: Any) -> None:  # noqa: ANN401
        if type(request_id) is not int:
            raise ValueError(f"{request_id!r:.80} is no number of a request")
        self._once[request_id] = result
        if len(self._once) > ONCE_MAX:
            del self._once[next(iter(self._once))]

    def take_deleted_topics(self) -> list[str]:
        """Return the topics deleted since the last call, whose messages are to go."""
        return [topic for part in self._deleting for topic in part.take_deleted()]

    def take_trimmed_queues(self) -> list[tuple[str, int, int]]:
        """Return topic, queue id and new beginning of queues trimmed since the last call."""
        return [trimmed for part in self._trimming for trimmed in part.take_trimmed()]

    def snapshot(self) -> dict[str, Any]:
        """Return every part's piece by its name, sorted, and what was done once, if anything."""
        pieces = {name: part.snapshot() for name, part in self._parts.items()}
        pieces[ONCE] = [list(item) for item in self._once.items()] or None
        return {name: piece for name, piece in sorted(pieces.items()) if piece is not None}

    def restore(self, snapshot: dict[str, Any] | None) -> None:
        """Become what `snapshot` was taken of; None: as before the first command.

        A part the snapshot does not know yet begins empty.

        Raises:
            ValueError, TypeError, KeyError: the snapshot has a part this version does not know,
                or a part is none.
        """
        pieces = snapshot or {}
        if not isinstance(pieces, dict):
            raise ValueError(f"a {type(pieces).__name__} where the parts of a state belong")
        unknown = pieces.keys() - self._parts.keys() - {ONCE}
        if unknown:
            raise ValueError(f"parts {sorted(unknown)} are unknown")
        once = {}
        for request_id, result in pieces.get(ONCE, ()):
            if type(request_id) is not int or not _is_result(result):
                raise ValueError(f"{(request_id, result)!r:.80} is no request and its result")
            once[request_id] = result
        self._once = once
        for name, part in self._parts.items():
            part.restore(pieces.get(name))


def _is_result(value: Any) -> bool:  # noqa: ANN401
    """Whether commands come to such values: one of its own, or a number and pairs of numbers."""
    if type(value) is not list:
        return type(value) in (int, str, bool)
    number, pairs = value
    return type(number) is int and all(list(map(type, pair)) == [int, int] for pair in pairs)
