"""The dashboard shows every metric that there is, and none that there is not."""

import json
import re
from itertools import combinations
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.alerts.metrics import HISTOGRAMS, PLAIN, SERIES
from tests.alerts.promtool import needs_promtool, promtool, series_in
from tq.alerts import dashboard

BOARD = json.loads(dashboard())
PANELS = [panel for panel in BOARD["panels"] if panel["type"] != "row"]
QUERIES = [target["expr"] for panel in PANELS for target in panel["targets"]]
VARIABLES = {variable["name"]: variable for variable in BOARD["templating"]["list"]}


def test_the_rows_are_those_that_one_looks_for() -> None:
    rows = [panel["title"] for panel in BOARD["panels"] if panel["type"] == "row"]

    assert rows == ["Overview", "Latency", "Limits", "Queues and agenda", "Redis", "Processes"]


@pytest.mark.parametrize("panel", PANELS, ids=lambda panel: panel["title"])
def test_every_panel_says_what_it_shows(panel: dict[str, Any]) -> None:
    assert panel["title"]
    assert panel["description"].endswith(".")
    assert panel["fieldConfig"]["defaults"]["unit"]
    assert panel["datasource"] == {"type": "prometheus", "uid": "${datasource}"}
    letters = [target["refId"] for target in panel["targets"]]
    assert letters == sorted(set(letters))


def test_every_panel_has_a_place_of_its_own() -> None:
    assert len({panel["id"] for panel in BOARD["panels"]}) == len(BOARD["panels"])
    for first, second in combinations(BOARD["panels"], 2):
        one, other = first["gridPos"], second["gridPos"]
        assert one["x"] + one["w"] <= 24
        beside = one["x"] + one["w"] <= other["x"] or other["x"] + other["w"] <= one["x"]
        below = one["y"] + one["h"] <= other["y"] or other["y"] + other["h"] <= one["y"]
        assert beside or below, (first["title"], second["title"])


def test_every_series_on_the_dashboard_exists_with_its_labels() -> None:
    for query in QUERIES:
        for name, labels in series_in(query):
            assert name in SERIES, query
            assert labels <= SERIES[name] | {"job"}, query
            # Several systems may be scraped by one Prometheus.
            assert "job" in labels, query


def test_legends_are_of_labels_that_the_series_have() -> None:
    for panel in PANELS:
        for target in panel["targets"]:
            kept = {
                label
                for labels in re.findall(r"\bby \(([^)]*)\)", target["expr"])
                for label in labels.split(", ")
            }
            assert set(re.findall(r"{{(\w+)}}", target["legendFormat"])) <= kept, target


def test_every_metric_is_shown() -> None:
    shown = {name for query in QUERIES for name, _ in series_in(query)}

    assert {name for name in PLAIN if name not in shown} == set()
    assert {name for name in HISTOGRAMS if f"{name}_bucket" not in shown} == set()


def test_variables_are_the_data_source_the_job_and_the_task() -> None:
    used = {name for query in QUERIES for name in re.findall(r"\$(\w+)", query)}

    assert list(VARIABLES) == ["datasource", "job", "task"]
    assert used == {"job", "task", "__rate_interval"}


@needs_promtool
def test_prometheus_understands_every_query(tmp_path: Path) -> None:
    known = {"$__rate_interval": "5m", "$job": "taskqueue", "$task": ".*"}
    rules = []
    for number, query in enumerate(QUERIES):
        for name, value in known.items():
            query = query.replace(name, value)
        rules.append({"record": f"panel:{number}", "expr": query})
    file = tmp_path / "rules.yaml"
    file.write_text(yaml.safe_dump({"groups": [{"name": "dashboard", "rules": rules}]}))

    answer = promtool("check", "rules", file)

    assert answer.returncode == 0, answer.stdout + answer.stderr
