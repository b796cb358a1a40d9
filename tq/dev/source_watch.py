"""Notices that code in a folder has changed, once per burst of changes.

An editor that saves makes several events; a worker that is told twice to end cuts its calls off, so
what happens within a moment is one change.
"""

import threading
import time
from datetime import timedelta
from pathlib import Path
from types import TracebackType
from typing import Self

from watchdog.events import FileSystemEvent, PatternMatchingEventHandler
from watchdog.observers import Observer

SOURCES = ["**/*.py"]
NOT_OURS = ["**/.venv/**", "**/node_modules/**", "**/.git/**"]
QUIET = timedelta(milliseconds=300)
LOOKED_AT = frozenset({"opened", "closed_no_write"})


class SourceWatch(PatternMatchingEventHandler):
    """Watches the Python files of a folder for as long as it is entered."""

    def __init__(self, folder: Path) -> None:
        super().__init__(patterns=SOURCES, ignore_patterns=NOT_OURS, ignore_directories=True)
        self._lock = threading.Lock()
        self._changed_at: float | None = None
        self._observer = Observer()
        self._observer.schedule(self, str(folder.resolve()), recursive=True)

    def on_any_event(self, event: FileSystemEvent) -> None:
        """Notes a change; looking at a file is none."""
        if event.event_type not in LOOKED_AT:
            with self._lock:
                self._changed_at = time.monotonic()

    def take_change(self) -> bool:
        """Whether something has changed since this last said so, and nothing more has in a moment."""
        with self._lock:
            if self._changed_at is None or time.monotonic() - self._changed_at < QUIET.total_seconds():
                return False
            self._changed_at = None
            return True

    def __enter__(self) -> Self:
        self._observer.start()
        return self

    def __exit__(
        self, _type: type[BaseException] | None, _error: BaseException | None, _trace: TracebackType | None
    ) -> None:
        self._observer.stop()
        self._observer.join()
