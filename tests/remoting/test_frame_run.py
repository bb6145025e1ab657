"""Runs of frames that are alike: exactly the commands that the frames are one by one."""

from __future__ import annotations

import random
import struct
from itertools import accumulate
from typing import Any

import pytest

from dledger.remoting.command import FLAG_GROUPED, Command, SerializeType
from dledger.remoting.connection import Connection
from dledger.remoting.errors import RemoteProtocolError
from dledger.remoting.frame import encode_frame
from dledger.remoting.frame_run import RUN_MIN, FrameRun, RunFinder


def wire(commands: list[Command]) -> list[bytes]:
    return [b"".join(encode_frame(command)) for command in commands]


def send(number: int, *, body: bytes = b"0123456789", **ext: Any) -> Command:
    fields = {
        "topic": "t",
        "queueId": number % 4,
        "sizes": struct.pack(">I", len(body)),
        "producerId": 1 << 40,
        "sequence": 70_000 + number,
    }
    return Command(310, FLAG_GROUPED, 100_000 + number, ext_fields=fields | ext, body=body)


def parse(pieces: list[bytes], *, finds: bool) -> tuple[list[Command], str, list[FrameRun]]:
    """Return the commands, what was said of broken bytes, and the runs among them."""
    connection = Connection(frame_size_max=20_000, find_run=RunFinder().find if finds else None)
    found: list[Command] = []
    runs = []
    for data in pieces:
        connection.receive_data(data)
        try:
            while taken := connection.pieces():
                for piece in taken:
                    if isinstance(piece, FrameRun):
                        runs.append(piece)
                        assert piece.count >= RUN_MIN
                        found += piece.commands()
                    else:
                        found += piece
        except RemoteProtocolError as error:
            return found, f"{error} {error.opaque} {error.serialize_type}", runs
    return found, "", runs


def both(pieces: list[bytes]) -> tuple[list[Command], list[FrameRun]]:
    """Parse with and without runs; it comes to the same."""
    found, error, runs = parse(pieces, finds=True)
    wanted, wanted_error, none = parse(pieces, finds=False)
    assert not none
    assert found == wanted
    assert error == wanted_error
    return found, runs


def test_requests_that_differ_in_numbers_are_one_run() -> None:
    commands = [send(n) for n in range(100)]

    found, (run,) = both([b"".join(wire(commands))])

    assert found == commands
    assert run.first == commands[0]
    assert (run.count, run.opaques.tolist()) == (100, [100_000 + n for n in range(100)])
    assert set(run.columns) == {"queueId", "sequence"}
    assert run.columns["queueId"].tolist() == [n % 4 for n in range(100)]
    assert run.columns["sequence"].tolist() == [70_000 + n for n in range(100)]
    assert run.bodies() == b"0123456789" * 100


def test_bodies_of_any_size_are_one_run() -> None:
    commands = [send(n, body=bytes([n]) * (n % 7)) for n in range(90)]

    found, (run,) = both([b"".join(wire(commands))])

    assert found == commands
    assert set(run.columns) == {"queueId", "sequence", "sizes"}
    assert run.body_sizes.tolist() == [n % 7 for n in range(90)]
    assert run.bodies() == b"".join(bytes(command.body) for command in commands)  # type: ignore[arg-type]
    rows = run.opaques % 3 == 0
    numbers = rows.nonzero()[0]
    assert run.commands(numbers) == [commands[n] for n in numbers]
    assert run.bodies(numbers) == b"".join(bytes(commands[n].body) for n in numbers)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    "other",
    [
        {"topic": "u"},
        {"queueId": 200},
        {"queueId": -1},
        {"sequence": 1 << 63},
        {"sequence": None},
        {"sizes": b"123"},
        {"sizes": "1234"},
        {"more": 1},
        {"producerId": (1 << 40) + 1},
        {"producerId": [1]},
    ],
)
@pytest.mark.parametrize("place", [0, 1, 70, 139])
def test_one_that_is_not_like_the_others(place: int, other: dict[str, Any]) -> None:
    commands = [send(n) for n in range(140)]
    commands[place] = send(place, **other)

    found, runs = both([b"".join(wire(commands))])

    assert found == commands
    if place >= RUN_MIN:
        assert sum(run.count for run in runs) >= place


def test_a_value_that_is_no_number_where_others_have_one_ends_the_run() -> None:
    """As many bytes, and another type: nil, true, and the first byte of something longer."""
    for wrong in (b"\xc0", b"\xc3", b"\xcc", b"\xff"):
        frames = wire([send(n) for n in range(90)])
        at = frames[75].index(b"queueId") + 7
        frames[75] = frames[75][:at] + wrong + frames[75][at + 1 :]
        _, runs = both([b"".join(frames)])
        assert [run.count for run in runs] == [75]


def test_an_opaque_beyond_its_bound_is_refused_as_by_itself() -> None:
    frames = wire([send(n) for n in range(90)])
    at = frames[75].index(struct.pack(">I", 100_075))
    frames[75] = frames[75][:at] + b"\xff" + frames[75][at + 1 :]

    found, (run,) = both([b"".join(frames)])

    assert (len(found), run.count) == (75, 75)


