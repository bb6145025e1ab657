"""What the flood says of limits is what its nodes are told."""

from __future__ import annotations

from bench.flood import BROKER, BUDGETS, FLOODS, FloodPlan, Watched
from broker.config import NodeConfig


def test_every_node_of_the_plan_has_the_small_limits() -> None:
    configs = FloodPlan(node_count=3, base_port=20_000).configs()
    assert len(configs) == 3
    assert all(isinstance(config, NodeConfig) and config.broker == BROKER for config in configs)


def test_budgets_are_settings() -> None:
    for name, size in BUDGETS.items():
        setting = name.partition(",")[0]
        config = FloodPlan(node_count=3, base_port=20_000).configs()[0]
        found = getattr(config.broker, setting, None) or getattr(config.raft, setting)
        assert size % found == 0
    assert len(FLOODS) == 4


def test_the_most_is_kept_and_the_start_is_the_first(monkeypatch) -> None:
    sizes = iter([5, 9, 7])
    monkeypatch.setattr("bench.flood._resident", lambda _: next(sizes))
    watched = Watched({"n1": 1})
    for _ in range(3):
        watched.look()
    assert (watched.start, watched.most, watched.end) == ({"n1": 5}, {"n1": 9}, {"n1": 7})
