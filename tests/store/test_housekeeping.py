"""When files may go: never before the log's new base is on the disk."""

from __future__ import annotations

import dataclasses

import pytest

from dledger.config import FlushDiskType
from dledger.errors import LedgerError, LedgerFullError
from dledger.store import ledger_writer, mapped_file_queue
from dledger.store.disk_usage import DiskUsage
from dledger.store.housekeeping import Housekeeping
from dledger.store.retention import NEWEST_UNKNOWN, refusal_of
from tests.fakes.disk import FakeDisk
from tests.store.model import CONFIG, SEGMENT, fill, open_store

HOUR_MS = 3_600_000


class Clock:
    seconds = 0.0

    def now(self):
        return self.seconds

    def wall_ms(self):
        return 1_700_000_000_000 + int(self.seconds * 1000)

    def local_hour(self):
        return self.wall_ms() // HOUR_MS % 24


class Worker:
    """Keeps the jobs until told to do them."""

    def __init__(self):
        self.jobs = []

    def submit(self, job, done):
        self.jobs.append((job, done))

    def do_one(self):
        job, done = self.jobs.pop(0)
        failure = None
        try:
            job()
        except LedgerError as error:
            failure = error
        done(failure)

    def do_all(self):
        while self.jobs:
            self.do_one()


class Keeper:
    """Tells what base a crash would bring back at the moment its files may go."""

    def __init__(self, disk, store):
        self.disk, self.store = disk, store
        self.bases_found = []
        self.stored_ms = {}

    def has_state(self, index):
        return True

    def applied_index(self):
        return self.store.end_index

    def newest_ms(self, after_index, upto_index):
        return self.stored_ms.get(upto_index) if self.stored_ms else None

    def log_dropped(self):
        assert open_store(self.disk).base.index == 0
        return lambda: self.bases_found.append(open_store(self.disk).base.index)


class Hooks:
    def __init__(self, store):
        self.store = store

    @property
    def committed_index(self):
        return self.store.synced_index

    def on_disk_measured(self, usage):
        self.usage = usage

    def on_house_kept(self, failure):
        assert failure is None

    def on_segment_prepared(self, failure):
        assert failure is None


class House:
    """A log of eleven segments, nine entries each, and its housekeeping."""

    def __init__(self, **settings):
        self.disk, self.worker, self.clock = FakeDisk(), Worker(), Clock()
        self.store = open_store(self.disk)
        fill(self.store, 100, 400, term=1)
        self.store.sync()
        self.keeper = Keeper(self.disk, self.store)
        self.keeper.log_dropped = lambda: lambda: None
        self.hooks = Hooks(self.store)
        self.housekeeping = Housekeeping(
            self.store,
            dataclasses.replace(CONFIG, **settings),
            clock=self.clock,
            worker=self.worker,
            state_keeper=self.keeper,
            hooks=self.hooks,
        )

    def store_segments_at(self, hours):
        """Say when each segment was stored, in hours before now."""
        for number, age in enumerate(hours, start=1):
            self.keeper.stored_ms[9 * number] = self.clock.wall_ms() - int(age * HOUR_MS)

    def set_hour(self, hour):
        self.clock.seconds += (hour - self.clock.local_hour()) % 24 * 3600

    def keep(self, rounds=1):
        for _ in range(rounds):
            self.clock.seconds += 10
            self.housekeeping.start_due()
            self.worker.do_all()

    @property
    def dropped(self):
        """Segments that are gone."""
        return self.store.base.position // SEGMENT


class Growing(House):
    """A log that goes on growing, the next segment of which has zeros to get."""

    def __init__(self, monkeypatch, **settings):
        monkeypatch.setattr(mapped_file_queue, "_zero_sizes", lambda _: (512, 256))
        super().__init__(**settings)
        self.store.prepare_next()
        while self.owed < 1024:
            fill(self.store, 1, 400, term=1)
        self.housekeeping._is_busy = True  # nothing else is due

    @property
    def owed(self):
        """Bytes of zeros that the next segment lags behind."""
        store = self.store
        filled = store.end_position % SEGMENT - SEGMENT // 8
        return filled * 5 // 4 - store._log.zeroed_size

    def zero(self, *, seconds, entry_count=0):
        """Do one piece, which takes some time, in which some entries come."""
        ((job, done),) = self.worker.jobs
        self.worker.jobs.clear()
        assert job == self.store.zero_more
        job()
        self.clock.seconds += seconds
        fill(self.store, entry_count, 400, term=1)
        done(None)


