"""A task of Python code that does nothing but compute."""

from tq import Interval, Job, task


@task("busy", interval=Interval.monthly(day=1), window=0, retries=0)
def busy(_job: Job) -> None:
    """Takes some hundredths of a second of CPU time."""
    crunch(200_000)


def crunch(numbers: int) -> int:
    """What a profile is to name."""
    total = 0
    for number in range(numbers):
        total += number * number
    return total
