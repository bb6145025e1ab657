"""What a node knows of itself, gathered into families when somebody asks.

Nothing is kept for this but what `Traffic` and the ledger's histograms count by batch: the rest is
read from the state that is there anyway.  Names and labels are RocketMQ 5's wherever it has the
metric (``BrokerMetricsConstant``, ``DefaultStoreMetricsConstant``), so that its boards work.

What the whole group has in common (topics, groups, their lag) is told by the serving leader alone:
from every node it would be counted as often as there are nodes.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import trio

from broker.metrics.connected import connection_families
from broker.metrics.families import Distribution, counter, gauge, histogram
from broker.metrics.traffic import PAIRS_MAX
from dledger.core import Role
from dledger.remoting.readiness import busy_wait_seconds

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping

    from broker.metadata.consumer_offsets import ConsumerOffsets
    from broker.metadata.topics import Topics
    from broker.metrics.connected import ConnectedClient
    from broker.metrics.families import Family
    from broker.metrics.pulled import PulledPlaces
    from broker.metrics.rpc import RpcLatency
    from broker.metrics.traffic import Traffic
    from broker.store.derived import DerivedState
    from dledger.clock import Clock
    from dledger.measures import Histogram
    from dledger.remoting.server import Flow
    from dledger.server import LedgerServer

QUEUES_MAX = 20_000  # queues of groups looked at for one page
_STEP = 500  # of these between two turns of everybody else
_DLQ_PREFIX = "%DLQ%"
_RETRY_PREFIX = "%RETRY%"
PERMISSION = 6  # read and write, RocketMQ's PermName


class Gatherer:
    """Reads one node's state."""

    def __init__(
        self,
        *,
        ledger: LedgerServer,
        derived: DerivedState,
        topics: Topics,
        offsets: ConsumerOffsets,
        traffic: Traffic,
        clock: Clock,
        is_serving: Callable[[], bool],
        connection_count: Callable[[], int],
        held_pull_count: Callable[[], int],
        store_time_of: Callable[[str, int, int], int],
        connected: Callable[[], Iterable[ConnectedClient]],
        rpc: RpcLatency,
        pulled: PulledPlaces,
        waiting: Mapping[str, Callable[[], int]],
        oldest_ms: Callable[[], int | None],
        state_seconds: Histogram,
        cluster: str = "",
        flow: Flow | None = None,
        name_servers: Callable[[], tuple[int, int]] = lambda: (0, 0),
        catch_up: Callable[[], None] = lambda: None,
    ) -> None:
        """Make one.

        Args:
            ledger: the replicated log.
            derived: consume queues and how far dispatch has come.
            topics: what exists.
            offsets: what groups have consumed.
            traffic: what has passed.
            clock: the time.
            is_serving: whether this node leads and has taken in its predecessors' log.
            connection_count: connections of clients.
            held_pull_count: pulls that wait.
            store_time_of: when the message of (topic, queue id, offset) was stored, milliseconds.
            connected: clients with heartbeats that are connected here.
            rpc: how long requests took.
            pulled: how far consumers have pulled.
            waiting: by processor, how many requests wait for it.
            oldest_ms: when the oldest message of the log was stored, in milliseconds.
            state_seconds: how long it took to write a state.
            cluster: the label of every row; "": the group.
            flow: how much of all connections is under way.
            name_servers: with how many this node is registered, and with how many it is not.
            catch_up: has what is committed taken in.
        """
        self._catch_up = catch_up
        self._name_servers = name_servers
        self._cluster = cluster or ledger.config.group
        self._flow = flow
        self._connected = connected
        self._rpc = rpc
        self._pulled = pulled
        self._waiting = waiting
        self._oldest_ms = oldest_ms
        self._state_seconds = state_seconds
        self._ledger = ledger
        self._derived = derived
        self._topics = topics
        self._offsets = offsets
        self._traffic = traffic
        self._clock = clock
        self._is_serving = is_serving
        self._connection_count = connection_count
        self._held_pull_count = held_pull_count
        self._store_time_of = store_time_of

    def common_labels(self) -> dict[str, str]:
        """Return the labels of every row, as RocketMQ's."""
        config = self._ledger.config
        return {"cluster": self._cluster, "node_type": "broker", "node_id": config.node_id}

    async def families(self) -> list[Family]:
        """Return all that is to be told; gives way to others in between."""
        self._catch_up()
        found = [*self._messages(), *self._storage(), *self._raft(), *self._wal()]
        found += self._node()
        found += [self._rpc.family(), self._watermarks(), *connection_families(self._connected())]
        found += await self._pulled.families(
            self._offsets, self._derived.queues, self._store_time_of
        )
        if self._is_serving():
            found += await self._groups()
        return [family for family in found if family.rows]

    def _messages(self) -> list[Family]:
        traffic = self._traffic
        names = {topic.topic for topic in self._topics}
        traffic.forget_all_but(names)
        labels = ("topic", "message_type", "is_system")
        arrived = counter("rocketmq_messages_in_total", "Messages stored.", *labels)
        arrived_bytes = counter(
            "rocketmq_throughput_in_total", "Bytes of messages stored.", *labels
        )
        for topic, flow in traffic.arrived.items():
            row = (topic, "normal", _flag(_is_system(topic)))
            arrived.add(flow.messages, *row)
            arrived_bytes.add(flow.size, *row)
        dead = counter(
            "rocketmq_send_to_dlq_messages_total",
            "Messages given up after all their retries.",
            "topic", "consumer_group", "is_system",
        )  # fmt: skip
        for topic, flow in traffic.arrived.items():
            if topic.startswith(_DLQ_PREFIX):
                dead.add(flow.messages, topic, topic.removeprefix(_DLQ_PREFIX), "false")
        group_labels = ("topic", "consumer_group", "is_retry", "is_system")
        served = counter("rocketmq_messages_out_total", "Messages to consumers.", *group_labels)
        served_bytes = counter(
            "rocketmq_throughput_out_total", "Bytes of messages handed to consumers.", *group_labels
        )
        for (topic, group), flow in traffic.served.items():
            row4 = (topic, group, _flag(_is_retry(topic)), _flag(_is_system(topic)))
            served.add(flow.messages, *row4)
            served_bytes.add(flow.size, *row4)
        sizes = histogram("rocketmq_message_size", "Bytes of messages stored.")
        sizes.add(Distribution.of(traffic.sizes))
        return [arrived, arrived_bytes, served, served_bytes, sizes, dead]

    def _storage(self) -> list[Family]:
        store = self._ledger.store
        labels = ("storage_type", "storage_medium")
        kind = ("local", "disk")
        size = gauge("rocketmq_storage_size", "Bytes of the log.", *labels)
        size.add(store.stats.log_size, *kind)
        flush = gauge(
            "rocketmq_storage_flush_behind_bytes", "Bytes written and not synced.", *labels
        )
        synced = store.point_at(max(store.synced_index, store.base.index)).position
        flush.add(max(store.end_position - synced, 0), *kind)
        dispatch = gauge(
            "rocketmq_storage_dispatch_behind_bytes",
            "Bytes committed and not taken into the consume queues.",
            *labels,
        )
        committed = max(self._ledger.committed_index, store.base.index)
        dispatched = min(max(self._derived.dispatched_index, store.base.index), committed)
        behind = store.point_at(committed).position - store.point_at(dispatched).position
        dispatch.add(behind, *kind)
        reserve = gauge(
            "rocketmq_storage_message_reserve_time",
            "Age of the oldest message that is kept, milliseconds.",
            *labels,
        )
        oldest_ms = self._oldest_ms()
        if oldest_ms is not None:
            reserve.add(max(self._clock.wall_ms() - oldest_ms, 0), *kind)
        return [size, flush, dispatch, reserve]

    def _watermarks(self) -> Family:
        rows = gauge(
            "rocketmq_processor_watermark", "Requests that wait, by what for.", "processor"
        )
        for processor, count in self._waiting.items():
            rows.add(count(), processor)
        return rows

    def _raft(self) -> list[Family]:
        ledger = self._ledger
        core, engine = ledger.core, ledger.core.engine
        role = gauge("raft_role", "1 for the role this node has, 0 for the others.", "role")
        for each in Role:
            role.add(core.role is each, each.value)
        term = gauge("raft_term", "Current term.")
        term.add(ledger.term)
        changes = counter("raft_leader_changes_total", "Changes of leader that this node has seen.")
        changes.add(ledger.notices.leader_change_count)
        has_leader = gauge("raft_has_leader", "Whether this node knows who leads.")
        has_leader.add(ledger.leader_id is not None)
        committed = gauge("raft_commit_index", "Last entry known to be committed in the group.")
        committed.add(engine.commit_index)
        applied = gauge("raft_applied_index", "Last entry taken into consume queues and topics.")
        applied.add(self._derived.dispatched_index)
        last = gauge("raft_last_index", "Last entry of this node's log.")
        last.add(ledger.store.end_index)
        lag = gauge(
            "raft_follower_lag_entries", "Entries a follower lacks; the leader tells.", "peer"
        )
        if engine.is_leader:
            for peer_id in engine.peer_ids:
                match = engine.leading.progress[peer_id].match_index
                lag.add(max(ledger.store.end_index - match, 0), peer_id)
        connected = gauge("raft_peer_connected", "Whether a member is reachable.", "peer")
        for peer_id in engine.peer_ids:
            connected.add(peer_id in core.connected_peers, peer_id)
        latency = histogram(
            "raft_append_latency_seconds", "From an entry's append by the leader to its commit."
        )
        latency.add(Distribution.of(core.append_seconds))
        pending = gauge("raft_pending_bytes", "Bytes proposed and not committed yet.")
        pending.add(core.pending_size)
        snapshot = histogram("raft_snapshot_seconds", "Time it took to write a state.")
        snapshot.add(Distribution.of(self._state_seconds))
        return [
            role, term, changes, has_leader, committed, applied, last, lag, connected, latency,
            pending, snapshot,
        ]  # fmt: skip

    def _wal(self) -> list[Family]:
        ledger = self._ledger
        stats = ledger.store.stats
        seconds = histogram("wal_fsync_seconds", "Time a sync of the log took.")
        seconds.add(Distribution.of(ledger.syncs.seconds))
        batch = histogram("wal_fsync_batch_entries", "Entries that shared a sync.")
        batch.add(Distribution.of(ledger.syncs.entries))
        segments = gauge("wal_segments", "Files of the log.")
        segments.add(stats.segment_count)
        appended = counter("wal_appended_bytes_total", "Bytes appended to the log.")
        appended.add(stats.appended_size)
        cuts = counter("wal_truncations_total", "Times entries of a past leader were cut.")
        cuts.add(stats.truncation_count)
        free = gauge("wal_disk_free_bytes", "Bytes left on the disk of the log.")
        free.add(stats.free_size)
        full = gauge("wal_disk_full", "Whether appends are refused for want of room.")
        full.add(ledger.core.disk_full is not None)
        return [seconds, batch, segments, appended, cuts, free, full]

    def _node(self) -> list[Family]:
        connections = gauge("dledger_connections", "Connections of clients.")
        connections.add(self._connection_count())
        held = gauge("dledger_pulls_held", "Pulls that wait for a message.")
        held.add(self._held_pull_count())
        serving = gauge("dledger_serving", "Whether this node leads and takes writes.")
        serving.add(self._is_serving())
        permission = gauge("rocketmq_broker_permission", "4 read, 2 write.")
        permission.add(PERMISSION)
        names = gauge(
            "dledger_name_servers", "Name servers this node is to register with.", "is_registered"
        )
        registered, missing = self._name_servers()
        if registered or missing:
            names.add(registered, _flag(True))
            names.add(missing, _flag(False))
        waited = counter(
            "dledger_busy_wait_seconds_total", "Time of asking sockets again instead of sleeping."
        )
        if (seconds := busy_wait_seconds()) is not None:
            waited.add(seconds)
        return [connections, held, serving, permission, names, waited, *self._flow_control()]

    def _flow_control(self) -> list[Family]:
        if (flow := self._flow) is None:
            return []
        inflight = gauge(
            "dledger_inflight_bytes", "Requests that are taken and not answered, bytes."
        )
        inflight.add(flow.inflight_size)
        unread = gauge("dledger_unread_bytes", "Answers that clients have not taken, bytes.")
        unread.add(flow.unread_size)
        pauses = counter(
            "dledger_connection_pauses_total",
            "How often a connection was read no further, as it had too much under way.",
        )
        pauses.add(flow.pause_count)
        return [inflight, unread, pauses]

    async def _groups(self) -> list[Family]:
        topics = gauge("rocketmq_topic_number", "Topics.")
        topics.add(len(self._topics))
        pairs = list(self._offsets.groups())
        groups = gauge("rocketmq_consumer_group_number", "Groups that have committed an offset.")
        groups.add(len({group for group, _ in pairs}))
        labels = ("topic", "consumer_group", "is_retry", "is_system")
        lag = gauge(
            "rocketmq_consumer_lag_messages", "Messages a group has not committed yet.", *labels
        )
        latency = gauge(
            "rocketmq_consumer_lag_latency",
            "Age of the oldest message a group has not committed, milliseconds.",
            *labels,
        )
        looked_at = 0
        now = self._clock.wall_ms()
        for group, topic in self._with_retries(pairs)[:PAIRS_MAX]:
            behind, oldest = 0, now
            config = self._topics.get(topic)
            committed = self._offsets.queues_of(group, topic)
            # A queue in which the group has committed nothing yet is behind with all it holds.
            for queue_id in range(0 if config is None else config.read_queue_count):
                offset = committed.get(queue_id, 0)
                looked_at += 1
                if looked_at % _STEP == 0:
                    await trio.lowlevel.checkpoint()
                queue = self._derived.queues.get(topic, queue_id)
                if queue is None:
                    continue
                first = max(offset, queue.min_offset)
                if first < queue.max_offset:
                    behind += queue.max_offset - first
                    oldest = min(oldest, self._store_time_of(topic, queue_id, first))
            row = (topic, group, _flag(_is_retry(topic)), _flag(_is_system(topic)))
            lag.add(behind, *row)
            latency.add(max(now - oldest, 0), *row)
            if looked_at >= QUEUES_MAX:
                break
        return [topics, groups, lag, latency]

    def _with_retries(self, pairs: list[tuple[str, str]]) -> list[tuple[str, str]]:
        """Return *pairs* of group and topic, and the retry topics in which nothing is committed.

        Only those with messages: these wait for the group, and nothing else would say so.
        """
        known = set(pairs)
        for group in sorted({group for group, _ in pairs}):
            topic = _RETRY_PREFIX + group
            if (group, topic) in known or self._topics.get(topic) is None:
                continue
            queue = self._derived.queues.get(topic, 0)
            if queue is not None and queue.max_offset:
                known.add((group, topic))
        return sorted(known)


def _flag(value: bool) -> str:
    return "true" if value else "false"


def _is_retry(topic: str) -> bool:
    return topic.startswith(_RETRY_PREFIX)


def _is_system(topic: str) -> bool:
    """Whether *topic* is of the broker's own. Source: RocketMQ ``TopicValidator``."""
    return topic.startswith("rmq_sys_") or topic in {"SCHEDULE_TOPIC_XXXX", "TBW102"}
