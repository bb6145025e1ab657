"""What pytest knows as soon as the package is installed."""

from __future__ import annotations

import os
import subprocess
import sys
import tomllib
from pathlib import Path

ROOT = Path(__file__).parents[2]

REMEMBERS = """
seen = []

def test_one(broker_server):
    seen.append(broker_server.address)

def test_other(broker_server):
    seen.append(broker_server.address)
    print("addresses", len(set(seen)))
"""


def run_pytest(folder, text, *arguments, ini=""):
    (folder / "test_it.py").write_text(text)
    (folder / "pytest.ini").write_text(f"[pytest]\n{ini}\n")
    return subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-s", "-p", "no:cacheprovider", *arguments],
        capture_output=True,
        text=True,
        timeout=240,
        check=False,
        cwd=folder,
        env=os.environ | {"PYTHONDONTWRITEBYTECODE": "1"},
    )


def test_each_test_has_a_server_of_its_own(tmp_path):
    done = run_pytest(tmp_path, REMEMBERS)
    assert "addresses 2" in done.stdout, done.stdout + done.stderr


def test_a_session_may_share_one(tmp_path):
    done = run_pytest(tmp_path, REMEMBERS, ini="broker_server_scope = session")
    assert "addresses 1" in done.stdout, done.stdout + done.stderr
    done = run_pytest(tmp_path, REMEMBERS, "--broker-server-scope=module")
    assert "addresses 1" in done.stdout, done.stdout + done.stderr


def test_a_scope_that_is_none_is_named(tmp_path):
    done = run_pytest(tmp_path, REMEMBERS, ini="broker_server_scope = always")
    assert "ERROR: broker_server_scope = 'always': use function, class, module" in done.stderr
    assert "INTERNALERROR" not in done.stdout + done.stderr
    assert done.returncode == 4, "pytest's code for wrong usage"


def test_without_pytest_trio_the_server_is_there_all_the_same(tmp_path):
    done = run_pytest(tmp_path, REMEMBERS, "-p", "no:trio")
    assert "2 passed" in done.stdout, done.stdout + done.stderr


def test_the_plugin_costs_nothing_before_it_is_used(tmp_path):
    text = "import sys\ndef test_it():\n    assert 'numpy' not in sys.modules\n"
    done = run_pytest(tmp_path, text)
    assert "1 passed" in done.stdout, done.stdout + done.stderr


def test_what_users_import_is_in_the_package():
    """The wheel has whole folders; these have to be in them."""
    for name in ("py.typed", "testing/plugin.py", "testing/memory_disk.py", "sync/__init__.py"):
        assert (ROOT / "broker" / name).is_file()
    built = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["setuptools"]
    assert built["packages"]["find"] == {"include": ["dledger*", "broker*"]}
    assert "py.typed" in built["package-data"]["*"]
