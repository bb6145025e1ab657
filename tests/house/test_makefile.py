"""What the Makefile sees to before any of its targets."""

import os
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]


def make(*arguments, **environment):
    return subprocess.run(
        ["make", *arguments],
        cwd=ROOT,
        env={name: value for name, value in os.environ.items() if not name.startswith("MAKE")}
        | environment,
        capture_output=True,
        text=True,
        check=False,
    )


def environment_of(folder, told):
    """Return an environment whose Python says that it is *told*."""
    python = folder / "bin" / "python"
    python.parent.mkdir()
    python.write_text(f"#!/bin/sh\necho '{told}'\n", encoding="utf-8")
    python.chmod(0o755)
    return f"VENV={folder}"


def test_a_python_that_the_environment_was_not_made_with_is_refused(tmp_path):
    venv = environment_of(tmp_path, f"{sys.version.splitlines()[0]} of elsewhere")

    done = make(f"PYTHON={sys.executable}", venv, "help")

    assert done.returncode == 2
    assert f"{tmp_path} was made with another Python than {sys.executable}" in done.stderr


def test_the_python_that_it_was_made_with_is_taken(tmp_path):
    venv = environment_of(tmp_path, f"{sys.version} {sys.base_prefix}".replace("\n", " "))

    assert make(f"PYTHON={sys.executable}", venv, "help").returncode == 0


def test_processes_that_it_starts_keep_what_they_compile():
    show = '--eval=show: ; @echo "<$$PYTHONDONTWRITEBYTECODE>"'

    assert make(show, "show", PYTHONDONTWRITEBYTECODE="1").stdout == "<>\n"
