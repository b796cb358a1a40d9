"""The outgoing calls: what an executor is, and how the one of a task is found."""

from tq.executors.base import Executor
from tq.executors.functions import FunctionExecutor
from tq.executors.loading import Executors, load_executor

__all__ = ["Executor", "Executors", "FunctionExecutor", "load_executor"]
