"""A verdict that also knows what the run itself could not do."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from jepsen_like.verdict import judge

if TYPE_CHECKING:
    from collections.abc import Sequence

    from jepsen_like.history import History
    from jepsen_like.verdict import Verdict


def judge_run(history: History, *, unreached: Sequence[str], faults: Sequence[str]) -> Verdict:
    """Return the verdict on a run with real processes.

    Args:
        history: of all processes.
        unreached: what was to happen and did not, and what of the run itself broke.
        faults: those that were to come; one that never came says nothing either.
    """
    verdict = judge(history)
    never = [name for name in faults if not verdict.counts.get(f"fault {name}")]
    reasons = (
        *verdict.reasons,
        *unreached,
        *(f"fault {name} never came" for name in never),
    )
    # What was found was found, however little the rest of the run may say.
    state = "unknown" if reasons and verdict.state == "valid" else verdict.state
    return replace(verdict, state=state, reasons=reasons)
