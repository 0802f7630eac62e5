"""``specrouter batch`` as far as nothing runs: files, locks, refusals, progress."""

import asyncio
import io
import json
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from tqdm import tqdm

from specrouter_dist.batch.keys import Settings
from specrouter_dist.batch.resume import Done
from specrouter_dist.cli import backends
from specrouter_dist.cli import main as cli
from specrouter_dist.cli.batch import EXIT_SOME_FAILED
from specrouter_dist.cli.batch_files import BatchInput, BatchOutput, open_output
from specrouter_dist.cli.batch_progress import Progress, Tally, open_progress
from specrouter_dist.errors import InputError, RequestError, SpecRouterError, UnavailableError
from specrouter_dist.pools.loading import load_pool
from specrouter_dist.serving.batch_runner import Outcome
from tests.unit.batch.made import outputs

ROW = b'{"prompt": "a"}\n'

Run = Callable[..., tuple[int, str, str]]


@pytest.fixture
def run(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Run:
    """Runs the command; a pool that is to be started is not there."""

    def open_backend(*_: Any) -> None:
        raise UnavailableError("no pool in unit tests")

    monkeypatch.setattr(backends, "open_backend", open_backend)

    def run_batch(*arguments: object) -> tuple[int, str, str]:
        with pytest.raises(SystemExit) as exited:
            cli.main(["batch", *map(str, arguments)])
        captured = capsys.readouterr()
        assert isinstance(exited.value.code, int)
        return exited.value.code, captured.out, captured.err

    return run_batch


@pytest.fixture
def source(tmp_path: Path) -> Path:
    file = tmp_path / "in.jsonl"
    file.write_bytes(ROW * 3)
    return file


REFUSED: list[tuple[tuple[str, ...], str]] = [
    (("no.jsonl", "out.jsonl"), "input: cannot read 'no.jsonl': No such file"),
    ((".", "out.jsonl"), "input: '.' is no regular file"),
    (("pipe", "out.jsonl"), "input: 'pipe' is no regular file"),
    (("in.jsonl", "pipe"), "output: 'pipe' is no regular file"),
    (("in.jsonl", "/dev/null"), "output: '/dev/null' is no regular file"),
    (("empty.jsonl", "out.jsonl"), "input: 'empty.jsonl' holds no rows"),
    (("in.jsonl", "in.jsonl"), "output: the same file as input"),
    (("in.jsonl", "./out.jsonl", "--progress", "out.jsonl"), "--progress: the same file as output"),
    (("in.jsonl", "no/out.jsonl"), "output: cannot write 'no/out.jsonl': No such file"),
    (("in.jsonl", "out.jsonl", "--progress", "no/p"), "--progress: cannot write 'no/p': No such"),
    (("in.jsonl", "out.jsonl", "--pool", "tini"), "pool: no pool 'tini'"),
    (("in.jsonl", "out.jsonl", "--chain", "big,target"), "chain: pool 'tiny' has no member 'big'"),
    (("in.jsonl", "out.jsonl", "--max-tokens", "0"), "max_tokens: input should be greater than"),
    (("in.jsonl", "out.jsonl", "--temperature", "nan"), "temperature: input should be a finite"),
    (("in.jsonl", "out.jsonl", "--seed", "-1"), "seed: input should be greater than or equal to 0"),
    (("in.jsonl", "out.jsonl", "--concurrency", "0"), "Invalid value for '--concurrency': "),
    (("in.jsonl", "out.jsonl", "--live", "--backend", "local"), "--live: only a pool of Ray"),
    (("in.jsonl", "notes.txt"), "output: 'notes.txt' cannot be continued: line 1 of the output: "),
    (("in.jsonl",), "Missing argument 'output'"),
]


@pytest.mark.parametrize(("arguments", "message"), REFUSED)
def test_what_is_wrong_is_refused_before_anything_starts(
    run: Run,
    source: Path,
    monkeypatch: pytest.MonkeyPatch,
    arguments: tuple[str, ...],
    message: str,
) -> None:
    monkeypatch.chdir(source.parent)
    Path("empty.jsonl").write_bytes(b"\n \n")
    Path("notes.txt").write_text("notes")
    os.mkfifo("pipe")
    code, out, err = run(*arguments)
    assert (code, out, err.count("\n")) == (2, "", 1), err
    assert err.startswith(f"error: {message}")
    assert source.read_bytes() == ROW * 3
    assert Path("notes.txt").read_text() == "notes"


def finished(source: Path, content: bytes = ROW * 3) -> Path:
    """The output of these rows under the command's defaults."""
    output = source.with_name("out.jsonl")
    settings = Settings(load_pool("tiny").config_hash, 0, {})
    output.write_bytes(b"".join(outputs(content, settings)))
    return output


def test_an_output_that_is_complete_needs_no_pool(run: Run, source: Path) -> None:
    output = finished(source)
    before = output.read_bytes()
    code, out, err = run(source, output, "--json")
    assert (code, err) == (0, "")
    summary = json.loads(out)
    assert [summary[name] for name in ("rows", "resumed", "done", "failed")] == [3, 3, 3, 0]
    assert output.read_bytes() == before
    assert "3 of 3 rows done, 0 failed, 3 were there before" in run(source, output)[1]


def test_failed_rows_are_told_by_the_exit_code(run: Run, source: Path) -> None:
    source.write_bytes(ROW + b"wrong\n")
    output = finished(source, source.read_bytes())
    code, out, _ = run(source, output, "--json")
    assert (code, json.loads(out)["failed"]) == (EXIT_SOME_FAILED, 1)


@pytest.mark.parametrize("options", [(), ("--overwrite",)])
def test_nothing_is_cut_before_the_pool_is_there(
    run: Run, source: Path, options: tuple[str, ...]
) -> None:
    output = finished(source)
    before = output.read_bytes()[:-10]
    output.write_bytes(before)
    code, _, err = run(source, output, *options)
    assert (code, err) == (1, "error: no pool in unit tests\n")
    assert output.read_bytes() == before


@pytest.mark.parametrize("options", [("--seed", "1"), ("--max-tokens", "3"), ("--dtype", "fp32")])
def test_other_settings_are_refused(run: Run, source: Path, options: tuple[str, ...]) -> None:
    code, _, err = run(source, finished(source), *options)
    assert code == 2
    assert "made with another pool, --seed or other settings; --overwrite begins anew" in err


def test_two_runs_do_not_write_one_output(source: Path) -> None:
    output = source.with_name("out.jsonl")
    with (
        open_output(output),
        pytest.raises(RequestError, match="another run is writing"),
        open_output(output),
    ):
        pass
    with open_output(output):
        pass


def test_an_output_is_cut_and_continued(source: Path) -> None:
    output = finished(source)
    whole = output.read_bytes()
    output.write_bytes(whole[:-10])
    with open_output(output) as out:
        done = out.find_done(
            BatchInput(source), Settings(load_pool("tiny").config_hash, 0, {}).digest()
        )
        assert done.num_rows == 2
        out.cut(done.num_bytes)
        out.write(whole[done.num_bytes :])
    assert output.read_bytes() == whole


def test_a_full_disk_is_an_error_of_one_line() -> None:
    file_descriptor = os.open("/dev/full", os.O_RDWR)
    try:
        with pytest.raises(SpecRouterError, match=r"out\.jsonl': No space left"):
            BatchOutput(Path("out.jsonl"), file_descriptor).write(b"x")
    finally:
        os.close(file_descriptor)


def test_rows_begin_where_they_are_wanted(source: Path) -> None:
    batch = BatchInput(source)
    assert batch.num_rows == 3
    with batch.lines(2) as lines:
        assert [line.index for line in lines] == [2]


@pytest.fixture
def progress() -> Iterator[tuple[Progress, io.StringIO]]:
    written = io.StringIO()
    times = iter(range(100, 200))
    tally = Tally.begin(10, Done(num_rows=4, num_failed=1))
    with tqdm(disable=True) as bar:
        yield Progress(tally, written, bar, lambda: float(next(times))), written


def test_progress_counts_rows_tokens_and_time(
    progress: tuple[Progress, io.StringIO], capsys: pytest.CaptureFixture[str]
) -> None:
    shown, written = progress

    async def main() -> None:
        reporting = asyncio.ensure_future(shown.report_for_ever())
        await asyncio.sleep(0)
        shown.count(Outcome(5, b"", num_tokens=8))
        shown.count(Outcome(6, b"", problem="prompt:\nwrong"))
        shown.report()
        reporting.cancel()

    asyncio.run(main())
    assert capsys.readouterr().err == "line 6: prompt: wrong\n"
    first, second = map(json.loads, written.getvalue().splitlines())
    assert (first["done"], first["eta_s"]) == (4, None)
    assert second == {
        "rows": 10,
        "resumed": 4,
        "done": 6,
        "failed": 2,
        "tokens": 8,
        "elapsed_s": 2.0,
        "tokens_per_second": 4.0,
        "eta_s": 4.0,
    }


def test_a_progress_file_grows_from_run_to_run(tmp_path: Path) -> None:
    for _ in range(2):
        with open_progress(Tally.begin(1, Done()), tmp_path / "p.jsonl"):
            pass
    assert len((tmp_path / "p.jsonl").read_text().splitlines()) == 2
    with (
        pytest.raises(InputError, match="cannot write"),
        open_progress(Tally.begin(1, Done()), tmp_path),
    ):
        pass


def test_a_job_writes_nothing_where_it_would_go_with_the_job(
    run: Run, source: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    copy = source.parent / "runtime_resources" / "working_dir_files" / "_ray_pkg_1"
    copy.mkdir(parents=True)
    monkeypatch.chdir(copy)
    (copy / "in.jsonl").write_bytes(ROW)
    for arguments in (("out.jsonl",), (source.with_name("out.jsonl"), "--progress", "p.jsonl")):
        code, _, err = run("in.jsonl", *arguments)
        assert code == 2
        assert "is in the job's own copy of its working directory" in err
    # The input may be there: that a pool is wanted is beyond the checks.
    code, _, err = run("in.jsonl", source.with_name("out.jsonl"))
    assert (code, "no pool in unit tests" in err) == (1, True)
