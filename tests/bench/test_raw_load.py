"""The loads over a plain socket take every answer that says a message is written."""

from __future__ import annotations

import pytest

from bench.measured import LoadError
from bench.raw_load import acknowledged_opaques
from broker.protocol.response_code import ResponseCode
from dledger.remoting.command import FLAG_RESPONSE, Command


def test_a_forwarded_send_is_answered_by_itself():
    answer = Command(ResponseCode.SUCCESS.value, FLAG_RESPONSE, opaque=7)

    assert acknowledged_opaques(answer).tolist() == [7]


def test_a_refused_send_ends_the_load():
    answer = Command(ResponseCode.SYSTEM_BUSY.value, FLAG_RESPONSE, opaque=7, remark="too much")

    with pytest.raises(LoadError, match="too much"):
        acknowledged_opaques(answer)
