"""The files in examples/deploy: read by what reads them, and the commands in them run."""

import json
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import click
import pytest
import trio

from broker.cli.main import cli
from broker.config_file import load_config
from tests.process.kit import ProcessGroup

ROOT = Path(__file__).parents[2]
DEPLOY = ROOT / "examples" / "deploy"
SERVICE = (DEPLOY / "dledger.service").read_text()
CONTAINERFILE = (DEPLOY / "Containerfile").read_text().replace("\\\n", " ")
COMPOSE = (DEPLOY / "compose.yaml").read_text()


def directive(name):
    """The JSON array behind a directive of the Containerfile."""
    (found,) = re.findall(rf"^{name} .*?(\[.*\])$", CONTAINERFILE, re.MULTILINE)
    return json.loads(found)


def parse(words):
    """Have click read a command's words, as it would be run."""
    command, context = cli, click.Context(cli)
    while isinstance(command, click.Group):
        command, words = command.get_command(context, words[0]), words[1:]
        assert command is not None
        context = click.Context(command)
    command.parse_args(context, words)


@pytest.mark.parametrize("node_id", ["n1", "n2", "n3"])
def test_the_settings_are_those_of_a_group_on_three_machines(tmp_path, node_id):
    path = tmp_path / "node.toml"
    text = (DEPLOY / "node.toml").read_text()
    path.write_text(text.replace('node_id = "n1"', f'node_id = "{node_id}"', 1))

    config = load_config(path)

    assert config.node_id == node_id
    assert len(config.members) == 3
    assert not config.warnings()
    assert config.data_folder.startswith("/var/lib/dledger/")  # StateDirectory, VOLUME


def test_the_unit_is_one(tmp_path):
    """By systemd's own checker where there is one; by its form alone elsewhere."""
    assert re.findall(r"^\[(\w+)\]$", SERVICE, re.MULTILINE) == ["Unit", "Service", "Install"]
    for line in SERVICE.splitlines():
        assert re.fullmatch(r"(#.*|\[\w+\]|[A-Z]\w+=\S.*)?", line), line
    if shutil.which("systemd-analyze") is None:
        return
    unit = tmp_path / "dledger.service"
    assert "/opt/dledger/bin/dledger" in SERVICE
    unit.write_text(SERVICE.replace("/opt/dledger/bin/dledger", sys.executable))

    done = subprocess.run(
        ["systemd-analyze", "verify", str(unit)], capture_output=True, text=True, check=False
    )

    assert (done.returncode, done.stderr) == (0, "")


def test_the_unit_starts_and_stops_a_node_as_it_wants():
    (start,) = re.findall(r"^ExecStart=(.+)$", SERVICE, re.MULTILINE)
    words = shlex.split(start)
    assert words[0] == "/opt/dledger/bin/dledger"
    parse(words[1:])
    assert re.search(r"^KillSignal=SIGTERM$", SERVICE, re.MULTILINE)
    assert re.search(r"^ExecReload=/bin/kill -HUP \$MAINPID$", SERVICE, re.MULTILINE)


def test_the_container_is_built_of_what_is_there():
    sources = [
        word
        for line in re.findall(r"^COPY (?!--from)(.+)$", CONTAINERFILE, re.MULTILINE)
        for word in line.split()[:-1]
    ]
    assert {"dledger", "broker", "pyproject.toml"} <= set(sources)
    for source in sources:
        assert (ROOT / source).exists(), source
    assert directive("ENTRYPOINT") == ["dledger"]
    parse(directive("CMD"))


@pytest.mark.parametrize("node_id", ["n1", "n2", "n3"])
def test_each_node_of_the_compose_file_has_its_settings(tmp_path, node_id):
    (content,) = re.findall(r"    content: \|\n((?:      .*\n)+)", COMPOSE)
    template, made = tmp_path / "template.toml", tmp_path / "node.toml"
    template.write_text(re.sub(r"^ {6}", "", content, flags=re.MULTILINE))
    command = re.search(r"^    - (sed .*\n      exec .*)$", COMPOSE, re.MULTILINE)[1]
    command = " ".join(command.split()).replace("$$", "$")
    fill, _, start = command.partition(" && exec ")
    fill = fill.replace("/etc/dledger/node.toml", str(template))
    fill = fill.replace("/tmp/node.toml", str(made))

    subprocess.run(
        ["sh", "-c", fill], env={"HOSTNAME": node_id, "PATH": "/usr/bin:/bin"}, check=True
    )

    config = load_config(made)
    assert config.node_id == node_id
    assert [member.host for member in config.members] == ["n1", "n2", "n3"]
    assert not config.warnings()
    assert re.search(rf"^  {node_id}:\n    <<: \*node\n    hostname: {node_id}$", COMPOSE, re.M)
    parse(shlex.split(start)[1:])


@pytest.mark.process
@pytest.mark.slow
async def test_the_health_check_of_the_container_tells_a_node_that_lives(tmp_path):
    (check,) = re.findall(r"^HEALTHCHECK .*CMD (\[.*\])$", CONTAINERFILE, re.MULTILINE)
    async with ProcessGroup(tmp_path, count=1) as group:
        (node,) = group
        assert ":5557/" in check
        _, *words = json.loads(check.replace(":5557/", f":{node.config.metrics.port}/"))

        async def code():
            done = await trio.run_process(
                [sys.executable, *words], check=False, capture_stderr=True
            )
            return done.returncode

        assert await code() == 0
        node.kill()
        assert await code() == 1
