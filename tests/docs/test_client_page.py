"""The examples of docs/client.md and of the client's docstrings, against a real node."""

from __future__ import annotations

import doctest
import importlib
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
import trio
import trio.testing

import broker
import broker.client.errors
import broker.errors
from broker.testing import BrokerServer

PAGE = Path(__file__).parents[2] / "docs" / "client.md"
BLOCKS = re.findall(r"^```python\n(.*?)^```", PAGE.read_text(), re.MULTILINE | re.DOTALL)
ADDRESS = "127.0.0.1:9876"
DOCTESTS = [
    "broker.client.connect",
    "broker.client.consumer",
    "broker.client.latency",
    "broker.client.producer",
    "broker.client.send_many",
    "broker.message.tags",
    "broker.sync",
    "broker.testing.server",
    "broker.testing.virtual",
]


@pytest.fixture(scope="module")
def server():
    with BrokerServer() as found:
        yield found


def test_every_example_of_the_page_runs(server):
    """One after another in one namespace, as a reader would type them."""
    namespace: dict[str, object] = {"__name__": "example"}
    tests = 0
    for number, block in enumerate(BLOCKS):
        text = block.replace(ADDRESS, server.address)
        if "def test_" in text:
            tests += 1
            continue
        exec(compile(text, f"{PAGE.name} block {number}", "exec"), namespace)
    assert tests == 1
    assert len(BLOCKS) > 10


def test_the_tests_of_the_page_run_with_the_plugin(tmp_path):
    (text,) = [block for block in BLOCKS if "def test_" in block]
    (tmp_path / "test_page.py").write_text(text)
    (tmp_path / "pytest.ini").write_text("[pytest]\ntrio_mode = true\n")
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", str(tmp_path)],
        capture_output=True,
        text=True,
        timeout=240,
        check=False,
        cwd=tmp_path,
        env=os.environ | {"PYTHONDONTWRITEBYTECODE": "1"},
    )
    assert "2 passed" in done.stdout, done.stdout + done.stderr


@pytest.mark.parametrize("name", DOCTESTS)
def test_docstrings_run(server, name, capsys):
    module = importlib.import_module(name)
    finder = doctest.DocTestFinder(exclude_empty=True)
    runner = doctest.DocTestRunner(optionflags=doctest.ELLIPSIS)
    names = {"broker": broker, "trio": trio}
    found = [test for test in finder.find(module, extraglobs=names) if test.examples]
    for test in found:
        for example in test.examples:
            if "connect(" in example.source:
                example.source = example.source.replace(ADDRESS, server.address)
        runner.run(test)
    assert found, f"{name} has no example"
    assert not runner.failures, capsys.readouterr().out


def test_the_table_of_errors_has_them_all():
    section = PAGE.read_text().partition("## Errors")[2].partition("\n## ")[0]
    told = set(re.findall(r"^\| ([^|]+) \|", section, re.MULTILINE))
    names = {name for cell in told for name in re.findall(r"`(\w+)`", cell)}
    public = {
        name
        for name in broker.__all__
        if isinstance(getattr(broker, name), type)
        and issubclass(getattr(broker, name), BaseException)
    }
    assert names == public - {"BrokerError", "ClientError"}


def test_the_package_says_that_it_is_typed():
    folder = Path(broker.__file__).parent
    assert (folder / "py.typed").exists()
