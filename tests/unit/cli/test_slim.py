"""``specrouter slim search``: what it refuses before it loads anything, and a search of a whole
pool of random models."""

import json
import shutil
from pathlib import Path

import pytest
import yaml

from specrouter_dist.cli import main as cli
from specrouter_dist.pools.checks import check_pool
from specrouter_dist.pools.loading import POOLS_DIRECTORY, load_pool, resolve_directories
from specrouter_dist.slim import finding
from specrouter_dist.worker import profiling
from tests.unit.engine.fast_models import save, small

NUM_LAYERS = 5


def run(capsys: pytest.CaptureFixture[str], *arguments: str) -> tuple[int, str, str]:
    with pytest.raises(SystemExit) as exited:
        cli.main(["slim", "search", *arguments])
    captured = capsys.readouterr()
    return int(exited.value.code or 0), captured.out, captured.err


@pytest.fixture
def prompts(tmp_path: Path) -> Path:
    file = tmp_path / "prompts.jsonl"
    rows = (json.dumps({"prompt": f"Question {i}: what is {i} + {i}?"}) for i in range(12))
    file.write_text("\n".join(rows))
    return file


@pytest.fixture(scope="module")
def pool(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A pool of random models with the embedded pool's tokenizer."""
    folder = tmp_path_factory.mktemp("pool")
    for name, layers in (("small", 1), ("target", NUM_LAYERS)):
        save(small(num_hidden_layers=layers, vocab_size=4096), folder / name)
        for file in ("tokenizer.json", "tokenizer_config.json"):
            shutil.copy(POOLS_DIRECTORY / "tiny" / "target" / file, folder / name)
    shared = "kind: model, dtype: fp32, kv_tokens: 4096"
    lines = [
        "name: random",
        "members:",
        "  - {name: lookup, kind: lookup}",
        f"  - {{name: small, role: drafter, model: small, {shared}}}",
        f"  - {{name: target, role: target, model: target, {shared}}}",
    ]
    file = folder / "random.yaml"
    file.write_text("\n".join(lines))
    return file


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (("--pool", "tini"), "pool: no pool 'tini' (did you mean 'tiny'?)"),
        (("--skip", "0.9"), "skip: 0.9 of 10 layers are 18 of their 20 parts; the first and the"),
        (("--skip", "0.01"), "skip: 0.01 of 10 layers are 0 of their 20 parts"),
        (("--skip", "1.5"), "skip[0]: input should be less than 1, got 1.5"),
        (("--skip", "nan"), "skip[0]: input should be a finite number, got nan"),
        (
            ("--skip", "0.2", "--skip", "0.2"),
            "skip: shares must differ by a percent, got [0.2, 0.2]",
        ),
        (("--max-evaluations", "0"), "max_evaluations: input should be greater than or equal to 1"),
        (("--num-prompts", "1"), "num_prompts: input should be greater than or equal to 2, got 1"),
        (("--num-prompts", "48"), "prompts: 12 have at most 1024 tokens, which leave room for 64"),
        (("--max-tokens", "2048"), "prompts: 0 have at most 0 tokens"),
        (("--out", "no/p.yaml"), "--out: no directory 'no'"),
        (("--plot", "no/p.png"), "--plot: no directory 'no'"),
    ],
    ids=range(12),
)
def test_bad_input_is_refused_before_any_model_is_loaded(
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    prompts: Path,
    arguments: tuple[str, ...],
    expected: str,
) -> None:
    monkeypatch.delattr(finding.Members, "__init__")
    code, out, err = run(capsys, str(prompts), *arguments)
    assert (code, out) == (2, "")
    # Progress of reading may come before.
    assert err.splitlines()[-1].startswith(f"error: {expected}"), err


def test_a_log_without_prompts_is_refused(
    capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    (tmp_path / "empty.jsonl").write_text("\n")
    code, _, err = run(capsys, str(tmp_path / "empty.jsonl"))
    assert code == 2 and "holds no rows" in err
    code, _, err = run(capsys, str(tmp_path / "none.jsonl"))
    assert code == 2 and "cannot read" in err


def test_a_target_of_another_engine_is_refused(
    capsys: pytest.CaptureFixture[str], prompts: Path, tiny_copy: Path
) -> None:
    text = tiny_copy.read_text().replace("role: target,", "role: target, engine: general,")
    tiny_copy.write_text(text)
    code, _, err = run(capsys, str(prompts), "--pool", str(tiny_copy))
    assert code == 2
    assert "member 'target': layers are skipped by the fast engine" in err


def test_a_kv_cache_too_small_for_the_texts_is_refused(
    capsys: pytest.CaptureFixture[str], prompts: Path, pool: Path, tmp_path: Path
) -> None:
    narrow = pool.with_name("narrow.yaml")
    narrow.write_text(pool.read_text().replace("kv_tokens: 4096", "kv_tokens: 256"))
    code, _, err = run(capsys, str(prompts), "--pool", str(narrow), "--num-prompts", "12")
    assert code == 2
    assert "num_prompts: the texts of half of 12 prompts take" in err


def test_a_search_is_told_written_and_gone_on_with(
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    prompts: Path,
    pool: Path,
    tmp_path: Path,
) -> None:
    monkeypatch.setenv("SPECROUTER_STATE_DIR", str(tmp_path / "state"))
    # Batches of several sessions are not what is looked at, and take most of the time.
    monkeypatch.setattr(profiling, "_GRIDS", profiling._GRIDS[:1])
    out, plot = tmp_path / "new.yaml", tmp_path / "plot.png"
    arguments = [str(prompts), "--pool", str(pool), "--skip", "0.2", "--skip", "0.5"]
    arguments += ["--num-prompts", "8", "--max-tokens", "12", "--max-evaluations", "4"]
    files = ["--out", str(out), "--plot", str(plot), "--json"]
    code, told, _ = run(capsys, *arguments, *files)
    assert code == 0
    summary = json.loads(told)
    assert [len(one["mask"]) for one in summary["found"]] == [2, 5]
    assert summary["num_trials"] == 8
    assert plot.stat().st_size > 1000
    written = resolve_directories(load_pool(str(out)))
    check_pool(written)
    assert [m.name for m in written.config.members][-2:] == ["slim-20", "slim-50"]

    # Nothing is tried twice, and what was tried leads to the same masks.
    tried: list[object] = []
    monkeypatch.setattr(
        finding.Along,
        "score",
        lambda *of, score=finding.Along.score: tried.append(of) or score(*of),
    )
    file = Path(summary["trials"])
    lines = file.read_bytes().splitlines(keepends=True)
    file.write_bytes(b"".join(lines[:-2]) + lines[-2][:30])
    code, told, _ = run(capsys, *arguments)
    assert code == 0
    for one in summary["found"]:
        (line,) = (
            line for line in told.splitlines() if f"name: slim-{one['skip']:.0%}"[:-1] in line
        )
        assert yaml.safe_load(line) == [one["member"]]
    assert "pays: " in told
    num_held_out = 2
    assert len(tried) == 2 + num_held_out
