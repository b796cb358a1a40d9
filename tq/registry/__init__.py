"""Which task types there are: from tasks.yaml and from Python modules, checked and in force."""

from tq.registry.python_tasks import declared, task
from tq.registry.registry import Registry, environment, load_registry, task_fingerprint
from tq.registry.watched import WatchedRegistry
from tq.registry.yaml_file import read_tasks_file

__all__ = [
    "Registry",
    "WatchedRegistry",
    "declared",
    "environment",
    "load_registry",
    "read_tasks_file",
    "task",
    "task_fingerprint",
]
