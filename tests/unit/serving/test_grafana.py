"""The dashboard asks for nothing that nobody exports."""

import json
import re
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml
from fastapi import FastAPI

from specrouter_dist.actors.metric_names import ALL_METRICS
from tests.unit.serving.asgi import call
from tests.unit.serving.calls import complete

CLUSTER = Path(__file__).parents[3] / "cluster"
DASHBOARD = CLUSTER / "grafana" / "specrouter.json"
WORDS = {"sum", "max", "min", "rate", "histogram_quantile", "label_values"}


def expressions() -> Iterator[str]:
    dashboard = json.loads(DASHBOARD.read_text(encoding="utf-8"))
    for variable in dashboard["templating"]["list"]:
        if variable["type"] == "query":
            yield variable["query"]
    for panel in dashboard["panels"]:
        yield from (target["expr"] for target in panel.get("targets", ()))


def names_in(expression: str) -> set[str]:
    """The metrics of an expression: no selectors, ranges, groupings and functions."""
    bare = re.sub(r"\{[^}]*\}|\[[^\]]*\]|by \([^)]*\)", "", expression)
    bare = re.sub(r"^label_values\((\S+), \w+\)$", r"\1", bare)
    return set(re.findall(r"[A-Za-z_][\w:]*", bare)) - WORDS


@pytest.fixture
def exported(app: FastAPI) -> set[str]:
    """By the service and by Ray."""
    complete(app)
    text = call(app, "GET", "/metrics").body.decode()
    names = set(re.findall(r"^([A-Za-z_][\w:]*)[{ ]", text, re.MULTILINE))
    return names | {metric.exported for metric in ALL_METRICS}


def test_every_metric_of_the_dashboard_is_exported(exported: set[str]) -> None:
    asked = set().union(*map(names_in, expressions()))
    assert asked - exported == set()
    assert len(asked) > 20


def test_every_metric_of_the_actors_is_shown() -> None:
    asked = set().union(*map(names_in, expressions()))
    assert {metric.exported for metric in ALL_METRICS} - asked == set()


def test_panels_do_not_overlap_and_every_one_asks() -> None:
    panels = json.loads(DASHBOARD.read_text(encoding="utf-8"))["panels"]
    assert len({panel["id"] for panel in panels}) == len(panels)
    taken: set[tuple[int, int]] = set()
    for panel in panels:
        at = panel["gridPos"]
        cells = {(at["x"] + i, at["y"] + j) for i in range(at["w"]) for j in range(at["h"])}
        assert not cells & taken and at["x"] + at["w"] <= 24
        taken |= cells
        assert panel["type"] == "row" or panel["targets"]


def test_the_scrape_config_has_both_sources() -> None:
    config = yaml.safe_load((CLUSTER / "prometheus.yaml").read_text(encoding="utf-8"))
    assert [job["job_name"] for job in config["scrape_configs"]] == ["specrouter", "ray"]
