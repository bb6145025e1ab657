"""Consumer groups: whether they may consume, and how a message that failed comes again.

group.put     {group, ...}   create the group, or change what is named
group.create  {group, ...}   create it, unless it is there: no change then
group.delete  {group}        the group, and what it has committed

A group that has committed offsets exists, also where no command has made it: older versions had no
such commands.
"""

from __future__ import annotations

from dataclasses import fields, replace
from typing import TYPE_CHECKING, Any

from broker.errors import InvalidMessageError
from broker.message.limits import check_group, check_group_characters
from broker.metadata.state_machine import MetadataCommand
from broker.protocol.subscription_group import SubscriptionGroupConfig

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping

GROUP_PUT = "group.put"
GROUP_CREATE = "group.create"
GROUP_DELETE = "group.delete"

RETRY_QUEUES_MAX = 1024
RETRY_TIMES_MAX = 1_000_000
RETRY_DELAYS_MAX = 64
BROKER_ID_MAX = 1 << 31
RETRY_DELAY_MS_MAX = 30 * 24 * 3600 * 1000


def check_config(config: SubscriptionGroupConfig) -> None:
    """Raise `InvalidMessageError` unless the group may exist; before it is proposed."""
    check_group(config.group)
    check_group_characters(config.group)
    for what, number, least, most in (
        ("retryQueueNums", config.retry_queue_count, 0, RETRY_QUEUES_MAX),
        ("retryMaxTimes", config.retry_times_max, -1, RETRY_TIMES_MAX),
        ("brokerId", config.broker_id, 0, BROKER_ID_MAX),
        ("whichBrokerWhenConsumeSlowly", config.which_broker_when_slow, 0, BROKER_ID_MAX),
        ("number of retry delays", len(config.retry_delays_ms), 0, RETRY_DELAYS_MAX),
        *(("a retry delay", delay, 0, RETRY_DELAY_MS_MAX) for delay in config.retry_delays_ms),
    ):
        if not least <= number <= most:
            raise InvalidMessageError(
                f"consumer group {config.group}: {what} = {number}; allowed are {least} to {most}"
            )


_DEFAULTS = {
    item.name: item.default for item in fields(SubscriptionGroupConfig) if item.name != "group"
}


def put_group(config: SubscriptionGroupConfig) -> MetadataCommand:
    """Return the command that creates or changes a group; what it has is replaced.

    Raises:
        InvalidMessageError: such a group may not exist.
    """
    check_config(config)
    args = {name: _plain(getattr(config, name)) for name in _DEFAULTS}
    return MetadataCommand(GROUP_PUT, {"group": config.group, **args})


def create_group(config: SubscriptionGroupConfig) -> MetadataCommand:
    """Return the command that creates a group unless it is there, for groups made on first use.

    Raises:
        InvalidMessageError: such a group may not exist.
    """
    check_config(config)
    return MetadataCommand(GROUP_CREATE, {"group": config.group, **_extras(config)})


def delete_group(group: str) -> MetadataCommand:
    """Return the command that removes a group with what it has committed."""
    return MetadataCommand(GROUP_DELETE, {"group": group})


class SubscriptionGroups:
    """All groups that a command has made, on this node."""

    name = "subscription_groups"

    def __init__(self) -> None:
        self._groups: dict[str, SubscriptionGroupConfig] = {}
        self._version = 0

    def __len__(self) -> int:
        return len(self._groups)

    def __contains__(self, group: object) -> bool:
        return group in self._groups

    def __iter__(self) -> Iterator[SubscriptionGroupConfig]:
        """Yield all groups by name."""
        return (self._groups[name] for name in sorted(self._groups))

    @property
    def version(self) -> int:
        """How often any group changed; the same on every node at the same entry."""
        return self._version

    def get(self, group: str) -> SubscriptionGroupConfig | None:
        """Return a group; None when no command has made it."""
        return self._groups.get(group)

    @property
    def appliers(self) -> Mapping[str, Callable[[Mapping[str, Any]], str]]:
        """What applies each kind of command: "created", "changed", "exists", "deleted", "missing".

        "missing" is said also of a group that has nothing but committed offsets.
        """
        return {GROUP_PUT: self._put, GROUP_CREATE: self._create, GROUP_DELETE: self._delete}

    @property
    def followers(self) -> Mapping[str, Callable[[Mapping[str, Any]], None]]:
        """See `StatePart`: nothing that others have happen changes a group."""
        return {}

    def snapshot(self) -> list[Any]:
        """Return the version and a row for each group, sorted: its name, what is no default."""
        return [self._version, [[config.group, _extras(config)] for config in self]]

    def restore(self, snapshot: list[Any] | None) -> None:
        """Become what `snapshot` was taken of; None: no groups.

        Raises:
            ValueError, TypeError: *snapshot* is none.
        """
        version, rows = snapshot or (0, [])
        groups: dict[str, SubscriptionGroupConfig] = {}
        for group, extras in rows:
            groups[group] = SubscriptionGroupConfig(**_fields_of({**extras, "group": group}))
        self._version = int(version)
        self._groups = groups

    def _put(self, args: Mapping[str, Any]) -> str:
        given = _fields_of(args)
        before = self._groups.get(given["group"])
        config = (
            replace(before, **given) if before is not None else SubscriptionGroupConfig(**given)
        )
        if config == before:
            return "exists"
        self._groups[config.group] = config
        self._version += 1
        return "created" if before is None else "changed"

    def _create(self, args: Mapping[str, Any]) -> str:
        return "exists" if args["group"] in self._groups else self._put(args)

    def _delete(self, args: Mapping[str, Any]) -> str:
        if self._groups.pop(_fields_of(args)["group"], None) is None:
            return "missing"
        self._version += 1
        return "deleted"


def _plain(value: Any) -> Any:  # noqa: ANN401 - one field of a group
    return list(value) if isinstance(value, tuple) else value


def _extras(config: SubscriptionGroupConfig) -> dict[str, Any]:
    return {
        name: _plain(getattr(config, name))
        for name, default in sorted(_DEFAULTS.items())
        if getattr(config, name) != default
    }


def _fields_of(args: Mapping[str, Any]) -> dict[str, Any]:
    """Return the fields that args or a row give.

    Raises:
        KeyError, ValueError: there is no group, a name is of a newer version, or a value no such.
    """
    result: dict[str, Any] = {"group": args["group"]}
    if type(args["group"]) is not str:
        raise ValueError(f"{args['group']!r:.80} is no group")
    for name, value in args.items():
        if name == "group":
            continue
        default = _DEFAULTS.get(name)
        if isinstance(default, tuple) and isinstance(value, list):
            if any(type(item) is not int for item in value):
                raise ValueError(f"{value!r:.80} are no delays")
            result[name] = tuple(value)
        elif default is None or type(value) is not type(default):
            raise ValueError(f"{name!r:.80} = {value!r:.80} is nothing that a group has")
        else:
            result[name] = value
    return result
