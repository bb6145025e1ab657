"""What every part of the house has to have, whoever adds it."""

from __future__ import annotations

import ast
import dataclasses
import re
import subprocess
from pathlib import Path

import pytest

from broker.handlers.broker_info import BrokerInfoHandlers
from broker.handlers.client_admin import ClientAdminHandlers
from broker.handlers.clients import ClientHandlers
from broker.handlers.consumer_groups import ConsumerGroupHandlers
from broker.handlers.forward import FORWARDED
from broker.handlers.group import GroupHandlers
from broker.handlers.group_offsets import GroupOffsetHandlers
from broker.handlers.locks import LockHandlers
from broker.handlers.lookup import LookupHandlers
from broker.handlers.offset_reset import OffsetResetHandlers
from broker.handlers.offsets import OffsetHandlers
from broker.handlers.pull import PullHandlers
from broker.handlers.query import QueryHandlers
from broker.handlers.registry import _HANDLES
from broker.handlers.send import SendHandlers
from broker.handlers.send_back import SendBackHandlers
from broker.handlers.topic_state import TopicStateHandlers
from broker.handlers.topics import TopicHandlers
from broker.nameserver.handlers import NameHandlers, SystemTopicHandlers
from broker.nameserver.registering import RegistrationHandlers
from broker.nameserver.settings import NameSettings
from broker.protocol import admin_headers, headers, name_headers, send_headers
from broker.protocol.request_code import RequestCode
from broker.protocol.response_code import ResponseCode
from dledger.protocol import PeerCode
from tests.fakes.request_headers import REQUEST_HEADERS

ROOT = Path(__file__).resolve().parents[2]
FAMILIES = [
    BrokerInfoHandlers,
    ClientAdminHandlers,
    ClientHandlers,
    GroupHandlers,
    GroupOffsetHandlers,
    LockHandlers,
    LookupHandlers,
    ConsumerGroupHandlers,
    NameHandlers,
    NameSettings,
    OffsetHandlers,
    OffsetResetHandlers,
    PullHandlers,
    QueryHandlers,
    RegistrationHandlers,
    SendBackHandlers,
    SendHandlers,
    SystemTopicHandlers,
    TopicHandlers,
    TopicStateHandlers,
]
PACKAGES = ("dledger", "broker")
# Requests with a number and no handler yet: a client is told that they are not supported.
NOT_YET: set[RequestCode] = set()
# Requests without fields.
WITHOUT_HEADER = {
    RequestCode.GET_ALL_TOPIC_CONFIG,
    RequestCode.GET_ALL_TOPIC_LIST_FROM_NAMESERVER,
    RequestCode.GET_BROKER_CLUSTER_INFO,
    RequestCode.UPDATE_BROKER_CONFIG,
    RequestCode.GET_BROKER_CONFIG,
    RequestCode.UPDATE_NAMESRV_CONFIG,
    RequestCode.GET_NAMESRV_CONFIG,
    RequestCode.GET_SYSTEM_TOPIC_LIST_FROM_NS,
    RequestCode.GET_SYSTEM_TOPIC_LIST_FROM_BROKER,
    RequestCode.GET_UNIT_TOPIC_LIST,
    RequestCode.GET_HAS_UNIT_SUB_TOPIC_LIST,
    RequestCode.GET_HAS_UNIT_SUB_UNUNIT_TOPIC_LIST,
    RequestCode.GET_BROKER_RUNTIME_INFO,
    RequestCode.GET_ALL_SUBSCRIPTIONGROUP_CONFIG,
    RequestCode.HEART_BEAT,
    RequestCode.LOCK_BATCH_MQ,
    RequestCode.UNLOCK_BATCH_MQ,
    RequestCode.CHECK_CLIENT_CONFIG,
    RequestCode.GET_ALL_CONSUMER_OFFSET,
    RequestCode.GET_ALL_DELAY_OFFSET,
    RequestCode.GET_ALL_PRODUCER_INFO,
}


def handled_codes():
    return {
        code
        for family in FAMILIES
        for name in dir(family)
        for code, _ in getattr(getattr(family, name), _HANDLES, [])
    }


def sources(*packages):
    return [path for package in packages for path in sorted((ROOT / package).rglob("*.py"))]


