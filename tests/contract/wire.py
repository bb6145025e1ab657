"""RocketMQ's two ways to write a header, done by hand: nothing of ours reads or writes them."""

from __future__ import annotations

import json
import struct
from typing import Any

import trio

SECONDS = 40.0  # virtual
LANGUAGES = ["JAVA", "CPP", "DOTNET", "PYTHON", "DELPHI", "ERLANG", "RUBY", "OTHER", "HTTP", "GO"]


def write_json(header: dict[str, Any], body: bytes) -> bytes:
    """Return a frame with a JSON header, every key as given."""
    head = json.dumps(header).encode()
    return struct.pack(">II", 4 + len(head) + len(body), len(head)) + head + body


def write_binary(header: dict[str, Any], body: bytes) -> bytes:
    """Return a frame with a ROCKETMQ header of the same fields."""
    ext = b""
    for key, value in (header.get("extFields") or {}).items():
        text = str(value).encode()
        ext += struct.pack(">h", len(key)) + key.encode() + struct.pack(">i", len(text)) + text
    language = header["language"]
    head = struct.pack(
        ">HBHii",
        header["code"],
        LANGUAGES.index(language) if isinstance(language, str) else language,
        header["version"],
        header["opaque"],
        header["flag"],
    )
    head += struct.pack(">i", 0) + struct.pack(">i", len(ext)) + ext
    return struct.pack(">II", 4 + len(head) + len(body), 1 << 24 | len(head)) + head + body


def read(frame: bytes) -> tuple[str, dict[str, Any], bytes, bytes]:
    """Return how a frame's header is written, its fields, its raw bytes and the body."""
    (word,) = struct.unpack_from(">I", frame)
    size = word & 0xFFFFFF
    raw, body = frame[4 : 4 + size], frame[4 + size :]
    if word >> 24 == 0:
        return "JSON", json.loads(raw), raw, body
    assert word >> 24 == 1, word
    code, language, version, opaque, flag, length = struct.unpack_from(">HBHiii", raw)
    at = 17 + length
    remark = raw[17:at].decode()
    (rest,) = struct.unpack_from(">i", raw, at)
    at += 4
    assert at + rest == len(raw)
    ext = {}
    while at < len(raw):
        (size,) = struct.unpack_from(">h", raw, at)
        key = raw[at + 2 : at + 2 + size].decode()
        at += 2 + size
        (size,) = struct.unpack_from(">i", raw, at)
        ext[key] = raw[at + 4 : at + 4 + size].decode()
        at += 4 + size
    header = {
        "code": code,
        "language": language,
        "version": version,
        "opaque": opaque,
        "flag": flag,
        "remark": remark,
        "extFields": ext,
    }
    return "ROCKETMQ", header, raw, body


class Answer:
    """What came back, and how."""

    def __init__(self, frame: bytes) -> None:
        self.form, self.header, self.raw, self.body = read(frame)
        self.code = self.header["code"]
        self.ext = self.header.get("extFields") or {}
        self.remark = self.header.get("remark") or ""


class StockConnection:
    """One connection of a client of RocketMQ's."""

    def __init__(self, stream: Any, form: str = "JSON") -> None:
        self.stream = stream
        self.form = form
        self.language: Any = "CPP"
        self.version = 63
        self.answers: dict[int, Answer] = {}
        self.pushed: list[Answer] = []
        self.opaque = 0
        self.has_ended = False  # by the other end
        self.changed = trio.Event()

    async def listen(self) -> None:
        rest = b""
        while data := await self.stream.receive_some():
            rest += data
            while len(rest) >= 4 and len(rest) >= 4 + (size := struct.unpack_from(">I", rest)[0]):
                found, rest = Answer(rest[4 : 4 + size]), rest[4 + size :]
                if found.header["flag"] & 1:
                    self.answers[found.header["opaque"]] = found
                else:
                    self.pushed.append(found)
                self.changed.set()
        self.has_ended = True

    def send(
        self, code: int, ext: Any = None, body: bytes = b"", *, flag: int = 0, **more: Any
    ) -> int:
        """Send a request; return its opaque."""
        self.opaque += 1
        header = {
            "code": int(code),
            "extFields": ext,
            "flag": flag,
            "language": self.language,
            "opaque": self.opaque,
            "version": self.version,
            **more,
        }
        write = write_json if self.form == "JSON" else write_binary
        assert not self.stream.send_now([write(header, body)]), "it fits"
        return self.opaque

    async def answer(self, opaque: int, seconds: float = SECONDS) -> Answer | None:
        """Wait for the answer to a request; None: there was none."""
        with trio.move_on_after(seconds):
            while opaque not in self.answers:
                self.changed = trio.Event()
                await self.changed.wait()
        return self.answers.get(opaque)

    async def ask(self, code: int, ext: Any = None, body: bytes = b"", **more: Any) -> Answer:
        """Send a request and return its answer."""
        found = await self.answer(self.send(code, ext, body, **more))
        assert found is not None, f"no answer to {code} {ext}"
        return found
