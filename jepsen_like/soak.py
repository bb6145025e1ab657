"""Simulated seeds and real mixes in turn, for as long as it is told to.

Every run is a process of its own, by the command that also runs it again.  The first one that is
invalid ends it; what is told at the end is how much was done, and what can be said.
"""

from __future__ import annotations

import random
import re
import subprocess
import sys
import time
from collections import Counter
from typing import TYPE_CHECKING

from jepsen_like.faults.catalogue import offered
from jepsen_like.real.features import EXIT_SKIPPED

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

SIM_SEEDS = 25  # in one run, about as long as one real mix
REAL_SECONDS = 60
SCRIPT_SHARE = 0.25  # of the real runs
SCRIPTS = ("S1", "S2", "S3", "S4", "S5", "S6", "S7")
_SIM_SECONDS = 600  # more than any machine needs for one run of seeds
_STATES = {0: "valid", 1: "invalid", 2: "unknown", EXIT_SKIPPED: "skipped"}
_UNITS = {"s": 1, "m": 60, "h": 3600, "d": 86_400}


def seconds_of(text: str) -> float:
    """Return the seconds that ``8h``, ``90m``, ``45s`` or ``2d`` stands for.

    Raises:
        ValueError: it stands for none.
    """
    match = re.fullmatch(r"(\d+(?:\.\d+)?)([smhd])", text)
    if match is None:
        raise ValueError(f"{text!r} is no time: 8h, 90m, 45s, 2d")
    return float(match[1]) * _UNITS[match[2]]


def commands(first_seed: int, out: Path) -> Iterator[list[str]]:
    """Yield what to run, one after another, without end."""
    chance = random.Random(f"soak {first_seed}")
    seed = first_seed
    while True:
        yield ["sim", "--first", str(seed), "--seeds", str(SIM_SEEDS), "--out", str(out)]
        seed += SIM_SEEDS
        if chance.random() < SCRIPT_SHARE:
            what = ["--script", chance.choice(SCRIPTS)]
        else:
            names = tuple(offered("real"))
            drawn = chance.sample(names, chance.randint(2, 6))
            what = ["--fault", ",".join(drawn), "--seconds", str(REAL_SECONDS)]
        rate = chance.choice((50, 100, 200))
        yield ["real", *what, "--seed", str(seed), "--rate", str(rate), "--out", str(out)]


def soak(
    seconds: float,
    *,
    first_seed: int,
    out: Path,
    tell: Callable[[str], object],
    run: Callable[[list[str]], int] | None = None,
    now: Callable[[], float] = time.perf_counter,
) -> int:
    """Go on for *seconds*; return 0, or 1 when something is invalid, or 2 when nothing is said.

    A real mix in which a fault found no occasion says nothing; that is counted, and the soak goes
    on.  Only when no run was valid nothing can be said of the whole.
    """
    run = run or _run
    begun = now()
    done: Counter[tuple[str, str]] = Counter()
    skipped: set[str] = set()
    failed = ""
    for command in commands(first_seed, out):
        if now() - begun >= seconds:
            break
        layer = command[0]
        if layer in skipped:
            continue
        left = seconds - (now() - begun)
        if layer == "sim" and left < _SIM_SECONDS:
            command += ["--limit", f"{max(1.0, left):.0f}"]
        tell(f"[{seconds - left:.0f} s] {' '.join(command)}")
        state = _STATES.get(run(command), "invalid")
        done[layer, state] += 1
        if state == "skipped":
            skipped.add(layer)
            tell(f"{layer} cannot be done here; going on without")
        if state == "invalid":
            failed = f"python -m jepsen_like {' '.join(command)}"
            break
    tell(f"soaked {now() - begun:.0f} s of {seconds:.0f}")
    for (layer, state), count in sorted(done.items()):
        seeds = f" of {SIM_SEEDS} seeds" if layer == "sim" else ""
        tell(f"  {layer:4} {state:8} {count} runs{seeds}")
    if failed:
        tell(f"INVALID: {failed}")
        return 1
    return 0 if any(state == "valid" for _, state in done) else 2


def _run(command: list[str]) -> int:
    return subprocess.run([sys.executable, "-m", "jepsen_like", *command], check=False).returncode
