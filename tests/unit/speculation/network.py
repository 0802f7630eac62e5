"""Toy members joined by a network that may do anything to a frame but change it.

The network plays the worker's part around the stages (who attaches whom, parking, restarts) and
shows everything that happens to an :class:`~tests.unit.speculation.oracle.Oracle`.
"""

from array import array
from dataclasses import dataclass, field

from specrouter_dist.config import EdgeKnobs
from specrouter_dist.engine.interface import Extension
from specrouter_dist.speculation.messages import (
    TOKEN_TYPECODE,
    EdgeId,
    Proposals,
    Truth,
)
from tests.unit.speculation.mail import Attach, Control, Detach, Frame, Replan
from tests.unit.speculation.nodes import Node
from tests.unit.speculation.oracle import Oracle
from tests.unit.speculation.scenarios import VOCAB_SIZE, Scenario

SESSION = 1


@dataclass
class Network:
    """Nodes, frames in the air, and what can happen to them.

    Control messages stay in order and arrive, unless their link is lost (re-plans along a chain may
    be lost and doubled even so); the frames of the stages may be lost, doubled and reordered at
    will.
    """

    scenario: Scenario
    air: list[Frame] = field(default_factory=list)
    control: dict[tuple[int, int], list[Control]] = field(default_factory=dict)
    """By (from, to)."""
    num_plans: int = 0

    def __post_init__(self) -> None:
        self.oracle = Oracle(self.scenario)
        self.nodes = [Node(i, spec) for i, spec in enumerate(self.scenario.members)]
        self.target = self.nodes[0]
        prompt_tokens = len(self.scenario.prompt)
        num_resumed = min(self.scenario.num_resumed, len(self.scenario.truth) - 1 - prompt_tokens)
        num_tokens = prompt_tokens + num_resumed
        self.target.open(self.scenario, array(TOKEN_TYPECODE, self.scenario.truth[:num_tokens]))
        self.replan(0)

    def close(self) -> None:
        """Gives the shared engines their slots back."""
        for node in self.nodes:
            self._close(node)

    @property
    def finished(self) -> bool:
        assert self.target.model is not None
        return self.target.model.finished

    # -- steps ---------------------------------------------------------------------------------

    def begin_step(self, node: Node) -> bool:
        """Starts a forward; whether there was one to start."""
        if node.model is None or node.step is not None:
            return False
        self.oracle.before_step(node)
        if new := node.answer():
            self.oracle.on_growth(node, new)
            return True
        step = node.model.next_step()
        if step is None:
            return False
        if node.outcomes:
            node.outcomes.finish(node.model, 0)
        self.oracle.on_step(node, step, self.nodes)
        node.step = step
        feeding = (node.slot, step.start, step.tokens)
        extension = Extension(*feeding, step.num_picks, step.num_drafts, node.num_runner_ups)
        (node.picks,) = node.engine.extend([extension])
        self.oracle.check(node)
        return True

    def end_step(self, node: Node) -> bool:
        """Ends the forward in flight; whether there was one."""
        if node.model is None or node.picks is None or node.step is None:
            return False
        picks, first_pick = node.picks, node.step.first_pick
        node.picks, node.step = None, None
        new = node.model.on_step_done(picks.tokens)
        node.note(new, picks, first_pick)
        self.oracle.on_growth(node, new)
        return True

    def prepare(self, node: Node) -> bool:
        """One forward for what may come; whether there was one to make."""
        is_done = node.prepare()
        if is_done:
            self.oracle.check(node)
        return is_done

    def miss_deadline(self, node: Node) -> bool:
        """The deadline of the present wait fires; whether there is a wait."""
        if node.model is None or node.model.wait_ms is None:
            return False
        node.model.on_deadline()
        return True

    # -- frames --------------------------------------------------------------------------------

    def flush(self, node: Node) -> bool:
        """Sends what the stage has to say; whether there was anything."""
        if node.stage is None:
            return False
        messages = node.stage.flush()
        for message in messages:
            self.oracle.on_sent(node, message)
            if isinstance(message, Proposals):
                stream = node.stream[: message.start] + message.tokens
                self.air.append(Frame(node.down, message, stream))
            else:
                self.air.append(Frame(node.wanted[-1], message, node.stream))
        return bool(messages)

    def deliver(self, frame: Frame) -> None:
        """A frame arrives; it stays in the air only if the caller leaves it there."""
        node = self.nodes[frame.to]
        if node.stage is None:
            return
        if isinstance(frame.message, Truth):
            self.oracle.before_truth(node)
            node.stage.on_truth(frame.message)
            self.oracle.on_truth(node, frame.message, frame.stream, self.nodes[node.down])
        elif node.model is not None:
            self.oracle.before_proposals(node)
            node.model.on_proposals(frame.message)
            self.oracle.on_proposals(node, frame.message, frame.stream)

    def forge(self, node: Node) -> bool:
        """A frame whose tokens are no model's, too many of them, arrives where it fits."""
        if node.model is None or node.model.up is None:
            return False
        own, up = node.stream, node.model.up
        tokens = array(TOKEN_TYPECODE, [(own[-1] + 3 * i) % VOCAB_SIZE for i in range(12)])
        prefix_hash = node.model.tokens.hash_at(len(own))
        message = Proposals(up.edge, up.version, 0, len(own), prefix_hash, tokens, more=True)
        self.deliver(Frame(node.index, message, own + tokens))
        return True

    def deliver_control(self, link: tuple[int, int]) -> None:
        """The oldest control message of a link arrives."""
        message = self.control[link].pop(0)
        node = self.nodes[link[1]]
        if isinstance(message, Attach):
            self._on_attach(node, link[0], message)
        elif node.stage and node.stage.down and node.stage.down.edge == message.edge:
            if isinstance(message, Detach):
                self._park(node)
            else:
                self._on_replan(node, message)

    def disturb_replan(self, link: tuple[int, int], comes_late: bool) -> None:
        """A re-plan that is next on a link is lost, or comes once more after all others."""
        if isinstance(message := self.control[link][0], Replan):
            self.control[link].append(message)
            if not comes_late:
                self.control[link] = [m for m in self.control[link] if m is not message]

    # -- chains --------------------------------------------------------------------------------

    def replan(self, which: int) -> None:
        """The target gets a new plan."""
        plan = self.scenario.plans[which % len(self.scenario.plans)]
        self._want(self.target, self.num_plans, plan.members, plan.knobs)
        self.num_plans += 1

    def retune(self, which: int) -> None:
        """The target gets a plan of the same chain under other knobs."""
        members, choice = self.target.wanted, self.scenario.other_knobs
        knobs = tuple(choice[(which + i) % len(choice)] for i in range(len(members)))
        self._want(self.target, self.num_plans, members, knobs)
        self.num_plans += 1

    def lose_link(self, node: Node, noticed_above: bool) -> None:
        """The link to the node's upstream breaks. Frames of the stages stay in the air."""
        if node.model is None or node.model.up is None:
            return
        above = self.nodes[node.wanted[-1]]
        self.control[node.index, above.index] = []
        node.model.detach_upstream()
        node.reconnects = True
        if noticed_above and above.stage is not None and above.down == node.index:
            self._park(above)

    def reconnect(self, node: Node) -> bool:
        """Attaches the lost upstream again; whether one was lost."""
        if not node.reconnects:
            return False
        self._attach(node)
        return True

    def restart(self, node: Node, noticed_above: bool) -> None:
        """The worker dies and comes back with nothing; its downstream notices."""
        if node is self.target:
            return
        if noticed_above:
            self.lose_link(node, noticed_above)
        self._close(node)
        for below in self.nodes:
            if below.wanted and below.wanted[-1] == node.index:
                self.lose_link(below, noticed_above=False)
        for link in self.control:
            if node.index in link:
                self.control[link] = []
        node.incarnation += 1
        node.plan_number, node.wanted, node.knobs, node.reconnects = -1, (), (), False

    def _want(
        self, node: Node, number: int, members: tuple[int, ...], knobs: tuple[EdgeKnobs, ...]
    ) -> None:
        keeps_upstream = node.model and node.model.up and members[-1:] == node.wanted[-1:]
        if not keeps_upstream:
            self._release(node)
        node.plan_number, node.wanted, node.knobs = number, members, knobs
        if keeps_upstream:
            self._replan_upstream(node)
        elif members:
            self._attach(node)

    def _replan_upstream(self, node: Node) -> None:
        assert node.model is not None and node.model.up is not None
        node.model.retune_upstream(node.knobs[-1])
        edge, above = node.model.up.edge, (node.wanted[:-1], node.knobs[:-1])
        message = Replan(edge, node.plan_number, *above, node.knobs[-1])
        self.control.setdefault((node.index, node.wanted[-1]), []).append(message)

    def _attach(self, node: Node) -> None:
        assert node.model is not None
        node.reconnects = False
        node.num_attaches += 1
        edge = EdgeId(SESSION, node.num_attaches, node.incarnation << 8 | node.index)
        truth = node.model.attach_upstream(edge, node.knobs[-1])
        self.oracle.on_sent(node, truth)
        above = (node.wanted[:-1], node.knobs[:-1])
        attach = Attach(truth, node.plan_number, *above, node.knobs[-1])
        self.control.setdefault((node.index, node.wanted[-1]), []).append(attach)

    def _release(self, node: Node) -> None:
        node.reconnects = False
        if node.model is not None and node.model.up is not None:
            link = (node.index, node.wanted[-1])
            self.control.setdefault(link, []).append(Detach(node.model.up.edge))
            node.model.detach_upstream()

    def _park(self, node: Node) -> None:
        assert node.stage is not None
        self._release(node)
        node.wanted, node.knobs, node.down = (), (), -1
        node.stage.detach_downstream()
        node.drop_outcomes()
        self.oracle.on_gone(node)

    def _on_attach(self, node: Node, down: int, attach: Attach) -> None:
        if attach.plan_number < node.plan_number:
            return
        if node.stage is None:
            node.open(self.scenario, attach.truth.tokens)
        assert node.stage is not None
        self.oracle.on_attach(node)
        node.stage.attach_downstream(attach.truth, self.scenario.end)
        node.tune(self.scenario, attach.below)
        node.down = down
        self.oracle.on_truth(node, attach.truth, attach.truth.tokens, self.nodes[down])
        self._want(node, attach.plan_number, attach.wanted, attach.knobs)

    def _on_replan(self, node: Node, replan: Replan) -> None:
        if replan.plan_number < node.plan_number:
            return
        node.tune(self.scenario, replan.below)
        self._want(node, replan.plan_number, replan.wanted, replan.knobs)

    # -- sessions ------------------------------------------------------------------------------

    def _close(self, node: Node) -> None:
        node.close()
        self.oracle.on_gone(node)
