"""Schedules: what happens to a network, and when."""

from collections.abc import Callable, Sequence

from tests.unit.speculation.network import Network
from tests.unit.speculation.nodes import Node
from tests.unit.speculation.oracle import require
from tests.unit.speculation.scenarios import Scenario

Event = Callable[[Network, int], object]


def _frame(action: Callable[[Network, int], object]) -> Event:
    def event(network: Network, which: int) -> None:
        if network.air:
            action(network, which % len(network.air))

    return event


def _deliver_control(network: Network, which: int) -> None:
    links = sorted(link for link, messages in network.control.items() if messages)
    if links:
        network.deliver_control(links[which % len(links)])


def _disturb_replan(network: Network, which: int) -> None:
    links = sorted(link for link, messages in network.control.items() if messages)
    if links:
        network.disturb_replan(links[(which >> 1) % len(links)], comes_late=bool(which & 1))


def _node(action: Callable[[Network], Callable[[Node], bool]]) -> Event:
    """To the first node, from ``which`` on, to which it can happen."""

    def event(network: Network, which: int) -> None:
        num_nodes = len(network.nodes)
        any(action(network)(network.nodes[(which + i) % num_nodes]) for i in range(num_nodes))

    return event


def _node_noticed(action: Callable[[Network], Callable[..., object]]) -> Event:
    """The low bit says whether the other side notices."""

    def event(network: Network, which: int) -> None:
        node = network.nodes[(which >> 1) % len(network.nodes)]
        action(network)(node, noticed_above=bool(which & 1))

    return event


def _tick(network: Network, which: int) -> None:
    node = network.nodes[which % len(network.nodes)]
    network.end_step(node)
    network.begin_step(node)
    network.flush(node)


DISRUPTIONS: tuple[Event, ...] = (
    lambda n, i: n.replan(i),
    _node_noticed(lambda n: n.lose_link),
    _node_noticed(lambda n: n.restart),
)

EVENTS: tuple[Event, ...] = (
    *[_tick] * 10,
    *[_node(lambda n: n.begin_step)] * 2,
    *[_node(lambda n: n.end_step)] * 2,
    *[_node(lambda n: n.flush)] * 2,
    *[_node(lambda n: n.prepare)] * 4,
    *[_frame(lambda n, i: n.deliver(n.air.pop(0)))] * 8,
    *[_frame(lambda n, i: n.deliver(n.air.pop(i)))] * 3,
    *[_frame(lambda n, i: n.deliver(n.air[i]))] * 2,
    *[_frame(lambda n, i: n.air.pop(i))] * 2,
    *[_node(lambda n: n.forge)] * 2,
    *[_deliver_control] * 4,
    _disturb_replan,
    lambda n, i: n.retune(i),
    *[_node(lambda n: n.miss_deadline)] * 2,
    _node(lambda n: n.reconnect),
    lambda n, i: DISRUPTIONS[i % len(DISRUPTIONS)](n, i // len(DISRUPTIONS)),
)
"""What a byte of a schedule means."""


def run_faulty(network: Network, schedule: bytes) -> None:
    """Two bytes an event: which kind, and to whom."""
    for kind, which in zip(schedule[::2], schedule[1::2], strict=False):
        EVENTS[kind % len(EVENTS)](network, which)


def heal(network: Network, *, loses_air: bool) -> None:
    """The last fault is over: every link stands again. Old frames may still be in the air."""
    if loses_air:
        network.air.clear()
    while any(network.control.values()) or any(map(network.reconnect, network.nodes)):
        deliver_all_control(network)
    network.oracle.on_healed(network.nodes, [frame.stream for frame in network.air])


def deliver_all_control(network: Network) -> None:
    """All control messages arrive that are under way now."""
    for link, messages in list(network.control.items()):
        while messages:
            network.deliver_control(link)


def run_calm(
    network: Network, *, loses_all: bool = False, retunes: Sequence[int | None] = ()
) -> int:
    """Runs to the end without faults (or with nothing but losses); returns the deadlines missed.

    Turn by turn the knobs change as in ``retunes``; None changes none.
    """
    num_deadlines, turn = 0, 0
    while not network.finished:
        num_events = 0
        if turn < len(retunes) and (which := retunes[turn]) is not None:
            network.retune(which)
        turn += 1
        for node in network.nodes:
            num_events += network.end_step(node)
            num_events += network.begin_step(node)
            num_events += network.flush(node)
            while network.prepare(node):
                pass
        if loses_all:
            network.air.clear()
        num_events += len(network.air)
        if retunes:
            deliver_all_control(network)
        while network.air:
            network.deliver(network.air.pop(0))
        if not num_events:
            num_deadlines += _miss_deadlines(network)
            require(7, num_deadlines < 1000, "deadlines without end")
    return num_deadlines


def _miss_deadlines(network: Network) -> int:
    """Nothing happens any more: those waits end whose upstream does not wait itself."""
    waiting = {n.index for n in network.nodes if n.model and n.model.wait_ms is not None}
    require(7, bool(waiting), "the target neither works nor waits")
    in_vain = [network.nodes[i] for i in waiting if network.nodes[i].wanted[-1] not in waiting]
    for node in in_vain:
        network.oracle.on_deadline(node)
        network.miss_deadline(node)
    return len(in_vain)


def run(scenario: Scenario, schedule: bytes, *, loses_air: bool = False) -> int:
    """Faults, then calm, to the end; returns how many rounds were compared with fault-free ones."""
    network = Network(scenario)
    try:
        run_faulty(network, schedule)
        heal(network, loses_air=loses_air)
        num_deadlines = run_calm(network)
        require(1, network.target.stream.tolist() == scenario.truth, "the output is cut short")
        bound = 2 * len(scenario.members)
        require(8, num_deadlines <= bound, "deadlines are missed long after the last fault")
        return network.oracle.num_checked_rounds
    finally:
        network.close()