def tracked_files():
    """Every file that is or would be part of a commit."""
    found = subprocess.run(
        ["git", "ls-files", "--cached", "--others", "--exclude-standard"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    if found.returncode:  # an unpacked archive: all there is
        return [
            path
            for path in ROOT.rglob("*")
            if path.is_file() and not any(part.startswith(".venv") for part in path.parts)
        ]
    return [ROOT / name for name in found.stdout.splitlines() if (ROOT / name).is_file()]


# -- request codes ------------------------------------------------------------------------------


@pytest.mark.parametrize("code", RequestCode, ids=lambda code: code.name)
def test_every_request_code_has_a_handler(code):
    assert (code in handled_codes()) != (code in NOT_YET)


def test_no_handler_answers_a_code_that_is_none():
    assert handled_codes() <= set(RequestCode)


@pytest.mark.parametrize("code", RequestCode, ids=lambda code: code.name)
def test_every_request_code_has_a_header_unless_it_has_no_fields(code):
    assert (code in REQUEST_HEADERS) != (code in WITHOUT_HEADER)


def test_every_request_header_belongs_to_a_request():
    found = {
        value
        for module in (headers, send_headers, name_headers, admin_headers)
        for name, value in vars(module).items()
        if name.endswith("Request") and isinstance(value, type)
    }
    assert found == set(REQUEST_HEADERS.values())


@pytest.mark.parametrize("code", RequestCode, ids=lambda code: code.name)
def test_every_request_code_has_a_line_in_the_protocol_s_page(code):
    page = (ROOT / "docs" / "protocol.md").read_text()

    lines = [line for line in page.splitlines() if re.search(rf"\b{code.name}\b", line)]
    assert any(re.search(rf"\b{int(code)}\b", line) for line in lines), "name and number together"


@pytest.mark.parametrize("code", RequestCode, ids=lambda code: code.name)
def test_every_field_of_a_request_is_in_the_protocol_s_page(code):
    if code in WITHOUT_HEADER | NOT_YET:
        return
    page = (ROOT / "docs" / "protocol.md").read_text()
    header = REQUEST_HEADERS[code]
    if dataclasses.is_dataclass(header):
        needed = [
            field.name
            for field in dataclasses.fields(header)
            if field.default is dataclasses.MISSING
        ]
    else:
        needed = [name for name in header._fields if name not in header._field_defaults]
    names = [_camel(name) for name in needed]

    assert [name for name in names if not re.search(rf"\b{name}\b", page)] == []


def _camel(name):
    first, *others = name.split("_")
    return first + "".join(word.capitalize() for word in others)


@pytest.mark.parametrize("code", PeerCode, ids=lambda code: code.name)
def test_every_code_between_peers_has_a_line_in_the_protocol_s_page(code):
    page = (ROOT / "docs" / "protocol.md").read_text()

    assert re.search(rf"\b{int(code)}\b", page)


@pytest.mark.parametrize(
    "code", [code for code in ResponseCode if int(code) >= 60_000], ids=lambda code: code.name
)
def test_every_response_code_of_our_own_is_explained(code):
    page = (ROOT / "docs" / "protocol.md").read_text()

    assert re.search(rf"\b{code.name}\b", page)
    assert str(int(code)) in page


def test_the_field_that_marks_a_forwarded_request_is_documented():
    assert FORWARDED in (ROOT / "docs" / "protocol.md").read_text()


# -- sources ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "path", sources(*PACKAGES, "bench", "examples", "tests"), ids=lambda path: str(path.name)
)
def test_nobody_imports_pickle_or_what_pickles(path):
    names = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            names |= {alias.name.partition(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            names.add((node.module or "").partition(".")[0])

    assert not names & {"pickle", "cPickle", "_pickle", "dill", "cloudpickle", "shelve", "marshal"}


@pytest.mark.parametrize("path", sources(*PACKAGES), ids=lambda path: str(path.name))
def test_every_module_says_what_it_is(path):
    doc = ast.get_docstring(ast.parse(path.read_text()))

    assert doc, f"{path} has no docstring"


def test_nothing_is_left_to_be_done_later():
    marks = re.compile(r"\b(TODO|FIXME|XXX|HACK)\b|NotImplementedError")  # codespell:ignore

    found = [
        f"{path.relative_to(ROOT)}:{number}"
        for path in sources(*PACKAGES, "bench", "examples")
        for number, line in enumerate(path.read_text().splitlines(), start=1)
        if marks.search(line)
    ]
    assert found == []


# Namespaces and mounts need root; the one place where that is said, with what is missing.
LAB = ROOT / "tests" / "jepsen_like" / "real" / "conftest.py"
# Other people's clients have to be had from registries; that is said there, with the reason.
INTEROP = ROOT / "tests" / "interop"
# A kernel may lack io_uring, or a container forbid it; most tests go over a made-up one.
RING = ROOT / "tests" / "test_sync_ring.py"
# The same of Linux's epoll; what both ways promise is tested there without a skip.
POLL = [
    ROOT / "tests" / "remoting" / name for name in ("test_readiness.py", "test_wait_in_place.py")
]

# Where there is no C compiler nothing is compiled, and there is nothing to compare with.
COMPILED = [
    ROOT / "tests" / "broker_store" / name for name in ("test_compiled.py", "test_read_sends.py")
]


def test_no_test_is_skipped():
    marks = re.compile(r"pytest\.(skip|xfail|importorskip)\b|mark\.(skip|skipif|xfail)\b")

    found = [
        str(path.relative_to(ROOT))
        for path in sources("tests")
        if path not in (Path(__file__).resolve(), LAB, RING, *POLL, *COMPILED)
        and INTEROP not in path.parents
        and marks.search(path.read_text())
    ]
    assert found == []


def test_no_file_names_a_place_on_somebody_s_machine():
    """Folders of home, work or scratch."""
    places = re.compile(r"/(?:home|Users|root)/\w|/work/\w|/tmp/\w+/|\b[A-Z]:\\\\")

    found = []
    for path in tracked_files():
        if path == Path(__file__).resolve() or path.suffix in {".csv", ".png"}:
            continue
        try:
            lines = path.read_text().splitlines()
        except UnicodeDecodeError:
            continue
        found += [
            f"{path.relative_to(ROOT)}:{number}: {line.strip()}"
            for number, line in enumerate(lines, start=1)
            if places.search(line)
        ]
    assert found == []
