"""Each kind of bad input: exit code 2 and one line that says what, where, and what is right."""

import json
import socket
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from specrouter_dist.cli import main as cli
from specrouter_dist.errors import EngineError

Run = Callable[..., tuple[int, str, str]]


@pytest.fixture
def run(capsys: pytest.CaptureFixture[str]) -> Run:
    """Runs the command in this process: exit code, stdout, stderr."""

    def run_command(*arguments: str) -> tuple[int, str, str]:
        with pytest.raises(SystemExit) as exited:
            cli.main(list(arguments))
        captured = capsys.readouterr()
        assert isinstance(exited.value.code, int)
        return exited.value.code, captured.out, captured.err

    return run_command


@pytest.fixture
def refused(run: Run) -> Callable[..., str]:
    """Runs a command that must be refused; gives its one line."""

    def run_refused(*arguments: str) -> str:
        code, out, err = run(*arguments)
        assert (code, out, err.count("\n")) == (2, "", 1), (code, out, err)
        assert err.startswith("error: ")
        return err.removeprefix("error: ").rstrip("\n")

    return run_refused


PROMPT = ("--prompt", "hi")

BAD_ARGUMENTS = [
    (("generate", *PROMPT, "--pool", "tini"), "pool: no pool 'tini' (did you mean 'tiny'?)"),
    (("generate", *PROMPT, "--pool", "no.yaml"), "pool: no file 'no.yaml'"),
    (("generate", *PROMPT, "--chain", "big,target"), "chain: pool 'tiny' has no member 'big'; acc"),
    (("generate", *PROMPT, "--chain", "small"), "chain: 'small' does not end in 'target'; a chain"),
    (("generate", *PROMPT, "--chain", "target,small"), "chain: 'target,small' does not end in"),
    (("verify", *PROMPT, "--chain", "small,lookup,target"), "chain: lookup member 'lookup' veri"),
    (("generate", "--prompt", ""), "prompt: empty; at least one character is needed"),
    (("generate",), "--prompt or --prompts: exactly one is needed, neither was given"),
    (("generate", *PROMPT, "--prompts", "x"), "--prompt or --prompts: exactly one is needed, both"),
    (("generate", *PROMPT, "--max-tokens", "-1"), "max_tokens: input should be greater than or eq"),
    (("generate", *PROMPT, "--max-tokens", "0"), "max_tokens: input should be greater than or eq"),
    (("generate", *PROMPT, "--temperature", "-0.1"), "temperature: input should be greater than"),
    (("generate", *PROMPT, "--temperature", "nan"), "temperature: input should be a finite number"),
    (("generate", *PROMPT, "--temperature", "inf"), "temperature: input should be a finite number"),
    (("generate", *PROMPT, "--temperature", "hot"), "Invalid value for '--temperature': "),
    (("generate", *PROMPT, "--top-p", "nan"), "top_p: input should be a finite number, got nan"),
    (("generate", *PROMPT, "--top-p", "0"), "top_p: input should be greater than 0, got 0.0"),
    (("generate", *PROMPT, "--top-k", "-2"), "top_k: input should be greater than or equal to -1"),
    (("generate", *PROMPT, "--min-p", "2"), "min_p: input should be less than or equal to 1"),
    (("generate", *PROMPT, "--seed", "-1"), "seed: input should be greater than or equal to 0"),
    (("generate", *PROMPT, "--seed", str(1 << 64)), "seed: input should be less than or equal to"),
    (("generate", *PROMPT, "--stop", ""), "stop[0]: string should have at least 1 character"),
    (("generate", *PROMPT, "--min-tokens", "129"), "min_tokens (129) must not be above max_tokens"),
    (("generate", *PROMPT, "--concurrency", "0"), "Invalid value for '--concurrency': "),
    (("generate", *PROMPT, "--dtype", "fp16"), "Invalid value for '--dtype': 'fp16' is not one of"),
    (("generate", *PROMPT, "--backend", "gpu"), "Invalid value for '--backend': 'gpu' is not one"),
    (("generate", *PROMPT, "--lossy", "accept=0.2,escalate=0.4"), "--lossy: 0 < escalate < accept"),
    (("generate", *PROMPT, "--lossy", "accept"), "--lossy: accept: input should be a valid number"),
    (("generate", *PROMPT, "--lossy", "acept=1"), "--lossy: acept: unknown field (did you mean 'a"),
    (
        ("generate", *PROMPT, "--lossy", ""),
        "chain: lossy needs a drafter, then a member of kind la",
    ),
    (("generate", *PROMPT, "--beams", "4"), "No such option: --beams"),
    (("generate", *PROMPT, "--trace", "no/t.json"), "--trace: no directory 'no'"),
    (("generate", *PROMPT, "--trace", "t.txt"), "--trace: a file that ends in .json, got 't.txt'"),
    (("generate", "--prompt"), "Option '--prompt' requires an argument"),
    (("generat", *PROMPT), "No such command 'generat'. Did you mean 'generate'?"),
    (("pool",), "Missing command; see specrouter --help"),
    (("pool", "check", "tini"), "pool: no pool 'tini'"),
    (("plan", "--temperature", "nan"), "temperature: input should be a finite number, got nan"),
    (("pool", "train", "--out", "x"), "Missing option '--data'"),
    (("pool", "train", "--data", "no", "--out", "x"), "--data: no file 'no/train.jsonl.gz'"),
    (("tasks", "fit", "no.jsonl", "--out", "."), "--out: a file is needed, got the directory '.'"),
    (("serve", "--port", "0"), "Invalid value for '--port': "),
    (("serve", "--port", "65536"), "Invalid value for '--port': "),
]


