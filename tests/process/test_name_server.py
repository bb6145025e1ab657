"""`dledger nameserver` as a process, and real groups that register with it."""

import json
import subprocess
import sys

import pytest

from broker.config import NameserverConfig
from broker.protocol.request_code import RequestCode
from broker.protocol.response_code import ResponseCode
from dledger.remoting.client import open_remoting_client
from dledger.remoting.command import Command, SerializeType
from dledger.remoting.tcp import TcpNetwork
from tests.process.kit import NameServerProcess, ProcessGroup, eventually, free_ports, http_json

pytestmark = [pytest.mark.process, pytest.mark.slow]


async def ask(address, code, fields=None):
    """Ask as RocketMQ's clients do."""
    host, _, port = address.rpartition(":")
    request = Command(code, version=409, ext_fields=fields or {}, serialization=SerializeType.JSON)
    async with open_remoting_client(TcpNetwork(), host, int(port)) as client:
        return await client.request(request, timeout_seconds=10.0)


async def test_groups_register_and_find_it_again_when_it_comes_back(tmp_path):
    async with NameServerProcess(tmp_path / "ns") as server:
        settings = NameserverConfig(addresses=server.address)
        one, other = (
            ProcessGroup(tmp_path / name, count=1, nameserver=settings, group=name, cluster="shop")
            for name in ("one", "other")
        )
        async with one, other:
            await server.until_registered(2)
            for group in (one, other):
                topic = {"topic": "t", "readQueueNums": 2, "writeQueueNums": 2}
                answer = await ask(group["n1"].address, RequestCode.UPDATE_AND_CREATE_TOPIC, topic)
                assert answer.code == ResponseCode.SUCCESS

            async def both():
                answer = await ask(
                    server.address, RequestCode.GET_ROUTEINFO_BY_TOPIC, {"topic": "t"}
                )
                if answer.code != ResponseCode.SUCCESS:
                    return False
                names = [
                    broker["brokerName"] for broker in json.loads(bytes(answer.body))["brokerDatas"]
                ]
                return names == ["one", "one-n1", "other", "other-n1"]

            await eventually("the route has both groups", both)
            item = {"namespace": "ns", "key": "k", "value": "v"}
            assert (await ask(server.address, RequestCode.PUT_KV_CONFIG, item)).code == 0
            assert await server.terminate() == 0
            await server.start()
            await server.until_registered(2)
            await eventually("the route has both groups again", both)
            answer = await ask(server.address, RequestCode.GET_KV_CONFIG, item)
            assert answer.ext_fields == {"value": "v"}

            await other["n1"].terminate()
            await server.until_registered(1)
            assert (await http_json(server.metrics_port, "/healthz")) == {"alive": True}
        assert "registered with the name server" in one["n1"].log
        assert "is gone: it has unregistered" in server.log


@pytest.mark.parametrize(
    ("text", "named"),
    [
        ("[nameserver]\nprot = 1\ndata_folder = 'd'", "did you mean port?"),
        ("[nameserver]\nport = 99999\ndata_folder = 'd'", "port = 99999"),
        ("[nameserver]\nport = 9876", "data_folder is missing"),
        ("[node]\ngroup = 'g'", "node: unknown key"),
        ("[nameserver", "not valid TOML"),
        (None, "no such file"),
    ],
)
def test_a_wrong_file_is_told_in_a_line(tmp_path, text, named):
    path = tmp_path / "nameserver.toml"
    if text is not None:
        path.write_text(text)
    found = run("-c", path)

    assert found.returncode == 1
    assert found.stderr.count("\n") == 1
    assert named in found.stderr
    assert "nameserver.toml" in found.stderr


async def test_a_port_or_folder_that_another_has_is_told_in_a_line(tmp_path):
    async with NameServerProcess(tmp_path / "ns") as server:
        port = run("--port", server.port, "--data", tmp_path / "another")
        folder = run("--port", *free_ports(1), "--data", server.folder / "data")

    assert port.returncode == folder.returncode == 1
    assert str(server.port) in port.stderr.splitlines()[-1]
    assert "Traceback" not in port.stderr + folder.stderr
    assert str(server.folder / "data") in folder.stderr.splitlines()[-1]


def run(*options):
    return subprocess.run(
        [sys.executable, "-m", "broker.cli.main", "nameserver", *map(str, options)],
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
    )
