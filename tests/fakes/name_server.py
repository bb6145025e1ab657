"""A name server of its own under virtual time, on the network of groups of brokers."""

from __future__ import annotations

import contextlib
import json
from typing import TYPE_CHECKING, Any

import trio

from broker.nameserver.config import NameServerProcessConfig
from broker.nameserver.names_file import NamesFile
from broker.nameserver.server import NameServer
from broker.protocol.request_code import RequestCode
from broker.protocol.response_code import ResponseCode
from broker.testing.memory_disk import NodeDisk
from broker.testing.memory_worker import FakeWorker
from dledger.remoting.client import RemotingClient
from dledger.remoting.command import Command, SerializeType
from dledger.remoting.errors import RemotingError
from tests.fakes.nodes import until

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from tests.fakes.nodes import FakeMembers

PORT = 9876
ADDRESS = f"ns-host:{PORT}"
SECONDS = 20.0


class FakeNameServer:
    """One name server: its disk outlives its process."""

    def __init__(self, nursery: trio.Nursery, beside: FakeMembers, *, port: int = PORT) -> None:
        self.nursery = nursery
        self.beside = beside
        self.port = port
        self.disk = NodeDisk()
        self.running: NameServer | None = None
        self._scope = trio.CancelScope()
        self._ended = trio.Event()
        self.settings: dict[str, Any] = {}

    async def start(self) -> None:
        self._ended = trio.Event()
        await self.nursery.start(self._live)

    async def kill(self) -> None:
        self._scope.cancel()
        await self._ended.wait()

    async def _live(self, *, task_status: trio.TaskStatus[None]) -> None:
        config = NameServerProcessConfig(data_folder="/names", port=self.port, **self.settings)
        file = NamesFile.open(self.disk, config.data_folder)
        with trio.CancelScope() as self._scope:
            async with trio.open_nursery() as nursery:
                self.running = NameServer(
                    config,
                    file,
                    network=self.beside.wires.of(f"ns{self.port}"),
                    clock=self.beside.clock,
                    worker=FakeWorker(nursery),
                )
                await nursery.start(self.running.run)
                task_status.started()
        self.running = None
        file._lock.release()
        self.disk.process_crash()
        self._ended.set()

    @property
    def brokers(self) -> int:
        assert self.running is not None
        return self.running.registrations.count

    async def until_registered(self, count: int) -> None:
        """Wait until *count* brokers have registered."""
        await until(f"{count} brokers are registered", lambda: self.brokers == count)

    @contextlib.asynccontextmanager
    async def asker(self) -> AsyncIterator[Asker]:
        """Connect to it as RocketMQ's clients do."""
        asker = Asker(self.beside, self.port)
        self.nursery.start_soon(asker.run)
        await until("the asker is connected", lambda: not asker.client.closed)
        yield asker
        asker.client.close()


class Asker:
    """One connection of a RocketMQ client to some port: JSON, whatever is asked."""

    def __init__(self, beside: FakeMembers, port: int, *, version: int = 409) -> None:
        self.version = version
        self.client = RemotingClient(beside.wires.of("a client"), "somewhere", port)

    async def run(self) -> None:
        with contextlib.suppress(RemotingError):
            await self.client.run()

    async def ask(
        self,
        code: int,
        fields: dict[str, Any] | None = None,
        body: bytes = b"",
        *,
        serialization: SerializeType = SerializeType.JSON,
        version: int | None = None,
    ) -> Command:
        """Send one request and return the answer, whatever its code."""
        command = Command(
            int(code),
            version=self.version if version is None else version,
            ext_fields=dict(fields or {}),
            body=body,
            serialization=serialization,
        )
        return await self.client.request(command, timeout_seconds=SECONDS)

    async def ok(self, code: int, fields: dict[str, Any] | None = None, body: bytes = b""):
        """As `ask`, for a request that has to succeed."""
        answer = await self.ask(code, fields, body)
        assert answer.code == ResponseCode.SUCCESS, (answer.code, answer.remark)
        return answer

    async def json(self, code: int, fields: dict[str, Any] | None = None) -> Any:
        """Return the body of an answer that has to succeed."""
        return json.loads(bytes((await self.ok(code, fields)).body))

    async def route(self, topic: str) -> Any:
        """Return the route of a topic; None where there is none."""
        answer = await self.ask(RequestCode.GET_ROUTEINFO_BY_TOPIC, {"topic": topic})
        if answer.code == ResponseCode.TOPIC_NOT_EXIST:
            return None
        assert answer.code == ResponseCode.SUCCESS, (answer.code, answer.remark)
        return json.loads(bytes(answer.body))
