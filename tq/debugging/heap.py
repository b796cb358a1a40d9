"""What the process keeps in memory: how much, of which types, and, once that is traced, from where.

Tracing is begun and ended by whoever asks, since until then it makes the whole process several times slower.
Only what is allocated from its beginning on is known by its place; what was there before is not.
"""

import gc
import os
import resource
import sys
import threading
import tracemalloc
from collections import Counter
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from tq.clock import Stopwatch
from tq.debugging.places import Place, file_shown

MOST_PLACES = 25
MOST_TYPES = 25
KB = 1024
# As measured with Python 3.11: JSON and dictionaries five times, a loop that adds numbers thirty times.
BEGUN = (
    "tracing has begun: ask again after a while to see what has grown, and end it then (tq debug heap PID --stop). Until then Python "
    "code in this process takes several times as long, tight loops up to thirty times, and each object that is "
    "allocated some sixty bytes more"
)
NOT_TRACED = "nothing is traced, so places are not known; tq debug heap PID --start begins, and makes the process several times slower"


@dataclass(frozen=True, slots=True)
class Grown:
    """A line, and what it has allocated since tracing began and the process still keeps; `since_last` is the
    growth since the question before."""

    place: Place
    size: int
    count: int
    since_last: int


@dataclass(frozen=True)
class Heap:
    """The figures; sizes are bytes, and None is what the system does not tell."""

    note: str
    rss: int | None
    peak_rss: int
    threads: int
    open_files: int | None
    generations: Sequence[Mapping[str, int]]
    objects: int
    types: Mapping[str, int]
    is_traced: bool
    traced_s: float = 0.0
    traced_size: int = 0
    tracing_size: int = 0
    largest: Sequence[Grown] = ()
    growing: Sequence[Grown] = ()


class Tracing:
    """Tracing of this process' allocations, from the beginning to the end that is asked for."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._since: Stopwatch | None = None
        self._last: dict[Place, int] = {}

    def start(self) -> Heap:
        """Begins to trace; if something does already, the heap as it is."""
        with self._lock:
            if not tracemalloc.is_tracing():
                self._last, self._since = {}, Stopwatch()
                figures = _figures(BEGUN, is_traced=True)
                tracemalloc.start()
                return figures
        return self.look()

    def look(self) -> Heap:
        """The heap as it is."""
        with self._lock:
            if not tracemalloc.is_tracing():
                return _figures(NOT_TRACED, is_traced=False)
            self._since = self._since or Stopwatch()  # somebody else may have begun it
            size, _ = tracemalloc.get_traced_memory()
            own = tracemalloc.get_tracemalloc_memory()
            places = self._places()
        return _figures(
            f"traced for {self._since.elapsed.total_seconds():.0f} s; places tell what was allocated in that time and is kept",
            is_traced=True,
            traced_s=self._since.elapsed.total_seconds(),
            traced_size=size,
            tracing_size=own,
            largest=sorted(places, key=lambda grown: -grown.size)[:MOST_PLACES],
            growing=sorted(
                (grown for grown in places if grown.since_last > 0), key=lambda grown: -grown.since_last
            )[:MOST_PLACES],
        )

    def stop(self) -> Heap:
        """Ends tracing; it costs nothing any more."""
        with self._lock:
            was_traced = tracemalloc.is_tracing()
            tracemalloc.stop()
            self._last, self._since = {}, None
        return _figures("tracing has ended" if was_traced else "nothing was traced", is_traced=False)

    def _places(self) -> list[Grown]:
        found = [
            (
                Place("", file_shown(line.traceback[0].filename), line.traceback[0].lineno),
                line.size,
                line.count,
            )
            for line in tracemalloc.take_snapshot().statistics("lineno")
        ]
        before, self._last = self._last, {place: size for place, size, _ in found}
        return [Grown(place, size, count, size - before.get(place, 0)) for place, size, count in found]


TRACING = Tracing()


def heap_text(heap: Heap) -> str:
    """The same for people."""
    lines = [
        heap.note,
        "",
        f"memory   {_size(heap.rss)} resident, {_size(heap.peak_rss)} at most",
        f"threads  {heap.threads:,}",
        f"files    {'unknown' if heap.open_files is None else f'{heap.open_files:,}'} open",
        f"objects  {heap.objects:,} that the garbage collector knows",
        *(
            f"         generation {number}: {generation['count']:,} new, {generation['collections']:,} collections, "
            f"{generation['collected']:,} collected, {generation['uncollectable']:,} uncollectable"
            for number, generation in enumerate(heap.generations)
        ),
        "",
        "objects by type",
        *(f"{count:>12,}  {name}" for name, count in heap.types.items()),
    ]
    if heap.traced_size:
        lines += [
            "",
            f"traced: {_size(heap.traced_size)} kept; tracing itself takes {_size(heap.tracing_size)}",
        ]
    for title, places in (
        ("largest since tracing began", heap.largest),
        ("grown since the last look", heap.growing),
    ):
        if places:
            lines += ["", f"{title:<42}{'kept':>12}{'objects':>12}{'since last':>14}"]
            lines += [
                f"{f'{grown.place.file}:{grown.place.line}':<42}{_size(grown.size):>12}{grown.count:>12,}"
                f"{_size(grown.since_last):>14}"
                for grown in places
            ]
    return "\n".join([*lines, ""])


def _figures(
    note: str,
    *,
    is_traced: bool,
    traced_s: float = 0.0,
    traced_size: int = 0,
    tracing_size: int = 0,
    largest: Sequence[Grown] = (),
    growing: Sequence[Grown] = (),
) -> Heap:
    types = [type(found) for found in gc.get_objects()]
    # By identity: a stranger's metaclass may have its own mind about equality.
    names = {id(kind): kind for kind in types}
    counts = Counter(map(id, types))
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return Heap(
        note=note,
        rss=_resident(),
        peak_rss=peak * (1 if sys.platform == "darwin" else KB),
        threads=threading.active_count(),
        open_files=_open_files(),
        generations=[
            {"count": count, **statistics}
            for count, statistics in zip(gc.get_count(), gc.get_stats(), strict=True)
        ],
        objects=len(types),
        types={
            f"{names[kind].__module__}.{names[kind].__qualname__}".removeprefix("builtins."): count
            for kind, count in counts.most_common(MOST_TYPES)
        },
        is_traced=is_traced,
        traced_s=traced_s,
        traced_size=traced_size,
        tracing_size=tracing_size,
        largest=largest,
        growing=growing,
    )


def _resident() -> int | None:
    with suppress(OSError):
        return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")
    return None


def _open_files() -> int | None:
    for folder in ("/proc/self/fd", "/dev/fd"):
        with suppress(OSError):
            return len(os.listdir(folder)) - 1  # noqa: PTH208 - names are enough; less the one that lists them
    return None


def _size(size: int | None) -> str:
    if size is None:
        return "unknown"
    return f"{size / KB / KB:,.1f} MB" if abs(size) >= KB * KB else f"{size / KB:,.1f} kB"
