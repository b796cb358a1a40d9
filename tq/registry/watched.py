"""The task types of a running process, kept in step with tasks.yaml.

A file that becomes unusable changes nothing: the old set stays in force until the file is mended.
Python modules are read once; a process that should see a change in them is restarted.
"""

from pathlib import Path
from threading import Lock
from typing import TypeAlias

from loguru import logger

from tq.errors import InvalidDefinition
from tq.registry.registry import Registry, load_registry
from tq.settings import Settings

Stamp: TypeAlias = tuple[int, int, int]


class WatchedRegistry:
    """Holds the Registry in force, and takes a new one when the file has changed."""

    def __init__(self, settings: Settings) -> None:
        """Load the task types for the first time.

        Raises:
            InvalidDefinition: as `load_registry`; there is no old set to keep.
        """
        self._settings = settings
        self._refreshing = Lock()
        # The stamps are taken before the files are read: what changes in between is seen next time.
        self._stamps = self._stamps_now()
        self.current: Registry = load_registry(settings)
        self._reads_file = self._stamps[0] is not None
        # Why the files as they are now are not in force, if they are not.
        self.problem: str | None = None

    def refresh(self) -> bool:
        """Whether a new set was taken. Cheap when nothing changed: call it every few seconds."""
        with self._refreshing:
            stamps = self._stamps_now()
            if stamps == self._stamps:
                return False
            self._stamps = stamps
            try:
                self._check_still_there()
                self.current = load_registry(self._settings)
            except InvalidDefinition as error:
                self.problem = str(error)
                logger.warning("task definitions not reloaded", problem=self.problem)
                return False
            self._reads_file = stamps[0] is not None
            self.problem = None
            return True

    def _check_still_there(self) -> None:
        # Without this, a process that also has Python modules would drop every task of a file that
        # an editor is just replacing.
        if self._reads_file and self._stamps[0] is None:
            raise InvalidDefinition(
                f"{self._settings.tasks_file}: is not there any more; put it back, or restart to do without it"
            )

    def _stamps_now(self) -> tuple[Stamp | None, Stamp | None]:
        # A task may be unusable only because .env lacks a variable, so that mending .env mends it.
        return _stamp_of(self._settings.tasks_file), _stamp_of(Path(".env"))


def _stamp_of(file: Path) -> Stamp | None:
    try:
        stat = file.stat()
    except OSError:
        return None
    return stat.st_mtime_ns, stat.st_size, stat.st_ino
