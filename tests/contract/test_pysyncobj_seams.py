"""Each place where the engine touches PySyncObj, one test a place: a red one says what has moved.

`dledger.raft.engine` refuses to start on another text of ``syncobj.py``.  Whoever raises the pin
runs these first; what they say is the list of things to look at.
"""

from __future__ import annotations

import inspect
import textwrap

import pytest
from pysyncobj import SyncObj, SyncObjConf
from pysyncobj import syncobj as library
from pysyncobj.journal import Journal
from pysyncobj.node import Node
from pysyncobj.transport import Transport
from pysyncobj.version import VERSION

from dledger.errors import LedgerError
from dledger.raft import guarded
from dledger.raft.engine import RaftEngine
from dledger.raft.guarded import PINNED_SOURCE_SHA256, PINNED_VERSION, check_library
from dledger.raft.journal import NO_OP_COMMAND, LedgerJournal
from tests.fakes.lone_core import Log, LoneCore


def source_of(name):
    """Return the text of one of PySyncObj's methods, private or not, without its indentation."""
    mangled = "_SyncObj" + name if name.startswith("__") and not name.endswith("__") else name
    return textwrap.dedent(inspect.getsource(getattr(SyncObj, mangled)))


def assert_in_order(text, *parts):
    at = 0
    for part in parts:
        found = text.find(part, at)
        assert found >= 0, f"{part!r} is not where it was; the method is now:\n{text}"
        at = found + len(part)


# -- the pin -------------------------------------------------------------------------------------


def test_upstream_source_hash():
    """The engine runs on this very text and no other."""
    check_library()
    assert VERSION == PINNED_VERSION
    assert len(PINNED_SOURCE_SHA256) == 64


@pytest.mark.parametrize(
    ("name", "value"),
    [("PINNED_SOURCE_SHA256", "0" * 64), ("PINNED_VERSION", "0.3.18")],
)
def test_another_text_or_version_is_refused_and_the_remedy_is_named(monkeypatch, name, value):
    monkeypatch.setattr(guarded, name, value)
    with pytest.raises(LedgerError, match=r"install pysyncobj==0\.3\.1[78]"):
        LoneCore()


# -- construction --------------------------------------------------------------------------------


def test_the_constructor_takes_node_others_conf_and_a_transport():
    parameters = list(inspect.signature(SyncObj.__init__).parameters)
    assert parameters[:4] == ["self", "selfNode", "otherNodes", "conf"]
    assert "transport" in parameters


def test_the_settings_that_the_engine_gives_exist():
    conf = vars(SyncObjConf())
    for name in (
        "autoTick", "appendEntriesUseBatch", "appendEntriesPeriod", "raftMinTimeout",
        "raftMaxTimeout", "connectionTimeout", "leaderFallbackTimeout", "commandsQueueSize",
        "journalFile", "fullDumpFile", "useFork", "dynamicMembershipChange", "onStateChanged",
        "commandsWaitLeader",
    ):  # fmt: skip
        assert name in conf, f"SyncObjConf has no {name} any more"
    assert SyncObjConf(autoTick=False).autoTick is False


def test_journal_and_poller_are_made_by_functions_of_the_module():
    text = source_of("__init__")
    assert_in_order(text, "createJournal(self.__conf.journalFile)", "createPoller(")
    assert callable(library.createJournal)
    assert callable(library.createPoller)


def test_the_clock_and_the_die_are_names_of_the_module():
    """They are replaced for each call, as nodes of one process share the module."""
    assert "monotonicTime" in vars(library)
    assert "random" in vars(library)
    for name in ("_onTick", "__sendAppendEntries", "__onBecomeLeader", "_checkCommandsToApply"):
        assert "monotonicTime()" in source_of(name), name
    assert "random.random()" in source_of("__generateRaftTimeout")
    assert "time.time" not in inspect.getsource(library)


def test_construction_reads_term_vote_and_commit_index_from_the_journal():
    assert_in_order(
        source_of("__init__"),
        "len(self.__raftLog) == 0",
        "self.__raftLog.getCurrentTerm()",
        "self.__getCurrentLogTerm()",
        "self.__raftLog.getVotedForNodeId()",
        "self.__raftLog.getRaftCommitIndex()",
        "self.__raftLastApplied = 1",
    )


def test_construction_leaves_no_trace_in_the_module():
    stock = library.createJournal, library.createPoller
    LoneCore()
    assert (library.createJournal, library.createPoller) == stock


def test_the_private_attributes_that_the_engine_reads_or_sets_exist():
    raft = LoneCore(log=Log(1)).engine._raft
    for name in (
        "raftCurrentTerm", "raftState", "raftLeader", "raftCommitIndex", "raftLastApplied",
        "raftElectionDeadline", "raftMatchIndex", "raftLog", "transferInProgress", "noopIDx",
        "newAppendEntriesTime", "lastResponseTime",
    ):  # fmt: skip
        assert hasattr(raft, "_SyncObj__" + name), f"SyncObj has no __{name} any more"


