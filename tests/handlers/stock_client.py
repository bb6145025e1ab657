"""One of RocketMQ's clients, played: JSON headers, heartbeats, and answers to what it is asked."""

from __future__ import annotations

import contextlib
import json
from typing import TYPE_CHECKING, Any

from broker.protocol.request_code import RequestCode
from broker.protocol.response_code import ResponseCode
from dledger.remoting.command import Command, LanguageCode, SerializeType

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable

    from tests.fakes.brokers import Brokers, Caller
    from tests.fakes.nodes import FakeMember


class StockClient:
    """A client's connection to one node."""

    def __init__(self, caller: Caller, client_id: str, language: int) -> None:
        self.caller = caller
        self.client_id = client_id
        self.language = language
        self.asked: list[Command] = []  # by the node
        self.replies: dict[int, Callable[[Command], Command]] = {}  # by code
        caller.client.on_push = self._take

    def _take(self, command: Command) -> None:
        self.asked.append(command)
        if command.code in self.replies:
            self.caller.client.send(self.replies[command.code](command))
            self.caller.client.flush_soon()

    def of(self, code: int) -> list[Command]:
        """Return what the node has asked with *code*."""
        return [command for command in self.asked if command.code == code]

    async def ask(
        self, code: int, fields: dict[str, Any] | None = None, body: bytes = b""
    ) -> Command:
        command = Command(
            int(code),
            language=self.language,
            version=409,
            ext_fields=dict(fields or {}),
            body=body,
            serialization=SerializeType.JSON,
        )
        return await self.caller.client.request(command, timeout_seconds=20.0)

    async def ok(
        self, code: int, fields: dict[str, Any] | None = None, body: bytes = b""
    ) -> Command:
        answer = await self.ask(code, fields, body)
        assert answer.code == ResponseCode.SUCCESS, (answer.code, answer.remark)
        return answer

    async def beat(self, *groups: str, topic: str = "t", model: str = "CLUSTERING") -> None:
        """Send a heartbeat as a consumer of *groups* and a producer of writers."""
        consumers = [
            {
                "groupName": group,
                "consumeType": "CONSUME_PASSIVELY",
                "messageModel": model,
                "consumeFromWhere": "CONSUME_FROM_FIRST_OFFSET",
                "subscriptionDataSet": [{"topic": topic, "subString": "red || green"}],
            }
            for group in groups
        ]
        body = {
            "clientID": self.client_id,
            "consumerDataSet": consumers,
            "producerDataSet": [{"groupName": "writers"}],
        }
        await self.ok(RequestCode.HEART_BEAT, {}, json.dumps(body).encode())

    async def committed(self, group: str = "readers", topic: str = "t", queue: int = 0) -> int:
        """Ask where the group goes on, as a consumer that is given the queue."""
        fields = {"consumerGroup": group, "topic": topic, "queueId": queue}
        answer = await self.ok(RequestCode.QUERY_CONSUMER_OFFSET, fields)
        return int(answer.ext_fields["offset"])

    async def commit(self, offset: int, *, queue: int = 0, group: str = "readers") -> None:
        fields = {
            "consumerGroup": group,
            "topic": "t",
            "queueId": str(queue),
            "commitOffset": str(offset),
        }
        await self.ok(RequestCode.UPDATE_CONSUMER_OFFSET, fields)


@contextlib.asynccontextmanager
async def stock_client(
    group: Brokers, member: FakeMember, client_id: str, language: int = LanguageCode.JAVA
) -> AsyncIterator[StockClient]:
    """Connect a client to a member."""
    async with group.caller(member) as caller:
        yield StockClient(caller, client_id, int(language))
