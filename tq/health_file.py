"""A file whose age tells whether a process is alive, for whoever runs containers.

It is touched for as long as what must go on goes on, and is not there once a process has ended in good order.
Redis has no part in it: a process that waits for Redis is well.
"""

from collections.abc import Iterable
from datetime import timedelta
from pathlib import Path
from types import TracebackType
from typing import Self

from loguru import logger

from tq.clock import Stopwatch
from tq.errors import InvalidSetting

# Touching costs next to nothing, but more often than this says no more.
TOUCHED_EVERY = timedelta(seconds=1)
# A worker's loop that waits for a Redis that is silent takes no step for up to 40 s.
FRESH = timedelta(seconds=60)
# A scheduler touches its file once a minute.
FRESH_SCHEDULER = timedelta(seconds=150)


class HealthFile:
    """The file of one process; without a path nothing is done."""

    def __init__(self, path: Path | None) -> None:
        self._path = path
        self._since_touch: Stopwatch | None = None
        self._is_in_trouble = False

    def create(self) -> None:
        """Touches the file for the first time.

        Raises:
            InvalidSetting: if it cannot be written.
        """
        if self._path is not None:
            try:
                self._path.touch()
            except OSError as error:
                raise InvalidSetting(
                    f"TQ_HEALTH_FILE: {self._path} cannot be written: {error.strerror}; "
                    "name a file in a directory that is there and may be written to"
                ) from None

    def touch(self) -> None:
        """Says that the process is alive. Call it as often as you like; that it cannot be said is logged once."""
        if self._path is None or (
            self._since_touch is not None and self._since_touch.elapsed < TOUCHED_EVERY
        ):
            return
        self._since_touch = Stopwatch()
        try:
            self._path.touch()
        except OSError as error:
            if not self._is_in_trouble:
                logger.error("health file cannot be written", file=str(self._path), reason=error.strerror)
            self._is_in_trouble = True
        else:
            self._is_in_trouble = False

    def remove(self) -> None:
        """Has the file go, as the process ends."""
        if self._path is not None:
            try:
                self._path.unlink(missing_ok=True)
            except OSError as error:
                logger.warning("health file stays", file=str(self._path), reason=error.strerror)


class Ward:
    """Has each child have a file of its own, and touches the one that was named for as long as all touch theirs.

    How old these are is told by the changes that are seen from here, so that no clock that is set has everybody
    look dead. A child that has just been started has as long as any other until it must have touched its file.
    As a context manager it makes the file, and has all of them go at the end.
    """

    def __init__(self, path: Path | None, children: Iterable[str], *, fresh: timedelta) -> None:
        self._whole = HealthFile(path)
        self._files = {name: path.with_name(f"{path.name}.{name}") for name in children} if path else {}
        self._fresh = fresh
        self._changes: dict[str, tuple[int | None, Stopwatch]] = {}
        self._silent: set[str] = set()

    def __enter__(self) -> Self:
        self._whole.create()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        # A child that was killed has left its own behind.
        for path in self._files.values():
            HealthFile(path).remove()
        self._whole.remove()

    def environment_of(self, child: str) -> dict[str, str]:
        """What tells a child its file."""
        return {"TQ_HEALTH_FILE": str(self._files[child])} if child in self._files else {}

    def touch(self) -> None:
        """Says that all is well while there are no children yet."""
        self._whole.touch()

    def look(self) -> None:
        """Looks at the children's files, and touches the one if all are well."""
        for name, path in self._files.items():
            mark, changed = self._changes.get(name), _changed_at(path)
            if mark is None or changed not in (None, mark[0]):
                self._changes[name] = (changed, Stopwatch())
        silent = {name for name, (_, since) in self._changes.items() if since.elapsed >= self._fresh}
        for name in sorted(silent - self._silent):
            logger.error(
                "child does not touch its health file any more",
                child=name,
                file=str(self._files[name]),
                fresh_s=self._fresh.total_seconds(),
            )
        self._silent = silent
        if not silent:
            self._whole.touch()


def _changed_at(path: Path) -> int | None:
    try:
        return path.stat().st_mtime_ns
    except OSError:
        return None
