"""The command line: ``python -m jepsen_like sim --seed 7``.

Exit codes: 0 nothing found, 1 something found, 2 nothing can be said.
"""

from __future__ import annotations

import argparse
import os
import sys
import time
from pathlib import Path

from jepsen_like.edn import to_edn
from jepsen_like.history import read_events, read_history
from jepsen_like.report.run_folder import VERDICT, ReportError, write_report
from jepsen_like.verdict import judge, read_verdict, tell


def main() -> int:
    """Run what the command line says; return the exit code."""
    parser = argparse.ArgumentParser(prog="python -m jepsen_like", description=__doc__)
    commands = parser.add_subparsers(dest="command", required=True)
    sim = commands.add_parser("sim", help="whole nodes under virtual time")
    sim.add_argument("--seed", type=int, help="one seed, told in detail")
    sim.add_argument("--seeds", type=int, default=100, help="so many seeds")
    sim.add_argument("--first", type=int, default=1, help="the first of them")
    sim.add_argument("--seconds", type=float, default=40.0, help="virtual seconds with faults")
    sim.add_argument("--limit", type=float, default=0.0, help="stop after so many real seconds")
    sim.add_argument("--only", default="", help="names of faults, with commas; no other is used")
    sim.add_argument("--mutant", default="", help="with this deliberate bug in the product")
    sim.add_argument("--out", type=Path, help="folder for runs: of what failed, or of --seed")
    sim.add_argument("--jobs", type=int, default=os.cpu_count() or 1, help="so many processes")
    sim.add_argument("--share", default="", help=argparse.SUPPRESS)  # 0/2: every second seed
    sim.add_argument("--tally", type=Path, help=argparse.SUPPRESS)
    sim.add_argument("--log", action="store_true", help="with --seed: what the nodes log")
    _add_real(commands)
    soaking = commands.add_parser("soak", help="simulated and real mixes in turn")
    soaking.add_argument("--for", dest="duration", default="8h", help="8h, 90m, 45s")
    soaking.add_argument("--first", type=int, default=10_000, help="the first seed")
    soaking.add_argument("--out", type=Path, default=Path("runs"), help="folder for results")
    checking = commands.add_parser("check", help="judge a run's folder or a history")
    checking.add_argument("history", type=Path)
    checking.add_argument(
        "--retention", action="store_true", default=None, help="old segments were dropped"
    )
    checking.add_argument("--sends", type=int, help="fewest acknowledged sends to say anything")
    reporting = commands.add_parser("report", help="a page and a picture of a run")
    reporting.add_argument("run", type=Path, help="its folder, or a history")
    reporting.add_argument("--out", type=Path, help="folder for them; the run's own unless given")
    edn = commands.add_parser("edn", help="a history as Jepsen's own tools read it")
    edn.add_argument("history", type=Path)
    mutants = commands.add_parser("mutants", help="is every deliberate bug caught?")
    mutants.add_argument("names", nargs="*", help="only these")
    mutants.add_argument("--seeds", type=int, default=150, help="most seeds for each")
    mutants.add_argument("--seed", type=int, help="only this seed, told in detail")
    mutants.add_argument("--ci", action="store_true", help="begin with the seeds of hints.txt")
    mutants.add_argument("--write-hints", action="store_true", help="write hints.txt again")
    mutants.add_argument("--no-control", action="store_true", help="do not run the product itself")
    mutants.add_argument("--jobs", type=int, default=os.cpu_count() or 1, help="so many processes")
    mutants.add_argument("--limit", type=float, default=0.0, help="stop after so many real seconds")
    fuzzing = commands.add_parser("fuzz", help="bad input for every reader of bytes")
    fuzzing.add_argument("--target", action="append", default=[], help="only this; again for more")
    fuzzing.add_argument("--seconds", type=int, default=60, help="for each target")
    fuzzing.add_argument("--out", type=Path, default=Path("runs/fuzz"), help="corpus and findings")
    fuzzing.add_argument("--replay", type=Path, help="run this finding of the target again")
    fuzzing.add_argument("--live", metavar="HOST:PORT", help="attack this node, for clients")
    fuzzing.add_argument("--peer", metavar="HOST:PORT", help="with --live: its port for members")
    arguments = parser.parse_args()
    if arguments.command == "fuzz":
        return _fuzz(arguments)
    of_histories = {"check": _check, "edn": _edn, "report": _report}
    if arguments.command in of_histories:
        try:
            return of_histories[arguments.command](arguments)
        except (OSError, ValueError, ReportError) as error:
            print(error, file=sys.stderr)
            return 2
    if arguments.command == "soak":
        return _soak(arguments)
    if arguments.command == "real":
        return _real(arguments)
    _need_fixed_hashes()
    if arguments.command == "mutants":
        return _mutants(arguments)
    return _sim(arguments)


