"""Fuzzing from the command line: seeds out, fuzzer on, findings in, each with its replay command.

python -m jepsen_like fuzz --target header --seconds 60
python -m jepsen_like fuzz --target header --replay runs/fuzz/header/findings/crash-...
"""

from __future__ import annotations

import hashlib
import importlib.util
import logging
import re
import subprocess
import sys
import traceback
from dataclasses import dataclass
from typing import TYPE_CHECKING

from jepsen_like.fuzz.targets import TARGETS

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from pathlib import Path

    from jepsen_like.fuzz.target import Target

EXIT_FOUND, EXIT_UNKNOWN, EXIT_SKIPPED = 1, 2, 77

INPUT_SIZE_MAX = 64 * 1024  # bytes of one input: every limit of a reader is set below that
SECONDS_EACH_MAX = 10  # for one input; more is a hang
MEMORY_MAX_MB = 1024  # of the whole fuzzer, coverage tables included; it has some 200 by itself

NO_FUZZER = (
    "atheris is not installed, so nothing was fuzzed by coverage: "
    "pip install --group fuzz (Linux, x86-64; Python 3.11 to 3.13). "
    "The same targets run with random input in tests/fuzz."
)

_DONE = re.compile(r"Done (\d+) runs? in (\d+) second")
_PULSE = re.compile(r"^#(\d+)\s.*cov: (\d+)", re.MULTILINE)


@dataclass(frozen=True, slots=True)
class Outcome:
    """What came of one target."""

    target: str
    runs: int
    edges: int  # of our code that were reached
    findings: list[Path]


def fuzz(names: Sequence[str], *, seconds: int, out: Path, tell: Callable[[str], None]) -> int:
    """Fuzz the targets *names*, or all, *seconds* each; return the exit code."""
    if importlib.util.find_spec("atheris") is None:
        tell(NO_FUZZER)
        return EXIT_SKIPPED
    outcomes = []
    for name in names or TARGETS:
        outcome = _fuzz_one(TARGETS[name], seconds=seconds, folder=out / name)
        outcomes.append(outcome)
        tell(
            f"{name:10} {outcome.runs:>9} runs  {outcome.edges:>6} edges  "
            f"{len(outcome.findings)} findings"
        )
        for path in outcome.findings:
            tell(f"  {replay_command(name, path)}")
    return EXIT_FOUND if any(outcome.findings for outcome in outcomes) else 0


def replay_command(name: str, path: Path) -> str:
    """Return what runs one finding again."""
    return f"python -m jepsen_like fuzz --target {name} --replay {path}"


def replay(name: str, path: Path, *, tell: Callable[[str], None]) -> int:
    """Run one input again; return 1 when it is still a finding."""
    logging.disable(logging.CRITICAL)
    try:
        TARGETS[name].run(path.read_bytes())
    except Exception:  # noqa: BLE001 - whatever it raises is the finding
        tell(traceback.format_exc())
        return EXIT_FOUND
    tell(f"{path}: {name} takes it or refuses it as it should")
    return 0


def besiege(
    broker: str,
    peer: str | None,
    names: Sequence[str],
    *,
    seconds: int,
    tell: Callable[[str], None],
) -> int:
    """Attack a living node, *seconds* each; return 1 when it is not the same afterwards.

    Nothing of it may be dear to anybody: the attacks send messages and hand the lead about.
    """
    from jepsen_like.fuzz.outsider import ATTACKS, status_of, victim_of

    if strange := [name for name in names if name not in ATTACKS]:
        tell(f"no attack {strange[0]!r}; there are {', '.join(ATTACKS)}")
        return EXIT_UNKNOWN
    victim = victim_of(broker, peer, seed=1)
    before = status_of(victim.broker)
    if before is None:
        tell(f"{broker} does not answer; start a group with `dledger up`")
        return EXIT_UNKNOWN
    for name in names or ATTACKS:
        ATTACKS[name](victim, float(seconds))
        after = status_of(victim.broker)
        if after is None or after.uptime_seconds < before.uptime_seconds:
            tell(f"{name:24} the node {'is gone' if after is None else 'began anew'}")
            return EXIT_FOUND
        tell(f"{name:24} {after.rss_bytes >> 20} MiB, {after.connection_count} connections")
        before = after
    return 0


def _fuzz_one(target: Target, *, seconds: int, folder: Path) -> Outcome:
    corpus, found = folder / "corpus", folder / "findings"
    for path in (corpus, found):
        path.mkdir(parents=True, exist_ok=True)
    for seed in target.seeds():
        (corpus / f"seed-{hashlib.sha256(seed).hexdigest()[:16]}").write_bytes(seed)
    before = set(found.iterdir())
    log = folder / "log"
    with log.open("wb") as output:
        subprocess.run(
            [
                sys.executable, "-m", "jepsen_like.fuzz.guided", target.name,
                f"-max_total_time={seconds}", f"-max_len={INPUT_SIZE_MAX}",
                f"-timeout={SECONDS_EACH_MAX}", f"-rss_limit_mb={MEMORY_MAX_MB}",
                f"-artifact_prefix={found}/", str(corpus),
            ],
            stdout=output,
            stderr=subprocess.STDOUT,
            check=False,
        )  # fmt: skip
    text = log.read_text(errors="replace")
    pulses = _PULSE.findall(text)
    done = _DONE.search(text)
    if not pulses and done is None:
        raise RuntimeError(f"the fuzzer did not start; its last words are in {log}")
    runs = int(done[1]) if done else int(pulses[-1][0])
    edges = int(pulses[-1][1]) if pulses else 0
    return Outcome(target.name, runs, edges, sorted(set(found.iterdir()) - before))
