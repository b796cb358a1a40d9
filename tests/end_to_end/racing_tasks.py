"""The task over which processes race."""

from tq.models import Interval
from tq.testing import make_task

TASK = make_task("race", interval=Interval.minutely(), window=0, max_lateness="1h")
