"""A benchmark that is killed leaves no process behind."""

import os

from tests.fakes import children

BENCHMARK = """
import random, signal, sys
from pathlib import Path
from bench.failover import FailoverBench
from bench.group import BenchGroup
from bench.peers.servers import Servers
from broker.cli.local_group import GroupPlan, LocalGroup
from dledger.config import FlushDiskType

folder, server = Path(sys.argv[1]), [sys.executable, "-c", sys.argv[2], sys.argv[3]]
local = LocalGroup.find_or_create(folder / "failover", GroupPlan(base_port=5000))
first = BenchGroup(folder / "group", flush=FlushDiskType.SYNC_FLUSH, segment_size=1 << 20)
for node in [*first.nodes, *FailoverBench(local, None, random.Random()).group.nodes]:
    node.command = server
    node.start()
Servers(folder / "peers").start("one", server)
signal.pause()
"""
# Says that it is there, and holds the pipe for as long as it lives.
SERVER = """
import os, signal, sys
os.write(os.open(sys.argv[1], os.O_WRONLY), b"x")
signal.pause()
"""


def test_the_servers_of_a_killed_benchmark_are_gone_with_it(tmp_path):
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    with (
        children.child("-c", BENCHMARK, tmp_path, SERVER, pipe) as benchmark,
        pipe.open("rb") as told,
    ):
        assert told.read(3 + 3 + 1) == b"x" * 7

        benchmark.kill()

        assert told.read() == b""  # that is: none of them lives
