"""Captured requests, sent byte by byte, and what comes back, read without any code of ours."""

import json
import struct
from pathlib import Path

import trio

FOLDER = Path(__file__).parent / "conversations"
CAPTURED_MS = 1_795_346_800_000  # some of them ask for a delivery at a certain time


def rows_of(path):
    return [json.loads(line) for line in path.read_text().splitlines()]


class Connection:
    """One connection of a client: bytes out, bytes in."""

    def __init__(self, stream):
        self.stream = stream
        self.answers = {}
        self.asked_of_it = []
        self.opaque = 0
        self.changed = trio.Event()

    async def listen(self):
        rest = b""
        while data := await self.stream.receive_some():
            rest += data
            while len(rest) >= 4 and len(rest) >= 4 + (size := struct.unpack_from(">I", rest)[0]):
                frame, rest = rest[4 : 4 + size], rest[4 + size :]
                (head,) = struct.unpack_from(">I", frame)
                assert head >> 24 == 0, "JSON is answered with JSON"
                header = json.loads(frame[4 : 4 + (head & 0xFFFFFF)])
                if header["flag"] & 1:
                    self.answers[header["opaque"]] = header, frame[4 + (head & 0xFFFFFF) :]
                else:
                    self.asked_of_it.append(header)
                self.changed.set()

    def send(self, row):
        self.opaque += 1
        header = {
            "code": row["code"],
            "extFields": row["ext"],
            "flag": row["flag"],
            "language": row["language"],
            "opaque": self.opaque,
            "remark": row["remark"],
            "serializeTypeCurrentRPC": "JSON",
            "version": row["version"],
        }
        head = json.dumps({k: v for k, v in header.items() if v is not None}).encode()
        body = row["body"].encode("latin-1")
        frame = struct.pack(">II", 4 + len(head) + len(body), len(head)) + head + body
        assert not self.stream.send_now([frame]), "it fits"
        return self.opaque

    async def answer(self, opaque, seconds):
        with trio.move_on_after(seconds):
            while opaque not in self.answers:
                self.changed = trio.Event()
                await self.changed.wait()
        return self.answers.get(opaque)
