"""``dledger log``: prove, compare, measure and show the log of a data folder."""

from __future__ import annotations

from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from broker.cli.log_check import LogMovedError, StoredLog, compare
from broker.cli.log_content import (
    CHANNEL_COMMANDS,
    CHANNEL_RECORDS,
    ContentCheck,
    read_commands,
    read_records,
)
from broker.cli.output import (
    format_bytes,
    join_words,
    json_lines_option,
    json_option,
    plural,
    preview,
    print_json,
)
from broker.errors import CorruptRecordError
from broker.message.batch import ProducerMark
from dledger.entry import EntryKind
from dledger.errors import ConfigError

if TYPE_CHECKING:
    from collections.abc import Iterator

    from broker.cli.log_check import StoredEntry
    from broker.message.model import StoredMessage

_SHOWN_MAX = 10
_TRIES = 3
_FOLDER = click.Path(path_type=Path)


@click.group()
def log() -> None:
    """Prove, compare, measure and show a node's log."""


@log.command()
@click.argument("folder", type=_FOLDER)
@click.option(
    "--against", "others", type=_FOLDER, multiple=True, metavar="DIR",
    help="Hold the bytes of this log against FOLDER's; may be given several times.",
)  # fmt: skip
@json_option
def verify(folder: Path, others: tuple[Path, ...], *, as_json: bool) -> None:
    """Check every byte of the log in FOLDER: lengths, places, checksums, queue offsets.

    FOLDER is a node's data folder or one above it (.dledger/n1). Exit code 1 when something is
    damaged, or differs from a log it is compared with.

    Example: dledger log verify .dledger/n1 --against .dledger/n2
    """
    result = verify_logs(folder, others)
    if as_json:
        print_json(result)
    else:
        for line in describe_result(result):
            print(line)
    if not result["ok"]:
        raise SystemExit(1)


@log.command()
@click.argument("folder", type=_FOLDER)
@click.option("--from", "first_index", default=1, show_default=True, help="First entry to show.")
@click.option("--limit", type=click.IntRange(min=1), help="Show so many entries at most.")
@click.option("--all", "show_all", is_flag=True, help=f"All messages, not {_SHOWN_MAX} an entry.")
@json_lines_option
def dump(
    folder: Path, *, first_index: int, limit: int | None, show_all: bool, as_json: bool
) -> None:
    """Show the entries of the log in FOLDER and what they hold.

    Example: dledger log dump .dledger/n1 --from 100 --limit 5
    """
    stored = StoredLog.open(folder)
    entries = (entry for entry in stored.walk() if entry.header.index >= first_index)
    for entry in islice(entries, limit):
        described = describe_entry(entry)
        if as_json:
            print_json(described)
            continue
        for line in format_entry(described, shown_max=None if show_all else _SHOWN_MAX):
            print(line)


@log.command()
@click.argument("folder", type=_FOLDER)
@json_option
def stat(folder: Path, *, as_json: bool) -> None:
    """Measure the log in FOLDER: files, entries, time span, messages of each topic.

    Example: dledger log stat .dledger/n1
    """
    from broker.cli.log_stat import describe_log, format_stat
    from broker.cli.watching import show_frame

    for _ in range(_TRIES):
        stored = StoredLog.open(folder)
        try:
            found = describe_log(stored)
        except LogMovedError:  # retention went on under our eyes: what is left is there still
            continue
        show_frame((list(format_stat(found)), found), as_json=as_json)
        return
    raise ConfigError(f"{folder}: retention removes what is read; try again when it rests")


def verify_logs(folder: Path, others: tuple[Path, ...] = ()) -> dict[str, Any]:
    """Check the log in *folder*, and *others* against it; ``["ok"]`` is the verdict.

    Raises:
        ConfigError: no log there.
        CorruptStoreError: a log is damaged; names file and entry.
    """
    for _ in range(2):
        try:
            return _verify_once(folder, others)
        except LogMovedError:  # retention went on under our eyes: what is left is there still
            continue
    return _verify_once(folder, others)


def _verify_once(folder: Path, others: tuple[Path, ...]) -> dict[str, Any]:
    stored = StoredLog.open(folder)
    check = ContentCheck()
    for entry in stored.walk():
        check.add(entry)
    comparisons = compare(stored, [(str(other), StoredLog.open(other)) for other in others])
    return {
        "ok": not check.problem_count and not any(item.difference for item in comparisons),
        "folder": str(folder),
        "begin_index": stored.base.index + 1,
        "end_index": stored.end.index,
        "synced_index": stored.synced_index,
        "bytes": stored.end.position - stored.base.position,
        "begin_position": stored.base.position,
        "end_position": stored.end.position,
        "end_reason": stored.end_reason,
        "terms": sorted(check.terms),
        "entries": check.entry_count,
        "no_ops": check.noop_count,
        "messages": check.message_count,
        "commands": check.command_count,
        "queues": len(check.queues),
        "problem_count": check.problem_count,
        "problems": check.problems,
        "against": [
            {
                "folder": item.name,
                "identical_index": item.identical_index,
                "end_index": item.end_index,
                "difference": item.difference,
            }
            for item in comparisons
        ],
    }


