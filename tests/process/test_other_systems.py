"""A group whose processes lack what Linux alone has: it works, if not as fast."""

import pytest

from dledger.config import FlushDiskType
from tests.process import kit
from tests.process.kit import ProcessGroup
from tests.process.load import Load

pytestmark = [pytest.mark.process, pytest.mark.slow]

WITHOUT_LINUX = """
import os
for name in ("posix_fallocate", "fdatasync", "pwritev", "pidfd_open"):
    delattr(os, name)
from pathlib import Path
from dledger import machine
machine._PROC_STATUS = machine._BOOT_ID = Path("/nowhere")
from dledger.remoting import tcp_stream
tcp_stream._HAS_SENDMSG = False
from dledger.store import os_calls
assert not os_calls._HAS_PWRITEV and not os_calls._HAS_FDATASYNC
os_calls.FDATASYNC_SEES_MAP = False
"""


@pytest.mark.parametrize("flush", ["SYNC_FLUSH", "ASYNC_FLUSH"])
async def test_a_group_keeps_its_word_without_what_linux_has(tmp_path, monkeypatch, flush):
    monkeypatch.setattr(kit, "_LAUNCH", WITHOUT_LINUX + kit._LAUNCH)
    group = ProcessGroup(tmp_path, flush_disk_type=FlushDiskType(flush))
    async with group, Load(group) as load:
        await load.more(300)
        leader = await group.leader()
        leader.kill()
        await load.more(100)
        leader.start()
        await load.more(100)
        await load.prove()
