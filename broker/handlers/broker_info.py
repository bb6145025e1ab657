"""How a node is set up and how it fares, as RocketMQ's mqadmin asks: brokerStatus, brokerConfig.

Every node answers for itself.  Of its settings one can change while it runs: ``logLevel``.
"""

from __future__ import annotations

import dataclasses
import enum
import json
import logging
from importlib.metadata import version
from typing import TYPE_CHECKING

from broker.errors import InvalidMessageError
from broker.handlers.properties import (
    LOG_LEVEL,
    read_properties,
    wanted_log_level,
    write_properties,
)
from broker.handlers.registry import answer, handles
from broker.protocol.request_code import RequestCode
from broker.protocol.response_code import ResponseCode
from dledger.core import Role
from dledger.remoting.command import VERSION, Command, response

if TYPE_CHECKING:
    from collections.abc import Callable

    from broker.config import NodeConfig
    from broker.metrics.rates import Rates
    from broker.metrics.traffic import Traffic
    from broker.store.derived import DerivedState
    from dledger.clock import Clock
    from dledger.remoting.server import Session
    from dledger.server import LedgerServer

logger = logging.getLogger(__name__)


class BrokerInfoHandlers:
    """The family of a broker's own affairs."""

    def __init__(
        self,
        *,
        config: NodeConfig,
        ledger: LedgerServer,
        derived: DerivedState,
        traffic: Traffic,
        rates: Rates,
        clock: Clock,
        oldest_ms: Callable[[], int | None],
    ) -> None:
        """Make the family.

        Args:
            config: the node's settings.
            ledger: the replicated log.
            derived: how far dispatch has come.
            traffic: what has passed.
            rates: the same in a second.
            clock: the time.
            oldest_ms: when the oldest message of the log was stored; None without one.
        """
        self._oldest_ms = oldest_ms
        self._config = config
        self._ledger = ledger
        self._derived = derived
        self._traffic = traffic
        self._rates = rates
        self._clock = clock
        self._started_at = clock.now()
        self._started_ms = clock.wall_ms()
        self._log_level = config.broker.log_level
        self._change_count = 0
        # Set by whoever runs a node as a process of its own; several in one share their log.
        self.set_log_level: Callable[[str], None] | None = None

    @handles(RequestCode.GET_NAMESRV_CONFIG)
    @handles(RequestCode.GET_BROKER_CONFIG)
    def get_config(self, session: Session, command: Command) -> None:
        """Answer the settings as properties: RocketMQ's names first, then our own keys."""
        # Source: RocketMQ ``GetBrokerConfigResponseHeader``; it counts changes of the settings.
        data_version = json.dumps(
            {"counter": self._change_count, "timestamp": self._started_ms}, separators=(",", ":")
        )
        body = write_properties(self.settings())
        reply = response(command, int(ResponseCode.SUCCESS), None, {"version": data_version}, body)
        answer(session, command, reply)

    @handles(RequestCode.UPDATE_NAMESRV_CONFIG)
    @handles(RequestCode.UPDATE_BROKER_CONFIG)
    def update_config(self, session: Session, command: Command) -> None:
        """Change what can change while the node runs: all of what is asked, or nothing of it."""
        wanted = read_properties(_body_of(command))
        level = wanted_log_level(wanted)
        if level is not None:
            if self.set_log_level is None:
                raise InvalidMessageError("this node shares its log with others of its process")
            self._log_level = level
            self._change_count += 1
            self.set_log_level(level)
        answer(session, command, response(command, int(ResponseCode.SUCCESS)))

    @handles(RequestCode.GET_BROKER_RUNTIME_INFO)
    def runtime_info(self, session: Session, command: Command) -> None:
        """Answer how the node fares, by RocketMQ's names."""
        body = json.dumps({"table": self.runtime()}, separators=(",", ":")).encode()
        answer(session, command, response(command, int(ResponseCode.SUCCESS), body=body))

    def settings(self) -> dict[str, str]:
        """Return every setting by name."""
        config = self._config
        leads = self._ledger.core.role is Role.LEADER
        found = {
            "brokerClusterName": config.cluster_name,
            "brokerName": config.group,
            "brokerId": "0" if leads else "1",
            "namesrvAddr": config.nameserver.addresses,
            "brokerIP1": config.member.advertised_host or config.member.host,
            "listenPort": str(config.member.broker_port),
            "storePathRootDir": config.data_folder,
            "enableDLegerCommitLog": "true",
            "dLegerGroup": config.group,
            "dLegerSelfId": config.node_id,
            "dLegerPeers": ";".join(
                f"{member.node_id}-{member.peer_address}" for member in config.members
            ),
            "mappedFileSizeCommitLog": str(config.store.segment_size),
            "flushDiskType": config.store.flush_disk_type.value,
            "maxMessageSize": str(config.broker.body_size_max),
            "autoCreateTopicEnable": _text(config.broker.auto_create_topic),
            "defaultTopicQueueNums": str(config.broker.default_topic_queue_count),
            LOG_LEVEL: self._log_level,
        }
        for section in ("store", "raft", "broker", "nameserver", "metrics"):
            table = getattr(config, section)
            for item in dataclasses.fields(table):
                found[f"{section}.{item.name}"] = _text(getattr(table, item.name))
        found["broker.log_level"] = self._log_level
        return found

    def runtime(self) -> dict[str, str]:
        """Return RocketMQ's table of numbers, those of them that have a meaning here."""
        ledger = self._ledger
        store, stats = ledger.store, ledger.store.stats
        put = sum(flow.messages for flow in self._traffic.arrived.values())
        got = sum(flow.messages for flow in self._traffic.served.values())
        size, free = stats.log_size, stats.free_size
        uptime = self._clock.now() - self._started_at
        oldest = self._oldest_ms()
        behind = max(ledger.committed_index - self._derived.dispatched_index, 0)
        return {
            "brokerVersionDesc": f"dledger {version('dledger')}",
            "brokerVersion": str(VERSION),
            "bootTimestamp": str(self._started_ms),
            "runtime": _duration(uptime),
            "brokerActive": _text(ledger.leader_id is not None),
            "putMessageTimesTotal": str(put),
            "getMessageTimesTotal": str(got),
            "putTps": _rates(self._rates.per_second("put")),
            "getTransferredTps": _rates(self._rates.per_second("get")),
            "getTransferedTps": _rates(self._rates.per_second("get")),
            "commitLogMinOffset": str(store.base.position),
            "commitLogMaxOffset": str(store.end_position),
            "commitLogDirCapacity": f"Total : {size + free} B, Free : {free} B.",
            "commitLogDiskRatio": f"{size / max(size + free, 1):.4f}",
            "remainHowManyDataToFlush": f"{max(store.end_index - store.synced_index, 0)} entries",
            "dispatchMaxBuffer": "0",
            "dispatchBehindEntries": str(behind),
            "sendThreadPoolQueueSize": str(ledger.core.unfinished_count),
            # No request waits for a thread, or for a lock: what RocketMQ measures there is nought.
            "sendThreadPoolQueueHeadWaitTimeMills": "0",
            "pullThreadPoolQueueSize": "0",
            "pullThreadPoolQueueHeadWaitTimeMills": "0",
            "queryThreadPoolQueueSize": "0",
            "queryThreadPoolQueueHeadWaitTimeMills": "0",
            "pageCacheLockTimeMills": "0",
            "earliestMessageTimeStamp": str(-1 if oldest is None else oldest),
            "term": str(ledger.term),
            "role": ledger.core.role.name,
            "leaderId": ledger.leader_id or "",
        }


def _body_of(command: Command) -> bytes:
    body = command.body
    return b"".join(body) if isinstance(body, list) else bytes(body)


def _text(value: object) -> str:
    if isinstance(value, bool):
        return "true" if value else "false"
    return str(value.value) if isinstance(value, enum.Enum) else str(value)


def _rates(values: tuple[float, ...]) -> str:
    return " ".join(f"{value:.2f}" for value in values)


def _duration(seconds: float) -> str:
    minutes, second = divmod(int(seconds), 60)
    hours, minute = divmod(minutes, 60)
    days, hour = divmod(hours, 24)
    return f"[ {days} days, {hour} hours, {minute} minutes, {second} seconds ]"