def test_the_states_are_numbered_as_the_engine_has_them():
    assert (
        library._RAFT_STATE.FOLLOWER,
        library._RAFT_STATE.CANDIDATE,
        library._RAFT_STATE.LEADER,
    ) == (guarded.FOLLOWER, guarded.CANDIDATE, guarded.LEADER)


def test_a_no_op_is_the_command_that_the_journal_takes_for_one():
    assert library._bchr(library._COMMAND_TYPE.NO_OP) == NO_OP_COMMAND


# -- a tick --------------------------------------------------------------------------------------


def test_a_tick_does_its_work_in_the_order_the_engine_counts_on():
    """Election, commit rule, fallback, apply, send, queue: pre-vote and clamps hang in between."""
    assert_in_order(
        source_of("_onTick"),
        "self.__raftElectionDeadline < monotonicTime() and self.__connectedToAnyone()",
        "self.__setCurrentTerm(self.__raftCurrentTerm + 1, self.__selfNode.id)",
        "'type': 'request_vote'",
        "self.__onBecomeLeader()",
        "self.__raftMatchIndex[node] >= commitIdx",
        "commitTerm != self.__raftCurrentTerm",
        "self.__raftLog.setRaftCommitIndex(self.__raftCommitIndex)",
        "self.__conf.leaderFallbackTimeout",
        "self.__setState(_RAFT_STATE.FOLLOWER)",
        "self.__applyLogEntries()",
        "self.__sendAppendEntries()",
        "self._checkCommandsToApply()",
        "self.__tryLogCompaction()",
        "self._poller.poll(timeToWait)",
    )


def test_only_an_election_asks_whether_anybody_is_connected():
    """The pre-vote hangs in that question, so nothing else may ask it."""
    text = inspect.getsource(library)
    assert text.count("self.__connectedToAnyone()") == 1
    assert text.count("__connectedToAnyone") == 2


def test_the_match_indexes_are_read_by_subscript_in_the_commit_rule():
    """The clamp is a ``__getitem__``; the other readers are transfer and status, not used here."""
    assert source_of("_onTick").count("self.__raftMatchIndex[node] >= commitIdx") == 1
    assert source_of("_onTick").count("self.__raftMatchIndex") == 1
    assert "self.__raftMatchIndex[node] < currentNodeIdx" in source_of("__onMessageReceived")


def test_a_new_leader_appends_its_no_op_and_then_sends():
    assert_in_order(
        source_of("__onBecomeLeader"),
        "self.__setState(_RAFT_STATE.LEADER)",
        "self.__lastResponseTime[node] = monotonicTime()",
        "self.__raftLog.add(_bchr(_COMMAND_TYPE.NO_OP), idx, term)",
        "self.__noopIDx = idx",
        "self.__sendAppendEntries()",
    )


def test_the_queue_appends_at_once_on_a_leader():
    """And stops when a heartbeat interval has passed, which is why `propose` goes past it."""
    text = source_of("_checkCommandsToApply")
    assert_in_order(
        text,
        "startTime = monotonicTime()",
        "while monotonicTime() - startTime < self.__conf.appendEntriesPeriod:",
        "self.__commandsQueue.get_nowait()",
        "self.__getCurrentLogIndex() + 1, self.__raftCurrentTerm",
        "self.__raftLog.add(command, idx, term)",
    )
    assert_in_order(
        source_of("_applyCommand"), "if commandType is None:", "put_nowait((command, callback))"
    )


def test_term_and_vote_go_to_the_journal_whenever_they_change():
    assert_in_order(
        source_of("__setCurrentTerm"),
        "self.__raftCurrentTerm = term",
        "self.__votedForNodeId = votedForNodeId",
        "self.__raftLog.setCurrentTerm(term, votedForNodeId)",
    )
    text = inspect.getsource(library)
    assert text.count("self.__raftCurrentTerm =") == 3, "set in __init__ (twice) and the setter"
    assert text.count("self.__votedForNodeId =") == 3


def test_a_change_of_state_is_reported_only_when_it_is_one():
    assert "oldState != newState" in source_of("__setState")


# -- messages ------------------------------------------------------------------------------------


def test_state_and_term_change_in_one_method_each():
    """Both are kept as plain attributes of the engine, which hears of a change from there."""
    text = inspect.getsource(library)
    assert text.count("self.__raftState = ") == 2, "set in __init__ and in __setState"
    assert "self.__raftState = newState" in source_of("__setState")
    node = LoneCore(log=Log(1))
    node.lead()
    raft = node.engine._raft
    assert (node.engine.term, node.engine.is_leader) == (raft._SyncObj__raftCurrentTerm, True)
    node.engine.step_down(node.engine.term + 3)
    assert node.engine.term == raft._SyncObj__raftCurrentTerm
    assert (node.engine.is_leader, node.engine.is_candidate) == (False, False)


