"""Codes of the frames that members of a group exchange on their peer port.

Where DLedger has a code for the same thing, it is taken over (``DLedgerRequestCode``); the
content is not DLedger's (its bodies are JSON with base64), so only members of one version of
this project talk to each other: `PEER_PROTOCOL_VERSION` is part of the handshake.
"""

from __future__ import annotations

import enum

PEER_PROTOCOL_VERSION = 1


class PeerCode(enum.IntEnum):
    """What a frame between two members says."""

    VOTE = 51001
    PUSH = 51004  # entries from the leader; without any it is the heartbeat
    LEADERSHIP_TRANSFER = 51005  # "stand for election now"
    INSTALL_SNAPSHOT = 51006
    VOTE_ANSWER = 51011
    PRE_VOTE = 51012
    PRE_VOTE_ANSWER = 51013
    PUSH_ANSWER = 51014
    INSTALL_ANSWER = 51016
    HELLO = 51020
    HELLO_ANSWER = 51021
    PING = 51022
