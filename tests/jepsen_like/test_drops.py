"""Retention under the simulator's eyes: a bug is seen at once."""

from __future__ import annotations

import pytest

from jepsen_like.mutants import MUTANTS, mutated
from jepsen_like.mutants.grounds import KEEPING
from jepsen_like.mutants.hunt import run_on
from jepsen_like.sim.mix import draw


@pytest.mark.parametrize(
    ("name", "kind"),
    [
        ("segments-go-by-their-oldest-message", "early-drop"),
        ("a-crowded-disk-is-a-full-one", "early-drop"),
        ("topics-keep-half-as-long", "early-trim"),
    ],
)
def test_a_bug_of_retention_is_seen(name, kind):
    assert MUTANTS[name].ground is KEEPING
    with mutated(name):
        found = run_on(KEEPING, 1)

    assert kind in {anomaly.kind for anomaly in found}


def test_mixes_with_retention_drop_for_every_reason():
    mixes = [mix for seed in range(300) if (mix := draw(seed)).has_retention]

    assert any(mix.store.file_reserved_hours for mix in mixes)
    assert any(mix.topic_retention_ms for mix in mixes)
    assert any(mix.store.log_size_max for mix in mixes)
    assert any("crowded-disk" in mix.faults for mix in mixes)
    for seed in range(300):
        mix = draw(seed)
        if not mix.has_retention:
            assert mix.store.disk_refuse_percent == 100
            assert "crowded-disk" not in mix.faults
