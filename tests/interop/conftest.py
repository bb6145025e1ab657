"""A real group, and RocketMQ's own clients on it."""

from __future__ import annotations

import contextlib
import itertools
import os

import pytest
import trio

from broker.config import NameserverConfig, RouteMode
from tests.interop import clients
from tests.process.kit import ProcessGroup

# Installs from the registries and takes minutes: `make interop` asks for it, `make test` does not.
if not os.environ.get("INTEROP"):
    collect_ignore_glob = ["test_*.py"]

_numbers = itertools.count(1)


@pytest.fixture(params=["stock", "ali"])
def kind(request):
    """Each of the clients in turn: PyPI's rocketmq (C++ inside), npm's ali-ons (JavaScript)."""
    is_python = request.param == "stock"
    why = clients.why_no_python_client() if is_python else clients.why_no_node_client()
    if why:
        pytest.skip(f"no {'rocketmq' if is_python else 'ali-ons'}: {why}")
    return request.param


@pytest.fixture
def run(kind, tmp_path):
    """Return what runs one of the scripts of this client: ``async with run("producer", ...)``."""
    suffix = "py" if kind == "stock" else "js"
    home = tmp_path / "home"
    home.mkdir()

    def runner(role: str, **told: object):
        return clients.running(f"{kind}_{role}.{suffix}", dict(told), home=home)

    return runner


@pytest.fixture(scope="session")
def shared_group(tmp_path_factory):
    """A group of three for all tests that leave its nodes alone: starting one takes seconds."""
    group = ProcessGroup(tmp_path_factory.mktemp("shared"))
    trio.run(group.__aenter__)
    yield group
    trio.run(group.__aexit__, None, None, None)


@pytest.fixture
def names_of():
    """Return what makes names that no other test has: of topics and groups."""
    number = next(_numbers)
    return lambda what: f"{what}-{number}"


@pytest.fixture
def make_group(tmp_path):
    """Return what starts a group of three: ``async with make_group() as group``."""

    @contextlib.asynccontextmanager
    async def make(route: RouteMode = RouteMode.PER_NODE):
        nameserver = NameserverConfig(route=route)
        async with ProcessGroup(tmp_path / "group", nameserver=nameserver) as group:
            yield group

    return make