@pytest.mark.parametrize(
    ("arguments", "expected"), BAD_ARGUMENTS, ids=[" ".join(case[0]) for case in BAD_ARGUMENTS]
)
def test_bad_arguments(
    refused: Callable[..., str], arguments: tuple[str, ...], expected: str
) -> None:
    assert refused(*arguments).startswith(expected)


def test_a_prompt_longer_than_the_context(refused: Callable[..., str]) -> None:
    line = refused("generate", "--prompt", "a b " * 2000)
    assert line == (
        "prompt: 4001 tokens; at most 2047 fit the context of 2048 with one token to generate"
    )


def test_a_prompt_that_is_no_unicode(refused: Callable[..., str]) -> None:
    # What the shell passes on when its bytes are no UTF-8.
    assert "prompt: no valid Unicode" in refused("generate", "--prompt", "a\udcff")


EVERYTHING = ", ".join(f"{layer}.{part}" for layer in range(10) for part in ("mlp", "attention"))

BAD_ROWS = [
    (b'{"prompt": "a"', "no valid JSON at column 15: "),
    (b'{"prompt": "\xff"}', "not UTF-8 at byte 13"),
    (b'["a"]', "must be a JSON object, got list"),
    (b'{"text": "a"}', "exactly one of 'prompt', 'turns', 'messages' is needed, got none"),
    (b'{"prompt": "a", "turns": ["a"]}', "exactly one of 'prompt', 'turns', 'messages' is needed"),
    (b'{"prompt": ""}', "prompt: a text that is not empty is needed, got ''"),
    (b'{"prompt": 3}', "prompt: a text that is not empty is needed, got 3"),
    (b'{"prompt": "\\ud800"}', "prompt: no valid Unicode: a lone surrogate at character 0"),
    (b'{"turns": []}', "turns: a list that is not empty is needed, got []"),
    (b'{"turns": [""]}', "turns[0]: a text that is not empty is needed, got ''"),
    (b'{"prompt": ' + b"[" * 100_000, "no usable JSON: maximum recursion depth"),
    (b'{"prompt": ' + b"9" * 10_000 + b"}", "no usable JSON: Exceeds the limit"),
    (b'{"prompt": " \\n"}', r"prompt: a text that is not empty is needed, got ' \n'"),
    (b'{"turns": [" "]}', "turns[0]: a text that is not empty is needed, got ' '"),
    (
        b'{"messages": [{"role": "system", "content": ""}, {"role": "user", "content": " "}]}',
        "messages: a 'content' that is not empty is needed",
    ),
    (b'{"messages": "hi"}', "messages: a list that is not empty is needed, got 'hi'"),
    (b'{"messages": [{"role": "user"}]}', "messages[0]: an object with the texts 'role' and 'con"),
    (b'{"messages": [{"role": 1, "content": ""}]}', "messages[0]: an object with the texts 'role'"),
    (json.dumps({"prompt": "a b " * 2000}).encode(), "prompt: 4001 tokens; at most 2047 fit"),
]


@pytest.mark.parametrize(("row", "expected"), BAD_ROWS, ids=range(len(BAD_ROWS)))
def test_a_bad_row_is_named_by_file_and_line(
    refused: Callable[..., str], tmp_path: Path, row: bytes, expected: str
) -> None:
    file = tmp_path / "prompts.jsonl"
    file.write_bytes(b'{"prompt": "fine"}\n\n' + row + b"\n")
    assert refused("generate", "--prompts", str(file)).startswith(f"{file}, line 3: {expected}")


def test_a_prompts_file_that_is_missing_or_empty(
    refused: Callable[..., str], tmp_path: Path
) -> None:
    file = tmp_path / "prompts.jsonl"
    expected = f"--prompts: cannot read '{file}': No such file or directory"
    assert refused("generate", "--prompts", str(file)) == expected
    file.write_text("\n")
    assert refused("verify", "--prompts", str(file)) == f"--prompts: '{file}' holds no rows"


def test_a_port_in_use(refused: Callable[..., str]) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
        line = refused("serve", "--port", str(port))
    assert line == (
        f"--port: cannot listen on 127.0.0.1:{port}: Address already in use; choose another with "
        "--port or --host"
    )


