"""Clients with heartbeats, each a connection to one node."""

import contextlib
import json

from broker.protocol.request_code import ClientRequestCode, RequestCode
from broker.protocol.response_code import ResponseCode
from dledger.remoting.command import SerializeType

PYTHON_HEARTBEAT = (  # as PyPI's rocketmq 0.4.4 writes it
    '{"clientID":"%s","consumerDataSet":[{"consumeFromWhere":0,"consumeType":1,"groupName":"%s",'
    '"messageModel":1,"subscriptionDataSet":[{"subString":"*","subVersion":"1795346773505",'
    '"topic":"t"}]}]}\n'
)
NODE_HEARTBEAT = (  # as npm's ali-ons 3.12.0 writes it
    '{"clientID":"%s","consumerDataSet":[{"groupName":"%s","consumeType":"CONSUME_PASSIVELY",'
    '"messageModel":"CLUSTERING","consumeFromWhere":"CONSUME_FROM_LAST_OFFSET",'
    '"subscriptionDataSet":[{"topic":"t","subString":"*","classFilterMode":false,"tagsSet":[],'
    '"codeSet":[],"subVersion":1795346821042}],"unitMode":false}],"producerDataSet":[]}'
)


class Reader:
    """A client's connection to one node."""

    def __init__(self, caller, client_id, group="readers"):
        self.caller = caller
        self.client_id = client_id
        self.group = group
        self.told = []
        take = caller.client.on_push

        def on_push(command):
            if command.code == ClientRequestCode.NOTIFY_CONSUMER_IDS_CHANGED:
                self.told.append(command)
            else:
                take(command)

        caller.client.on_push = on_push

    async def beat(self, form=PYTHON_HEARTBEAT):
        body = (form % (self.client_id, self.group)).encode()
        answer = await self.ask(RequestCode.HEART_BEAT, {}, body)
        assert answer.code == ResponseCode.SUCCESS, answer.remark

    async def ask(self, code, fields, body=b""):
        return await self.caller.ask(code, fields, body, serialization=SerializeType.JSON)

    async def others(self):
        answer = await self.ask(
            RequestCode.GET_CONSUMER_LIST_BY_GROUP, {"consumerGroup": self.group}
        )
        if answer.code != ResponseCode.SUCCESS:
            return []
        return json.loads(bytes(answer.body))["consumerIdList"]

    async def leave(self):
        answer = await self.ask(
            RequestCode.UNREGISTER_CLIENT,
            {"clientID": self.client_id, "consumerGroup": self.group, "producerGroup": ""},
        )
        assert answer.code == ResponseCode.SUCCESS


@contextlib.asynccontextmanager
async def readers(group, *where):
    """Connect a client for each (client id, member)."""
    async with contextlib.AsyncExitStack() as stack:
        yield [
            Reader(await stack.enter_async_context(group.caller(member)), client_id)
            for client_id, member in where
        ]


def members(brokers, node, group):
    """Return who is in a group, as a member has it."""
    return list(brokers._files[node.name].consumers.of(group))
