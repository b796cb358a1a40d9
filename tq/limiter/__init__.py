"""The limiter's side in each process: slots in hand, outcomes to report, and who may begin."""

from tq.limiter.agent import Agent, Slot
from tq.limiter.limiter import Limiter

__all__ = ["Agent", "Limiter", "Slot"]
