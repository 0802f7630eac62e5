"""``specrouter batch``: a file of requests in, a file of answers out."""

import asyncio
import signal
from collections.abc import Coroutine, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from specrouter_dist.cli.options import BackendName, DtypeOption, PoolOption
from specrouter_dist.cli.output import print_json

if TYPE_CHECKING:
    from specrouter_dist.batch.keys import Settings
    from specrouter_dist.batch.resume import Done
    from specrouter_dist.cli.batch_files import BatchInput, BatchOutput
    from specrouter_dist.cli.batch_progress import Progress
    from specrouter_dist.pools.checks import PoolReport
    from specrouter_dist.pools.loading import Pool
    from specrouter_dist.serving.backend import PoolBackend
    from specrouter_dist.serving.batch_runner import BatchRunner

EXIT_SOME_FAILED = 3
_JOB_COPIES = "working_dir_files"
"""Ray's directory for the copies of jobs' working directories."""


InputArgument = Annotated[
    Path,
    typer.Argument(
        help="A JSONL file; rows are OpenAI's batch rows, or hold 'prompt' or 'messages', any "
        "field of the HTTP endpoints, and further keys, which are copied to the output."
    ),
]
OutputArgument = Annotated[
    Path,
    typer.Argument(
        help="Gets one line per row, in their order. If some are there already, the run goes on "
        "behind them."
    ),
]
RowChainOption = Annotated[
    str,
    typer.Option(
        "--chain",
        help="For rows without 'speculative': members joined by commas, target last; 'auto': the "
        "router's choice.",
    ),
]
RowMaxTokensOption = Annotated[
    int | None, typer.Option("--max-tokens", help="For rows without it; else as over HTTP.")
]
RowTemperatureOption = Annotated[
    float | None, typer.Option("--temperature", help="For rows without it; else as over HTTP.")
]
RunSeedOption = Annotated[
    int,
    typer.Option(
        "--seed",
        help="Rows without a seed get seeds derived from this one and their place in the file.",
    ),
]
RunBackendOption = Annotated[
    BackendName,
    typer.Option(
        "--backend",
        help="'ray': the pool if it runs in the cluster (RAY_ADDRESS is respected), else actors "
        "for this run; 'local': all in this process.",
    ),
]
LiveOption = Annotated[
    bool, typer.Option("--live", help="Only on a pool that runs already; starts nothing.")
]
RowsAtATimeOption = Annotated[
    int, typer.Option("--concurrency", min=1, max=4096, help="How many rows run at a time.")
]
OverwriteOption = Annotated[
    bool, typer.Option("--overwrite", help="Begin anew, whatever the output holds.")
]
ProgressOption = Annotated[
    Path | None, typer.Option("--progress", help="A JSONL file that gets a line every second.")
]
SummaryOption = Annotated[
    bool, typer.Option("--json", help="Print the summary as one JSON object.")
]


def batch(
    input: InputArgument,
    output: OutputArgument,
    pool: PoolOption = "tiny",
    chain: RowChainOption = "auto",
    max_tokens: RowMaxTokensOption = None,
    temperature: RowTemperatureOption = None,
    seed: RunSeedOption = 0,
    dtype: DtypeOption = None,
    backend: RunBackendOption = BackendName.RAY,
    live: LiveOption = False,
    concurrency: RowsAtATimeOption = 16,
    overwrite: OverwriteOption = False,
    progress: ProgressOption = None,
    as_json: SummaryOption = False,
) -> None:
    """Run every row of a file; after any interruption the same command goes on.

    Exit codes: 0 all rows have answers, 3 all are done and some have failed, 2 the input or an
    option is wrong, 1 the run has stopped and can be continued, 130 interrupted, likewise.

    Example: specrouter batch in.jsonl out.jsonl --pool tiny --concurrency 16
    """
    from specrouter_dist.cli.batch_files import BatchInput, open_output
    from specrouter_dist.cli.batch_progress import Tally, open_progress
    from specrouter_dist.cli.session import open_pool

    _check_options(input, output, progress, live=live, backend=backend)
    rows = BatchInput(input)
    checked, report = open_pool(pool, dtype=dtype)
    settings = _settings(checked, chain, seed, max_tokens=max_tokens, temperature=temperature)
    with open_output(output) as out:
        done = _nothing() if overwrite else out.find_done(rows, settings.digest())
        with open_progress(Tally.begin(rows.num_rows, done), progress) as shown:
            if done.num_rows < rows.num_rows:
                with _open(checked, report, backend, live=live) as running:
                    out.cut(done.num_bytes)
                    runner = _runner(running, checked, report, settings, out, shown, concurrency)
                    _run(runner, rows, done.num_rows, shown)
            summary = {"input": str(input), "output": str(output), **shown.to_json()}
    _print(summary, as_json=as_json)
    if summary["failed"]:
        raise typer.Exit(EXIT_SOME_FAILED)


