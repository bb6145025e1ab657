"""What a name server keeps for others: settings by namespace and key, and who is not written to.

name.put      {namespace, key, value}   set a key
name.delete   {namespace, key}          take it away
name.wipe     {broker}                  routes name that broker name without permission to write
name.restore  {broker}                  they name it with its own permissions again

In a node these are commands of the log; a name server that is a process of its own applies them one
after another and writes the whole to its file.

Source: RocketMQ ``KVConfigManager``, ``RouteInfoManager.operateWritePermOfBroker``.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

from broker.errors import InvalidMessageError
from broker.metadata.state_machine import MetadataCommand

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

NAME_PUT = "name.put"
NAME_DELETE = "name.delete"
NAME_WIPE = "name.wipe"
NAME_RESTORE = "name.restore"

ORDER_TOPIC_CONFIG = "ORDER_TOPIC_CONFIG"  # RocketMQ's namespace: topic -> "broker:queues;..."

NAME_SIZE_MAX: Final = 1024  # bytes of a namespace, a key, a broker's name
VALUE_SIZE_MAX: Final = 64 * 1024  # bytes of a value
SIZE_MAX: Final = 4 * 1024 * 1024  # bytes of all together: they are part of every state
_ROW_COST = 64  # bytes of a row beside its texts


def put_name(namespace: str, key: str, value: str) -> MetadataCommand:
    """Return the command that sets a key.

    Raises:
        InvalidMessageError: one of them is empty or too long.
    """
    for what, text, most in (
        ("namespace", namespace, NAME_SIZE_MAX),
        ("key", key, NAME_SIZE_MAX),
        ("value", value, VALUE_SIZE_MAX),
    ):
        size = len(_bytes_of(what, text))
        if size > most or (not size and what != "value"):
            raise InvalidMessageError(f"{what} of {size} bytes; allowed are 1 to {most}")
    return MetadataCommand(NAME_PUT, {"namespace": namespace, "key": key, "value": value})


def delete_name(namespace: str, key: str) -> MetadataCommand:
    """Return the command that takes a key away."""
    _bytes_of("namespace", namespace)
    _bytes_of("key", key)
    return MetadataCommand(NAME_DELETE, {"namespace": namespace, "key": key})


def wipe_broker(broker_name: str) -> MetadataCommand:
    """Return the command that has routes name a broker without permission to write."""
    return MetadataCommand(NAME_WIPE, {"broker": broker_name})


def restore_broker(broker_name: str) -> MetadataCommand:
    """Return the command that takes `wipe_broker` back."""
    return MetadataCommand(NAME_RESTORE, {"broker": broker_name})


class NameConfig:
    """Settings and wiped broker names."""

    name = "names"

    def __init__(self) -> None:
        self._table: dict[str, dict[str, str]] = {}
        self._wiped: set[str] = set()
        self._size = 0

    @property
    def wiped(self) -> frozenset[str]:
        """Broker names that are not written to."""
        return frozenset(self._wiped)

    def get(self, namespace: str, key: str) -> str | None:
        """Return what a key is set to."""
        return self._table.get(namespace, {}).get(key)

    def namespace(self, namespace: str) -> dict[str, str]:
        """Return all keys of a namespace."""
        return dict(sorted(self._table.get(namespace, {}).items()))

    def check_room(self, namespace: str, key: str, value: str) -> None:
        """Raise `InvalidMessageError` unless there is room; before a key is set."""
        before = self.get(namespace, key)
        less = 0 if before is None else _cost(namespace, key, before)
        size = self._size - less + _cost(namespace, key, value)
        if size > SIZE_MAX:
            raise InvalidMessageError(
                f"with this value the settings kept here have {size} bytes; the limit is {SIZE_MAX}"
            )

    # -- StatePart ------------------------------------------------------------------------------

    @property
    def appliers(self) -> Mapping[str, Callable[[Mapping[str, Any]], bool]]:
        """What applies each kind of command; the result is whether anything changed."""
        return {
            NAME_PUT: self._put,
            NAME_DELETE: self._delete,
            NAME_WIPE: self._wipe,
            NAME_RESTORE: self._restore,
        }

    @property
    def followers(self) -> Mapping[str, Callable[[Mapping[str, Any]], None]]:
        """See `StatePart`: nothing that others have happen changes it."""
        return {}

    def snapshot(self) -> list[Any] | None:
        """Return the rows of all settings and the wiped names, sorted; None when there are none."""
        rows = [
            [namespace, key, value]
            for namespace, keys in sorted(self._table.items())
            for key, value in sorted(keys.items())
        ]
        return [rows, sorted(self._wiped)] if rows or self._wiped else None

    def restore(self, snapshot: list[Any] | None) -> None:
        """Become what `snapshot` was taken of; None: nothing is kept.

        Raises:
            ValueError, TypeError, KeyError: *snapshot* is none.
        """
        rows, wiped = snapshot if snapshot is not None else ([], [])
        fresh = NameConfig()
        for namespace, key, value in rows:
            fresh._put({"namespace": namespace, "key": key, "value": value})
        for broker in wiped:
            fresh._wipe({"broker": broker})
        self._table, self._wiped, self._size = fresh._table, fresh._wiped, fresh._size

    def _put(self, args: Mapping[str, Any]) -> bool:
        namespace, key, value = (_text(args, name) for name in ("namespace", "key", "value"))
        before = self.get(namespace, key)
        if before == value:
            return False
        if before is not None:
            self._size -= _cost(namespace, key, before)
        self._size += _cost(namespace, key, value)
        self._table.setdefault(namespace, {})[key] = value
        return True

    def _delete(self, args: Mapping[str, Any]) -> bool:
        namespace, key = _text(args, "namespace"), _text(args, "key")
        keys = self._table.get(namespace, {})
        before = keys.pop(key, None)
        if before is None:
            return False
        self._size -= _cost(namespace, key, before)
        if not keys:
            del self._table[namespace]
        return True

    def _wipe(self, args: Mapping[str, Any]) -> bool:
        broker = _text(args, "broker")
        if broker in self._wiped:
            return False
        self._wiped.add(broker)
        return True

    def _restore(self, args: Mapping[str, Any]) -> bool:
        broker = _text(args, "broker")
        if broker not in self._wiped:
            return False
        self._wiped.remove(broker)
        return True


def _cost(namespace: str, key: str, value: str) -> int:
    return len(namespace.encode()) + len(key.encode()) + len(value.encode()) + _ROW_COST


def _text(args: Mapping[str, Any], name: str) -> str:
    value = args[name]
    if type(value) is not str:
        raise ValueError(f"{name} = {value!r:.80} is no text")
    return value


def _bytes_of(what: str, text: str) -> bytes:
    try:
        return text.encode()
    except UnicodeEncodeError:
        raise InvalidMessageError(f"{what} is no Unicode text") from None
