"""What happens to a run: claimed, distributed, executed. Each a straight line of named steps."""

from tq.pipeline.cancel import cancel_run
from tq.pipeline.distribute import distribute
from tq.pipeline.execute import execute
from tq.pipeline.forecast import forecast
from tq.pipeline.start import start_run
from tq.pipeline.tick import tick

__all__ = ["cancel_run", "distribute", "execute", "forecast", "start_run", "tick"]
