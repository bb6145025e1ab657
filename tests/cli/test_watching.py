"""``--watch`` goes on when the group does not answer for a while."""

import json

import pytest
import trio

from broker.cli.watching import show_repeatedly
from broker.client.errors import NoBrokerError


def answers(*items):
    """Return what `show_repeatedly` asks: each of *items* in turn, an error is raised."""
    left = list(items)

    async def take():
        await trio.lowlevel.checkpoint()
        item = left.pop(0)
        if isinstance(item, Exception):
            raise item
        return [f"frame {item}"], {"frame": item}

    return take


async def watch(take, seconds, *, as_json=False):
    with trio.move_on_after(seconds):
        await show_repeatedly(take, seconds=1.0, as_json=as_json)


async def test_frames_follow_each_other_and_trouble_is_told(autojump_clock, capsys):
    await watch(answers(1, NoBrokerError("nobody"), 2), 2.5)

    told = capsys.readouterr()
    assert told.out == "frame 1\nframe 2\n"
    assert told.err == "dledger: nobody\n"


async def test_json_is_one_document_a_line(autojump_clock, capsys):
    await watch(answers(1, 2), 1.5, as_json=True)

    lines = capsys.readouterr().out.splitlines()
    assert [json.loads(line) for line in lines] == [{"frame": 1}, {"frame": 2}]


async def test_a_group_that_never_answered_ends_it(autojump_clock):
    with pytest.raises(NoBrokerError):
        await watch(answers(NoBrokerError("nobody")), 2.5)
