"""Sessions, handlers and clients over a network in memory."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING

import pytest
import trio
import trio.testing

from dledger.remoting.command import Command, response
from dledger.remoting.connection import Connection
from dledger.remoting.errors import ConnectionLostError
from dledger.remoting.frame import encode_frame
from dledger.remoting.server import RemotingServer
from tests.fakes.network import MemoryNetwork

if TYPE_CHECKING:
    from dledger.remoting.server import Session


class RecordingHandler:
    """Answers every request with its own body, and remembers what it was told."""

    def __init__(self) -> None:
        self.opened: list[Session] = []
        self.closed: list[Session] = []
        self.passes: list[list[Command]] = []
        self.answers = True

    def on_opened(self, session: Session) -> None:
        self.opened.append(session)

    def on_commands(
        self, session: Session, commands: list[Command], *, ends_pass: bool = True
    ) -> None:
        self.passes.append(commands)
        for command in commands:
            if self.answers and not command.is_oneway and not command.is_response:
                session.reply(response(command, 0, body=command.body))

    def on_closed(self, session: Session) -> None:
        self.closed.append(session)

    @property
    def commands(self) -> list[Command]:
        return [command for commands in self.passes for command in commands]


def frame(*args, **kwargs) -> bytes:
    """Return a command, made of what `Command` takes, as it travels."""
    return b"".join(encode_frame(Command(*args, **kwargs)))


async def is_ended(stream) -> bool:
    """Whether the other end closes within ten (virtual) seconds."""
    with trio.move_on_after(10):
        try:
            while await stream.receive_some():
                pass
        except ConnectionLostError:
            pass
        await trio.testing.wait_all_tasks_blocked()
        return True
    return False


async def receive_commands(stream, count: int) -> list[Command]:
    """Read until *count* commands are there."""
    connection = Connection()
    found: list[Command] = []
    while len(found) < count:
        data = await stream.receive_some()
        assert data, f"the connection ended after {len(found)} of {count} commands"
        connection.receive_data(data)
        found += connection.commands()
    return found


@pytest.fixture
def only_warnings(caplog) -> None:
    caplog.set_level(logging.WARNING, logger="dledger.remoting")


@pytest.fixture
def network() -> MemoryNetwork:
    return MemoryNetwork()


@pytest.fixture
def handler() -> RecordingHandler:
    return RecordingHandler()


@pytest.fixture
async def server(network, handler, nursery) -> RemotingServer:
    """Listening on port 10911 of the network in memory."""
    server = RemotingServer(
        network,
        host="127.0.0.1",
        port=10911,
        handler=handler,
        connections_max=3,
        pending_size_max=100_000,
        outbox_size_max=1_000_000,
    )
    await nursery.start(server.serve)
    return server