def test_an_address_of_another_machine(refused: Callable[..., str]) -> None:
    assert refused("serve", "--host", "192.0.2.1").startswith("--port: cannot listen on 192.0.2.1:")


@pytest.mark.parametrize(
    ("old", "new", "expected"),
    [
        (
            "tiny/small",
            "tiny/small}\n  - {name: second, kind: model, role: target, model: tiny/target",
            "members: exactly",
        ),
        (
            "model: tiny/target",
            "model: tiny/target, quantization: int8",
            "quantization is for memb",
        ),
        ("tiny/small", "tiny/small, quantization: int3", "quantization: "),
        ("name: tiny", "nam: tiny", "name: missing"),
        ("tiny/small", "tiny/smaller/still", "members.small.model: 'tiny/smaller/still' is no dir"),
        ("tiny/small", "tiny/small, kv_tokens: 99000000000", "memory: the pool needs "),
        ("tiny/small", "tiny/small, context_tokens: 9999", "member 'small': context_tokens: at mo"),
        *(
            (
                "tiny/target}",
                f"tiny/target}}\n  - {{name: slim, kind: layer_skip, of: {of}, mask: [{mask}]}}",
                f"member 'slim': {expected}",
            )
            for of, mask, expected in (
                ("target", "10.mlp", "mask: '10.mlp': the target's layers are 0 to 9"),
                ("target", EVERYTHING, "mask: '0.mlp': the first and the last layer are kept"),
                ("big", "1.mlp", "of: must be the target 'target', which must run in the fast"),
            )
        ),
    ],
)
def test_a_pool_file_that_is_wrong(
    refused: Callable[..., str], tiny_copy: Path, old: str, new: str, expected: str
) -> None:
    tiny_copy.write_text(tiny_copy.read_text().replace(old, new))
    line = refused("generate", *PROMPT, "--pool", str(tiny_copy))
    assert expected in line


def test_a_pool_with_a_truncated_a_missing_and_a_foreign_file(
    refused: Callable[..., str], tiny_copy: Path
) -> None:
    file, models = str(tiny_copy), tiny_copy.parent / "tiny"
    weights = models / "target" / "model.safetensors"
    content = weights.read_bytes()
    weights.write_bytes(content[:-1])
    assert "it is truncated or damaged: fetch it again" in refused("pool", "check", file)
    weights.unlink()
    assert "target: no weight file; accepted: " in refused("pool", "check", file)
    weights.write_bytes(content)
    tokenizer = models / "small" / "tokenizer.json"
    tokenizer.write_text(tokenizer.read_text().replace('"<|pad|>"', '"<|other|>"'))
    assert "id 1 is '<|other|>', in 'target' '<|pad|>'" in refused("pool", "check", file)


@pytest.mark.parametrize(
    ("arguments", "config", "expected"),
    [
        (["--stage", "large"], "{}", "stages[0]: input should be 'target', 'samples', 'medium'"),
        (["--init-from", "no"], "{}", "--init-from: no directory 'no/target'"),
        ([], "seeds: 3", "seeds: unknown field (did you mean 'seed'?); accepted: stages, "),
        ([], "target: {optimizer: {steps: 0}}", "target.optimizer.steps: input should be greater"),
    ],
)
def test_a_wrong_recipe_is_refused_before_training(
    refused: Callable[..., str], tmp_path: Path, arguments: list[str], config: str, expected: str
) -> None:
    for name in ("train.jsonl.gz", "dev.jsonl.gz", "recipe.yaml"):
        (tmp_path / name).write_text(config)
    options = ["--data", str(tmp_path), "--out", str(tmp_path / "out")]
    recipe = ["--config", str(tmp_path / "recipe.yaml")]
    line = refused("pool", "train", *options, *recipe, *arguments)
    assert line.startswith(expected)
    assert not (tmp_path / "out").exists()


def test_the_installed_command_prints_one_line_and_exits_with_2() -> None:
    command = Path(sys.executable).with_name("specrouter")
    arguments = [str(command), "generate", "--prompt", "x", "--chain", "nope"]
    result = subprocess.run(arguments, capture_output=True, text=True)
    assert (result.returncode, result.stdout) == (2, "")
    assert result.stderr == (
        "error: chain: pool 'tiny' has no member 'nope'; accepted: lookup, small, medium, target\n"
    )


@pytest.mark.parametrize(
    ("problem", "code", "line"),
    [
        (EngineError("sliding\nwindows"), 1, "error: sliding windows\n"),
        (KeyboardInterrupt(), 130, ""),
    ],
)
def test_other_ends_have_their_exit_codes(
    run: Run, monkeypatch: pytest.MonkeyPatch, problem: BaseException, code: int, line: str
) -> None:
    def fail(*_: object) -> None:
        raise problem

    monkeypatch.setattr("specrouter_dist.pools.loading.available_pools", fail)
    assert run("pool", "list") == (code, "", line)
