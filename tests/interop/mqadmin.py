"""RocketMQ's mqadmin, fetched from Maven Central and run in one JVM for all commands.

Kept between runs outside of the repository, as the other clients are.
"""

from __future__ import annotations

import functools
import json
import os
import select
import shutil
import subprocess
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable

VERSION = "4.9.8"
PROGRAM = Path(__file__).parent / "scripts" / "MqAdmin.java"
CACHE = Path(
    os.environ.get("INTEROP_CACHE")
    or Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "dledger-interop"
)
FETCH_SECONDS = 240.0
SECONDS = 60.0  # for one command, and for what has to come true of a consumer

_JARS = CACHE / "mqadmin" / "jars"
_PROJECT = f"""<project>
  <modelVersion>4.0.0</modelVersion>
  <groupId>interop</groupId><artifactId>mqadmin</artifactId><version>1</version>
  <dependencies><dependency>
    <groupId>org.apache.rocketmq</groupId><artifactId>rocketmq-tools</artifactId>
    <version>{VERSION}</version>
  </dependency></dependencies>
</project>
"""
_ANSWER = "@@ "


@functools.cache
def why_not() -> str:
    """Fetch mqadmin; return why it cannot be had, "" when it can."""
    missing = [name for name in ("java", "javac", "mvn") if shutil.which(name) is None]
    if missing:
        return f"{' and '.join(missing)} not installed"
    stamp = CACHE / "mqadmin" / f"rocketmq-tools-{VERSION}"
    if stamp.exists():
        return ""
    _JARS.mkdir(parents=True, exist_ok=True)
    (stamp.parent / "pom.xml").write_text(_PROJECT)
    words = ["mvn", "-B", "-q", "dependency:copy-dependencies", f"-DoutputDirectory={_JARS}"]
    try:
        done = subprocess.run(
            words, cwd=stamp.parent, capture_output=True, text=True, timeout=FETCH_SECONDS,
            check=False,
        )  # fmt: skip
    except (OSError, subprocess.TimeoutExpired) as error:
        return f"{' '.join(words)}: {error}"
    if done.returncode:
        said = (done.stdout or done.stderr).strip().splitlines()
        return f"{' '.join(words)}: {said[0] if said else done.returncode}"
    stamp.touch()
    return ""


class MqAdmin:
    """A JVM with mqadmin and RocketMQ's Java clients in it."""

    def __init__(self, servers: str, home: Path) -> None:
        """Start it.

        Args:
            servers: name servers, ``host:port`` with semicolons between.
            home: where it may write.
        """
        (home / "conf").mkdir(parents=True)
        (home / "conf" / "logback_tools.xml").write_text(
            '<configuration><root level="OFF"/></configuration>'
        )
        self._rest = b""
        self.noise: list[str] = []
        self._process = subprocess.Popen(
            [
                "java", "-XX:TieredStopAtLevel=1", "-XX:+UseSerialGC", "-Xmx256m",
                f"-Drocketmq.home.dir={home}", f"-Duser.home={home}",
                "-Drocketmq.client.logUseSlf4j=true",
                "-cp", f"{_JARS}/*", str(PROGRAM), servers,
            ],
            cwd=home,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            env={"PATH": os.environ["PATH"], "NAMESRV_ADDR": servers},
        )  # fmt: skip
        self._read()

    def run(self, *words: str) -> str:
        """Run a command of mqadmin; return what it prints."""
        printed = self._do("mqadmin", *words)["printed"]
        assert isinstance(printed, str)
        return printed

    def ok(self, *words: str) -> str:
        """Run a command that has to succeed."""
        printed = self.run(*words)
        for sign in ("Exception", "[error]", "CODE: "):
            assert sign not in printed, f"{' '.join(words)}\n{printed}"
        return printed

    def consume(self, group: str, topic: str) -> None:
        """Start a push consumer, from the first message on."""
        self._do("consume", group, topic)

    def consumed(self, group: str) -> list[str]:
        """Return the bodies that a consumer has been given so far."""
        return list(self._told("consumed", group))

    def produce(self, group: str, topic: str, body: str, *, tag: str, key: str) -> dict[str, Any]:
        """Send a message; return what its sender is told."""
        return dict(self._told("produce", group, topic, body, tag, key))

    def stop(self, group: str) -> None:
        """Shut the consumer or the producer of a group down."""
        self._do("stop", group)

    def until(self, what: str, holds: Callable[[], object], *, seconds: float = SECONDS) -> Any:
        """Wait until something is true; return what it came to."""
        end = time.perf_counter() + seconds
        while time.perf_counter() < end:
            if found := holds():
                return found
            time.sleep(0.1)
        raise AssertionError(f"not within {seconds:g} s: {what}")

    def close(self) -> None:
        """End the JVM."""
        assert self._process.stdin is not None
        self._process.stdin.close()
        try:
            self._process.wait(5.0)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        assert self._process.stdout is not None
        self._process.stdout.close()

    def _told(self, *words: str) -> Any:
        found = self._do(*words)
        assert not found["printed"], found["printed"]
        return found["told"]

    def _do(self, *words: str) -> dict[str, Any]:
        assert self._process.stdin is not None
        self._process.stdin.write(json.dumps(words).encode() + b"\n")
        self._process.stdin.flush()
        return self._read()

    def _read(self) -> dict[str, Any]:
        assert self._process.stdout is not None
        output = self._process.stdout.fileno()
        while True:
            line, newline, rest = self._rest.partition(b"\n")
            if newline:
                self._rest = rest
                text = line.decode(errors="replace")
                if text.startswith(_ANSWER):
                    return dict(json.loads(text.removeprefix(_ANSWER)))
                self.noise.append(text)
                continue
            ready, _, _ = select.select([output], [], [], SECONDS)
            data = os.read(output, 1 << 16) if ready else b""
            assert data, "the JVM says nothing; it told\n" + "\n".join(self.noise[-20:])
            self._rest += data
