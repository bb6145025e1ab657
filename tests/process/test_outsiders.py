"""Attacks on living nodes: the others are served, memory and descriptors come back, nothing dies.

Memory is bound by the settings: what a node may keep for outsiders is `partial_size_max` of
requests that have begun and `unread_size_max` of answers nobody takes, and some slack for what is
on its way from one to the other.
"""

from __future__ import annotations

import contextlib
import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest
import trio

import broker
from broker.config import BrokerConfig
from dledger.config import MIB, parse_address
from jepsen_like.fuzz.outsider import ATTACKS, TOPIC, status_of, victim_of
from tests.process.kit import SECONDS as SECONDS_MAX
from tests.process.kit import ProcessGroup, eventually

pytestmark = [pytest.mark.process, pytest.mark.slow]

LIMITS = BrokerConfig(
    partial_size_max=32 * MIB,
    unread_size_max=64 * MIB,
    connection_pending_size_max=16 * MIB,
    connections_max=2500,
)
SLACK = 128 * MIB
SECONDS = 1.0
SEED = 7


class Watch:
    """What the processes of a group took at most, and what they have."""

    def __init__(self, group: ProcessGroup) -> None:
        self._group = group
        self.before = {node.node_id: memory_of(node) for node in group}
        self.peak = dict(self.before)

    async def run(self) -> None:
        while True:
            for node in self._group.running:
                self.peak[node.node_id] = max(self.peak[node.node_id], memory_of(node))
            await trio.sleep(0.02)


def memory_of(node) -> int:
    """Return a node's own memory in bytes, mapped files aside."""
    status = Path(f"/proc/{node.process.pid}/status").read_text()
    (line,) = [line for line in status.splitlines() if line.startswith("RssAnon")]
    return int(line.split()[1]) * 1024


def descriptors_of(node) -> int:
    return len(os.listdir(f"/proc/{node.process.pid}/fd"))


@contextlib.asynccontextmanager
async def group_of(folder, count, **settings):
    async with ProcessGroup(folder, count=count, broker=LIMITS, **settings) as group:
        async with broker.connect(group.addresses) as client, client.producer() as producer:
            for number in range(50):
                await producer.send(TOPIC, b"%d" % number * 200)
        yield group


async def attack(group, name, *, seconds=SECONDS) -> None:
    """Attack every node at the same time while a client goes on sending; it must be served."""
    attacks = [
        (victim_of(node.address, f"127.0.0.1:{node.config.member.peer_port}", SEED + number))
        for number, node in enumerate(group)
    ]
    async with broker.connect(group.addresses) as client, client.producer() as producer:
        async with trio.open_nursery() as nursery:
            for victim in attacks:
                nursery.start_soon(trio.to_thread.run_sync, ATTACKS[name], victim, seconds)
            for number in range(10):
                await producer.send(TOPIC, b"meanwhile %d" % number)
        await producer.send(TOPIC, b"afterwards")


@contextlib.asynccontextmanager
async def crowd_of(count, address):
    """Have *count* connections open that say nothing."""

    def come():
        for _ in range(count):
            stack.enter_context(socket.create_connection(address, timeout=SECONDS_MAX))

    with contextlib.ExitStack() as stack:
        await trio.to_thread.run_sync(come)
        yield


async def all_well(group, watch, descriptors) -> None:
    for node in group:
        assert node.is_running, node.log
        assert "Traceback" not in node.log
        grown = watch.peak[node.node_id] - watch.before[node.node_id]
        assert grown < LIMITS.partial_size_max + LIMITS.unread_size_max + SLACK

        async def comes_back(node=node):
            # A link or two may just be dialled again.
            return descriptors_of(node) <= descriptors[node.node_id] + 4

        await eventually(f"the descriptors of {node.node_id} come back", comes_back)


async def test_a_group_lives_through_every_attack(tmp_path):
    async with group_of(tmp_path, 3) as group:
        descriptors = {node.node_id: descriptors_of(node) for node in group}
        for name in ATTACKS:
            watch = Watch(group)
            logged = {node.node_id: len(node.log) for node in group}
            sys.stdout.write(f"--- {name}\n")  # shown when it fails
            async with trio.open_nursery() as nursery:
                nursery.start_soon(watch.run)
                await attack(group, name)
                nursery.cancel_scope.cancel()
            await group.leader()

            await all_well(group, watch, descriptors)
            for node in group:  # nobody fills the disk through the log
                assert len(node.log) - logged[node.node_id] < 100_000


