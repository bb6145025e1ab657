"""Fixtures for pytest, there as soon as this package is installed.

``broker_server``
    A `broker.testing.BrokerServer`: a real single-node broker in a temporary folder. One for each
    test, or for the whole session with ``broker_server_scope = "session"`` in pytest's settings or
    ``--broker-server-scope=session`` (tests then share topics: give each its own).

``virtual_broker``
    A `broker.testing.MemoryBroker` in the test's own event loop, for pytest-trio. Tests that name
    ``autojump_clock`` as well run in virtual time.

Nothing is imported before a test asks for it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal, cast

import pytest

if TYPE_CHECKING:
    from collections.abc import Iterator

    from broker.testing.server import BrokerServer

Scope = Literal["session", "package", "module", "class", "function"]
SCOPES = ("function", "class", "module", "package", "session")


def pytest_addoption(parser: pytest.Parser) -> None:
    """Add the setting and the option."""
    words = "how long one broker_server lives: " + ", ".join(SCOPES)
    parser.addini("broker_server_scope", words, default="function")
    parser.getgroup("broker").addoption("--broker-server-scope", choices=SCOPES, help=words)


def pytest_configure(config: pytest.Config) -> None:
    """Check the setting, and bring the fixtures of pytest-trio along where that is installed."""
    chosen = config.getini("broker_server_scope")
    if chosen not in SCOPES:
        raise pytest.UsageError(f"broker_server_scope = {chosen!r}: use {', '.join(SCOPES)}")
    if config.pluginmanager.has_plugin("trio"):
        config.pluginmanager.import_plugin("broker.testing.plugin_trio")


def _scope(fixture_name: str, config: pytest.Config) -> Scope:
    chosen = config.getoption("--broker-server-scope") or config.getini("broker_server_scope")
    return cast("Scope", chosen)


@pytest.fixture(scope=_scope)
def broker_server() -> Iterator[BrokerServer]:
    """A real single-node broker in a temporary folder."""
    from broker.testing.server import BrokerServer

    with BrokerServer() as server:
        yield server