def _fuzz(arguments: argparse.Namespace) -> int:
    from jepsen_like.fuzz.campaign import besiege, fuzz, replay
    from jepsen_like.fuzz.targets import TARGETS

    names: list[str] = arguments.target
    if arguments.live is not None:
        return besiege(arguments.live, arguments.peer, names, seconds=arguments.seconds, tell=print)
    if strange := [name for name in names if name not in TARGETS]:
        print(f"no target {strange[0]!r}; there are {', '.join(TARGETS)}", file=sys.stderr)
        return 2
    if arguments.replay is None:
        return fuzz(names, seconds=arguments.seconds, out=arguments.out, tell=print)
    if len(names) != 1:
        print("--replay needs the one --target the finding belongs to", file=sys.stderr)
        return 2
    return replay(names[0], arguments.replay, tell=print)


def _need_fixed_hashes() -> None:
    """Begin again with fixed string hashes: sets of strings would differ from run to run."""
    if os.environ.get("PYTHONHASHSEED") != "0":
        os.environ["PYTHONHASHSEED"] = "0"
        os.execv(sys.executable, [sys.executable, "-m", "jepsen_like", *sys.argv[1:]])


def _sim(arguments: argparse.Namespace) -> int:
    from jepsen_like.sim.mix import FAULT_SECONDS
    from jepsen_like.sim.pool import ChildFailedError, run_in_processes
    from jepsen_like.sim.runs import Options, known_seeds, remember, run_seeds

    options = Options(
        fault_seconds=arguments.seconds,
        only=tuple(filter(None, arguments.only.split(","))),
        mutant=arguments.mutant,
        out=arguments.out,
        limit_seconds=arguments.limit,
        is_detailed=arguments.seed is not None,
        with_logs=arguments.log,
    )
    if arguments.seed is not None:
        tally = run_seeds([arguments.seed], options, tell=print)
        return 1 if tally.failed else 2 if tally.unknown else 0
    begun = time.perf_counter()
    if arguments.jobs > 1 and not arguments.share:
        try:
            tally = run_in_processes(sys.argv[1:], jobs=arguments.jobs)
        except ChildFailedError as error:
            print(error, file=sys.stderr)
            return 2
    else:
        drawn = range(arguments.first, arguments.first + arguments.seeds)
        seeds = [*known_seeds(), *(seed for seed in drawn if seed not in known_seeds())]
        number, count = map(int, (arguments.share or "0/1").split("/"))
        tally = run_seeds(seeds[number::count], options, tell=print)
        if arguments.tally is not None:
            arguments.tally.write_text(tally.to_json(), encoding="utf-8")
            return 0
    code = tally.conclude(print)
    is_plain = not options.mutant and not options.only and options.fault_seconds == FAULT_SECONDS
    if is_plain and (new := remember(tally.failed)):
        print(f"added to jepsen_like/seeds.txt: {', '.join(map(str, new))}")
    print(f"{time.perf_counter() - begun:.0f} s")
    return code


def _mutants(arguments: argparse.Namespace) -> int:
    from jepsen_like.mutants.hunt import Hunt, HuntOptions
    from jepsen_like.sim.pool import hunt_in_processes

    options = HuntOptions(
        seeds=arguments.seeds,
        seed=arguments.seed,
        use_hints=arguments.ci,
        write_hints=arguments.write_hints,
        control=not arguments.no_control,
        limit_seconds=arguments.limit,
    )
    hunt = Hunt(options, tell=print)
    jobs = 1 if options.write_hints else arguments.jobs
    shares = hunt.shares(arguments.names, jobs)
    if len(shares) == 1:
        return hunt.run(arguments.names)
    flags = [argument for argument in sys.argv[1:] if argument not in arguments.names]
    return hunt_in_processes(flags, shares)


