"""What ``--trace`` says to people, as lines of text."""

from collections.abc import Iterator, Sequence

from specrouter_dist.tracing.records import Kind
from specrouter_dist.tracing.shares import Hops, WorkerShares

_BAR_CELLS = 60
_CELLS = dict(zip(Kind, "#=psh.", strict=True))


def trace_text(shares: Sequence[WorkerShares], hops: Sequence[Hops], *, with_bars: bool) -> str:
    """A table of each worker's shares, the hops between them, and bars of text if wanted."""
    lines = [*_table(shares), *_hops(hops)]
    if with_bars:
        lines += _bars(shares)
    return "\n".join(lines)


def _table(shares: Sequence[WorkerShares]) -> Iterator[str]:
    rows = [row for worker in shares for row in _rows(worker)]
    width = max(len("worker"), *(len(name) for name, _, _ in rows))
    yield f"{'worker':<{width}} {'wall ms':>9}" + "".join(f" {kind.value:>13}" for kind in Kind)
    for name, wall, cells in rows:
        yield f"{name:<{width}} {wall:>9}" + "".join(f" {cell:>13.1%}" for cell in cells)
    for worker in shares:
        if not worker.is_whole:
            yield f"not the whole time of {worker.worker}: it was restarted, or its record is full"


def _rows(worker: WorkerShares) -> Iterator[tuple[str, str, list[float]]]:
    """Name, wall time and shares of the worker; and of its members, if it has several."""
    shares = [worker.share(kind) for kind in Kind]
    yield worker.worker, f"{worker.wall_ns / 1e6:.1f}", shares
    if len(worker.members_ns) > 1:
        for name, kinds in worker.members_ns.items():
            yield f"  {name}", "", [ns / worker.wall_ns for ns in kinds.values()]


def _hops(hops: Sequence[Hops]) -> Iterator[str]:
    for hop in hops:
        yield (
            f"hop {hop.sender} -> {hop.receiver}: median {hop.median_us:.0f} us, "
            f"p95 {hop.p95_us:.0f} us, of {hop.num_frames} frames that were waited for"
        )


def _bars(shares: Sequence[WorkerShares]) -> Iterator[str]:
    width = max(len(worker.worker) for worker in shares)
    for worker in shares:
        yield f"{worker.worker:<{width}} |{_bar(worker):<{_BAR_CELLS}}|"
    yield ", ".join(f"{cell} {kind.value}" for kind, cell in _CELLS.items())


def _bar(worker: WorkerShares) -> str:
    """Cells up to the rounded sum so far, so that rounding does not add up."""
    bar, total = "", 0.0
    for kind, cell in _CELLS.items():
        total += worker.share(kind)
        bar += cell * (round(total * _BAR_CELLS) - len(bar))
    return bar
