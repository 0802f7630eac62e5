"""What the commands do that starts nothing: listing, checking, reading prompts, comparing."""

import json
import resource
import subprocess
import sys
from array import array
from pathlib import Path

import pytest

from specrouter_dist import __version__
from specrouter_dist.cli import main as cli
from specrouter_dist.cli.prompts import read_prompts
from specrouter_dist.cli.session import open_session, parse_lossy
from specrouter_dist.cli.verify import Difference, compare, default_chains
from specrouter_dist.config import LossyParams
from specrouter_dist.engine.interface import TokenLogprobs
from specrouter_dist.errors import RequestError
from specrouter_dist.pools.loading import POOLS_DIRECTORY, available_pools, load_pool
from specrouter_dist.serving.results import GenerateResult, GenerationMetrics
from specrouter_dist.speculation.messages import TOKEN_TYPECODE
from specrouter_dist.speculation.noise import derive_seed

HELP_LIMIT_S = 0.5


def run(capsys: pytest.CaptureFixture[str], *arguments: str) -> str:
    with pytest.raises(SystemExit) as exited:
        cli.main(list(arguments))
    assert exited.value.code == 0
    return capsys.readouterr().out


def test_help_takes_less_than_half_a_second_of_cpu() -> None:
    command = [sys.executable, "-m", "specrouter_dist.cli", "--help"]
    seconds = []
    for _ in range(3):
        # CPU time: the wall clock would also measure what else this machine does.
        before = resource.getrusage(resource.RUSAGE_CHILDREN)
        result = subprocess.run(command, capture_output=True, text=True, check=True)
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
        seconds.append(after.ru_utime - before.ru_utime + after.ru_stime - before.ru_stime)
    assert "generate" in result.stdout
    assert min(seconds) < HELP_LIMIT_S


@pytest.mark.parametrize(
    "command",
    [
        "batch",
        "generate",
        "plan",
        "serve",
        "verify",
        "demo",
        "pool list",
        "pool show",
        "pool check",
        "pool train",
        "tasks fit",
        "tasks align",
    ],
)
def test_every_command_has_help_with_an_example(
    capsys: pytest.CaptureFixture[str], command: str
) -> None:
    text = " ".join(run(capsys, *command.split(), "--help").split())
    assert f"Example: specrouter {command}" in text


def test_without_arguments_help_is_printed(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "argv", ["specrouter"])
    with pytest.raises(SystemExit) as exited:
        cli.main()
    assert exited.value.code == 0
    assert "Commands:" in capsys.readouterr().out


