"""The table for people and the JSON for machines."""

from __future__ import annotations

import json
import os
import platform
import sys
from dataclasses import asdict
from typing import TYPE_CHECKING

from rich.console import Console
from rich.table import Table

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from bench.measured import GroupReport
    from bench.plan import Plan


def print_table(reports: Sequence[GroupReport]) -> None:
    """Print one table a group."""
    console = Console(width=None if sys.stdout.isatty() else 120)
    for report in reports:
        table = Table(title=f"{report.flush}, bodies of {report.body_size} bytes")
        table.add_column("load", no_wrap=True)
        for name in (
            "messages/s",
            "p50 ms",
            "p99 ms",
            "p99.9 ms",
            "leader\nus",
            "followers\nus",
            "client\nus",
        ):
            table.add_column(name, justify="right")
        for line in report.lines:
            table.add_row(
                line.load,
                f"{line.rate:,.0f}",
                f"{line.p50:.2f}" if line.p50 else "",
                f"{line.p99:.2f}" if line.p99 else "",
                f"{line.p999:.2f}" if line.p999 else "",
                f"{line.leader_cpu_us:.2f}",
                f"{line.followers_cpu_us:.2f}",
                f"{line.client_cpu_us:.2f}",
            )
        console.print(table)
        console.print(
            "us: processor time a message, of the leader, both followers together, and the client"
        )
        console.print(
            f"RSS of the nodes: {_mib(report.rss_before)} MiB before, {_mib(report.rss_after)} "
            f"after; {report.message_count:,} messages acknowledged and there, the logs of "
            f"{report.entry_count:,} entries identical"
        )


def write_json(path: Path, plan: Plan, reports: Sequence[GroupReport]) -> None:
    """Write all figures, with what they were measured on."""
    content = {
        "machine": {
            "processors": os.cpu_count(),
            "system": platform.platform(terse=True),
            "python": platform.python_version(),
            "load_average": os.getloadavg(),
        },
        "rounds": plan.round_count,
        "seconds": plan.seconds,
        "groups": [asdict(report) for report in reports],
    }
    path.write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")


def _mib(sizes: Sequence[int]) -> str:
    return " ".join(f"{size / 1024 / 1024:.0f}" for size in sizes)
