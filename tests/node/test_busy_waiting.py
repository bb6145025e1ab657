"""Where a node waits busily, and where it lets that be."""

from __future__ import annotations

import logging
from dataclasses import replace

import pytest

from broker import running
from dledger.remoting import readiness


@pytest.mark.parametrize(
    ("busy_wait_us", "processors", "seconds", "word"),
    [
        (100, 8, 0.0001, ""),
        (250, 2, 0.00025, ""),
        (0, 8, None, ""),
        (100, 1, None, "1 of at least 2 processors"),
        (100, 1.5, None, "1.5 of at least 2 processors"),
    ],
)
async def test_a_node_waits_busily_where_it_may_and_has_two_processors(
    autojump_clock, make_brokers, monkeypatch, caplog, busy_wait_us, processors, seconds, word
):
    caplog.set_level(logging.INFO, logger="broker.running")
    told = []
    monkeypatch.setattr(running, "usable_processors", lambda: processors)
    monkeypatch.setattr(running, "wait_busily", lambda wait: told.append(wait) is None)
    config = make_brokers(1).config("n1")
    config = replace(config, broker=replace(config.broker, busy_wait_us=busy_wait_us))

    running.wait_busily_where_it_pays(config)

    assert told == ([] if seconds is None else [seconds])
    assert word in caplog.text
    assert bool(word) == ("busy_wait_us" in caplog.text)


async def test_a_node_of_a_simulation_has_virtual_time_and_never_does(
    autojump_clock, make_brokers, caplog
):
    caplog.set_level(logging.INFO, logger="broker.running")

    running.wait_busily_where_it_pays(make_brokers(1).config("n1"))

    assert readiness.busy_wait_seconds() is None
    assert "busy_wait_us counts for nothing" in caplog.text