def _check_options(
    input: Path, output: Path, progress: Path | None, *, live: bool, backend: BackendName
) -> None:
    from specrouter_dist.errors import RequestError

    if live and backend is not BackendName.RAY:
        raise RequestError("--live: only a pool of Ray actors can run already", field="live")
    names = {"input": input, "output": output, "--progress": progress}
    files = {name: path.resolve() for name, path in names.items() if path is not None}
    for name, file in files.items():
        same = [other for other in files if files[other] == file and other != name]
        if same:
            raise RequestError(f"{same[0]}: the same file as {name}: {str(file)!r}")
        if name != "input" and _JOB_COPIES in file.parts:
            raise RequestError(
                f"{name}: {str(file)!r} is in the job's own copy of its working directory, which "
                "goes with the job; give an absolute path"
            )


def _settings(
    pool: "Pool", chain: str, seed: int, *, max_tokens: int | None, temperature: float | None
) -> "Settings":
    """
    Raises:
        InputError: a default that no row could have.
    """
    from specrouter_dist.batch.keys import Settings
    from specrouter_dist.cli.session import AUTO_CHAIN
    from specrouter_dist.config import SamplingParams
    from specrouter_dist.errors import RequestError
    from specrouter_dist.pools.loading import parse_chain
    from specrouter_dist.validation import validated

    named = {"max_tokens": max_tokens, "temperature": temperature}
    defaults: dict[str, Any] = {name: value for name, value in named.items() if value is not None}
    validated(SamplingParams, {**defaults, "seed": seed}, error=RequestError)
    if chain.strip() != AUTO_CHAIN:
        defaults["speculative"] = {"chain": list(parse_chain(pool, chain))}
    return Settings(pool.config_hash, seed, defaults)


def _nothing() -> "Done":
    from specrouter_dist.batch.resume import Done

    return Done()


def _open(pool: "Pool", report: "PoolReport", backend: BackendName, *, live: bool) -> "PoolBackend":
    from specrouter_dist.cli.backends import find_backend, open_backend

    return find_backend(pool, report) if live else open_backend(pool, report, backend)


def _runner(
    running: "PoolBackend",
    pool: "Pool",
    report: "PoolReport",
    settings: "Settings",
    out: "BatchOutput",
    progress: "Progress",
    concurrency: int,
) -> "BatchRunner":
    """Runs rows on the pool, writes and counts them."""
    from specrouter_dist.serving.batch_runner import BatchRunner, Outcome
    from specrouter_dist.serving.openai_service import OpenAIService
    from specrouter_dist.text.tokenizer import Tokenizer

    def write(outcome: Outcome) -> None:
        out.write(outcome.content)
        progress.count(outcome)

    tokenizer = Tokenizer.load(pool.directories[pool.config.target.name])
    router = running.running
    service = OpenAIService(router.client, tokenizer, report, pool, router)
    return BatchRunner(service, settings, write, concurrency=concurrency)


def _run(runner: "BatchRunner", rows: "BatchInput", start: int, progress: "Progress") -> None:
    """The rows from that one on."""
    with rows.lines(start) as lines:
        work = runner.run(lines, start=start)
        try:
            asyncio.run(_until_signal(_beside(work, progress.report_for_ever())))
        except asyncio.CancelledError:
            raise KeyboardInterrupt from None


async def _until_signal(work: Coroutine[Any, Any, None]) -> None:
    """Cancelled by SIGINT, and by SIGTERM, with which jobs are stopped."""
    task = asyncio.ensure_future(work)
    with _handled_by(task):
        await task


@contextmanager
def _handled_by(task: "asyncio.Future[None]") -> Iterator[None]:
    loop = asyncio.get_running_loop()
    signals = (signal.SIGINT, signal.SIGTERM)
    for number in signals:
        loop.add_signal_handler(number, task.cancel)
    try:
        yield
    finally:
        for number in signals:
            loop.remove_signal_handler(number)


async def _beside(work: Coroutine[Any, Any, None], other: Coroutine[Any, Any, None]) -> None:
    """``work`` to its end; ``other`` has none, but it may fail."""
    tasks = [asyncio.ensure_future(work), asyncio.ensure_future(other)]
    try:
        done, _ = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
        for task in done:
            task.result()
    finally:
        for task in tasks:
            task.cancel()
        # Until what runs is freed at every level.
        await asyncio.gather(*tasks, return_exceptions=True)


def _print(summary: dict[str, Any], *, as_json: bool) -> None:
    if as_json:
        print_json(summary)
        return
    pace = summary["tokens_per_second"]
    typer.echo(
        f"{summary['done']} of {summary['rows']} rows done, {summary['failed']} failed, "
        f"{summary['resumed']} were there before; {summary['tokens']} tokens in "
        f"{summary['elapsed_s']:.1f} s" + (f", {pace:.1f} tokens/s" if pace else "")
    )
