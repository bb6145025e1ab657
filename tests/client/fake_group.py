"""A broker group in memory: what a client can see of three nodes, with every failure at hand.

All nodes share one log per queue, as a replicated group's committed state would be; which node
leads, and which are dead or frozen, is set by the test.
"""

from __future__ import annotations

import json
import struct
from collections import Counter, defaultdict
from typing import TYPE_CHECKING

import trio

from broker.message.batch import decode_sizes
from broker.message.codec import QUEUE_OFFSET_OFFSET, decode_record, decode_records, encode_record
from broker.protocol.bodies import Ack, GroupStatus, MemberStatus
from broker.protocol.request_code import RequestCode
from broker.protocol.response_code import ResponseCode as Code
from dledger.remoting.command import FLAG_GROUPED, Command, response
from tests.client.fake_members import FakeMembers
from tests.client.fake_node import FakeNode
from tests.fakes.network import MemoryNetwork, MemoryStream

if TYPE_CHECKING:
    import random
    from collections.abc import Callable

    from broker.message.model import StoredMessage

_PLACE = struct.Struct(">qq")


class FakeGroup(FakeMembers):
    """See the module. *refuse* may answer any request first: return a Command, an Ack, or None."""

    def __init__(self, nursery: trio.Nursery, count: int = 3) -> None:
        super().__init__()
        self.nursery = nursery
        self.network = MemoryNetwork(capacity=64 << 20)
        self.nodes = [FakeNode(self, number) for number in range(count)]
        self.leader: FakeNode | None = self.nodes[0]
        self.term = 1
        self.topics: dict[str, int] = {}
        self.queues: dict[tuple[str, int], list[bytes]] = defaultdict(list)
        self.end_position = 48  # bytes; the log begins with an entry's header
        self.min_offsets: Counter = Counter()
        self.producers: dict[tuple[int, str, int], dict] = {}
        self.offsets: dict[tuple[str, str, int], int] = {}
        self.refuse: Callable[[FakeNode, Command], Command | Ack | None] = lambda node, command: (
            None
        )
        self.ack_delay = 0.0  # seconds
        self.forwards = False  # followers hand sends on to the leader
        self.lose_acks = 0  # so many sends are written, and the connection broken instead of an ack
        self.knows_no_waiting = False  # they tell at once who leads, or that nobody does
        self.held_pulls: list[tuple[FakeNode, MemoryStream, Command]] = []
        self.send_times: list[float] = []
        self.batch_counts: list[int] = []  # messages of each send, in order of arrival
        self.transfers: list[str] = []
        self.transfer_delay = 0.0  # until it is answered; the lead goes over at once

    async def start(self) -> None:
        for node in self.nodes:
            await node.start()

    @property
    def addresses(self) -> list[str]:
        return [node.address for node in self.nodes]

    def elect(self, number: int | None) -> None:
        self.leader = None if number is None else self.nodes[number]
        if number is not None:
            self.term += 1

    async def harm_leader(self, what: str, chance: random.Random) -> None:
        """Have the leader's connections "break", "depose" it, "kill" or "freeze" it for a while."""
        leader = self.leader
        others = [number for number, node in enumerate(self.nodes) if node is not leader]
        if what == "break":
            leader.break_connections()
        elif what == "depose":
            self.elect(chance.choice(others))
        elif what == "kill":
            self.elect(None)
            leader.kill()
            await trio.sleep(chance.uniform(0.0, 0.3))
            self.elect(chance.choice(others))
            await leader.start()
        else:
            assert what == "freeze", what
            leader.freeze()
            await trio.sleep(chance.uniform(0.0, 0.3))
            self.elect(chance.choice(others))
            await trio.sleep(chance.uniform(0.0, 0.3))
            leader.thaw()

    def stored(self, topic: str) -> dict[int, list[StoredMessage]]:
        return {
            queue: decode_records(b"".join(records))
            for (name, queue), records in sorted(self.queues.items())
            if name == topic
        }

    def bodies(self, topic: str) -> dict[int, list[bytes]]:
        return {q: [message.body for message in found] for q, found in self.stored(topic).items()}

    def all_bodies(self, topic: str) -> list[bytes]:
        return [body for bodies in self.bodies(topic).values() for body in bodies]

    def put(self, topic: str, queue: int, bodies: list[bytes]) -> None:
        self.topics.setdefault(topic, 4)
        for body in bodies:
            record = encode_record(topic=topic.encode(), queue_id=queue, body=body)
            self.append(topic, queue, record)
        self.wake_pulls()

    def append(self, topic: str, queue: int, record: bytes) -> tuple[int, int]:
        records = self.queues[topic, queue]
        position = self.end_position
        self.end_position += len(record)
        stamped = bytearray(record)
        _PLACE.pack_into(stamped, QUEUE_OFFSET_OFFSET, len(records), position)
        records.append(bytes(stamped))
        return len(records) - 1, position

    # --- requests -----------------------------------------------------------------------------

    def answer(self, node: FakeNode, stream: MemoryStream, command: Command):
        refused = self.refuse(node, command)
        if refused is not None:
            return refused
        handler = {
            RequestCode.GET_ROUTEINFO_BY_TOPIC: self.route,
            RequestCode.UPDATE_AND_CREATE_TOPIC: self.create_topic,
            RequestCode.GET_ALL_TOPIC_CONFIG: self.list_topics,
            RequestCode.SEND_BATCH_MESSAGE: self.send,
            RequestCode.PULL_MESSAGE: self.pull,
            RequestCode.QUERY_CONSUMER_OFFSET: self.query_offset,
            RequestCode.UPDATE_CONSUMER_OFFSET: self.update_offset,
            RequestCode.GET_MAX_OFFSET: self.max_offset,
            RequestCode.GET_MIN_OFFSET: self.min_offset,
            RequestCode.GET_GROUP_STATUS: self.ask_status,
            RequestCode.LEADERSHIP_TRANSFER: self.transfer,
            RequestCode.HEART_BEAT: self.heartbeat,
            RequestCode.UNREGISTER_CLIENT: self.unregister,
            RequestCode.GET_CONSUMER_LIST_BY_GROUP: self.list_members,
            RequestCode.LOCK_BATCH_MQ: self.lock,
            RequestCode.UNLOCK_BATCH_MQ: self.unlock,
            RequestCode.CONSUMER_SEND_MSG_BACK: self.send_back,
        }[command.code]
        return handler(node, stream, command)

    def not_leader(self, node: FakeNode, command: Command) -> Command | None:
        if node is self.leader:
            return None
        leader = self.seen_leader(node)
        hint = leader.address if leader is not None else ""
        return response(command, Code.NOT_LEADER, "follower", {"leaderAddress": hint})

    def seen_leader(self, node: FakeNode) -> FakeNode | None:
        return (node.believes or self.leader) if node.knows_leader else None

    def ask_status(self, node: FakeNode, stream, command: Command) -> Command | None:
        if self.knows_no_waiting or self._has_news(node, command):
            return self.status(node, command)
        self.nursery.start_soon(self._tell_news, node, stream, command)
        return None

    def _has_news(self, node: FakeNode, command: Command) -> bool:
        if not command.ext_fields.get("suspendTimeoutMillis"):
            return True
        leader, term = self.seen_leader(node), node.believed_term if node.believes else self.term
        return leader is node or (leader is not None and term > command.ext_fields["newerThan"])

    async def _tell_news(self, node: FakeNode, stream: MemoryStream, command: Command) -> None:
        # As a node that looks each 50 ms.
        end = trio.current_time() + command.ext_fields["suspendTimeoutMillis"] / 1000 + 0.050
        while node.is_frozen or not (  # noqa: ASYNC110 - many things are news
            self._has_news(node, command) or trio.current_time() >= end
        ):
            await trio.sleep(0.001)
        node.send(stream, [self.status(node, command)])

    def status(self, node: FakeNode, command: Command) -> Command:
        leader = self.seen_leader(node)
        status = GroupStatus(
            group="g",
            node_id=node.node_id,
            role="LEADER" if leader is node else "FOLLOWER",
            term=node.believed_term if node.believes else self.term,
            leader_id=leader and leader.node_id,
            leader_address=leader and leader.address,
            is_ready=True,
            begin_index=1,
            end_index=1,
            durable_index=1,
            commit_index=1,
            dispatched_index=1,
            begin_position=0,
            end_position=0,
            flush_disk_type="SYNC_FLUSH",
            topic_count=len(self.topics),
            connection_count=1,
            held_pull_count=len(self.held_pulls),
            rss_bytes=1,
            uptime_seconds=1.0,
            sync_seconds_last=0.0,
            version="0",
            members=tuple(
                MemberStatus(node_id=n.node_id, address=n.address, is_connected=True)
                for n in self.nodes
            ),
        )
        return response(command, 0, body=status.encode())

    def route(self, node: FakeNode, stream, command: Command) -> Command:
        topic = command.ext_fields["topic"]
        if topic not in self.topics:
            return response(command, Code.TOPIC_NOT_EXIST, f"no topic {topic}")
        count = self.topics[topic]
        body = {
            "queueDatas": [
                {"brokerName": "g", "readQueueNums": count, "writeQueueNums": count, "perm": 6}
            ],
            "brokerDatas": [],
        }
        return response(command, 0, body=json.dumps(body).encode())

    def create_topic(self, node: FakeNode, stream, command: Command) -> Command:
        refused = self.not_leader(node, command)
        if refused is None:
            self.topics[command.ext_fields["topic"]] = command.ext_fields["writeQueueNums"]
        return refused or response(command, 0)

    def list_topics(self, node: FakeNode, stream, command: Command) -> Command:
        table = {
            topic: {"readQueueNums": count, "writeQueueNums": count, "perm": 6}
            for topic, count in self.topics.items()
        }
        return response(command, 0, body=json.dumps({"topicConfigTable": table}).encode())

    def send(self, node: FakeNode, stream: MemoryStream, command: Command):
        ext = command.ext_fields
        assert command.flag & FLAG_GROUPED
        assert ext["recordFormat"] == 1
        sizes = decode_sizes(ext["sizes"])
        self.batch_counts.append(len(sizes))
        self.send_times.append(trio.current_time())
        refused = self.not_leader(node, command)
        if refused is not None:
            if not self.forwards or self.leader is None:
                return refused
            answer = self.take_send(command, stream)
            if not isinstance(answer, Ack) or answer.code:
                return answer
            fields = {
                "queueId": answer.queue_id,
                "queueOffset": answer.queue_offset,
                "position": answer.position,
                "leaderAddress": self.leader.address,
            }
            return response(command, 0, None, fields)
        return self.take_send(command, stream)

    def take_send(self, command: Command, stream: MemoryStream) -> Command | Ack | None:
        ext = command.ext_fields
        sizes = decode_sizes(ext["sizes"])
        topic, queue = ext["topic"], ext["queueId"]
        if topic not in self.topics:
            return response(command, Code.TOPIC_NOT_EXIST, f"no topic {topic}")
        records = []
        at = 0
        for size in sizes:
            record = bytes(command.body[at : at + size])
            message = decode_record(record)
            assert (message.topic, message.queue_id, message.size) == (topic, queue, size)
            if message.body.startswith(b"illegal"):
                return response(command, Code.MESSAGE_ILLEGAL, "one of them is not for us")
            records.append(record)
            at += size
        assert at == len(command.body)
        producer_id, sequence = ext["producerId"], ext["sequence"]
        places: list[tuple[int, int]]
        if producer_id:
            state = self.producers.get((producer_id, topic, queue))
            if state is None:
                if sequence:
                    return Ack(command.opaque, Code.UNKNOWN_PRODUCER, queue)
                state = self.producers[producer_id, topic, queue] = {"next": 0, "places": {}}
            if sequence + len(records) <= state["next"]:
                offset, position = state["places"].get(sequence, (-1, -1))
                return Ack(command.opaque, 0, queue, offset, position)
            if sequence != state["next"]:
                return Ack(command.opaque, Code.OUT_OF_ORDER_SEQUENCE, queue)
            places = [self.append(topic, queue, record) for record in records]
            state["next"] = sequence + len(records)
            for number, place in enumerate(places):
                state["places"][sequence + number] = place
        else:
            places = [self.append(topic, queue, record) for record in records]
        self.wake_pulls()
        if self.lose_acks:
            self.lose_acks -= 1
            stream.abort()
            return None
        return Ack(command.opaque, 0, queue, *places[0])

    def pull(self, node: FakeNode, stream: MemoryStream, command: Command) -> Command | None:
        answer = self.try_pull(node, command)
        if answer is None:
            self.held_pulls.append((node, stream, command))
            self.nursery.start_soon(self._expire_pull, node, stream, command)
        return answer

    async def _expire_pull(self, node: FakeNode, stream: MemoryStream, command: Command) -> None:
        await trio.sleep(command.ext_fields["suspendTimeoutMillis"] / 1000)
        if (node, stream, command) in self.held_pulls:
            self.held_pulls.remove((node, stream, command))
            offset = command.ext_fields["queueOffset"]
            node.send(stream, [self.pulled(command, Code.PULL_NOT_FOUND, offset, 0, offset)])

    def wake_pulls(self) -> None:
        held, self.held_pulls = self.held_pulls, []
        for node, stream, command in held:
            answer = None if node.is_frozen else self.try_pull(node, command)
            if answer is None:
                self.held_pulls.append((node, stream, command))
            else:
                node.send(stream, [answer])

    def try_pull(self, node: FakeNode, command: Command) -> Command | None:
        ext = command.ext_fields
        topic, queue, offset = ext["topic"], ext["queueId"], ext["queueOffset"]
        if topic not in self.topics:
            return response(command, Code.TOPIC_NOT_EXIST, f"no topic {topic}")
        records = self.queues[topic, queue]
        end = max(len(records) - node.lag, 0)
        least = self.min_offsets[topic, queue]
        if offset < least:
            return self.pulled(command, Code.PULL_OFFSET_MOVED, least, least, end)
        if offset > end:
            return self.pulled(command, Code.PULL_OFFSET_MOVED, end, least, end)
        if offset == end:
            return None
        found = []
        size = 0
        for record in records[offset : min(end, offset + ext["maxMsgNums"])]:
            if found and size + len(record) > ext["maxMsgBytes"]:
                break
            found.append(record)
            size += len(record)
        return self.pulled(command, 0, offset + len(found), least, end, b"".join(found))

    @staticmethod
    def pulled(
        command: Command, code: int, after: int, least: int, end: int, body: bytes = b""
    ) -> Command:
        fields = {
            "suggestWhichBrokerId": 0,
            "nextBeginOffset": after,
            "minOffset": least,
            "maxOffset": end,
        }
        return response(command, code, None, fields, body)

    def query_offset(self, node: FakeNode, stream, command: Command) -> Command:
        ext = command.ext_fields
        refused = self.not_leader(node, command)
        if refused is not None:
            return refused
        found = self.offsets.get((ext["consumerGroup"], ext["topic"], ext["queueId"]))
        if found is None:
            return response(command, Code.QUERY_NOT_FOUND, "none committed")
        return response(command, 0, None, {"offset": found})

    def update_offset(self, node: FakeNode, stream, command: Command) -> Command:
        ext = command.ext_fields
        refused = self.not_leader(node, command)
        if refused is not None:
            return refused
        key = (ext["consumerGroup"], ext["topic"], ext["queueId"])
        self.offsets[key] = max(self.offsets.get(key, 0), ext["commitOffset"])
        return response(command, 0)

    def max_offset(self, node: FakeNode, stream, command: Command) -> Command:
        key = (command.ext_fields["topic"], command.ext_fields["queueId"])
        refused = self.not_leader(node, command)
        return refused or response(command, 0, None, {"offset": len(self.queues[key])})

    def min_offset(self, node: FakeNode, stream, command: Command) -> Command:
        key = (command.ext_fields["topic"], command.ext_fields["queueId"])
        refused = self.not_leader(node, command)
        return refused or response(command, 0, None, {"offset": self.min_offsets[key]})

    def transfer(self, node: FakeNode, stream, command: Command) -> Command | None:
        refused = self.not_leader(node, command)
        if refused is not None:
            return refused
        target = command.ext_fields["transfereeId"] or "n2"
        self.transfers.append(target)
        self.elect(int(target[1:]) - 1)
        answer = response(command, 0, None, {"leaderId": target})
        if not self.transfer_delay:
            return answer
        self.nursery.start_soon(self._answer_later, node, stream, answer)
        return None

    async def _answer_later(self, node: FakeNode, stream, answer: Command) -> None:
        await trio.sleep(self.transfer_delay)
        node.send(stream, [answer])
