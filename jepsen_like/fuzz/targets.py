"""All readers by name."""

from __future__ import annotations

from typing import TYPE_CHECKING

from jepsen_like.fuzz import files, raft, records, wire

if TYPE_CHECKING:
    from jepsen_like.fuzz.target import Target

TARGETS: dict[str, Target] = {
    target.name: target
    for target in (*wire.TARGETS, *records.TARGETS, *files.TARGETS, *raft.TARGETS)
}
