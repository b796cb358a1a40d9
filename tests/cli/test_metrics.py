"""`tq metrics` as an operator sees it."""

from pathlib import Path

from prometheus_client.parser import text_string_to_metric_families

from tests.cli.conftest import TASKS, Tq
from tq.metrics import FAMILIES
from tq.runtime import Runtime


def test_metrics_are_shown_as_a_scrape_finds_them(tq: Tq, runtime: Runtime, tmp_path: Path) -> None:
    (tmp_path / "tasks.yaml").write_text(TASKS)
    runtime.definitions.publish(runtime.store.planning.look(limit=0))

    told = tq("metrics")

    families = {family.name: family for family in text_string_to_metric_families(told.out)}
    assert {sample.labels["task"] for sample in families["tq_jobs_open"].samples} == {
        "email_digest",
        "hourly_sync",
    }
    assert families["tq_jobs_unaccounted"].samples[0].value == 0


def test_the_document_has_an_entry_per_series(tq: Tq, runtime: Runtime, tmp_path: Path) -> None:
    (tmp_path / "tasks.yaml").write_text(TASKS)
    runtime.definitions.publish(runtime.store.planning.look(limit=0))
    runtime.store.totals.add({"hourly_sync": {"job_delay": [1, 2, *[0] * 8, 7.5]}})

    document = tq("metrics", "--json").document

    assert {entry["name"] for entry in document} <= {family.name for family in FAMILIES}
    [delay] = [entry for entry in document if entry["name"] == "tq_job_delay_seconds"]
    assert delay["labels"] == {"task": "hourly_sync"}
    assert (delay["buckets"][:2], delay["sum"], len(delay["bounds"])) == ([1, 2], 7.5, 9)
    assert {"name": "tq_runs_running", "labels": {}, "value": 0} in document
