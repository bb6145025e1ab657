"""Random lives of a store: whatever it does and however it dies, what it promised is there."""

import random

import pytest

from dledger.store import mapped_file_queue
from tests.fakes.disk import FakeDisk, SimulatedCrash
from tests.store.model import ASYNC, CONFIG, MAPPED, Life


@pytest.fixture(autouse=True)
def _small_zeros(monkeypatch):
    """As with segments of a gibibyte: the next one gets its zeros piece by piece."""
    monkeypatch.setattr(mapped_file_queue, "_zero_sizes", lambda _: (512, 512))
    monkeypatch.setattr(mapped_file_queue, "ZEROS_SIZE", 256)


def live(seed: int, *, power: bool, config=CONFIG) -> Life:
    chance = random.Random(seed)
    disk = FakeDisk()
    life = Life(disk, chance, config)
    for _ in range(chance.randint(2, 5)):
        disk.crash_at_step = disk.step_count + chance.randint(1, 200)
        if chance.random() < 0.3:
            disk.crash_after_bytes = chance.randint(0, 20_000)
        try:
            for _ in range(chance.randint(1, 150)):
                life.act()
                life.check_views()
        except SimulatedCrash:
            pass
        if power:
            disk.power_loss(chance)
        else:
            disk.process_crash()
        # A restart may die as well.
        disk.crash_at_step = disk.step_count + chance.randint(1, 60)
        try:
            life.restart()
        except SimulatedCrash:
            if power and chance.random() < 0.5:
                disk.power_loss(chance)
            else:
                disk.process_crash()
            life.restart()
        disk.crash_at_step = None
    return life


@pytest.mark.parametrize("chunk", range(10))
def test_power_loss_takes_nothing_that_was_promised(chunk):
    for seed in range(chunk * 40, chunk * 40 + 40):
        live(seed, power=True)


@pytest.mark.parametrize("config", [CONFIG, ASYNC, MAPPED], ids=["sync", "async", "mapped"])
def test_the_death_of_the_process_takes_nothing_that_was_promised(config):
    for seed in range(100):
        live(seed, power=False, config=config)
