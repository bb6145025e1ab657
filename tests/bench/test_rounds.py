"""Each round of `bench` has a group of its own, and a disk that is too full for it is told of."""

from __future__ import annotations

import random
from functools import partial

import pytest

from bench import run
from bench.measured import LoadError, Measured, Round
from bench.plan import LOADS, Plan
from dledger.config import FlushDiskType
from dledger.store.disk_usage import DiskUsage

LOAD = LOADS[0]


class Group:
    """Stands for three processes."""

    addresses = ()

    def __init__(self, folder, **_options):
        folder.mkdir()  # fails where the one before was not removed
        self.log_size = 1000

    async def start(self):
        """Nothing to wait for."""

    async def stop(self):
        """Nothing to stop."""

    async def rss(self):
        return (3, 2, 1)

    def compare_logs(self):
        return 10, self.log_size


class Client:
    async def __aenter__(self):
        return self

    async def __aexit__(self, *_error):
        return None


@pytest.fixture
def rates(monkeypatch):
    """Return a list of what each group comes to, in turn; an error is raised."""
    found = []

    async def run_one(self):
        rate = found.pop(0)
        if isinstance(rate, Exception):
            raise rate
        self.written["t"] = 7
        measured = Measured(
            message_count=1, rate=rate, p50=0, p99=0, p999=0, written_count=1, beside_rate=0
        )
        return {LOAD: Round(measured=measured, node_cpu_us=(1.0,), client_cpu_us=1.0)}

    monkeypatch.setattr(run, "BenchGroup", Group)
    monkeypatch.setattr(run.broker, "connect", lambda _addresses: Client())
    monkeypatch.setattr(run._GroupRun, "run", run_one)
    return found


def start(folder, said):
    return partial(
        run.run_group,
        Plan(round_count=3),
        flush=FlushDiskType.SYNC_FLUSH,
        body_size=100,
        folder=folder / "group",
        chance=random.Random(1),
        say=said.append,
    )


async def test_what_groups_come_to_is_put_together(tmp_path, rates):
    rates += [3.0, 9.0, 4.0]
    said = []
    report = await start(tmp_path, said)()

    assert [line.rates for line in report.lines] == [(3.0, 9.0, 4.0)]
    assert report.lines[0].rate == 4.0
    assert (report.message_count, report.entry_count, report.log_size) == (21, 30, 3000)
    assert report.rss_after == (3, 2, 1)
    assert [text.split(" logs of")[0] for text in said] == ["round 1", "round 2", "round 3"]
    assert list(tmp_path.iterdir()) == [], "each is removed before the next"


@pytest.mark.parametrize(("available", "is_full"), [(10, True), (50, False)])
async def test_a_full_disk_is_named_as_what_may_be_the_cause(
    tmp_path, rates, monkeypatch, available, is_full
):
    rates += [3.0, LoadError("the consumer got nothing")]
    usage = DiskUsage(used=90, available=available)
    monkeypatch.setattr(run.OsDisk, "disk_usage", lambda _self, _path: usage)

    with pytest.raises(LoadError, match="the consumer got nothing") as caught:
        await start(tmp_path, [])()

    assert ("90 % of the disk of" in str(caught.value)) is is_full
    assert ("--data" in str(caught.value)) is is_full
    assert (tmp_path / "group").exists(), "to be looked at"
