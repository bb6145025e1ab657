"""Bugs that are no mutants here, and why: each was tried, or reckoned through, before it was left.

A bug behind a second line of defence breaks no promise by itself.  One that only costs time breaks
none that the checkers hold the group to.  What the simulator cannot bring about is said, too.
"""

from __future__ import annotations

_SECOND_LINE = {
    "a restart forgets whom it voted for, but not the term": "a request for a vote travels once, "
    "over a connection that ends with the process, and whoever asks for a pre-vote in an older "
    "term is told the newer one: nobody asks twice in one term",
    "a peer's second vote counts": "TCP delivers one request once, and one request gets one "
    "answer; `tests/scenarios` sends it twice by hand",
    "match indexes survive an election, or answers of any term count": "whoever has not answered "
    "for this term's first entry counts as having nothing",
    "an answer promises all that is durable, not what is known to be the leader's": "a leader "
    "drops a connection over which something beyond its log is promised, and the next message "
    "finds the difference",
    "a success moves the next index back": "what is sent twice is skipped by the follower",
    "a commit index from the disk is not clamped to the log": "only checkpoints hold it, and they "
    "are written when that part of the log has been synced",
    "a leader serves before its first entry is committed": "the append queue opens when that entry "
    "is dispatched; both together are the mutant serves-before-its-first-entry",
    "a snapshot is installed where the log has all of it": "one connection keeps its messages in "
    "order, so a snapshot sent twice comes before the entries that follow it",
    "a batch is forwarded again after the leader did not answer": "its numbers tell that it is the "
    "same one",
    "a client goes on with later batches after a failure": "the broker takes no batch whose "
    "predecessor it does not have",
    "a follower obeys a leader of an older term": "that leader's entries are compared one by one; "
    "and it reads of the newer term with the first answer, before it has sent anything else",
}

_ONLY_TIME = {
    "no pre-vote; late pre-votes count": "more elections; what is promised of them holds",
    "a broken connection hastens no election": "a dead leader is replaced later, that is all",
    "leases by the wall clock instead of asking a majority": "a leader's lead itself ends by the "
    "monotonic clock, as early",
    "a leader without answers leads on, or with a disk that hangs": "reads ask a majority in any "
    "case; that nothing is acknowledged meanwhile shows as no-progress in longer runs",
    "backing off entry by entry, no window, all of a backlog sent while the parting is sought, old "
    "refusals honoured": "slow, and in `tests/scenarios` too slow",
    "proposals of a lost lead are dropped without a word; a transfer without its fence": "clients "
    "wait for their time-outs, and numbers keep what they send again single",
    "an answer to a heartbeat takes the place of the one that waits for a sync": "the next message "
    "is answered with both",
    "nobody looks for room that retention makes": "a follower without room waits for the next file",
}

_OUT_OF_REACH = {
    "a process paused in the middle of a proposal": "the simulator stops processes between two "
    "steps of their tasks, not inside one; computing takes no time",
    "dispatch that lags behind commits": "for the same reason it never does, on a node that has "
    "room in memory; a read answered before it has caught up cannot be seen, nor a message that "
    "comes back to a leader before the leader has taken it in (RocketMQ's own clients showed it)",
    "a request to free a lock is served however late it comes": "it has to wait at a node for "
    "longer than its client does, which meanwhile asks for the lock by another; six minutes of "
    "seeds had no such wait, and `tests/handlers/test_locks.py` makes it by hand",
    "fields of messages are not checked, buffers have no limit": "nobody here sends nonsense, or "
    "without end; the fuzzers do",
    "entries from a peer are not compared with their CRC": "the simulated wire damages nothing; "
    "the one between real processes does",
    "a duplicate is acknowledged though its entry is not committed": "a client sends again only "
    "after its connection broke, and then its leader is mostly deposed before it can be reached",
    "a committed offset of a group goes back": "it needs an answer that a client has given up and "
    "a node still holds, and is mended by the next commit within a second",
}

LEFT_OUT = {**_SECOND_LINE, **_ONLY_TIME, **_OUT_OF_REACH}
