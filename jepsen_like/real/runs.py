"""Runs with real processes as they are asked for on the command line."""

from __future__ import annotations

import itertools
import shlex
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from jepsen_like.faults.catalogue import offered
from jepsen_like.history import read_history
from jepsen_like.real.features import EXIT_SKIPPED, missing, probe
from jepsen_like.real.mix import draw
from jepsen_like.real.run import RealRun
from jepsen_like.real.scripts import SCRIPTS, SELF_TESTS
from jepsen_like.report.run_folder import ReportError, write_report
from jepsen_like.verdict import tell as verdict_lines

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from jepsen_like.faults.fault import Target
    from jepsen_like.verdict import Verdict

OK_SENDS_MIN = 1000
OK_SENDS_MIN_CI = 200
# Four short runs that meet most of what can go wrong; see docs on what CI runs.
CI_SETTLING_SECONDS = 10.0  # of its first run: for members to get everything, and not for faults
CI_RUNS = (("kill", "pause"), ("halves", "one-way", "wire", "rough-wire"), "S3", ("bit-rot",))


@dataclass(frozen=True, slots=True, kw_only=True)
class RealOptions:
    """What was asked for."""

    faults: tuple[str, ...] = ()
    script: str = ""
    seconds: float = 45.0
    rate: float = 50.0
    seed: int = 1
    times: int = 1
    node_count: int = 3
    target: Target = ""
    members: int | None = None  # of each group that shares queues; None: drawn
    ok_sends_min: int = OK_SENDS_MIN
    out: Path = Path("runs")

    @property
    def command(self) -> str:
        """Runs it again."""
        parts = ["python", "-m", "jepsen_like", "real"]
        if self.script:
            parts += ["--script", self.script]
        else:
            parts += ["--fault", ",".join(self.faults), "--seconds", f"{self.seconds:g}"]
        parts += ["--rate", f"{self.rate:g}", "--seed", str(self.seed)]
        if self.target:
            parts += ["--target", self.target]
        if self.node_count != 3:
            parts += ["--nodes", str(self.node_count)]
        if self.members is not None:
            parts += ["--members", str(self.members)]
        if self.ok_sends_min != OK_SENDS_MIN:
            parts += ["--sends", str(self.ok_sends_min)]
        return shlex.join(parts)

    @property
    def name(self) -> str:
        """What the run's folder is called."""
        what = self.script or (
            "+".join(self.faults) if len(self.faults) <= 4 else f"{len(self.faults)}-faults"
        )
        return f"real-{what}-{self.seed}"


def runs_of(options: RealOptions, *, everything: bool, ci: bool) -> Iterator[RealOptions]:
    """Yield one run after another of what was asked for."""
    seeds = itertools.count(options.seed)
    if ci:
        for number, what in enumerate(CI_RUNS):
            wanted = {"script": what} if isinstance(what, str) else {"faults": what}
            members, settling = (1, CI_SETTLING_SECONDS) if number == 0 else (0, 0.0)
            yield replace(
                options,
                **wanted,
                ok_sends_min=OK_SENDS_MIN_CI,
                seed=next(seeds),
                members=members,
                seconds=options.seconds - settling,
            )
        return
    for _ in range(options.times):
        if everything:
            names = tuple(offered("real"))
            yield from (replace(options, faults=(name,), seed=next(seeds)) for name in names)
            yield replace(options, faults=names, seconds=5 * options.seconds, seed=next(seeds))
        else:
            yield replace(options, seed=next(seeds))


def run_all(runs: Iterator[RealOptions], *, tell: Callable[[str], object]) -> int:
    """Run them; return 0 when all are valid, 1 when one is not, 2 when one says nothing.

    77 when this machine cannot do it at all.
    """
    lacking = missing()
    if lacking:
        for line in lacking:
            tell(line)
        tell("skipped: no laboratory can be made here")
        return EXIT_SKIPPED
    for feature in probe():
        if not feature.is_there:
            tell(str(feature))
    codes: list[int] = []
    for options in runs:
        verdict, folder = run_one(options)
        codes.append(verdict.exit_code)
        try:
            write_report(folder, read_history(folder), verdict)
        except ReportError as error:  # the verdict stands without a picture
            if len(codes) == 1:
                tell(str(error))
        sends = verdict.counts.get("send ok", 0)
        tell(f"{verdict.state:8} {options.name}: {sends} sends, {verdict.sometimes}, {folder}")
        if verdict.state != "valid":
            for line in verdict_lines(verdict)[:-1]:
                tell(f"    {line}")
            tell(f"    {options.command}")
    if len(codes) > 1:
        tell(f"{len(codes)} runs, {codes.count(1)} invalid, {codes.count(2)} say nothing")
    return 1 if 1 in codes else 2 if 2 in codes else 0


def run_one(options: RealOptions) -> tuple[Verdict, Path]:
    """Run once; return the verdict and the folder with everything."""
    folder = _new_folder(options.out / options.name)
    script = (SCRIPTS | SELF_TESTS)[options.script] if options.script else None
    mix = draw(
        options.seed,
        faults=() if script else options.faults,
        seconds=script.seconds if script else options.seconds,
        rate=options.rate,
        node_count=options.node_count,
        target=options.target,
        retention=script.retention if script else None,
        members=0 if script else options.members,
    )
    run = RealRun(
        mix=mix,
        folder=folder,
        command=options.command,
        ok_sends_min=options.ok_sends_min,
        script=options.script,
    )
    return run.go(), folder


def _new_folder(path: Path) -> Path:
    for number in itertools.count(1):
        folder = path if number == 1 else path.with_name(f"{path.name}.{number}")
        if not folder.exists():
            return folder
    raise AssertionError("there is always another number")


def list_all() -> list[str]:
    """Return what can be asked for, a line each."""
    lines = ["faults:"]
    for name, fault in offered("real").items():
        lines.append(f"  {name:14} {(fault.__doc__ or '').splitlines()[0]}")
    lines.append("scripts:")
    lines += [f"  {script.name:14} {script.what}" for script in SCRIPTS.values()]
    lines.append("self-tests of the laboratory, for --script:")
    lines += [f"  {script.name:14} {script.what}" for script in SELF_TESTS.values()]
    lines.append("this machine:")
    lines += [f"  {feature}" for feature in probe()]
    return lines
