"""A real group, and RocketMQ's own clients on it."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

import pytest
import trio

from broker.config import BrokerConfig
from tests.interop import table
from tests.interop.clients import KINDS
from tests.process.kit import ProcessGroup

if TYPE_CHECKING:
    from tests.interop.clients import Kind

# A client that ends with a lock it has not given back keeps it for RocketMQ's 60 s: that of C++ may
# forget one of its queues.  Nobody need wait for so long here.
LOCKS_SHORTER = BrokerConfig(queue_lock_max_ms=30_000)

# Installs from the registries and takes minutes: `make interop` asks for it, `make test` does not.
if not os.environ.get("INTEROP"):
    collect_ignore_glob = ["test_*.py"]


@pytest.fixture(scope="session")
def kinds() -> list[Kind]:
    """The clients that can be had here; test_clients.py skips for each of the others, and why."""
    found = [kind for kind in KINDS if not kind.why_not()]
    if not found:
        pytest.skip("; ".join(f"no {kind.package}: {kind.why_not()}" for kind in KINDS))
    return found


@pytest.fixture(scope="session")
def shared_group(tmp_path_factory):
    """A group of three for all tests that leave its nodes alone: starting one takes seconds."""
    group = ProcessGroup(tmp_path_factory.mktemp("shared"), broker=LOCKS_SHORTER)
    trio.run(group.__aenter__)
    yield group
    trio.run(group.__aexit__, None, None, None)


def pytest_terminal_summary(terminalreporter):
    """Show what was measured."""
    for line in table.lines():
        terminalreporter.write_line(line)
