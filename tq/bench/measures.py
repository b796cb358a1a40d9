"""The arithmetic of benches: rates over a window, percentiles, slopes, and what repetitions amount to. Pure."""

import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise

# Of a row of calls so much is left out at either end: there not all processes are at work.
RAMP = 0.1
SECONDS_PER_HOUR = 3600
# Where samples are more alike than this, more of them would tell nothing.
MOST_ALIKE = 0.99

Number = int | float
Figures = Mapping[str, Number]


def steady_rate(instants: Sequence[float]) -> float:
    """How many there were per second, in the window in which all processes were at work; 0 of fewer than two.

    That window is what lies between the first and the last tenth of them.
    """
    ordered = sorted(instants)
    cut = int(len(ordered) * RAMP)
    within = ordered[cut : len(ordered) - cut]
    if len(within) < 2 or within[-1] == within[0]:
        return 0.0
    return (len(within) - 1) / (within[-1] - within[0])


def steady_progress(samples: Sequence[tuple[float, int]], *, total: int) -> float:
    """The same of samples of how many were done by when (seconds); 0 of fewer than two in that window."""
    within = [(at, done) for at, done in samples if RAMP * total <= done <= (1 - RAMP) * total]
    if len(within) < 2:
        return 0.0
    (first_at, first), (last_at, last) = within[0], within[-1]
    return (last - first) / (last_at - first_at)


def percentile(values: Sequence[float], share: float) -> float:
    """The smallest value that at least such a share (0 to 1) of all does not exceed; 0 of none."""
    ordered = sorted(values)
    if not ordered:
        return 0.0
    rank = -int(-share * len(ordered) // 1)  # rounded up
    return ordered[min(len(ordered), max(1, rank)) - 1]


@dataclass(frozen=True, slots=True)
class Slope:
    """How much a value changes in an hour, and the standard error of that."""

    per_hour: float
    noise: float

    @property
    def is_flat(self) -> bool:
        """Whether no change can be told from noise: zero lies within two standard errors."""
        return abs(self.per_hour) <= 2 * self.noise


def slope_of(samples: Sequence[tuple[float, float]]) -> Slope:
    """The least-squares line through samples (seconds, value); flat of fewer than three.

    Memory goes in steps, so each sample is off the line much as the one before is, and many tell little more than
    a few. The error takes that in: of n samples with an autocorrelation of r from one to the next as many count as
    n (1 - r) / (1 + r) independent ones (Santer et al., 2000, Journal of Geophysical Research 105, 7337).
    """
    if len(samples) < 3:
        return Slope(0.0, 0.0)
    times, values = [at for at, _ in samples], [value for _, value in samples]
    middle, level = statistics.fmean(times), statistics.fmean(values)
    spread = sum((at - middle) ** 2 for at in times)
    if not spread:
        return Slope(0.0, 0.0)
    steepness = sum((at - middle) * (value - level) for at, value in samples) / spread
    off = [value - level - steepness * (at - middle) for at, value in samples]
    left = sum(each**2 for each in off)
    alike = sum(one * following for one, following in pairwise(off)) / left if left else 0.0
    alike = min(max(alike, 0.0), MOST_ALIKE)
    noise = (left / (len(samples) - 2) / spread * (1 + alike) / (1 - alike)) ** 0.5
    return Slope(steepness * SECONDS_PER_HOUR, noise * SECONDS_PER_HOUR)


def beside(ours: Figures, stock: Figures) -> dict[str, Number]:
    """The figures of both ways, and how many times as fast ours is; no ratio where there is nothing to compare."""
    theirs = stock.get("stock_jobs_per_second")
    return {**ours, **stock, **({"ratio": ours["jobs_per_second"] / theirs} if theirs else {})}


def over_repetitions(repetitions: Sequence[Figures]) -> dict[str, object]:
    """The median of each figure, and under `ranges` its least and its largest value."""
    names = list(dict.fromkeys(name for figures in repetitions for name in figures))
    columns = {name: [figures[name] for figures in repetitions if name in figures] for name in names}
    medians: dict[str, object] = {
        name: rounded(statistics.median(column)) for name, column in columns.items()
    }
    ranges = {name: [rounded(min(column)), rounded(max(column))] for name, column in columns.items()}
    return {**medians, "ranges": ranges}


def rounded(value: Number) -> Number:
    """As it is told: whole from 1,000 on, else four digits that count."""
    if isinstance(value, int) or value.is_integer():
        return int(value)
    return round(value) if abs(value) >= 1000 else float(f"{value:.4g}")