def test_the_stock_handler_does_what_is_left_to_it():
    """Votes and the request to take over: everything else is sorted out before."""
    text = source_of("__onMessageReceived")
    assert_in_order(
        text,
        "message['type'] == 'timeout_now'",
        "node == self.__raftLeader",
        "self.__transferInProgress = True",
        "message['type'] == 'request_vote'",
        "message['term'] > self.__raftCurrentTerm",
        "lastLogTerm < self.__getCurrentLogTerm()",
        "lastLogIdx < self.__getCurrentLogIndex()",
        "self.__votedForNodeId is not None",
        "self.__setCurrentTerm(self.__raftCurrentTerm, node.id)",
        "'type': 'response_vote'",
        "message['type'] == 'response_vote' and message['term'] == self.__raftCurrentTerm",
        "self.__votesCount += 1",
        "self.__votesCount > (len(self.__otherNodes) + 1) / 2",
    )


def test_the_vote_is_recorded_before_it_is_sent():
    """The transport holds a vote by the version of the vote file at the time it is sent."""
    node = LoneCore(log=Log(1), term=1)
    node.connect()
    node.core.receive(
        "n2", {"type": "request_vote", "term": 3, "last_log_index": 1, "last_log_term": 1}
    )
    assert node.votes.voted_for == "n2"
    ((version, term, peer_id, _),) = node.engine.transport._held
    assert (version, term, peer_id) == (node.votes.version, 3, "n2")


def test_the_transport_is_asked_for_what_ours_has():
    for name in (
        "setOnNodeConnectedCallback", "setOnNodeDisconnectedCallback",
        "setOnMessageReceivedCallback", "setOnUtilityMessageCallback", "_onMessageReceived",
        "_onNodeConnected", "_onNodeDisconnected", "ready", "tryGetReady", "send", "destroy",
    ):  # fmt: skip
        assert hasattr(Transport, name), f"Transport has no {name} any more"


def test_the_journal_has_every_method_that_is_called():
    """Whatever `Journal` declares, ours has; it is not a subclass, so nothing is inherited."""
    declared = {
        name
        for name, value in vars(Journal).items()
        if callable(value) and (not name.startswith("_") or name in {"__len__", "__getitem__"})
    }
    missing = {name for name in declared if not hasattr(LedgerJournal, name)}
    assert not missing, f"LedgerJournal lacks {missing}"
    assert hasattr(LedgerJournal, "_destroy")


def test_a_node_is_known_by_its_id():
    assert Node("n1").id == "n1"
    one, same = guarded.Peer("n1", 0), guarded.Peer("n1", 0)
    assert one == same
    assert hash(one) == hash(same) == 0
    assert one != guarded.Peer("n2", 1)


def test_messages_leave_in_the_order_of_the_members_in_every_process():
    """A set of nodes is walked in the order of hashes; those of strings differ by process."""
    leader = LoneCore(5)
    leader.connect()
    leader.stand()
    leader.sync_votes()
    asked = [peer_id for peer_id, message in leader.sent if message["type"] == "request_vote"]
    assert asked == ["n2", "n3", "n4", "n5"]


@pytest.mark.parametrize(
    "name",
    [
        "__onMessageReceived", "__sendAppendEntries", "__applyLogEntries", "__doApplyCommand",
        "__connectedToAnyone", "__tryLogCompaction", "__onBecomeLeader", "__generateRaftTimeout",
        "__setState", "__setCurrentTerm",
    ],
)  # fmt: skip
def test_a_method_that_is_replaced_or_called_is_there(name):
    assert callable(getattr(SyncObj, "_SyncObj" + name)), f"SyncObj has no {name} any more"


def test_what_is_replaced_replaces_something():
    """An override that overrides nothing would leave the flaw in place, silently."""
    ours = [name for name in vars(guarded.GuardedSyncObj) if name.startswith("_SyncObj__")]
    assert len(ours) >= 7
    ours.remove("_SyncObj__raftLeader")  # a field, there once the library's constructor has run
    assert "self.__raftLeader = None" in source_of("__init__")
    for name in ours:
        assert hasattr(SyncObj, name), f"{name} overrides nothing"


def test_nothing_reaches_into_pysyncobj_but_the_engine():
    import dledger.raft

    folder = dledger.raft.__path__[0]
    for module in ("following", "leading", "standing", "snapshot", "progress", "journal"):
        with open(f"{folder}/{module}.py", encoding="utf-8") as file:
            text = file.read()
        assert "from pysyncobj" not in text, module
        assert "_SyncObj__" not in text, module
    assert issubclass(RaftEngine, object)