def describe_result(result: dict[str, Any]) -> Iterator[str]:
    """Yield the lines that tell a person what `verify_logs` found."""
    if not result["entries"]:
        yield f"{result['folder']}: empty, begins at entry {result['begin_index']}"
    else:
        yield (
            f"{result['folder']}: {plural(result['entries'], 'entry')} "
            f"({result['begin_index']} to {result['end_index']}), "
            f"{format_bytes(result['bytes'])}, {_name_terms(result['terms'])}"
        )
        yield (
            f"  {plural(result['messages'], 'message')} in {plural(result['queues'], 'queue')}, "
            f"{plural(result['commands'], 'metadata command')}, "
            f"{plural(result['no_ops'], 'no-op')}; every entry is whole and in its place"
        )
    for problem in result["problems"]:
        yield f"  wrong: {problem}"
    if result["problem_count"] > len(result["problems"]):
        yield f"  and {plural(result['problem_count'] - len(result['problems']), 'more problem')}"
    for item in result["against"]:
        upto = f"identical to {item['folder']} up to entry {item['identical_index']}"
        if item["difference"]:
            yield f"  differs from {item['folder']}: {item['difference']} ({upto})"
        elif item["end_index"] == result["end_index"]:
            yield f"  {upto}, the last of both"
        elif item["end_index"] > result["end_index"]:
            more = plural(item["end_index"] - result["end_index"], "more entry")
            yield f"  {upto}, the last here; there {more}"
        else:
            more = plural(result["end_index"] - item["end_index"], "more entry")
            yield f"  {upto}, the last there; here {more}"


def _name_terms(terms: list[int]) -> str:
    if len(terms) == 1:
        return f"term {terms[0]}"
    if len(terms) > 2 and terms[-1] - terms[0] == len(terms) - 1:
        return f"terms {terms[0]} to {terms[-1]}"
    return f"terms {join_words([str(term) for term in terms])}"


def describe_entry(entry: StoredEntry) -> dict[str, Any]:
    """Return what *entry* holds, fit for JSON; bodies of messages only as a beginning."""
    header = entry.header
    described: dict[str, Any] = {
        "index": header.index,
        "term": header.term,
        "position": header.position,
        "size": header.size,
        "kind": EntryKind(header.kind).name,
        "channel": header.channel,
        "body_crc": header.body_crc,
        "chain_crc": header.chain_crc,
    }
    if header.kind == EntryKind.NOOP:
        return described
    try:
        if header.channel == CHANNEL_RECORDS:
            described["records"] = [_describe_record(item) for item in read_records(entry)]
        elif header.channel == CHANNEL_COMMANDS:
            described["commands"] = [
                {"kind": kind, "arguments": _plain(arguments)}
                for kind, arguments in read_commands(entry)
            ]
    except CorruptRecordError as error:
        described["problem"] = str(error)
    return described


def format_entry(described: dict[str, Any], *, shown_max: int | None = None) -> Iterator[str]:
    """Yield the lines for one entry as `describe_entry` has it, *shown_max* records of it."""
    yield (
        f"{described['index']:>8}  term {described['term']}  position {described['position']}  "
        f"{described['size']} B  {described['kind']}"
    )
    records = described.get("records", ())
    for record in records[:shown_max]:
        if "producer_id" in record:
            yield (
                f"{'':10}producer {record['producer_id']:x}: {record['record_count']} from "
                f"sequence {record['first_sequence']}, queue {record['queue_id']}"
            )
            continue
        names = "".join(
            f"  {name}={value}" for name, value in record["properties"].items() if value
        )
        yield (
            f"{'':10}{record['topic']}/{record['queue_id']}/{record['queue_offset']}"
            f"{names}  {record['body']}"
        )
    if shown_max is not None and len(records) > shown_max:
        yield f"{'':10}and {len(records) - shown_max:,} more"
    for command in described.get("commands", ()):
        yield f"{'':10}{command['kind']} {command['arguments']}"
    if "problem" in described:
        yield f"{'':10}wrong: {described['problem']}"


def _describe_record(item: ProducerMark | StoredMessage) -> dict[str, Any]:
    if isinstance(item, ProducerMark):
        return item._asdict()
    return {
        "topic": item.topic,
        "queue_id": item.queue_id,
        "queue_offset": item.queue_offset,
        "position": item.position,
        "size": item.size,
        "born_timestamp_ms": item.born_timestamp_ms,
        "store_timestamp_ms": item.store_timestamp_ms,
        "properties": item.properties,
        "body": preview(item.body),
    }


def _plain(value: object) -> object:
    """Return *value* with bytes as hexadecimal, as JSON has none."""
    if isinstance(value, bytes):
        return value.hex()
    if isinstance(value, dict):
        return {str(key): _plain(inner) for key, inner in value.items()}
    if isinstance(value, list):
        return [_plain(inner) for inner in value]
    return value
