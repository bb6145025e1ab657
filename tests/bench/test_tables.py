"""No figure is cut off, however narrow the terminal."""

import pytest

from bench.peers.__main__ import _COLUMNS
from bench.report import LOAD_HEADS
from bench.tables import print_table

LOADS = [
    ["raw-64-connections", "31,238", "1.95", "3.69", "5.89", "31.1 / 5.1 / 5.1", "13.68", "61", ""],
    [
        *("pull-busy", "5,093,365", "2.42", "7.15", "9.69", "0.21 / 0.02 / 0.02", "0.03", "63"),
        "269,180/s sent meanwhile",
    ],
]
PEERS = [
    [
        *("NATS JetStream R3", "page caches of a majority", "0.25 / 0.48", "61,365", "40.9", ""),
        *("708,770", "nats-py", "0.40 / 0.82", "27,178", "27,568", "26.8", "85"),
    ]
]


@pytest.mark.parametrize("width", [40, 80, 100, 120, 160, 190])
@pytest.mark.parametrize(("heads", "rows"), [(LOAD_HEADS, LOADS), (_COLUMNS, PEERS)])
def test_every_figure_is_printed_whole_at_any_width(capsys, width, heads, rows):
    print_table("a run", heads, rows, left=("load", ""), width=width)

    printed = capsys.readouterr().out
    assert "…" not in printed
    assert max(map(len, printed.splitlines())) <= width
    words = printed.split()
    for row in rows:
        for cell in row:
            assert all(any(word in each for each in words) for word in cell.split())