async def test_thousands_of_idle_connections_keep_nobody_out(tmp_path):
    """Two thousand of 2500 allowed; who was there and who comes later are both served."""
    async with group_of(tmp_path, 1) as group:
        node = group["n1"]
        descriptors = {"n1": descriptors_of(node)}
        watch = Watch(group)
        address = parse_address(node.address)

        async with trio.open_nursery() as nursery, crowd_of(2000, address):
            nursery.start_soon(watch.run)

            async def is_crowded():
                found = await trio.to_thread.run_sync(status_of, address)
                return found is not None and found.connection_count >= 2000

            await eventually("the crowd is there", is_crowded)
            async with broker.connect(group.addresses) as client, client.producer() as producer:
                await producer.send(TOPIC, b"in the crowd")
            nursery.cancel_scope.cancel()

        await all_well(group, watch, descriptors)
        # 2000 of them, some 15 KiB each for session, task and buffers.
        assert watch.peak["n1"] - watch.before["n1"] < 2000 * 30 * 1024


async def test_the_command_line_attacks_a_node_and_says_how_it_is(tmp_path):
    async with group_of(tmp_path, 1) as group:
        node = group["n1"]
        arguments = ["--live", node.address, "--target", "broken_frames", "--seconds", "1"]
        command = [sys.executable, "-m", "jepsen_like", "fuzz", *arguments]
        done = await trio.run_process(command, capture_stdout=True, check=False)
        assert done.returncode == 0
        assert b"broken_frames" in done.stdout
        assert b"MiB" in done.stdout
        node.kill()
        done = await trio.run_process(command, capture_stdout=True, check=False)
        assert done.returncode == 2


async def test_one_connection_too_many_is_closed_and_the_others_are_served(tmp_path):
    async with ProcessGroup(tmp_path, count=1, broker=BrokerConfig(connections_max=20)) as group:
        address = parse_address(group["n1"].address)
        with contextlib.ExitStack() as stack:
            streams = [
                stack.enter_context(socket.create_connection(address, timeout=5)) for _ in range(60)
            ]

            async def enough_are_closed():
                closed = 0
                for stream in streams:
                    stream.setblocking(False)
                    with contextlib.suppress(BlockingIOError):
                        closed += stream.recv(1) == b""
                return closed >= 40

            await eventually("forty are closed", enough_are_closed)
            streams[0].close()

            async def is_served():
                return await trio.to_thread.run_sync(status_of, address) is not None

            await eventually("there is a place for another", is_served)


def start_with_descriptors(node, count) -> None:
    """Start a node whose process may have *count* descriptors and no more."""
    with (node.folder / "node.log").open("ab") as log:
        node.process = subprocess.Popen(
            [
                "/bin/sh", "-c", f'ulimit -n {count}; exec "$@"', "sh",
                sys.executable, "-m", "broker.cli.main", "node", "start", "-c",
                str(node.folder / "node.toml"),
            ],
            stdout=log,
            stderr=subprocess.STDOUT,
        )  # fmt: skip


async def test_a_crowd_never_takes_the_descriptors_of_files(tmp_path):
    """With 300 descriptors for the whole process, 600 callers, and segments to be made."""
    group = ProcessGroup(tmp_path, count=1, segment_size=64 * 1024)
    node = group["n1"]
    start_with_descriptors(node, 300)
    try:
        await group.leader()
        assert "taking 150 connections" in node.log
        async with broker.connect(group.addresses) as client, client.producer() as producer:
            await producer.send(TOPIC, b"before")
            async with crowd_of(600, parse_address(node.address)):
                for _ in range(40):  # ten segments
                    await producer.send(TOPIC, bytes(16_000))
        assert node.is_running, node.log
        assert len(list((node.data / "commitlog").iterdir())) >= 10
    finally:
        node.kill()
