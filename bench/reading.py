"""Loads that read: pulled, consumed or pushed; in a topic at rest or one that grows meanwhile."""

from __future__ import annotations

import contextlib
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING

import trio

from bench import client_load, raw_load
from bench.beside import Beside
from bench.plan import Kind

if TYPE_CHECKING:
    from bench.group import BenchGroup
    from bench.measured import Measured
    from bench.plan import Load, Plan
    from broker.client.connect import Client


class Reading:
    """Runs them."""

    def __init__(self, group: BenchGroup, client: Client, plan: Plan, *, body_size: int) -> None:
        self._group = group
        self._client = client
        self._plan = plan
        self._body_size = body_size

    async def run(self, load: Load, *, message_count: int) -> Measured:
        """Run one; *message_count* messages are in its topic."""
        if not load.is_busy:
            return await self._read(load, message_count)
        host, port = await self._group.leader_address()
        beside = Beside(
            host, port, load.topic, queue_count=load.queue_count, body_size=self._body_size
        )
        with contextlib.ExitStack() as stack:
            await trio.to_thread.run_sync(stack.enter_context, beside)
            measured = await self._read(load, message_count or 1 << 62)
        return replace(measured, written_count=beside.written, beside_rate=beside.rate)

    async def _read(self, load: Load, message_count: int) -> Measured:
        plan = self._plan
        if load.kind is Kind.PUSH:
            if load.is_busy:
                return await client_load.run_push_beside(
                    self._client, load.topic, seconds=plan.seconds
                )
            return await client_load.run_push(
                self._client,
                load.topic,
                body_size=self._body_size,
                rate=load.rate,
                seconds=plan.seconds,
                warm_up_seconds=plan.warm_up_seconds,
            )
        if load.kind is Kind.PULL:
            host, port = await self._group.leader_address()
            with raw_load.connect(host, port) as connected:
                return await trio.to_thread.run_sync(
                    partial(
                        raw_load.run_pulls,
                        connected,
                        load.topic,
                        queue_count=load.queue_count,
                        seconds=plan.seconds,
                        count_max=load.pull_count,
                    )
                )
        if load.kind is Kind.CONSUME:
            return await client_load.run_consumer(
                self._client,
                load.topic,
                body_size=self._body_size,
                message_count=message_count,
                seconds=plan.seconds,
            )
        assert load.kind is Kind.SYNC_CONSUME
        return await trio.to_thread.run_sync(
            partial(
                client_load.run_sync_consumer,
                self._group.addresses,
                load.topic,
                body_size=self._body_size,
                message_count=message_count,
                seconds=plan.seconds,
            )
        )
