"""Bodies made smaller by their sender and whole again at the receiver.

Which way is told by the record's system_flag: bit 0 says that the body is compressed, bits 8 to 10
say how.  zlib comes with Python; lz4 and zstd with the extras of their names.

Source: RocketMQ ``MessageSysFlag``, ``CompressionType``, ``Compressor`` and their subclasses:
LZ4 and Zstandard are written as frames, zlib as one stream.
"""

from __future__ import annotations

import importlib
import zlib
from typing import TYPE_CHECKING, Any, Literal, get_args

from broker.client.errors import CorruptBodyError, MissingExtraError
from broker.message.codec import FLAG_COMPRESSED, FLAG_COMPRESSION_MASK

if TYPE_CHECKING:
    from collections.abc import Callable

Compression = Literal["zlib", "lz4", "zstd"]

UNPACKED_SIZE_MAX = 64 * 1024 * 1024  # bytes; a hostile body could grow a thousandfold
# Smaller bodies gain little. Source: RocketMQ ``DefaultMQProducer.compressMsgBodyOverHowmuch``.
THRESHOLD_DEFAULT = 4096  # bytes

LZ4_FLAG, ZSTD_FLAG, ZLIB_FLAG = 0x100, 0x200, 0x300
NAMES = {0: "zlib", ZLIB_FLAG: "zlib", LZ4_FLAG: "lz4", ZSTD_FLAG: "zstd"}
_MODULES = {"lz4": "lz4.frame", "zstd": "zstandard"}
_LEVELS = {"zlib": (5, 0, 9), "lz4": (0, -16, 16), "zstd": (3, -7, 22)}  # default, least, most


def make_compressor(
    name: str, level: int | None
) -> tuple[int, Callable[[bytes | bytearray | memoryview], bytes]]:
    """Return the system_flag of what is compressed by the way *name*, and the function to do it.

    Args:
        name: "zlib", "lz4" or "zstd".
        level: how hard to try; None for 5, 0 and 3.

    Raises:
        ValueError: there is no such way or level.
        MissingExtraError: the package that does it is not installed.
    """
    if name not in get_args(Compression):
        raise ValueError(f'compression = {name!r}: use "zlib", "lz4", "zstd" or None')
    default, least, most = _LEVELS[name]
    if level is None:
        level = default
    if not least <= level <= most:
        raise ValueError(f"compression_level = {level}: {name} has {least} to {most}")
    if name == "zlib":
        return FLAG_COMPRESSED | ZLIB_FLAG, lambda body: zlib.compress(body, level)
    module = _load(name, f"compression={name!r}")
    if name == "lz4":
        return FLAG_COMPRESSED | LZ4_FLAG, lambda body: bytes(
            module.compress(body, compression_level=level)
        )
    compressor = module.ZstdCompressor(level=level)
    return FLAG_COMPRESSED | ZSTD_FLAG, lambda body: bytes(compressor.compress(body))


def unpack(body: bytes, system_flag: int, *, what: str) -> bytes:
    """Return the body as it was before it was compressed.

    Args:
        body: as it is stored.
        system_flag: of its record; says how it was compressed.
        what: names the message in errors.

    Raises:
        CorruptBodyError: it cannot be unpacked, or would be larger than `UNPACKED_SIZE_MAX`.
        MissingExtraError: the package that can is not installed.
    """
    name = NAMES.get(system_flag & FLAG_COMPRESSION_MASK)
    if name is None:
        raise CorruptBodyError(
            f"{what}: compressed in a way nobody knows (system_flag {system_flag:#x})"
        )
    result: bytes | None
    try:
        if name == "zlib":
            result, is_whole = _unpack_zlib(body)
        elif name == "lz4":
            result, is_whole = _unpack_lz4(body, _load(name, what))
        else:
            result, is_whole = _unpack_zstd(body, _load(name, what))
    except (zlib.error, RuntimeError, EOFError, ValueError) as error:
        # What is not zlib.error the other two raise, each its own subclass or just that.
        raise CorruptBodyError(f"{what}: cannot be unpacked ({name}: {error})") from error
    if result is None or len(result) > UNPACKED_SIZE_MAX:
        raise CorruptBodyError(
            f"{what}: {len(body)} bytes of {name} that unpack to more than {UNPACKED_SIZE_MAX}"
        )
    if not is_whole:
        raise CorruptBodyError(f"{what}: {name} that is cut short")
    return result


def _unpack_zlib(body: bytes) -> tuple[bytes, bool]:
    unpacker = zlib.decompressobj()
    result = unpacker.decompress(body, UNPACKED_SIZE_MAX + 1)
    return result, unpacker.eof


def _unpack_lz4(body: bytes, module: Any) -> tuple[bytes, bool]:  # noqa: ANN401 - untyped package
    unpacker = module.LZ4FrameDecompressor()
    result = bytes(unpacker.decompress(body, UNPACKED_SIZE_MAX + 1))
    return result, bool(unpacker.eof)


def _unpack_zstd(body: bytes, module: Any) -> tuple[bytes | None, bool]:  # noqa: ANN401 - untyped package
    # A frame may ask for a window of gigabytes before its first byte.
    unpacker = module.ZstdDecompressor(max_window_size=UNPACKED_SIZE_MAX)
    try:
        size = module.frame_content_size(body)
        if size > UNPACKED_SIZE_MAX:
            return None, True
        with unpacker.stream_reader(body) as reader:
            result = bytes(reader.read(UNPACKED_SIZE_MAX + 1))
    except module.ZstdError as error:
        raise ValueError(str(error)) from error
    # A stream that says its size and has less, or that ends within a frame, is cut short.
    is_whole = size < 0 or len(result) == size
    if size < 0 and len(result) <= UNPACKED_SIZE_MAX:
        checker = unpacker.decompressobj()
        checker.decompress(body)
        is_whole = bool(checker.eof)
    return result, is_whole


def _load(name: str, what: str) -> Any:  # noqa: ANN401 - untyped packages
    try:
        return importlib.import_module(_MODULES[name])
    except ImportError as error:
        raise MissingExtraError(
            f"{what}: {name} needs a package that is not installed: pip install 'dledger[{name}]'"
        ) from error
