"""Tables go into the page where they belong, and nothing else of it changes."""

from __future__ import annotations

import pytest

from bench.page import PAGE, blocks, fill

TEXT = """# P
<!-- begin one -->
old
<!-- end one -->
by hand
<!-- begin two -->
<!-- end two -->
"""


def test_blocks_are_replaced_and_the_rest_stays():
    filled = fill(TEXT, {"two": "| a |\n"})
    assert "old" in filled
    assert "by hand" in filled
    assert "<!-- begin two -->\n\n| a |\n\n<!-- end two -->" in filled
    assert fill(filled, {"two": "| b |\n"}).count("| a |") == 0
    with pytest.raises(ValueError, match="no place for three"):
        fill(TEXT, {"three": ""})


def test_the_page_has_a_place_for_each_command_that_writes_tables():
    page = PAGE.read_text(encoding="utf-8")
    assert blocks(page) == ["figures", "peers", "growth", "links", "names"]
