"""A consumer group's configuration, and its JSON as RocketMQ has it.

The delays before retries stand where RocketMQ 5 has them: ``groupRetryPolicy`` with
``customizedRetryPolicy.next``.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from broker.errors import HeaderError

if TYPE_CHECKING:
    from collections.abc import Iterable

    Buffer = bytes | bytearray | memoryview


@dataclass(frozen=True, slots=True, kw_only=True)
class SubscriptionGroupConfig:
    """One consumer group. Source: RocketMQ ``SubscriptionGroupConfig``."""

    group: str
    consume_enable: bool = True  # False: its pulls are refused
    consume_from_min_enable: bool = True  # kept for RocketMQ's clients; changes nothing here
    consume_broadcast_enable: bool = True  # the same
    retry_queue_count: int = 1  # queues of its retry topic
    retry_times_max: int = 16  # then a message goes to the group's dead letters; -1: at once
    broker_id: int = 0  # kept for RocketMQ's clients
    which_broker_when_slow: int = 1  # the same
    notify_changes: bool = True  # whether its consumers hear when one comes or goes
    retry_delays_ms: tuple[int, ...] = ()  # before each retry, then the last; (): 10 s to 2 h


_WIRE_NAMES = {
    "group": "groupName",
    "consume_enable": "consumeEnable",
    "consume_from_min_enable": "consumeFromMinEnable",
    "consume_broadcast_enable": "consumeBroadcastEnable",
    "retry_queue_count": "retryQueueNums",
    "retry_times_max": "retryMaxTimes",
    "broker_id": "brokerId",
    "which_broker_when_slow": "whichBrokerWhenConsumeSlowly",
    "notify_changes": "notifyConsumerIdsChangedEnable",
}


def encode_group(config: SubscriptionGroupConfig) -> bytes:
    """Return the body of UPDATE_AND_CREATE_SUBSCRIPTIONGROUP."""
    return json.dumps(_to_json(config), separators=(",", ":")).encode()


def decode_group(body: Buffer) -> SubscriptionGroupConfig:
    """Return the group in *body*; what it does not name has its default.

    Raises:
        HeaderError: the body is no group.
    """
    try:
        return _from_json(json.loads(bytes(body)))
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise HeaderError(_why("no consumer group", error), field="body") from error


def encode_group_table(groups: Iterable[SubscriptionGroupConfig], *, version: int) -> bytes:
    """Return the answer to GET_ALL_SUBSCRIPTIONGROUP_CONFIG.

    Source: RocketMQ ``SubscriptionGroupWrapper``.
    """
    wrapper = {
        "dataVersion": {"counter": version, "stateVersion": 0, "timestamp": 0},
        "subscriptionGroupTable": {config.group: _to_json(config) for config in groups},
    }
    return json.dumps(wrapper, separators=(",", ":")).encode()


def decode_group_table(body: Buffer) -> list[SubscriptionGroupConfig]:
    """Return the groups of a table, sorted by name.

    Raises:
        HeaderError: the body is no table of groups.
    """
    try:
        table = json.loads(bytes(body))["subscriptionGroupTable"]
        return [_from_json(table[name]) for name in sorted(table)]
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise HeaderError(_why("no table of consumer groups", error), field="body") from error


def _to_json(config: SubscriptionGroupConfig) -> dict[str, Any]:
    result = {wire: getattr(config, name) for name, wire in sorted(_WIRE_NAMES.items())}
    if config.retry_delays_ms:
        result["groupRetryPolicy"] = {
            "type": "CUSTOMIZED",
            "customizedRetryPolicy": {"next": list(config.retry_delays_ms)},
        }
    return result


def _from_json(fields: dict[str, Any]) -> SubscriptionGroupConfig:
    values: dict[str, Any] = {}
    for name, wire in _WIRE_NAMES.items():
        value = fields.get(wire)
        if value is None and name != "group":
            continue
        wanted = str if name == "group" else type(_DEFAULTS[name])
        if type(value) is not wanted:
            raise ValueError(f"{wire} = {value!r:.80} is no {wanted.__name__}")
        values[name] = value
    policy = fields.get("groupRetryPolicy") or {}
    delays = (policy.get("customizedRetryPolicy") or {}).get("next") or ()
    if any(type(delay) is not int for delay in delays):
        raise ValueError(f"{delays!r:.80} are no delays in milliseconds")
    return SubscriptionGroupConfig(**values, retry_delays_ms=tuple(delays))


def _why(what: str, error: Exception) -> str:
    return f"{what}: {type(error).__name__}: {error}"


_NOBODY = SubscriptionGroupConfig(group="")
_DEFAULTS = {name: getattr(_NOBODY, name) for name in _WIRE_NAMES}