def test_frames_that_are_never_alike_are_looked_at_once() -> None:
    """Looking again from each of them took time that grew with the square of their number."""
    looked_at = []
    finder = RunFinder()

    def find(data: bytes, at: int, *, frame_size_max: int) -> tuple[FrameRun | None, int]:
        looked_at.append(at)
        return finder.find(data, at, frame_size_max=frame_size_max)

    commands = [send(n, topic="tu"[n % 2]) for n in range(1000)]
    connection = Connection(find_run=find)
    connection.receive_data(b"".join(wire(commands)))

    assert connection.pieces() == [commands]
    assert len(looked_at) == 1


def test_what_was_read_for_others_in_vain_is_not_read_again() -> None:
    """Headers of different lengths: where others end too soon to be worth it, the next look is."""
    looked_at = []
    commands = [send(n, topic=("t", "longer")[n % 2]) for n in range(1200)]
    frames = wire(commands)
    ends = list(accumulate(len(frame) for frame in frames))

    def find_others(data: bytes, at: int, *, frame_size_max: int) -> tuple[None, int]:
        looked_at.append(at)
        return None, next(end for end in ends[39::40] if end > at)

    connection = Connection(find_run=RunFinder(find_others).find)
    connection.receive_data(b"".join(frames))

    assert connection.pieces() == [commands]
    assert 1 < len(looked_at) <= 30


class Others:
    """What is read together though no run begins with it."""

    code = 310

    def __init__(self, data: bytes, begin: int, end: int) -> None:
        self.end = end
        self._part = data[begin:end]

    def commands(self) -> list[Command]:
        connection = Connection()
        connection.receive_data(self._part)
        return connection.commands()


@pytest.mark.parametrize("count", [3, 4, 63, 64, 200])
def test_others_are_asked_for_from_four_frames_on_and_first(count: int) -> None:
    """For so few nobody looks for a run, and where others are found neither."""

    def find_others(data: bytes, at: int, *, frame_size_max: int) -> tuple[Others, int]:
        return Others(data, at, len(data)), len(data)

    commands = [send(n) for n in range(count)]
    connection = Connection(find_run=RunFinder(find_others).find)
    connection.receive_data(b"".join(wire(commands)))
    (piece,) = connection.pieces()

    assert isinstance(piece, list) == (count < 4)
    assert (piece if isinstance(piece, list) else piece.commands()) == commands


def test_few_frames_of_which_others_want_none_are_looked_at_now_and_then() -> None:
    looked_at = []
    commands = [send(n) for n in range(63)]
    frames = wire(commands)

    def find_others(data: bytes, at: int, *, frame_size_max: int) -> tuple[None, int]:
        looked_at.append(at // len(frames[0]))
        return None, at

    connection = Connection(find_run=RunFinder(find_others).find)
    connection.receive_data(b"".join(frames))

    assert connection.pieces() == [commands]
    assert looked_at == list(range(0, 60, 4))


def test_other_headers_go_one_by_one() -> None:
    commands = [
        Command(11, opaque=n, ext_fields={"a": str(n % 10)}, serialization=kind)
        for kind in (SerializeType.JSON, SerializeType.ROCKETMQ)
        for n in range(90)
    ]
    nested = [send(n, deep={"a": 1}) for n in range(90)]
    empty = [Command(11, opaque=n + 1000) for n in range(90)]

    assert both([b"".join(wire(commands))]) == (commands, [])
    assert both([b"".join(wire(nested))]) == (nested, [])
    found, (run,) = both([b"".join(wire(empty))])
    assert (found, run.count) == (empty, 90)


@pytest.mark.parametrize("seed", range(150))
def test_any_frames_cut_anywhere_and_damaged_come_to_the_same(seed: int) -> None:
    chance = random.Random(seed)
    frames: list[bytes] = []
    number = chance.choice((0, 100, 200, 65_500, 1 << 31))
    while len(frames) < 300:
        body_sizes = chance.choice(((10,), (10, 11), (0, 300), (5_000,)))
        kind = chance.choice((310, 310, 11))
        ext: dict[str, Any] = chance.choice(({}, {"acks": "leader"}, {"x": 1.5, "y": True}))
        for _ in range(chance.choice((1, 3, 70, 150))):
            command = send(number % (1 << 31), body=chance.randbytes(chance.choice(body_sizes)))
            command.opaque = min(number, (1 << 31) - 1)
            command.code = kind
            command.ext_fields |= ext
            number += 1
            frames += wire([command])
    data = bytearray(b"".join(frames))
    if chance.random() < 0.6:
        for _ in range(chance.choice((1, 1, 8))):
            data[chance.randrange(len(data))] = chance.randrange(256)
    cuts = sorted(chance.randrange(len(data)) for _ in range(chance.randrange(5)))
    both([bytes(data[a:b]) for a, b in zip([0, *cuts], [*cuts, len(data)], strict=True)])
