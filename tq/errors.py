"""What can go wrong, as one tree.

TaskQueueError
├── InvalidInput            the caller's value cannot be used; exit code 2, HTTP 422
│   ├── InvalidDefinition   a task type, with the place where it stands
│   └── InvalidSetting      an environment variable
├── NotFound                exit code 1, HTTP 404
│   ├── TaskNotFound
│   ├── UserNotFound
│   ├── RunNotFound
│   └── ProcessNotFound     a worker, scheduler or web process
├── StoreError              Redis did not do what was asked
│   ├── StoreUnavailable    it is away, full, read-only, loading, ...: trying again helps
│   └── StoreRefused        wrong login, newer data, ...: trying again helps once somebody has mended that
├── DebuggingUnavailable    a process does not tell how it fares
├── ProfileRunning          a process makes one profile at a time
├── ExecutorUnavailable     this process lacks what a task needs; another may have it
├── NotHeld                 another process has the job by now
└── NotNow                  the limiter has no slot for the call; the job goes back for a while

An expected outcome (an endpoint that answers 503) is a value, never one of these.
"""

from datetime import timedelta


class TaskQueueError(Exception):
    """The root: whatever the system raises on purpose."""


class InvalidInput(TaskQueueError):
    """A value that cannot be used; the message names it, what is allowed, and the remedy."""


class InvalidDefinition(InvalidInput):
    """A task type that cannot be used; the message begins with file and line."""


class InvalidSetting(InvalidInput):
    """An environment variable that cannot be used."""


class NotFound(TaskQueueError):
    """The thing that was named does not exist."""


class TaskNotFound(NotFound):
    """No task type of that id is defined."""


class UserNotFound(NotFound):
    """No user of that id has any preference."""


class RunNotFound(NotFound):
    """No run of that id was ever started, or its retention is over."""


class ProcessNotFound(NotFound):
    """No process of that id shows itself on this host."""


class DebuggingUnavailable(TaskQueueError):
    """A process does not answer what is asked of it for debugging; the message says why, and what to do."""


class ProfileRunning(TaskQueueError):
    """Another profile of the process is being made."""


class StoreError(TaskQueueError):
    """Redis did not do what was asked of it."""


class StoreUnavailable(StoreError):
    """Redis cannot be reached, or does not take it now. Whether it has done it is not known if it was not reached."""


class StoreRefused(StoreError):
    """Redis answered that it will not do it, and has not."""


class ExecutorUnavailable(TaskQueueError):
    """This process lacks the executor, module or variable that a task asks for."""


class NotHeld(TaskQueueError):
    """The message of the job is not this process' any more; whoever has it carries the job out."""

    def __init__(self) -> None:
        super().__init__("another process has the job by now")


class NotNow(TaskQueueError):
    """The limiter has no slot for the call now; the job goes back, to come again after the delay."""

    def __init__(self, delay: timedelta) -> None:
        super().__init__(f"no slot for the call within {delay.total_seconds():g} s")
        self.delay = delay
