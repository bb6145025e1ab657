"""Term, vote and joining: whole after any crash, and never silently forgotten."""

import random

import pytest

from dledger.errors import CorruptStoreError, StorageFailedError
from dledger.store.vote_file import VoteFile
from tests.fakes.disk import FakeDisk, SimulatedCrash

FOLDER = "/data"
PATH = "/data/vote"


@pytest.fixture
def disk():
    disk = FakeDisk()
    disk.make_folder(FOLDER)
    return disk


def open_votes(disk, *, joining=False):
    return VoteFile.open(disk, FOLDER, joining=joining)


def state(votes):
    return (votes.current_term, votes.voted_for, votes.joining)


@pytest.mark.parametrize("joining", [False, True])
def test_a_new_file_has_no_term_and_no_vote(disk, joining):
    votes = open_votes(disk, joining=joining)
    assert state(votes) == (0, None, joining)
    assert votes.is_synced
    assert votes.begin_sync() is None
    assert state(open_votes(disk, joining=not joining)) == (0, None, joining)


def test_a_vote_is_on_the_disk_when_its_ticket_has_run(disk):
    votes = open_votes(disk)
    votes.set(3, "n1")
    assert state(votes) == (3, "n1", False)
    assert (votes.version, votes.synced_version, votes.is_synced) == (1, 0, False)
    ticket = votes.begin_sync()
    ticket.run()
    assert votes.synced_version == 0
    assert votes.finish_sync(ticket) == 1
    disk.power_loss(random.Random(0))
    assert state(open_votes(disk)) == (3, "n1", False)


def test_setting_what_is_there_needs_no_sync(disk):
    votes = open_votes(disk)
    votes.set(3, "n1")
    votes.sync()
    votes.set(3, "n1")
    assert votes.is_synced


def test_a_ticket_speaks_for_the_state_when_it_began(disk):
    votes = open_votes(disk)
    votes.set(3, None)
    ticket = votes.begin_sync()
    votes.set(4, "n2")
    ticket.run()
    assert votes.finish_sync(ticket) == 1
    assert not votes.is_synced
    assert state(open_votes(disk)) == (3, None, False)
    assert votes.sync() == 2
    assert state(open_votes(disk)) == (4, "n2", False)


def test_a_ticket_that_runs_late_does_not_replace_a_newer_state(disk):
    votes = open_votes(disk)
    votes.set(3, "n1")
    late = votes.begin_sync()
    votes.set(4, "n2")
    votes.sync()
    late.run()
    assert votes.finish_sync(late) == 2
    assert state(open_votes(disk)) == (4, "n2", False)


def test_two_votes_in_one_term_are_our_own_mistake(disk):
    votes = open_votes(disk)
    votes.set(3, "n1")
    with pytest.raises(AssertionError, match="voted for n1 in term 3 already"):
        votes.set(3, "n2")
    with pytest.raises(AssertionError, match="falls below"):
        votes.set(2, None)
    votes.set(4, "n2")


def test_joining_ends_once_and_for_all(disk, caplog):
    caplog.set_level("INFO")
    votes = open_votes(disk, joining=True)
    votes.set(2, None)
    votes.end_joining("caught up with n1 at index 7")
    votes.end_joining("again")
    votes.sync()
    assert "caught up with n1 at index 7" in caplog.text
    assert "again" not in caplog.text
    assert state(open_votes(disk, joining=True)) == (2, None, False)


@pytest.mark.parametrize("power", [False, True], ids=["process", "power"])
def test_a_crash_at_any_step_leaves_the_old_vote_or_the_new(power):
    for step in range(20):
        for seed in range(10):
            disk = FakeDisk()
            disk.make_folder(FOLDER)
            votes = open_votes(disk)
            votes.set(1, "n1")
            votes.sync()
            disk.crash_at_step = disk.step_count + step
            promised = votes.current_term
            try:
                for term in range(2, 6):
                    votes.set(term, f"n{term}")
                    votes.sync()
                    promised = term
            except SimulatedCrash:
                pass
            if power:
                disk.power_loss(random.Random(seed))
            else:
                disk.process_crash()
            votes = open_votes(disk)
            assert votes.current_term in (promised, promised + 1)
            assert votes.voted_for == f"n{votes.current_term}"


def test_a_file_that_was_never_completed_is_made_again(disk):
    disk.crash_after_bytes = 100
    with pytest.raises(SimulatedCrash):
        open_votes(disk, joining=True)
    disk.process_crash()
    assert state(open_votes(disk, joining=True)) == (0, None, True)


def test_what_a_dead_process_wrote_is_synced_before_it_is_believed(disk):
    """Its vote may stand in the page cache only; a vote given on it must survive a power loss."""
    votes = open_votes(disk)
    votes.set(5, "n1")
    disk.crash_at_step = disk.step_count + 1  # written, not synced
    with pytest.raises(SimulatedCrash):
        votes.sync()
    disk.process_crash()
    assert open_votes(disk).current_term == 5
    disk.power_loss(random.Random(1))
    assert open_votes(disk).current_term == 5


@pytest.mark.parametrize("slot", [0, 4096])
@pytest.mark.parametrize("offset", [0, 4, 6, 8, 16, 25, 60, 100, 511])
def test_a_flipped_bit_in_either_slot_is_loud(disk, slot, offset):
    votes = open_votes(disk)
    votes.set(3, "n1")
    votes.sync()
    byte = disk.files()[PATH][slot + offset]
    disk.overwrite(PATH, slot + offset, bytes([byte ^ 1]))
    with pytest.raises(CorruptStoreError, match=rf"{PATH}: the slot at byte {slot} .*peers"):
        open_votes(disk)


@pytest.mark.parametrize("size", [0, 512, 8191])
def test_a_file_of_the_wrong_length_is_loud(disk, size):
    open_votes(disk)
    disk.truncate(PATH, size)
    with pytest.raises(CorruptStoreError, match=f"{PATH}: {size} bytes instead of 8192"):
        open_votes(disk)


@pytest.mark.parametrize("verb", ["write", "sync"])
def test_a_failed_sync_is_passed_on(disk, verb):
    votes = open_votes(disk)
    votes.set(3, "n1")
    disk.failing[PATH] = verb
    ticket = votes.begin_sync()
    with pytest.raises(StorageFailedError):
        ticket.run()
    with pytest.raises(StorageFailedError):
        votes.finish_sync(ticket)
    assert votes.synced_version == 0