def _add_real(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    real = commands.add_parser("real", help="real processes on real disks; needs root")
    what = real.add_mutually_exclusive_group(required=True)
    what.add_argument("--fault", help="names of faults, with commas")
    what.add_argument("--script", help="S1 to S7")
    what.add_argument("--all", action="store_true", help="each fault alone, then all of them")
    what.add_argument("--ci", action="store_true", help="four short runs")
    what.add_argument("--list", action="store_true", help="faults, scripts, what is missing here")
    real.add_argument("--seconds", type=float, default=45.0, help="with faults")
    real.add_argument("--rate", type=float, default=50.0, help="sends per second")
    real.add_argument("--seed", type=int, default=1, help="decides all else")
    real.add_argument("--times", type=int, default=1, help="so often, with one seed after another")
    real.add_argument("--nodes", type=int, default=3, help="members of the group")
    real.add_argument("--target", default="", choices=("", "one", "leader", "majority", "all"))
    real.add_argument(
        "--members", type=int, help="of each group of W7; 0: none; drawn if not given"
    )
    real.add_argument("--sends", type=int, default=1000, help="with fewer nothing can be said")
    real.add_argument("--out", type=Path, default=Path("runs"), help="folder for results")


def _real(arguments: argparse.Namespace) -> int:
    from jepsen_like.faults.catalogue import offered
    from jepsen_like.real.runs import RealOptions, list_all, run_all, runs_of
    from jepsen_like.real.scripts import SCRIPTS, SELF_TESTS

    if arguments.list:
        print("\n".join(list_all()))
        return 0
    faults = tuple(filter(None, (arguments.fault or "").split(",")))
    unknown = [name for name in faults if name not in offered("real")]
    if arguments.script and arguments.script not in SCRIPTS | SELF_TESTS:
        unknown.append(arguments.script)
    if unknown:
        print(f"no such fault or script: {', '.join(unknown)}; see --list", file=sys.stderr)
        return 2
    options = RealOptions(
        faults=faults,
        script=arguments.script or "",
        seconds=arguments.seconds,
        rate=arguments.rate,
        seed=arguments.seed,
        times=arguments.times,
        node_count=arguments.nodes,
        target=arguments.target,
        members=arguments.members,
        ok_sends_min=arguments.sends,
        out=arguments.out,
    )
    runs = runs_of(options, everything=arguments.all, ci=arguments.ci)
    code = 130
    try:
        code = run_all(runs, tell=lambda line: print(line, flush=True))
    except* KeyboardInterrupt:  # the laboratory has been taken down
        print("interrupted", file=sys.stderr)
    return code


def _soak(arguments: argparse.Namespace) -> int:
    from jepsen_like.soak import seconds_of, soak

    try:
        seconds = seconds_of(arguments.duration)
    except ValueError as error:
        print(error, file=sys.stderr)
        return 2
    return soak(
        seconds,
        first_seed=arguments.first,
        out=arguments.out,
        tell=lambda line: print(line, flush=True),
    )


def _check(arguments: argparse.Namespace) -> int:
    verdict = judge(
        read_history(arguments.history),
        has_retention=arguments.retention,
        ok_sends_min=arguments.sends,
    )
    for line in tell(verdict):
        print(line)
    return verdict.exit_code


def _report(arguments: argparse.Namespace) -> int:
    """Draw what a run came to; end with the verdict's code."""
    run, out = arguments.run, arguments.out
    history = read_history(run)
    if out is None:
        out = run if run.is_dir() else run.with_suffix("")
    path = run / VERDICT
    verdict = read_verdict(path) if run.is_dir() and path.exists() else judge(history)
    print(write_report(out, history, verdict))
    print(verdict.state)
    return verdict.exit_code


def _edn(arguments: argparse.Namespace) -> int:
    path = arguments.history
    # A file is never held as a whole; a folder may be two files, to be sorted.
    events = read_history(path).events if path.is_dir() else read_events(path)
    for line in to_edn(events):
        print(line)
    return 0


if __name__ == "__main__":
    sys.exit(main())
