"""Each kind of bad profile: one line with the field and what would be right."""

import json
from pathlib import Path
from typing import Any

import pytest

from specrouter_dist.cli import main as cli
from specrouter_dist.errors import ConfigError, NotFoundError
from specrouter_dist.simulation.profile import StepTime, available_profiles, load_profile
from specrouter_dist.simulation.world import World
from tests.unit.simulation.profiles import fields, member, profile

NAMES = ("small", "medium", "target")
SMALL, TARGET = member("small"), member("target")
WORKLOAD = fields()["workload"]

BAD: list[tuple[dict[str, Any], str]] = [
    ({"speed": 3}, "speed: unknown field (did you mean 'seed'?); accepted: name, "),
    ({"members": []}, "members: tuple should have at least 1 item"),
    ({"members": [SMALL]}, "members: the last, and only the last, has role 'target', got none"),
    ({"members": [TARGET, SMALL]}, "members: the last, and only the last, has role 'target'"),
    ({"members": [SMALL, SMALL, TARGET]}, "members: names must differ, these occur twice: ['sma"),
    ({"members": [SMALL | {"role": "draft"}, TARGET]}, "members[0].role: input should be 'target'"),
    ({"members": [SMALL | {"replicas": 0}, TARGET]}, "members[0].replicas: input should be great"),
    ({"members": [SMALL | {"step": {}}, TARGET]}, "members[0].step: either base_ms and per_row_ms"),
    (
        {"members": [SMALL | {"step": {"base_ms": 1, "table_ms": {1: 1}}}, TARGET]},
        "members[0].step: either base_ms and per_row_ms (not both 0) or table_ms is needed, got b",
    ),
    (
        {"members": [SMALL | {"step": {"base_ms": -1}}, TARGET]},
        "members[0].step.base_ms: inp",
    ),
    ({"agreements": []}, "agreements: member 'small' has none; it needs one at least"),
    (
        {"agreements": [{"draft": "smal", "verifier": "target", "agreement": 0.5}]},
        "agreements: no member 'smal' (did you mean 'small'?); accepted: small, target",
    ),
    (
        {"agreements": [{"draft": "target", "verifier": "small", "agreement": 0.5}]},
        "agreements: 'target' cannot draft for 'small': members are listed fastest first",
    ),
    (
        {"agreements": [{"draft": "small", "verifier": "target", "agreement": 0.5}] * 2},
        "agreements: 'small' with 'target' is given twice",
    ),
    (
        {"agreements": [{"draft": "small", "verifier": "target", "agreement": 1.5}]},
        "agreements[0].agreement: input should be less than or equal to 1, got 1.5",
    ),
    (
        {
            "agreements": [
                {
                    "draft": "small",
                    "verifier": "target",
                    "agreement": 0.5,
                    "runner_up_agreement": 2,
                }
            ]
        },
        "agreements[0].runner_up_agreement: input should be less than or equal to 1, got 2",
    ),
    ({"hops": [{"between": ["small", "big"], "hop_us": 1}]}, "hops: no member 'big'; accepted: sm"),
    ({"hops": [{"between": ["small", "small"], "hop_us": 1}]}, "hops: 'between' needs two differ"),
    ({"workload": {"num_requests": 1}}, "workload: exactly one of concurrency and rate_per_s is n"),
    ({"workload": WORKLOAD | {"rate_per_s": 1}}, "workload: exactly one of concurrency and rate_"),
    ({"workload": WORKLOAD | {"output_tokens": 0}}, "workload.output_tokens: input should be grea"),
    ({"failures": [{"member": "big", "at_s": 1, "down_s": 1}]}, "failures: no member 'big'; accep"),
    (
        {"failures": [{"member": "small", "replica": 1, "at_s": 1, "down_s": 1}]},
        "failures: 'small' has replicas 0 to 0, got 1",
    ),
    ({"plan": {"chain": ["small"], "edges": []}}, "plan.chain: ends in 'small', must end in 'targ"),
    ({"plan": {"chain": ["tiny", "target"], "edges": [{}]}}, "plan.chain: no member 'tiny'; accep"),
    ({"plan": {"chain": ["small", "target"]}}, "plan: a chain of 2 members has 1 edges, got 0"),
    ({"seed": -1}, "seed: input should be greater than or equal to 0, got -1"),
]


@pytest.mark.parametrize(("changes", "line"), BAD, ids=[line for _, line in BAD])
def test_a_bad_profile_is_one_line(tmp_path: Path, changes: dict[str, Any], line: str) -> None:
    file = tmp_path / "bad.json"
    file.write_text(json.dumps(fields() | changes))
    with pytest.raises(ConfigError) as refused:
        load_profile(str(file))
    assert str(refused.value).startswith(f"{file}: {line}")
    assert "\n" not in str(refused.value)


def test_profiles_that_are_not_there_are_named() -> None:
    with pytest.raises(NotFoundError, match=r"no profile 'llama3' \(did you mean 'llama2'\?\)"):
        load_profile("llama3")
    with pytest.raises(NotFoundError, match=r"profile: no file 'no\.yaml'"):
        load_profile("no.yaml")


@pytest.mark.parametrize("name", available_profiles())
def test_packaged_profiles_say_that_they_assume(name: str) -> None:
    assert "assumptions" in load_profile(name).description


@pytest.mark.parametrize("name", available_profiles())
def test_packaged_profiles_run(name: str) -> None:
    packaged = load_profile(name)
    fewer = packaged.workload.model_copy(update={"num_requests": 40})
    assert World(packaged.model_copy(update={"workload": fewer})).run().num_requests == 40


def test_a_table_of_times_is_linear_between_its_points() -> None:
    step = StepTime(table_ms={1: 2.0, 5: 4.0}, per_session_ms=0.5)
    assert [step.us(rows, 1) for rows in (1, 3, 5, 9)] == [2000, 3000, 4000, 6000]
    assert step.us(3, 3) == 4000


def test_a_step_pays_for_what_all_its_sessions_hold() -> None:
    step = StepTime(base_ms=1.0, per_row_ms=0.1, per_context_token_ms=0.001)
    assert step.us(10, 2, 3000) == pytest.approx(1000 + 1000 + 3000)
    with pytest.raises(ValueError, match="per_context_token_ms"):
        StepTime(base_ms=1.0, per_context_token_ms=-0.001)
    made = profile(members=[member("small", step=step, draft_token_ms=0.2), member("target")])
    assert made.member("small").draft_us(2, 3000) == pytest.approx(200 + 100 + 3000)


def test_the_command_prints_for_people_and_machines(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "small.json"
    file.write_text(json.dumps(fields()))
    for arguments in ((), ("--json", "--seed", "5")):
        with pytest.raises(SystemExit) as exited:
            cli.main(["simulate", str(file), *arguments])
        assert exited.value.code == 0
        out = capsys.readouterr().out
        if not arguments:
            assert "every output is the target's" in out
    content = json.loads(out)
    assert content["profile"]["seed"] == 5
    assert content["target_alone"]["token_ms_mean"] == pytest.approx(10.0)
    ratio = content["target_alone"]["token_ms_mean"] / content["results"]["token_ms_mean"]
    assert content["times_alone"] == pytest.approx(ratio)


def test_a_wrong_seed_is_refused(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as exited:
        cli.main(["simulate", "llama2", "--seed", "-1"])
    captured = capsys.readouterr()
    assert (exited.value.code, captured.out) == (2, "")
    assert captured.err == ("error: seed: input should be greater than or equal to 0, got -1\n")
