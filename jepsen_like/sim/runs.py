"""Many seeds, one after another, told to a person."""

from __future__ import annotations

import json
import time
from collections import Counter
from contextlib import nullcontext
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

import jepsen_like
from jepsen_like.faults.catalogue import offered
from jepsen_like.mutants import mutated
from jepsen_like.report import ReportError, write_run
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


SEEDS_FILE = Path(jepsen_like.__file__).parent / "seeds.txt"


def known_seeds(path: Path = SEEDS_FILE) -> list[int]:
    """Return the seeds of ``seeds.txt``, which found something once."""
    lines = path.read_text(encoding="utf-8").splitlines()
    return [int(words[0]) for line in lines if (words := line.partition("#")[0].split())]


def remember(failed: dict[int, str], *, path: Path = SEEDS_FILE) -> list[int]:
    """Add seeds that failed to ``seeds.txt``, with what they raised; return those that are new."""
    known = known_seeds(path)
    new = sorted(seed for seed in failed if seed not in known)
    with path.open("a", encoding="utf-8") as file:
        file.writelines(f"{seed}  # not explained yet: {failed[seed]}\n" for seed in new)
    return new


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


@dataclass(slots=True)
class Tally:
    """What many seeds came to."""

    done: int = 0
    failed: dict[int, str] = field(default_factory=dict)  # seed -> kinds of anomalies
    unknown: list[int] = field(default_factory=list)
    totals: Counter[str] = field(default_factory=Counter)

    def add(self, other: Tally) -> None:
        """Take in what other seeds came to."""
        self.done += other.done
        self.failed |= other.failed
        self.unknown += other.unknown
        self.totals.update(other.totals)

    def to_json(self) -> str:
        """Return one line for `from_json`."""
        return json.dumps(
            {
                "done": self.done,
                "failed": self.failed,
                "unknown": self.unknown,
                "totals": self.totals,
            }
        )

    @classmethod
    def from_json(cls, line: str) -> Tally:
        """Return what `to_json` was called on."""
        fields = json.loads(line)
        failed = {int(seed): kinds for seed, kinds in fields["failed"].items()}
        return cls(fields["done"], failed, fields["unknown"], Counter(fields["totals"]))

    def conclude(self, tell: Callable[[str], object]) -> int:
        """Tell it to a person; return 0 when all are valid, 1 when one is not, else 2."""
        tell(
            f"{self.done} seeds, {len(self.failed)} invalid: {sorted(self.failed)}, "
            f"{len(self.unknown)} unknown: {sorted(self.unknown)}"
        )
        tell(", ".join(f"{count} {name}" for name, count in sorted(self.totals.items())))
        never = [what for what in SOMETIMES if self.done >= SUITE_SEEDS and not self.totals[what]]
        never += [
            f"any effect of {name}"
            for name in offered("sim")
            if self.totals[f"fault {name}"] >= FAULTS_ENOUGH and not self.totals[f"proven {name}"]
        ]
        if never:
            tell(f"never happened, so nothing can be said: {', '.join(never)}")
        if self.failed:
            return 1
        return 2 if never or len(self.unknown) > self.done * UNKNOWN_SHARE_MAX else 0


def run_seeds(seeds: Iterable[int], options: Options, *, tell: Callable[[str], object]) -> Tally:
    """Run *seeds* one after another, telling of those that are not valid."""
    begun = time.perf_counter()
    tally = Tally()
    for seed in seeds:
        with mutated(options.mutant) if options.mutant else nullcontext():
            outcome = run_seed(
                draw(seed, fault_seconds=options.fault_seconds, only=options.only),
                keep_logs=options.with_logs,
                about={"replay": replay_command(seed, options), "mutant": options.mutant},
            )
        tally.done += 1
        tally.totals.update(outcome.counts)
        if options.is_detailed:
            _tell_in_detail(outcome, tell)
        if not outcome.is_valid:
            tally.failed[seed] = ", ".join(outcome.verdict.kinds)
            _tell_failure(seed, outcome, options, tell)
        elif outcome.verdict.state == "unknown":
            tally.unknown.append(seed)
            tell(f"seed {seed} unknown: {'; '.join(outcome.verdict.reasons)}")
        if options.is_detailed or outcome.verdict.state != "valid":
            _write(seed, outcome, options, tell)
        if options.limit_seconds and time.perf_counter() - begun > options.limit_seconds:
            break
    return tally


def _tell_failure(
    seed: int, outcome: Outcome, options: Options, tell: Callable[[str], object]
) -> None:
    kinds = outcome.verdict.kinds
    tell(f"seed {seed} INVALID: " + ", ".join(f"{kind} x{n}" for kind, n in kinds.items()))
    for kind in kinds:
        first = next(anomaly for anomaly in outcome.anomalies if anomaly.kind == kind)
        tell(f"    {str(first)[:400]}")
    tell(f"    {replay_command(seed, options)}")


def _write(seed: int, outcome: Outcome, options: Options, tell: Callable[[str], object]) -> None:
    """Leave a folder for who wants to look at it."""
    if options.out is None:
        return
    mutant = f"-{options.mutant}" if options.mutant else ""
    folder = options.out / f"seed-{seed}{mutant}"
    try:
        write_run(folder, outcome.history, outcome.verdict)
    except ReportError as error:
        tell(f"    {error}")
    tell(f"    run: {folder}")


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
