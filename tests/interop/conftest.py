"""A real group, and RocketMQ's own clients on it."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

import pytest
import trio

from tests.interop import table
from tests.interop.clients import KINDS
from tests.process.kit import ProcessGroup

if TYPE_CHECKING:
    from tests.interop.clients import Kind

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
    group = ProcessGroup(tmp_path_factory.mktemp("shared"))
    trio.run(group.__aenter__)
    yield group
    trio.run(group.__aexit__, None, None, None)


def pytest_terminal_summary(terminalreporter):
    """Show what was measured."""
    for line in table.lines():
        terminalreporter.write_line(line)
