"""What came in lately is the same whether somebody looks after every message or once."""

from __future__ import annotations

import random

import pytest

from broker.store.topic_rates import DAY_MS, HOUR_MS, Counter, Sum


@pytest.mark.parametrize("seed", range(20))
def test_looking_changes_nothing(seed):
    chance = random.Random(seed)
    watched, left_alone = Counter(), Counter()
    now_ms = 1_700_000_000_000
    messages = size = 0
    for _ in range(500):
        now_ms += chance.choice((0, 0, 3, 900, 20_000, HOUR_MS // 4))
        at_ms = now_ms - chance.choice((0, 0, 0, 15_000, HOUR_MS))  # clocks of leaders differ
        watched.add(at_ms, 2, 100)
        left_alone.add(at_ms, 2, 100)
        messages, size = messages + 2, size + 100
        watched.sums(now_ms)
        assert watched.total == Sum(messages, size, messages // 2)
    assert left_alone.sums(now_ms) == watched.sums(now_ms)
    assert left_alone.sums(now_ms + DAY_MS // 2) == watched.sums(now_ms + DAY_MS // 2)
    assert left_alone.total == watched.total
