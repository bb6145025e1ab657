"""What a node tells in its log, read as it grows."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pathlib import Path

_ROLE = re.compile(r": (\w+) in term (\d+), leader \S+$")
_READY = re.compile(r"^node \S+ ready: ")
_LAST_WORD = re.compile(r"^dledger: (.+)")
_TRACEBACK = "Traceback (most recent call last)"


@dataclass(slots=True)
class Told:
    """What the lines since the last look say."""

    is_ready: bool = False
    roles: list[tuple[str, int]] = field(default_factory=list)  # role, term
    cut_count: int = 0  # tails of the log cut off
    install_count: int = 0  # states taken over
    installing: int = 0  # of those: begun
    last_word: str = ""  # why it ends
    traceback: str = ""


class NodeLog:
    """One node's log file, over all its lives."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._offset = 0
        self._rest = b""

    def read_on(self) -> Told:
        """Return what has been written since."""
        told = Told()
        try:
            with self._path.open("rb") as file:
                file.seek(self._offset)
                new = file.read()
        except FileNotFoundError:
            return told
        self._offset += len(new)
        *lines, self._rest = (self._rest + new).split(b"\n")
        for raw in lines:
            self._read_line(raw.decode(errors="replace"), told)
        return told

    def _read_line(self, line: str, told: Told) -> None:
        if _TRACEBACK in line and not told.traceback:
            told.traceback = line
        elif told.traceback and len(told.traceback) < 20_000:
            told.traceback += "\n" + line
        if match := _ROLE.search(line):
            told.roles.append((match[1], int(match[2])))
        elif _READY.match(line):
            told.is_ready = True
        elif match := _LAST_WORD.match(line):
            told.last_word = match[1]
        elif "cut the log from entry" in line:
            told.cut_count += 1
        elif "took over the state at entry" in line:
            told.install_count += 1
        elif "installing the state at entry" in line:
            told.installing += 1
