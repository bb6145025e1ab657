"""Puts tables of a run into the page on performance: ``python -m bench.page FOLDER``.

What stands between ``<!-- begin NAME -->`` and ``<!-- end NAME -->`` in docs/performance.md becomes
``FOLDER/NAME.md``, for each NAME of which there is such a file. The rest of the page is written by
hand, and stays.
"""

from __future__ import annotations

import re
import sys
from pathlib import Path

import click

PAGE = Path(__file__).parent.parent / "docs" / "performance.md"
_BLOCK = re.compile(
    r"(<!-- begin (?P<name>[a-z-]+) -->\n)(?P<text>.*?)(<!-- end (?P=name) -->)", re.DOTALL
)


def fill(page: str, tables: dict[str, str]) -> str:
    """Return *page* with the blocks named in *tables* replaced by their text.

    Raises:
        ValueError: the page has no block of such a name.
    """
    left = dict(tables)

    def replace(found: re.Match[str]) -> str:
        text = left.pop(found["name"], None)
        if text is None:
            return found[0]
        return f"{found[1]}\n{text.strip()}\n\n{found[4]}"

    filled = _BLOCK.sub(replace, page)
    if left:
        raise ValueError(f"the page has no place for {', '.join(left)}; it has {blocks(page)}")
    return filled


def blocks(page: str) -> list[str]:
    """Return the names of the blocks in *page*."""
    return [found["name"] for found in _BLOCK.finditer(page)]


@click.command()
@click.argument("folder", type=click.Path(path_type=Path, exists=True, file_okay=False))
def main(folder: Path) -> None:
    """Put the tables in FOLDER, as NAME.md, into docs/performance.md."""
    page = PAGE.read_text(encoding="utf-8")
    tables = {
        name: path.read_text(encoding="utf-8")
        for name in blocks(page)
        if (path := folder / f"{name}.md").exists()
    }
    if not tables:
        wanted = ", ".join(f"{name}.md" for name in blocks(page))
        print(f"{folder} has none of {wanted}", file=sys.stderr)
        sys.exit(1)
    PAGE.write_text(fill(page, tables), encoding="utf-8")
    print(f"filled in: {', '.join(tables)}")


if __name__ == "__main__":
    main()
