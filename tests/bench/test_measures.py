"""The arithmetic of benches."""

import random

import pytest

from tq.bench.measures import (
    Slope,
    beside,
    over_repetitions,
    percentile,
    rounded,
    slope_of,
    steady_progress,
    steady_rate,
)


def test_a_rate_is_that_of_the_calls_between_the_first_and_the_last_tenth() -> None:
    slow_begin = [0.0, 10.0]
    steady = [20.0 + number / 100 for number in range(16)]
    slow_end = [30.0, 40.0]

    rate = steady_rate([*slow_begin, *steady, *slow_end])

    assert rate == pytest.approx(100)


def test_a_rate_does_not_depend_on_the_order_in_which_calls_are_told() -> None:
    instants = [number / 50 for number in range(100)]

    shuffled = random.Random(1).sample(instants, len(instants))

    assert steady_rate(shuffled) == pytest.approx(50)


@pytest.mark.parametrize("instants", [[], [1.0], [2.0, 2.0, 2.0]])
def test_too_few_calls_or_no_time_make_no_rate(instants: list[float]) -> None:
    assert steady_rate(instants) == 0.0


def test_progress_is_measured_between_the_first_and_the_last_tenth() -> None:
    samples = [(0.0, 0), (5.0, 90), (6.0, 100), (7.0, 300), (10.0, 900), (15.0, 950), (20.0, 1000)]

    assert steady_progress(samples, total=1000) == pytest.approx((900 - 100) / (10 - 6))


def test_progress_that_nobody_saw_has_no_rate() -> None:
    assert steady_progress([(0.0, 0), (1.0, 1000)], total=1000) == 0.0


@pytest.mark.parametrize(
    ("share", "value"), [(0.0, 1), (0.5, 50), (0.501, 51), (0.9, 90), (0.99, 99), (1.0, 100)]
)
def test_a_percentile_is_the_smallest_value_that_such_a_share_does_not_exceed(
    share: float, value: int
) -> None:
    values = random.Random(1).sample(range(1, 101), 100)

    assert percentile(values, share) == value


def test_a_percentile_of_one_value_is_that_value_and_of_none_is_0() -> None:
    assert percentile([7.0], 0.5) == percentile([7.0], 0.99) == 7.0
    assert percentile([], 0.5) == 0.0


def test_a_line_has_its_slope_per_hour_and_no_noise() -> None:
    samples = [(10.0 * number, 100.0 + 0.5 * number) for number in range(20)]

    slope = slope_of(samples)

    assert slope.per_hour == pytest.approx(180)
    assert slope.noise == pytest.approx(0, abs=1e-6)
    assert not slope.is_flat


def test_what_only_goes_up_and_down_is_flat() -> None:
    noise = random.Random(1)

    slope = slope_of([(10.0 * number, 100 + noise.gauss(0, 3)) for number in range(180)])

    assert slope.noise > 0
    assert slope.is_flat


def test_what_stays_for_a_while_where_it_has_gone_is_flat_all_the_same() -> None:
    def wandering(seed: int) -> bool:
        chance, value, samples = random.Random(seed), 0.0, []
        for number in range(180):
            value = 0.8 * value + chance.gauss(0, 1)
            samples.append((10.0 * number, 100 + value))
        return slope_of(samples).is_flat

    assert sum(wandering(seed) for seed in range(100)) >= 85  # two standard errors would be 95


def test_a_leak_is_told_from_noise() -> None:
    noise = random.Random(1)

    slope = slope_of([(10.0 * number, 100 + number / 10 + noise.gauss(0, 3)) for number in range(180)])

    assert slope.per_hour == pytest.approx(36, rel=0.1)
    assert not slope.is_flat


@pytest.mark.parametrize("samples", [[], [(0.0, 1.0)], [(0.0, 1.0), (1.0, 2.0)], [(5.0, 1.0)] * 4])
def test_too_few_samples_have_no_slope(samples: list[tuple[float, float]]) -> None:
    assert slope_of(samples) == Slope(0.0, 0.0)


def test_repetitions_amount_to_medians_and_ranges() -> None:
    repetitions = [
        {"jobs_per_second": 900.5, "unaccounted": 0},
        {"jobs_per_second": 1100.4, "unaccounted": 0},
        {"jobs_per_second": 1000.2, "unaccounted": 2},
    ]

    assert over_repetitions(repetitions) == {
        "jobs_per_second": 1000,
        "unaccounted": 0,
        "ranges": {"jobs_per_second": [900.5, 1100], "unaccounted": [0, 2]},
    }


def test_a_ratio_says_how_many_times_as_much_ours_is() -> None:
    found = beside({"jobs_per_second": 5000, "rss_mb": 80}, {"stock_jobs_per_second": 2000})

    assert found == {"jobs_per_second": 5000, "rss_mb": 80, "stock_jobs_per_second": 2000, "ratio": 2.5}


@pytest.mark.parametrize("stock", [{}, {"stock_jobs_per_second": 0.0}])
def test_where_there_is_nothing_to_compare_there_is_no_ratio(stock: dict[str, float]) -> None:
    assert "ratio" not in beside({"jobs_per_second": 5000}, stock)


@pytest.mark.parametrize(
    ("value", "told"),
    [(12345.6, 12346), (999.96, 1000), (0.123456, 0.1235), (7.0, 7), (0.0, 0), (-3.5, -3.5)],
)
def test_a_figure_is_told_with_four_digits_that_count(value: float, told: float) -> None:
    assert rounded(value) == told
