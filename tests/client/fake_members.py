"""Consumer groups of `fake_group`: who is a member, who has locked what, what they give back."""

from __future__ import annotations

import json
from collections import defaultdict
from typing import TYPE_CHECKING

from broker.message.codec import decode_records, encode_record
from broker.message.properties import encode_properties
from broker.protocol.headers import ConsumerSendBackRequest
from broker.protocol.heartbeat import CLUSTERING, decode_heartbeat
from broker.protocol.locks import decode_lock_request, encode_locked
from broker.protocol.request_code import ClientRequestCode
from broker.protocol.response_code import ResponseCode as Code
from dledger.remoting.command import FLAG_ONEWAY, Command, response

if TYPE_CHECKING:
    from broker.protocol.heartbeat import ConsumerData
    from tests.client.fake_node import FakeNode
    from tests.fakes.network import MemoryStream


class FakeMembers:
    """The half of `FakeGroup` that answers requests of consumers about one another."""

    def __init__(self) -> None:
        self.members: dict[str, dict[str, ConsumerData]] = defaultdict(dict)  # by group, client
        self.listeners: dict[MemoryStream, tuple[FakeNode, set[str]]] = {}  # and their groups
        self.locks: dict[tuple[str, str, int], str] = {}  # group, topic, queue: client
        self.sent_back: list[ConsumerSendBackRequest] = []

    def heartbeat(self, node: FakeNode, stream, command: Command) -> Command:
        found = decode_heartbeat(command.body)
        groups = self.listeners.setdefault(stream, (node, set()))[1]
        for data in found.consumers:
            groups.add(data.group)
            if data.message_model == CLUSTERING:
                self.topics.setdefault(f"%RETRY%{data.group}", 1)
            if self.members[data.group].get(found.client_id) != data:
                self.members[data.group][found.client_id] = data
                self.tell_members(data.group)
        return response(command, 0)

    def unregister(self, node: FakeNode, stream, command: Command) -> Command:
        refused = self.not_leader(node, command)
        if refused is not None:
            return refused
        ext = command.ext_fields
        self.expel(ext["consumerGroup"], ext["clientID"])
        return response(command, 0)

    def expel(self, group: str, client_id: str) -> None:
        if self.members[group].pop(client_id, None) is not None:
            self.tell_members(group)

    def tell_members(self, group: str) -> None:
        for stream, (node, groups) in list(self.listeners.items()):
            if group in groups and stream in node.streams:
                code = ClientRequestCode.NOTIFY_CONSUMER_IDS_CHANGED
                fields = {"consumerGroup": group}
                node.send(stream, [Command(code, FLAG_ONEWAY, ext_fields=fields)])

    def list_members(self, node: FakeNode, stream, command: Command) -> Command:
        refused = self.not_leader(node, command)
        if refused is not None:
            return refused
        found = sorted(self.members[command.ext_fields["consumerGroup"]])
        if not found:
            return response(command, Code.SYSTEM_ERROR, "nobody")
        return response(command, 0, body=json.dumps({"consumerIdList": found}).encode())

    def lock(self, node: FakeNode, stream, command: Command) -> Command:
        refused = self.not_leader(node, command)
        if refused is not None:
            return refused
        asked = decode_lock_request(command.body)
        held = []
        for queue in asked.queues:
            key = (asked.group, queue.topic, queue.queue_id)
            if self.locks.setdefault(key, asked.client_id) == asked.client_id:
                held.append(queue)
        return response(command, 0, body=encode_locked(held))

    def unlock(self, node: FakeNode, stream, command: Command) -> Command:
        refused = self.not_leader(node, command)
        if refused is not None:
            return refused
        asked = decode_lock_request(command.body)
        for queue in asked.queues:
            key = (asked.group, queue.topic, queue.queue_id)
            if self.locks.get(key) == asked.client_id:
                del self.locks[key]
        return response(command, 0)

    def send_back(self, node: FakeNode, stream, command: Command) -> Command:
        refused = self.not_leader(node, command)
        if refused is not None:
            return refused
        header = ConsumerSendBackRequest.decode(command.ext_fields)
        (message,) = (
            found
            for records in self.queues.values()
            for found in decode_records(b"".join(records))
            if found.position == header.offset
        )
        self.sent_back.append(header)
        times_max = 16 if header.max_reconsume_times is None else header.max_reconsume_times
        is_dead = header.delay_level < 0 or message.reconsume_times >= times_max
        topic = f"{'%DLQ%' if is_dead else '%RETRY%'}{header.group}"
        self.topics.setdefault(topic, 1)
        properties = {"RETRY_TOPIC": message.topic, **message.properties}
        record = encode_record(
            topic=topic.encode(),
            queue_id=0,
            body=message.body,
            properties=encode_properties(properties),
            reconsume_times=message.reconsume_times + 1,
        )
        self.append(topic, 0, record)
        self.wake_pulls()
        return response(command, 0)