def test_the_version_is_the_packages(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(capsys, "--version") == f"{__version__}\n"


def test_pools_are_listed(capsys: pytest.CaptureFixture[str]) -> None:
    rows = [json.loads(line) for line in run(capsys, "pool", "list", "--json").splitlines()]
    assert [row["name"] for row in rows] == available_pools()
    members = {row["name"]: row["members"] for row in rows}
    assert members["tiny"] == ["lookup", "small", "medium", "target"]
    assert "small-translate-russian" in members["tiny-tasks"]
    assert "tiny" in run(capsys, "pool", "list")


def test_a_pool_is_shown_with_its_defaults(capsys: pytest.CaptureFixture[str]) -> None:
    shown = json.loads(run(capsys, "pool", "show", "tiny", "--json"))
    assert shown["config_hash"] == load_pool("tiny").config_hash
    assert shown["members"][3]["dtype"] == "bf16"
    assert "kv_tokens: 32768" in run(capsys, "pool", "show")


def test_a_pool_is_checked(capsys: pytest.CaptureFixture[str]) -> None:
    report = json.loads(run(capsys, "pool", "check", "tiny", "--dtype", "fp32", "--json"))
    assert (report["ok"], report["num_ids"], report["eos_ids"]) == (True, 4096, [0])
    assert report["members"][2]["weight_bytes"] == 4 * report["members"][2]["num_parameters"]
    assert "one tokenizer of 4096 ids" in run(capsys, "pool", "check")


def test_rows_give_their_prompt_and_carry_the_rest(tmp_path: Path) -> None:
    messages = [{"role": "user", "content": "c", "name": "x"}]
    rows = [
        {"prompt": "a", "id": 1},
        {"turns": ["b", "later"], "suite": "s", "id": 2},
        {"messages": messages},
    ]
    file = tmp_path / "prompts.jsonl"
    file.write_text("\n".join(json.dumps(row) for row in rows))
    read = read_prompts(None, file)
    assert [row.content for row in read] == ["a", "b", ({"role": "user", "content": "c"},)]
    assert [row.carried for row in read] == [{"id": 1}, {"suite": "s", "id": 2}, {}]


def test_fields_of_lossy_are_read_by_name() -> None:
    assert parse_lossy("") == LossyParams()
    assert parse_lossy("accept=0.7, escalate=.2") == LossyParams(accept=0.7, escalate=0.2)
    with pytest.raises(RequestError, match="given twice"):
        parse_lossy("accept=0.7,accept=0.8")


def test_a_chain_with_a_slim_member_can_be_lossy(tmp_path: Path) -> None:
    tiny = POOLS_DIRECTORY / "tiny"
    file = tmp_path / "pool.yaml"
    file.write_text(
        f"""
name: slims
members:
  - {{name: small, kind: model, role: drafter, model: {tiny / "small"}}}
  - {{name: target, kind: model, role: target, model: {tiny / "target"}}}
  - {{name: slim, kind: layer_skip, of: target, mask: [4.mlp]}}
"""
    )
    session = open_session(str(file), dtype=None, prompt="a", prompts=None, sampling={})
    (request,) = session.requests("small,slim,target", "accept=0.7")
    assert (request.chain, request.lossy) == (("small", "slim", "target"), LossyParams(accept=0.7))
    (request,) = session.requests("small,slim,target")
    assert request.lossy is None
    for chain in ("auto", "slim,target", "small,target"):
        with pytest.raises(RequestError, match="of this kind: slim"):
            session.requests(chain, "")


def test_each_request_has_its_own_seed_and_the_chain_that_was_named(tmp_path: Path) -> None:
    file = tmp_path / "prompts.jsonl"
    conversation = {"messages": [{"role": "user", "content": "hi"}]}
    file.write_text(f'{{"prompt": "a"}}\n{json.dumps(conversation)}\n{{"prompt": "a"}}')
    session = open_session(
        "tiny", dtype=None, prompt=None, prompts=file, sampling={"seed": 5, "max_tokens": 3}
    )
    requests = session.requests("small,target")
    seeds = [request.sampling.seed for request in requests]
    assert seeds == [5, derive_seed(5, 0, 1), derive_seed(5, 0, 2)]
    assert {request.chain for request in requests} == {("small", "target")}
    assert {request.chain for request in session.requests("auto")} == {None}
    assert requests[1].prompt_ids.tolist() == [3, 76, 77, 4]  # <|user|>hi<|assistant|>
    assert requests[0].prompt_ids == requests[2].prompt_ids


@pytest.mark.parametrize("file", sorted((POOLS_DIRECTORY / "prompts").glob("*.jsonl")))
def test_the_prompts_that_come_along_are_valid(file: Path) -> None:
    rows = read_prompts(None, file)
    assert {row.carried["task"] for row in rows} == {"math", "code", "translate", "docs"}


def test_a_verify_without_chains_covers_every_drafter_and_all_of_them() -> None:
    assert default_chains(load_pool("tiny")) == [
        "lookup,target",
        "small,target",
        "medium,target",
        "lookup,small,medium,target",
    ]


def result(*tokens: int) -> GenerateResult:
    logprobs = tuple(TokenLogprobs(t, -0.5, ((t, -0.5), (t + 1, -0.75))) for t in tokens)
    return GenerateResult(
        text="",
        token_ids=array(TOKEN_TYPECODE, tokens),
        seed=0,
        finish_reason="length",
        chain=("target",),
        metrics=GenerationMetrics(1.0, 1.0, None),
        logprobs=logprobs,
    )


def test_outputs_are_compared_token_by_token() -> None:
    wanted = [result(1, 2, 3), result(1, 2, 3), result(1, 2), result(1, 2, 3)]
    got = [result(1, 2, 3), result(1, 5, 3), result(1, 2, 3), result(1, 2)]
    assert compare(wanted, got) == [
        Difference(prompt=1, position=1, expected=2, got=5, gap=0.25),
        Difference(prompt=2, position=2, expected=None, got=3, gap=None),
        Difference(prompt=3, position=2, expected=3, got=None, gap=0.25),
    ]
