"""The hunt: seeds of a mutant's ground until one of them shows the bug.

Where it was caught the last time is written down in ``hints.txt``, so that a run which only proves
that all are still caught (``--ci``) begins with that seed; when it no longer catches, the search
goes on from seed 1 as if there were no hint.  The product itself runs on the same ground and seed,
once for all mutants that share it: an anomaly without a mutant is a fault of the product or of the
simulator, and proves nothing about the mutant.
"""

from __future__ import annotations

import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import jepsen_like
from jepsen_like.checkers import check
from jepsen_like.mutants.mutant import MUTANTS, Mutant, mutated
from jepsen_like.mutants.nemesis import NEMESIS_MUTANTS, UNKNOWN, NemesisMutant, suite_code
from jepsen_like.sim.world import run_seed

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

    from jepsen_like.checkers import Anomaly
    from jepsen_like.history import History
    from jepsen_like.mutants.grounds import Ground

SEEDS_MAX = 150
# What is reckoned with when mutants are shared out among processes.
UNKNOWN_SECONDS = 10.0  # for a mutant without a hint
SOUND_SECONDS = 4.0  # for the product itself on a seed, which says for all mutants caught there

# What only a whole history can show: in the middle of one nothing is lost or stuck yet.
_AT_THE_END = frozenset(
    {"lost-write", "unseen", "lost-on-node", "no-recovery", "no-progress", "unreadable"}
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Catch:
    """How a mutant was caught."""

    seed: int
    kinds: tuple[str, ...]
    tried: int  # seeds
    seconds: float  # real ones, for all of them
    last_seconds: float  # for the one that caught it


@dataclass(frozen=True, slots=True, kw_only=True)
class HuntOptions:
    """How far to go."""

    seeds: int = SEEDS_MAX
    seed: int | None = None  # only this one
    use_hints: bool = False
    write_hints: bool = False
    control: bool = True
    limit_seconds: float = 0.0  # real ones, for all mutants; 0: none


def shown_so_far(history: History, *, has_retention: bool) -> list[Anomaly]:
    """Return what an unfinished history shows already."""
    found = check(history, has_retention=has_retention)
    return [anomaly for anomaly in found if anomaly.kind not in _AT_THE_END]


def run_on(ground: Ground, seed: int) -> list[Anomaly]:
    """Run one seed of a ground, no longer than until something shows."""
    mix = ground.mix(seed)
    outcome = run_seed(
        mix,
        is_enough=lambda history: bool(shown_so_far(history, has_retention=mix.has_retention)),
    )
    return list(outcome.anomalies)


class Hunt:
    """Mutants one after another."""

    def __init__(self, options: HuntOptions, *, tell: Callable[[str], object]) -> None:
        self._options = options
        self._tell = tell
        self._hints = read_hints()
        self._sound: dict[tuple[str, int], bool] = {}  # ground, seed -> the product is valid there
        self._begun = time.perf_counter()

    def wanted(self, names: Iterable[str]) -> list[Mutant | NemesisMutant]:
        """Return the mutants *names*, or all; those that were caught quickest come first."""
        known: dict[str, Mutant | NemesisMutant] = {**MUTANTS, **NEMESIS_MUTANTS}
        wanted = [known[name] for name in names] or list(known.values())
        if self._options.use_hints:
            wanted.sort(key=lambda mutant: self._hints.get(mutant.name, (1000, 0.0))[1])
        return wanted

    def shares(self, names: Iterable[str], count: int) -> list[list[str]]:
        """Return *names*, or all, in at most *count* lists that take about as long.

        Mutants of one ground stay together: one run of the product speaks for those of one seed.
        """
        grounds: dict[str, list[Mutant | NemesisMutant]] = {}
        for mutant in self.wanted(names):
            key = mutant.name if isinstance(mutant, NemesisMutant) else mutant.ground.name
            grounds.setdefault(key, []).append(mutant)
        seconds = [0.0] * count
        shares: list[list[str]] = [[] for _ in range(count)]
        for mutants in sorted(grounds.values(), key=self._seconds, reverse=True):
            least = seconds.index(min(seconds))
            seconds[least] += self._seconds(mutants)
            shares[least] += [mutant.name for mutant in mutants]
        return [share for share in shares if share]

    def _seconds(self, mutants: Iterable[Mutant | NemesisMutant]) -> float:
        """How long it takes to hunt some of one ground, as far as is known."""
        hints = [self._hints.get(mutant.name, (0, UNKNOWN_SECONDS)) for mutant in mutants]
        seeds = {seed for seed, _ in hints}
        return sum(seconds for _, seconds in hints) + SOUND_SECONDS * len(seeds)

    def run(self, names: Iterable[str]) -> int:
        """Hunt the mutants *names*, or all; return 0 when each was caught, 1 if not, 2: no time."""
        wanted = self.wanted(names)
        uncaught: list[str] = []
        untried: list[str] = []
        unsound: list[str] = []
        stale: list[str] = []
        for mutant in wanted:
            if self._is_over:
                untried.append(mutant.name)
                continue
            if isinstance(mutant, NemesisMutant):
                if not self._try(mutant):
                    uncaught.append(mutant.name)
                continue
            catch = self._hunt(mutant)
            if catch is None:
                (untried if self._is_over else uncaught).append(mutant.name)
                self._tell(f"{mutant.name:42} NOT CAUGHT: {mutant.what}")
                continue
            if self._options.use_hints and mutant.name in self._hints and catch.tried > 1:
                stale.append(mutant.name)
            is_sound = self._is_sound(mutant.ground, catch.seed)
            if not is_sound:
                unsound.append(mutant.name)
            self._tell(
                f"{mutant.name:42} seed {catch.seed:3} of {catch.tried:3}, {catch.seconds:5.1f} s: "
                + ", ".join(catch.kinds)
                + ("" if is_sound else f"; SO DOES THE PRODUCT on ground {mutant.ground.name}")
            )
            if self._options.write_hints and is_sound:
                self._hints[mutant.name] = catch.seed, catch.last_seconds
                write_hints(self._hints)
        seconds = time.perf_counter() - self._begun
        caught = len(wanted) - len(uncaught) - len(untried)
        self._tell(f"{caught} of {len(wanted)} caught in {seconds:.0f} s")
        if stale and not self._options.write_hints:
            self._tell(
                f"by another seed than that of hints.txt: {', '.join(stale)}; "
                f"`python -m jepsen_like mutants --ci --write-hints {' '.join(stale)}` notes it"
            )
        if uncaught or unsound:
            self._tell(f"not caught: {', '.join(uncaught + unsound)}")
            return 1
        if untried:
            self._tell(f"no time for {', '.join(untried)}: nothing can be said")
            return 2
        return 0

    def _try(self, mutant: NemesisMutant) -> bool:
        """Whether a suite says nothing with a fault that is none, and says something with it."""
        told: list[str] = []
        code = suite_code(mutant, is_mutated=True, tell=told.append)
        control = suite_code(mutant, is_mutated=False, tell=lambda _: None)
        self._tell(f"{mutant.name:42} exit code {code}, as it is {control}: {told[-1]}")
        return code == UNKNOWN and control == 0

    @property
    def _is_over(self) -> bool:
        limit = self._options.limit_seconds
        return bool(limit) and time.perf_counter() - self._begun > limit

    def _seeds(self, mutant: Mutant) -> Iterator[int]:
        if self._options.seed is not None:
            yield self._options.seed
            return
        hint = self._hints.get(mutant.name, (0, 0.0))[0] if self._options.use_hints else 0
        if hint:
            yield hint
        yield from (seed for seed in range(1, self._options.seeds + 1) if seed != hint)

    def _hunt(self, mutant: Mutant) -> Catch | None:
        begun = time.perf_counter()
        for tried, seed in enumerate(self._seeds(mutant), 1):
            if self._is_over:
                return None
            begun_at = time.perf_counter()
            with mutated(mutant.name):
                anomalies = self._run(mutant, seed)
            if self._options.seed is not None:
                for anomaly in anomalies:
                    self._tell(f"    {str(anomaly)[:300]}")
            if anomalies:
                now = time.perf_counter()
                return Catch(
                    seed=seed,
                    kinds=tuple(sorted({anomaly.kind for anomaly in anomalies})),
                    tried=tried,
                    seconds=now - begun,
                    last_seconds=now - begun_at,
                )
        return None

    def _run(self, mutant: Mutant, seed: int) -> list[Anomaly]:
        try:
            return run_on(mutant.ground, seed)
        except Exception as error:  # noqa: BLE001 - the simulator's own, and no catch
            self._tell(f"    {mutant.name}, seed {seed}: {type(error).__name__}: {error}")
            return []

    def _is_sound(self, ground: Ground, seed: int) -> bool:
        if not self._options.control:
            return True
        key = ground.name, seed
        if key not in self._sound:
            anomalies = run_on(ground, seed)
            self._sound[key] = not anomalies
            for anomaly in anomalies:
                self._tell(f"    WITHOUT A MUTANT on ground {ground.name}, seed {seed}: {anomaly}")
        return self._sound[key]


_HINTS = Path(jepsen_like.__file__).parent / "mutants" / "hints.txt"


def read_hints() -> dict[str, tuple[int, float]]:
    """Return by mutant the seed that caught it last, and how many seconds that took."""
    lines = _HINTS.read_text(encoding="utf-8").splitlines() if _HINTS.exists() else []
    rows = (line.split() for line in lines if line and not line.startswith("#"))
    return {name: (int(seed), float(seconds)) for name, seed, seconds in rows}


def write_hints(hints: dict[str, tuple[int, float]]) -> None:
    """Write down what `read_hints` returns."""
    head = "# mutant, seed that caught it last, seconds; `mutants --write-hints` writes it again\n"
    rows = (
        f"{name:42} {hints[name][0]:4} {hints[name][1]:6.1f}\n" for name in MUTANTS if name in hints
    )
    _HINTS.write_text(head + "".join(rows), encoding="utf-8")
