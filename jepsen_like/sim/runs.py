"""Many seeds, one after another, told to a person."""

from __future__ import annotations

import time
from collections import Counter
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import jepsen_like
from jepsen_like.faults.catalogue import offered
from jepsen_like.mutants import mutated
from jepsen_like.sim.mix import draw
from jepsen_like.sim.world import SOMETIMES, Outcome, run_seed

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

SUITE_SEEDS = 50
FAULTS_ENOUGH = 5  # so many of a kind, and one of them must have shown
UNKNOWN_SHARE_MAX = 0.02  # of the seeds of a suite; more, and the suite says nothing


@dataclass(frozen=True, slots=True, kw_only=True)
class Options:
    """How to run and what to tell."""

    fault_seconds: float = 40.0
    only: tuple[str, ...] = ()
    mutant: str = ""
    out: Path | None = None
    limit_seconds: float = 0.0
    is_detailed: bool = False
    with_logs: bool = False


def known_seeds() -> list[int]:
    """Return the seeds of ``seeds.txt``, which found something once."""
    text = (Path(jepsen_like.__file__).parent / "seeds.txt").read_text(encoding="utf-8")
    return [
        int(words[0]) for line in text.splitlines() if (words := line.partition("#")[0].split())
    ]


def replay_command(seed: int, options: Options) -> str:
    """Return what runs *seed* again."""
    parts = [f"python -m jepsen_like sim --seed {seed}"]
    if options.fault_seconds != 40.0:
        parts.append(f"--seconds {options.fault_seconds:g}")
    if options.only:
        parts.append(f"--only {','.join(options.only)}")
    if options.mutant:
        parts.append(f"--mutant {options.mutant}")
    return " ".join(parts)


def run_seeds(seeds: Iterable[int], options: Options, *, tell: Callable[[str], object]) -> int:
    """Run *seeds*; return 0 when all are valid, 1 when one is not."""
    begun = time.perf_counter()
    totals: Counter[str] = Counter()
    done, failed = 0, []
    unknown: list[int] = []
    for seed in seeds:
        with mutated(options.mutant) if options.mutant else nullcontext():
            outcome = run_seed(
                draw(seed, fault_seconds=options.fault_seconds, only=options.only),
                keep_logs=options.with_logs,
                about={"replay": replay_command(seed, options), "mutant": options.mutant},
            )
        done += 1
        totals.update(outcome.counts)
        if options.is_detailed:
            _tell_in_detail(outcome, tell)
        if not outcome.is_valid:
            failed.append(seed)
            _tell_failure(seed, outcome, options, tell)
        elif outcome.verdict.state == "unknown":
            unknown.append(seed)
            tell(f"seed {seed} unknown: {'; '.join(outcome.verdict.reasons)}")
        if options.limit_seconds and time.perf_counter() - begun > options.limit_seconds:
            break
    if not options.is_detailed:
        tell(f"{done} seeds, {len(failed)} invalid: {failed}, {len(unknown)} unknown: {unknown}")
        tell(", ".join(f"{count} {name}" for name, count in sorted(totals.items())))
    never = [what for what in SOMETIMES if done >= SUITE_SEEDS and not totals[what]]
    never += [
        f"any effect of {name}"
        for name in offered("sim")
        if totals[f"fault {name}"] >= FAULTS_ENOUGH and not totals[f"proven {name}"]
    ]
    if never:
        tell(f"never happened, so nothing can be said: {', '.join(never)}")
    return 1 if failed else 2 if never or len(unknown) > done * UNKNOWN_SHARE_MAX else 0


def _tell_failure(
    seed: int, outcome: Outcome, options: Options, tell: Callable[[str], object]
) -> None:
    kinds = outcome.verdict.kinds
    tell(f"seed {seed} INVALID: " + ", ".join(f"{kind} x{n}" for kind, n in kinds.items()))
    for kind in kinds:
        first = next(anomaly for anomaly in outcome.anomalies if anomaly.kind == kind)
        tell(f"    {str(first)[:400]}")
    tell(f"    {replay_command(seed, options)}")
    if options.out is not None:
        options.out.mkdir(parents=True, exist_ok=True)
        path = options.out / f"seed-{seed}.jsonl"
        outcome.history.write(path)
        tell(f"    history: {path}")


def _tell_in_detail(outcome: Outcome, tell: Callable[[str], object]) -> None:
    mix = outcome.mix
    for line in outcome.logs:
        tell(line)
    for event in outcome.history.events:
        if event.p < 0:
            detail = " ".join(
                str(part) for part in (event.node, event.v, event.o, event.err) if part is not None
            )
            tell(f"{event.t / 1e9:9.4f} {event.f:10} {detail[:300]}")
    for text in outcome.tracebacks:
        tell(text)
    tell(f"{mix}")
    tell(", ".join(f"{count} {name}" for name, count in sorted(outcome.counts.items())))
    tell(
        f"seed {mix.seed} {outcome.verdict.state.upper()} trace {outcome.digest} "
        f"{outcome.wall_seconds:.2f} s"
    )
