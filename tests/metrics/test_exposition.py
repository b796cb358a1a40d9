"""Figures as Prometheus' text."""

from hypothesis import given
from hypothesis import strategies as st
from prometheus_client.parser import text_string_to_metric_families

from tq.metrics import exposed
from tq.metrics.families import ATTEMPT_DURATION, FAMILIES, LAST_TICK, RECOVERED

texts = st.text(st.characters(exclude_categories=["Cs"]), max_size=20)
counts = st.lists(
    st.integers(0, 10**6),
    min_size=len(ATTEMPT_DURATION.bounds) + 1,
    max_size=len(ATTEMPT_DURATION.bounds) + 1,
)


@given(reason=texts, value=st.floats(0, 1e15))
def test_what_a_label_says_and_a_value_is_comes_through(reason: str, value: float) -> None:
    [family] = text_string_to_metric_families(exposed({RECOVERED: [((reason,), [value])]}))

    [sample] = family.samples
    assert sample.labels == {"reason": reason}
    assert abs(sample.value - value) <= 1e-14 * value


@given(counts=counts, total=st.floats(0, 1e9))
def test_buckets_of_a_histogram_hold_all_that_is_not_above_them(counts: list[int], total: float) -> None:
    [family] = text_string_to_metric_families(exposed({ATTEMPT_DURATION: [(("digest",), [*counts, total])]}))

    buckets = [sample for sample in family.samples if sample.name.endswith("_bucket")]
    assert [float(bucket.labels["le"]) for bucket in buckets] == [*ATTEMPT_DURATION.bounds, float("inf")]
    assert [bucket.value for bucket in buckets] == [sum(counts[: n + 1]) for n in range(len(counts))]
    by_name = {sample.name: sample.value for sample in family.samples}
    assert by_name["tq_attempt_duration_seconds_count"] == sum(counts)


def test_the_text_is_as_it_was_pinned() -> None:
    assert exposed({LAST_TICK: [((), [1795507632.5])], RECOVERED: [(('a "b" 100%s',), [3])]}) == (
        "# HELP tq_scheduler_last_tick_timestamp_seconds When a tick was last carried out; 0 if never.\n"
        "# TYPE tq_scheduler_last_tick_timestamp_seconds gauge\n"
        "tq_scheduler_last_tick_timestamp_seconds 1795507632.5\n"
        "# HELP tq_jobs_recovered_total What was found stalled or lost, and set going again.\n"
        "# TYPE tq_jobs_recovered_total counter\n"
        'tq_jobs_recovered_total{reason="a \\"b\\" 100%s"} 3\n'
    )


def test_no_metric_names_a_user_a_run_or_an_address() -> None:
    labels = {label for family in FAMILIES for label in family.labels}

    assert labels <= {
        *("task", "trigger", "outcome", "reason", "status_class", "decision", "component", "queue", "state"),
        *("scope", "structure", "version"),
    }
