"""Rates: what may be written, what it means, and what is said of anything else."""

import math
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from tq.models import RateBand, TaskType, format_rate, parse_rate
from tq.models.rates import FASTEST, RATE_RULE, SLOWEST
from tq.testing.builders import make_task

BAND = {"base": 50, "min": 25, "max": 100}


@pytest.mark.parametrize(
    ("written", "per_second"),
    [
        (50, 50),
        (0.5, 0.5),
        ("50", 50),
        ("50/s", 50),
        (" 50 / s ", 50),
        ("0.5/s", 0.5),
        (".5/s", 0.5),
        ("1e3", 1000),
        ("30/m", 0.5),
        ("3000/h", 3000 / 3600),
        ("1/h", SLOWEST),
        (10_000, 10_000),
        (FASTEST, FASTEST),
    ],
)
def test_a_rate_is_calls_per_second_whatever_its_unit(written: object, per_second: float) -> None:
    assert parse_rate(written) == pytest.approx(per_second)


@pytest.mark.parametrize(
    "written",
    [
        "",
        "/s",
        "s",
        "fast",
        "50/d",
        "50/sec",
        "50/S",
        "50 per second",
        "50%",
        "1,000",
        "5/2s",
        "nan",
        "inf",
        "1e999",
        "9" * 400,
        "٥",
        math.nan,
        math.inf,
        10**400,
        True,
        None,
        [50],
    ],
    ids=lambda written: repr(written)[:20],
)
def test_what_is_not_a_rate_is_quoted_with_what_can_be_written(written: object) -> None:
    with pytest.raises(ValueError, match="is not a rate") as refusal:
        parse_rate(written)

    assert str(refusal.value) == f"{written!r} is not a rate; write {RATE_RULE}"


@pytest.mark.parametrize(
    ("written", "told"),
    [
        (0, "0 is too small; write more than 0"),
        ("0/s", "'0/s' is too small; write more than 0"),
        ("-5/s", "'-5/s' is too small; write more than 0"),
        (1e-9, "1e-09 is too small; write at least 1/h"),
        ("0.9/h", "'0.9/h' is too small; write at least 1/h"),
        ("2000000/s", "'2000000/s' is too large; write at most 1000000/s"),
        (1e300, "1e+300 is too large; write at most 1000000/s"),
    ],
)
def test_a_rate_that_nothing_could_keep_to_is_refused(written: object, told: str) -> None:
    with pytest.raises(ValueError, match="is too") as refusal:
        parse_rate(written)

    assert str(refusal.value) == told


@pytest.mark.parametrize(
    ("per_second", "text"),
    [
        (50, "50/s"),
        (1, "1/s"),
        (12.5, "12.5/s"),
        (999.96, "1000/s"),
        (10_000, "10000/s"),
        (FASTEST, "1000000/s"),
        (0.5, "30/m"),
        (1 / 60, "1/m"),
        (12 / 3600, "12/h"),
        (SLOWEST, "1/h"),
        (0.2 / 3600, "0.2/h"),  # what was measured may be less than what can be ordered
        (0, "0/h"),
    ],
)
def test_a_rate_is_shown_in_the_unit_in_which_it_is_at_least_one(per_second: float, text: str) -> None:
    assert format_rate(per_second) == text


@settings(max_examples=200, deadline=None)
@given(st.floats(SLOWEST * 1.001, FASTEST * 0.999))
def test_a_shown_rate_reads_back_as_nearly_itself(per_second: float) -> None:
    assert parse_rate(format_rate(per_second)) == pytest.approx(per_second, rel=1e-3)


# --- The limit of a task -------------------------------------------------------------------------


def limited(rate_limit: object) -> TaskType:
    """A task with this limit, as a file or a program gives it."""
    return TaskType.model_validate({**make_task("digest").model_dump(), "rate_limit": rate_limit})


@pytest.mark.parametrize(
    "rate_limit",
    [BAND, {"base": "3000/m", "min": "25", "max": "100/s"}, RateBand(base=50, min=25, max=100)],
    ids=repr,
)
def test_a_limit_may_be_a_band_of_three_rates(rate_limit: object) -> None:
    assert limited(rate_limit).rate_limit == RateBand(base=50, min=25, max=100)


@pytest.mark.parametrize("rate_limit", [50, "30/m", BAND, {"base": 1, "min": 1, "max": 1}, None], ids=repr)
def test_a_definition_keeps_its_limit_on_its_way_through_redis(rate_limit: object) -> None:
    task = limited(rate_limit)

    assert TaskType.from_json(task.to_json()) == task


@pytest.mark.parametrize(
    ("band", "told"),
    [
        ({"base": 50, "min": 51, "max": 100}, "min 51, base 50, max 100 are not in order"),
        ({"base": 50, "min": 25, "max": 49}, "min 25, base 50, max 49 are not in order"),
        ({"base": 50, "min": 0, "max": 100}, "0 is too small; write more than 0"),
        ({"base": 50, "min": 25, "max": math.inf}, "inf is not a rate"),
        ({"base": 50, "min": 25}, "Field required"),
    ],
    ids=repr,
)
def test_a_band_is_refused_for_its_own_fault_alone(band: dict[str, Any], told: str) -> None:
    with pytest.raises(ValidationError) as refusal:
        limited(band)

    (fault,) = refusal.value.errors()
    assert told in fault["msg"]
