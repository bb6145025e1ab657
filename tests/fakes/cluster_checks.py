"""What must hold in a simulated group: looked at in each step, and at the end."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from tests.fakes.sim_parts import SimNode


class ClusterChecks:
    """The half of `SimCluster` that judges."""

    def observe(self, node: SimNode) -> None:
        """Check what must hold at every moment of every run."""
        core, store = node.core, node.store
        assert core is not None
        assert store is not None
        if core.engine.is_leader:
            first = self.leaders.setdefault(core.engine.term, node.node_id)
            assert first == node.node_id, f"two leaders in term {core.engine.term}"
            if (core.engine.term, node.life) != node.observed_lead:
                node.observed_lead = (core.engine.term, node.life)
                self._check_completeness(node, core.engine.term)
        if core.committed_index > self.committed_upto.get(core.engine.term, 0):
            self.committed_upto[core.engine.term] = core.committed_index
        life, seen = node.observed_index
        start = seen if life == node.life else 0
        for index in range(max(start, store.base.index) + 1, core.committed_index + 1):
            identity = (store.term_at(index), store.point_at(index).chain_crc)
            known = self.committed.setdefault(index, identity)
            assert known == identity, (
                f"entry {index} is committed as {known} and, on {node.node_id}, as {identity}"
            )
        node.observed_index = (node.life, core.committed_index)

    def _check_completeness(self, node: SimNode, term: int) -> None:
        """Check that a new leader has every entry committed in an earlier term."""
        store = node.store
        assert store is not None
        # By a *later* term is no concern of this one: a candidate may win an old term late.
        last = max((index for at, index in self.committed_upto.items() if at < term), default=0)
        if last <= store.base.index:
            return
        assert last <= store.end_index, f"leader {node.node_id} lacks committed entry {last}"
        assert self.committed[last] == (store.term_at(last), store.point_at(last).chain_crc), (
            f"leader {node.node_id} of term {term} has another entry {last} than was committed"
        )

    def converge(self, seconds: float = 30.0) -> None:
        """Heal everything, start everyone and check that all ends in one log with every ack."""
        for node in self.nodes.values():
            if node.paused:
                self.resume(node.node_id)
            assert node.last_word is None, f"{node.node_id} stopped: {node.last_word}"
            if not node.alive:
                self._start(node.node_id)
        self.heal()
        self.await_leader(seconds)

        def equal() -> bool:
            ends = {node.core.committed_index for node in self.nodes.values()}  # type: ignore[union-attr]
            last = {node.store.end_index for node in self.nodes.values()}  # type: ignore[union-attr]
            return len(ends) == 1 and ends == last

        assert self.run_until(equal, seconds), "the logs did not become equal: " + str(
            {n.node_id: (n.core.committed_index, n.store.end_index) for n in self.nodes.values()}  # type: ignore[union-attr]
        )
        self.check_acked()

    def check_acked(self) -> None:
        """Check that every acknowledged entry is committed everywhere, once, and byte-identical."""
        for node in self.nodes.values():
            store = node.store
            assert store is not None
            for proposal in self.proposals:
                if proposal.outcome != "acked" or proposal.index <= store.base.index:
                    continue
                assert proposal.index <= node.core.committed_index, (  # type: ignore[union-attr]
                    f"acknowledged entry {proposal.index} is not on {node.node_id}"
                )
                entry = store.view(proposal.index)
                assert bytes(entry.body) == proposal.body, (
                    f"entry {proposal.index} on {node.node_id} is not what was acknowledged"
                )
                assert entry.term == proposal.term
        crcs = {node.store.last_chain_crc for node in self.nodes.values()}  # type: ignore[union-attr]
        assert len(crcs) == 1, "the logs differ"
