"""Every request with each of its fields left out, and of a wrong kind: the answer names the field.

Source of the list of requests: `tests.house.test_house`, which proves that none is missing.
"""

from __future__ import annotations

import json

import pytest

from broker.protocol import send_headers
from broker.protocol.header_fields import _plan
from broker.protocol.known_codes import _NAMES
from broker.protocol.request_code import RequestCode
from broker.protocol.response_code import ResponseCode
from dledger.remoting.command import SerializeType
from tests.fakes.request_headers import REQUEST_HEADERS as HEADERS
from tests.house.test_house import WITHOUT_HEADER

NAMED = (ResponseCode.SYSTEM_ERROR, ResponseCode.MESSAGE_ILLEGAL)
PLANS = {
    RequestCode.SEND_MESSAGE_V2: send_headers._SEND_V2,
    RequestCode.SEND_BATCH_MESSAGE: send_headers._SEND_RECORDS,
}
# Of a kind that a field does not have: what of each can be written in all serializations.
WRONG = {
    "number": ("x1", "", "1.5", "99999999999999999999999", "0x10"),
    "flag": ("perhaps", "2", 2),
    "text": (7, True),
    "bytes": ("text", 7),
}
GOOD = {"number": "0", "flag": "false", "text": "t", "bytes": b"\0\0\0\1"}


def plan_of(code):
    return PLANS.get(code) or _plan(HEADERS[code])


def kind_of(field):
    """Find out what a field takes by what it refuses."""
    for kind, value in (("bytes", b""), ("number", 7), ("flag", "true")):
        try:
            field.read(value, "")
        except Exception:  # noqa: BLE001 - that is the question
            continue
        if kind == "flag" and accepts(field, "any text"):
            return "text"
        return "number" if kind == "number" and not accepts(field, "true") else kind
    return "text"


def accepts(field, value):
    try:
        field.read(value, "")
    except Exception:  # noqa: BLE001 - that is the question
        return False
    return True


def good_fields(plan):
    good = {field.wire_name: GOOD[kind_of(field)] for field in plan if field.is_required}
    if "recordFormat" in good:
        good["recordFormat"] = 1
    return good


async def refused(caller, code, fields, name, kind=SerializeType.MSGPACK):
    answer = await caller.ask(code, fields, serialization=kind)
    assert answer.code in NAMED, (code, fields, answer.code, answer.remark)
    assert f"field {name}:" in answer.remark, (code, fields, answer.remark)


@pytest.mark.parametrize("code", HEADERS, ids=lambda code: code.name)
async def test_a_field_that_is_missing_is_named(autojump_clock, caller, code):
    plan = plan_of(code)
    good = good_fields(plan)
    kinds = [SerializeType.MSGPACK]
    if bytes not in map(type, good.values()):
        kinds += [SerializeType.JSON, SerializeType.ROCKETMQ]
    for field in plan:
        if not field.is_required:
            continue
        fields = {name: value for name, value in good.items() if name != field.wire_name}
        if field.wire_name == "recordFormat":
            continue  # without it, it is RocketMQ's batch
        for kind in kinds:
            await refused(caller, code, fields, field.wire_name, kind)
    assert (await caller.ask(RequestCode.GET_GROUP_STATUS)).code == ResponseCode.SUCCESS


@pytest.mark.parametrize("code", HEADERS, ids=lambda code: code.name)
async def test_a_field_of_a_wrong_kind_is_named(autojump_clock, caller, code):
    plan = plan_of(code)
    good = good_fields(plan)
    for field in plan:
        for value in WRONG[kind_of(field)]:
            await refused(caller, code, {**good, field.wire_name: value}, field.wire_name)
    assert (await caller.ask(RequestCode.GET_GROUP_STATUS)).code == ResponseCode.SUCCESS


BODIES = {
    RequestCode.HEART_BEAT: {"clientID": "c", "consumerDataSet": [{"groupName": "g"}]},
    RequestCode.LOCK_BATCH_MQ: {"clientId": "c", "consumerGroup": "g", "mqSet": []},
    RequestCode.UNLOCK_BATCH_MQ: {"clientId": "c", "consumerGroup": "g", "mqSet": []},
    RequestCode.CHECK_CLIENT_CONFIG: {"subscriptionData": {"topic": "t"}},
    RequestCode.UPDATE_AND_CREATE_SUBSCRIPTIONGROUP: {"groupName": "g"},
}
NO_BODIES = (b"", b"{", b"[]", b"null", b"7", b'"text"', b"\xff\xfe", b"{}" * 3, b"[" * 100_000)


@pytest.mark.parametrize("code", BODIES, ids=lambda code: code.name)
async def test_a_body_that_is_none_is_refused(autojump_clock, caller, code):
    for body in NO_BODIES:
        for kind in SerializeType:
            answer = await caller.ask(code, {}, body, serialization=kind)
            assert answer.code in NAMED, (body[:20], answer.code, answer.remark)
            assert "field body" in answer.remark
    assert (await caller.ask(RequestCode.GET_GROUP_STATUS)).code == ResponseCode.SUCCESS


@pytest.mark.parametrize("code", BODIES, ids=lambda code: code.name)
async def test_what_a_body_lacks_or_has_wrong_is_named(autojump_clock, caller, code):
    good = BODIES[code]
    for name in good:
        lacking = {other: value for other, value in good.items() if other != name}
        for wrong in ("missing", None, 7, {"x": 1}, [["x"]], "x"):
            body = lacking if wrong == "missing" else good | {name: wrong}
            answer = await caller.ask(code, {}, json.dumps(body).encode())
            if answer.code == ResponseCode.SUCCESS:
                # A list that may be left out, or a name that any text is.
                assert wrong in ("missing", None, "x"), (body, answer)
                continue
            assert answer.code in (*NAMED, ResponseCode.SUBSCRIPTION_GROUP_NOT_EXIST), body
            assert name in answer.remark or "consumer group" in answer.remark, answer.remark
    assert (await caller.ask(RequestCode.GET_GROUP_STATUS)).code == ResponseCode.SUCCESS


async def test_a_code_that_is_not_supported_is_named(autojump_clock, caller):
    for code, name in [*_NAMES.items(), (9999, "9999")]:
        if code >= 1 << 15:
            continue  # not in RocketMQ's binary header
        for kind in SerializeType:
            answer = await caller.ask(code, {"anything": "x"}, b"y", serialization=kind)
            assert answer.code == ResponseCode.REQUEST_CODE_NOT_SUPPORTED
            assert name in answer.remark
            assert str(code) in answer.remark


def test_every_request_is_one_of_these():
    assert set(HEADERS) | WITHOUT_HEADER == set(RequestCode)