def percent(used):
    return DiskUsage(used=used, available=100 - used)


def test_segments_past_their_time_go_at_the_hour_and_no_younger_one():
    house = House(file_reserved_hours=72, delete_when="04;16")
    house.set_hour(15)
    house.store_segments_at([100, 90, 80, 73.5, 70, 60, 50, 40, 30, 20, 10])

    house.keep(3)
    assert house.dropped == 0, "not at this hour"
    house.set_hour(16)
    house.keep(3)

    assert house.dropped == 4


def test_a_segment_that_is_too_young_keeps_those_behind_it():
    house = House()
    house.set_hour(4)
    house.store_segments_at([100, 10, 100, 100])

    house.keep(3)

    assert house.dropped == 1


def test_without_reserved_hours_nothing_goes_for_its_age():
    house = House(file_reserved_hours=0)
    house.set_hour(4)
    house.store_segments_at([10_000] * 11)

    house.keep(3)

    assert house.dropped == 0


def test_a_segment_of_unknown_age_stays():
    house = House()
    house.set_hour(4)
    house.store_segments_at([100] * 11)
    house.keeper.stored_ms[9 * 2] = NEWEST_UNKNOWN

    house.keep(3)

    assert house.dropped == 1


def test_above_the_first_watermark_segments_past_their_time_go_at_any_hour():
    house = House(disk_clean_percent=75)
    house.set_hour(12)
    house.store_segments_at([100, 90, 10, 10])
    house.disk.usage = DiskUsage(used=75 * 4096, available=25 * 4096)
    house.keep(2)
    assert house.dropped == 0, "not above it"

    house.disk.usage = DiskUsage(used=76 * 4096, available=24 * 4096)
    house.keep(4)

    assert house.dropped == 2, "and nothing that is younger"


def test_above_the_second_watermark_the_oldest_go_whatever_their_age_until_there_is_room():
    house = House(disk_force_percent=85)
    house.set_hour(12)
    house.store_segments_at([1] * 11)
    used = 85 * SEGMENT + 2 * SEGMENT + 1
    house.disk.usage = DiskUsage(used=used, available=100 * SEGMENT - used)

    house.keep()

    assert house.dropped == 3
    house.disk.usage = DiskUsage(used=used - 3 * SEGMENT, available=103 * SEGMENT - used)
    house.keep(3)
    assert house.dropped == 3


def test_a_disk_that_stays_full_takes_all_but_the_segment_that_is_written(caplog):
    house = House()
    house.disk.usage = percent(99)
    caplog.set_level("INFO")

    house.keep(20)

    assert house.dropped == 11
    assert house.store.stats.segment_count == 1
    assert "more than disk_force_percent of the disk are used; 99.0 %" in caplog.text


def test_no_more_than_ten_segments_go_in_one_job():
    """A file of 1 GiB takes its time, and the same worker makes the next segment."""
    house = House()
    house.set_hour(4)
    house.store_segments_at([100] * 11)

    house.clock.seconds += 10
    house.housekeeping.start_due()
    house.worker.do_all()
    assert house.dropped == 10
    house.housekeeping.start_due()  # at once, without waiting for the next round
    house.worker.do_all()

    assert house.dropped == 11


def test_a_drop_is_told_with_its_reason_names_and_sizes(caplog):
    house = House()
    house.set_hour(4)
    house.store_segments_at([100, 90, 10])
    caplog.set_level("INFO")

    house.keep(2)

    (line,) = [record.message for record in caplog.records if "dropped" in record.message]
    assert f"dropped 2 segments ({0:020d} to {SEGMENT:020d}, 8.0 KiB), entries 1 to 18" in line
    assert "messages up to 2023-11-" in line
    assert "older than file_reserved_hours; 10.0 % of the disk were used" in line


def test_the_disk_is_looked_at_at_once_and_again_every_second_while_it_is_too_full():
    house = House(disk_refuse_percent=90, checkpoint_interval_ms=600_000)
    house.disk.usage = percent(91)
    house.housekeeping.start_due()
    house.worker.do_all()
    assert house.hooks.usage == percent(91)

    house.disk.usage = percent(80)
    house.clock.seconds += 1.1
    house.housekeeping.start_due()
    house.worker.do_all()

    assert house.hooks.usage == percent(80)


@pytest.mark.parametrize(
    ("usage", "percent_wanted", "excess"),
    [
        (DiskUsage(75, 25), 75, 0),
        (DiskUsage(76, 24), 75, 1),
        (DiskUsage(999, 1), 75, 249),
        (DiskUsage(100, 0), 100, 0),
        (DiskUsage(0, 0), 75, 0),
    ],
)
def test_what_is_above_a_watermark(usage, percent_wanted, excess):
    assert usage.excess(percent_wanted) == excess


