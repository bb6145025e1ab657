"""RocketMQ's own clients, installed once each into environments of their own.

Kept between runs outside of the repository: ``INTEROP_CACHE``, or a folder in the user's cache.
Every function here returns why a client cannot be had, "" when it can.
"""

from __future__ import annotations

import functools
import hashlib
import os
import shutil
import subprocess
import sys
import tarfile
from pathlib import Path
from typing import Any

SCRIPTS = Path(__file__).parent / "scripts"
CACHE = Path(
    os.environ.get("INTEROP_CACHE")
    or Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "dledger-interop"
)
STOCK_PACKAGE = "rocketmq==0.4.4"
RCP_PACKAGE = "rocketmq-client-python==2.0.0"
RCP_LIBRARY_PACKAGE = "rocketmq-python-cvs==2.1.0.3"  # brings the library that the former lacks
NODE_PACKAGES = ("ali-ons@3.12.0", "urllib@2")
JAVA_VERSION = "4.9.8"
INSTALL_SECONDS = 240.0

STOCK_PYTHON = CACHE / "stock" / "bin" / "python"
RCP_PYTHON = CACHE / "rcp" / "bin" / "python"
NODE_MODULES = CACHE / "node" / "node_modules"
_JARS = CACHE / "java" / "jars"
_PROJECT = f"""<project>
  <modelVersion>4.0.0</modelVersion>
  <groupId>interop</groupId><artifactId>interop</artifactId><version>1</version>
  <dependencies><dependency>
    <groupId>org.apache.rocketmq</groupId><artifactId>rocketmq-client</artifactId>
    <version>{JAVA_VERSION}</version>
  </dependency></dependencies>
</project>
"""


@functools.cache
def why_no_stock() -> str:
    """Install PyPI's rocketmq."""
    stamp = CACHE / "stock" / STOCK_PACKAGE
    if stamp.exists():
        return ""
    made = _other_machine() or _run([sys.executable, "-m", "venv", "--clear", CACHE / "stock"])
    made = made or _run([STOCK_PYTHON, "-m", "pip", "install", "--quiet", STOCK_PACKAGE])
    return made or _stamp(stamp)


@functools.cache
def why_no_rcp() -> str:
    """Install PyPI's rocketmq-client-python, and copy in the library that it lacks."""
    folder = CACHE / "rcp"
    stamp = folder / RCP_PACKAGE
    if stamp.exists():
        return ""
    made = _other_machine() or _run([sys.executable, "-m", "venv", "--clear", folder])
    pip = [RCP_PYTHON, "-m", "pip"]
    made = made or _run([*pip, "install", "--quiet", RCP_PACKAGE])
    source = ["--no-deps", "--no-binary", ":all:", "--dest", folder / "source"]
    made = made or _run([*pip, "download", "--quiet", *source, RCP_LIBRARY_PACKAGE])
    if made:
        return made
    (packed,) = (folder / "source").glob("*.tar.gz")
    (package,) = (folder / "lib").glob("python*/site-packages/rocketmq")
    with tarfile.open(packed) as members:
        (name,) = [name for name in members.getnames() if name.endswith("/librocketmq.so")]
        library = members.extractfile(name)
        assert library is not None
        (package / "librocketmq.so").write_bytes(library.read())
    return _run([RCP_PYTHON, "-c", "import rocketmq.client"]) or _stamp(stamp)


@functools.cache
def why_no_ali() -> str:
    """Install npm's ali-ons."""
    stamp = CACHE / "node" / "-".join(NODE_PACKAGES)
    if stamp.exists():
        return ""
    if shutil.which("node") is None or shutil.which("npm") is None:
        return "node and npm are not installed"
    stamp.parent.mkdir(parents=True, exist_ok=True)
    (stamp.parent / "package.json").write_text('{"private": true}')
    words = ["npm", "install", "--no-audit", "--no-fund", "--silent", *NODE_PACKAGES]
    return _run(words, stamp.parent) or _stamp(stamp)


@functools.cache
def why_no_java() -> str:
    """Fetch the Java client from Maven Central, and compile our program against it."""
    missing = [name for name in ("java", "javac", "mvn") if shutil.which(name) is None]
    if missing:
        return f"{' and '.join(missing)} not installed"
    stamp = CACHE / "java" / f"rocketmq-client-{JAVA_VERSION}"
    if not stamp.exists():
        _JARS.mkdir(parents=True, exist_ok=True)
        (stamp.parent / "pom.xml").write_text(_PROJECT)
        words = ["mvn", "-B", "-q", "dependency:copy-dependencies"]
        words += [f"-DoutputDirectory={_JARS}", "-DincludeScope=runtime"]
        failed = _run(words, stamp.parent) or _stamp(stamp)
        if failed:
            return failed
    classes = _classes()
    if not classes.exists():
        made = classes.with_suffix(f".{os.getpid()}")
        words = ["javac", "-nowarn", "-cp", f"{_JARS}/*", "-d", str(made)]
        failed = _run([*words, SCRIPTS / "Interop.java"])
        if failed:
            return failed
        made.rename(classes)
    return ""


def java_class_path() -> str:
    """Return where java finds our program and the client."""
    return f"{_classes()}:{_JARS}/*"


def _classes() -> Path:
    """Return the folder of our program's classes: another for another text."""
    text = (SCRIPTS / "Interop.java").read_bytes()
    return CACHE / "java" / f"classes-{hashlib.sha256(text).hexdigest()[:12]}"


def _other_machine() -> str:
    if sys.platform != "linux" or os.uname().machine != "x86_64":
        return "it brings a library for Linux on x86_64 only"
    return ""


def _stamp(stamp: Path) -> str:
    stamp.touch()
    return ""


def _run(command: list[Any], folder: Path | None = None) -> str:
    """Run an installer; return why it failed, "" when it has not."""
    words = [str(word) for word in command]
    try:
        done = subprocess.run(
            words,
            cwd=folder,
            capture_output=True,
            text=True,
            timeout=INSTALL_SECONDS,
            check=False,
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        return f"{' '.join(words)}: {error}"
    if done.returncode:
        said = (done.stderr or done.stdout).strip().splitlines()
        return f"{' '.join(words)}: {said[-1] if said else done.returncode}"
    return ""