def test_a_refusal_says_by_how_much_and_what_to_do():
    assert refusal_of(CONFIG, percent(90)) == ""
    told = refusal_of(CONFIG, DiskUsage(used=93 << 20, available=7 << 20))

    assert "93.0 % of the disk are used" in told
    assert "disk_refuse_percent = 90" in told
    assert "3.0 MiB have to go" in told
    assert "free some disk space" in told


def test_zeros_take_a_tenth_of_the_time_while_entries_come(monkeypatch):
    house = Growing(monkeypatch)
    house.housekeeping.start_due()
    house.zero(seconds=0.003, entry_count=1)

    for seconds, is_due in ((0.026, False), (0.002, True)):
        assert house.worker.jobs == []
        house.clock.seconds += seconds
        house.housekeeping.start_due()
        assert bool(house.worker.jobs) is is_due
    house.zero(seconds=3, entry_count=1)  # behind a checkpoint, say
    house.clock.seconds += 0.51
    house.housekeeping.start_due()
    assert house.worker.jobs, "no such time later"


def test_zeros_are_made_up_for_while_no_entries_come(monkeypatch):
    house = Growing(monkeypatch)
    house.housekeeping.start_due()

    while house.owed > 0:
        house.zero(seconds=0.003)

    assert house.worker.jobs == [], "and not further"


def test_with_async_flush_no_sync_waits_for_zeros_so_they_do_not_rest(monkeypatch):
    house = Growing(monkeypatch, flush_disk_type=FlushDiskType.ASYNC_FLUSH)
    house.housekeeping.start_due()

    house.zero(seconds=0.003, entry_count=2)

    assert house.worker.jobs


def test_a_full_disk_is_not_told_of_while_there_is_room_in_the_segment(monkeypatch):
    """The next segment is made early; a leader has to refuse messages only when it needs it."""
    monkeypatch.setattr(ledger_writer, "_ROOM_AHEAD", 0)
    house = House()
    store = house.store
    store._index.prepare_spare()
    while not SEGMENT // 8 < store.end_position % SEGMENT < SEGMENT // 2:
        fill(store, 1, 400, term=1)
    assert (store.stats.spare_count, store.needs_prepare, store.may_prepare) == (0, False, True)
    house.disk.capacity = 0
    told = []
    house.hooks.on_segment_prepared = told.append

    house.keep()
    assert told == []
    while not store.needs_prepare:
        fill(store, 1, 400, term=1)
    house.housekeeping.start_due()  # at once, however lately it was tried in vain
    house.worker.do_all()
    (failure,) = told
    assert isinstance(failure, LedgerFullError)
    house.disk.capacity = 1 << 30
    house.keep()
    assert told[1:] == [None]
    assert store.stats.spare_count == 1


def test_a_state_goes_only_when_the_base_behind_it_is_durable():
    """Seed 200027: killed in between, and the log that came back had no state to begin from."""
    disk, worker, clock = FakeDisk(), Worker(), Clock()
    store = open_store(disk)
    fill(store, 100, 400, term=1)
    store.sync()
    keeper = Keeper(disk, store)
    house = Housekeeping(
        store,
        dataclasses.replace(CONFIG, log_size_max=2 * SEGMENT),
        clock=clock,
        worker=worker,
        state_keeper=keeper,
        hooks=Hooks(store),
    )

    clock.seconds = 1e6
    house.start_due()
    while store.base.index == 0:
        worker.do_one()

    assert store.base.index > 0  # readers are told at once
    assert keeper.bases_found == []
    worker.do_all()
    assert keeper.bases_found == [store.base.index]


def test_copies_leave_the_cache_once_a_checkpoint_has_made_them_durable():
    house, events = House(), []
    begin = house.store.begin_checkpoint

    class Copied:
        def leave_cache(self):
            events.append("left")

    def take_copied(index):
        events.append(index)
        return [Copied()]

    def begin_checkpoint(commit_index):
        ticket = begin(commit_index)
        run = ticket.run
        ticket.run = lambda: (run(), events.append("durable"))
        return ticket

    house.store.take_copied = take_copied
    house.store.begin_checkpoint = begin_checkpoint
    house.keeper.applied_index = lambda: 42

    house.housekeeping.start_due()
    house.worker.do_all()

    assert events[:3] == [42, "durable", "left"]
