"""A profile as others read it: speedscope's JSON, collapsed stacks, a flame graph."""

import zlib
from collections.abc import Iterator, Mapping
from typing import Any
from xml.sax.saxutils import escape

import orjson

from tq.debugging.places import Place
from tq.debugging.profile import Profile, Stack

# Tells speedscope and other readers what kind of file it is; it is never fetched.
SPEEDSCOPE_SCHEMA = "https://www.speedscope.app/file-format-schema.json"
EXPORTER = "taskqueue"

# Pixels of a flame graph, and how much of the whole is drawn at all.
WIDTH, MARGIN, ROW, HEAD = 1200, 10, 17, 46
LEAST_SHARE = 0.0005
LETTER = 6.6
SHORTEST_TEXT = 3  # letters
ABOUT = (
    "A function stands below who calls it; the wider, the more time. Rest the pointer on one for its figures."
)
_STYLE = (
    "text{font:11px monospace;fill:#111;pointer-events:none}"
    ".title{font:bold 14px sans-serif}.about{font:11px sans-serif;fill:#555}"
    "rect{stroke:#fff;stroke-width:.5}g:hover>rect{stroke:#000;stroke-width:1}"
)


def speedscope(profile: Profile) -> bytes:
    """JSON for https://www.speedscope.app."""
    frames: dict[Place, int] = {}
    samples = [
        [frames.setdefault(place, len(frames)) for place in stack] for stack, _ in _in_order(profile.weights)
    ]
    weights = [weight for _, weight in _in_order(profile.weights)]
    document = {
        "$schema": SPEEDSCOPE_SCHEMA,
        "exporter": EXPORTER,
        "name": profile.name,
        "activeProfileIndex": 0,
        "shared": {"frames": [_frame(place) for place in frames]},
        "profiles": [
            {
                "type": "sampled",
                "name": profile.name,
                "unit": "nanoseconds",
                "startValue": 0,
                "endValue": sum(weights),
                "samples": samples,
                "weights": weights,
            }
        ],
    }
    return orjson.dumps(document)


def from_speedscope(text: bytes) -> Profile:
    """The profile that `speedscope` has written."""
    document: dict[str, Any] = orjson.loads(text)
    frames = [
        Place(frame["name"], frame.get("file", ""), frame.get("line", 0))
        for frame in document["shared"]["frames"]
    ]
    [profile] = document["profiles"]
    weights = {
        tuple(frames[index] for index in sample): int(weight)
        for sample, weight in zip(profile["samples"], profile["weights"], strict=True)
    }
    return Profile(document["name"], weights)


def collapsed(profile: Profile) -> bytes:
    """A line per stack, functions separated by semicolons, and its microseconds, as flame graph tools read it."""
    lines = [
        f"{';'.join(str(place).replace(';', ',') for place in stack)} {weight // 1000}\n"
        for stack, weight in _in_order(profile.weights)
    ]
    return "".join(lines).encode()


def flame_graph(profile: Profile) -> bytes:
    """An SVG: callers above what they call, each as wide as its share, with its figures where a pointer rests on it."""
    root = _Box(Place("all"))
    for stack, weight in _in_order(profile.weights):
        root.add(stack, weight)
    total = max(root.weight, 1)
    scale = (WIDTH - 2 * MARGIN) / total
    drawn = list(_drawn(root, total))
    height = HEAD + ROW * (1 + max(depth for _, depth, _ in drawn)) + MARGIN
    size = f'width="{WIDTH}" height="{height}" viewBox="0 0 {WIDTH} {height}"'
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" {size}>',
        f"<style>{_STYLE}</style>",
        f'<rect width="{WIDTH}" height="{height}" fill="#fff"/>',
        f'<text class="title" x="{MARGIN}" y="18">{_text(profile.name)}</text>',
        f'<text class="about" x="{MARGIN}" y="35">{ABOUT}</text>',
    ]
    for box, depth, before in drawn:
        x, y, width = MARGIN + before * scale, HEAD + depth * ROW, box.weight * scale
        told = f"{box.place}: {box.weight / total:.1%}, {box.weight / 1e9:.3f} s"
        parts.append(
            f"<g><title>{_text(told)}</title>"
            f'<rect x="{x:.2f}" y="{y}" width="{width:.2f}" height="{ROW - 1}" fill="{_colour(box.place)}"/>'
            f"{_label(box.place.function, x, y, width)}</g>"
        )
    return "\n".join([*parts, "</svg>", ""]).encode()


class _Box:
    """A function below those that have called it, and what all of its stacks weigh."""

    __slots__ = ("below", "place", "weight")

    def __init__(self, place: Place) -> None:
        self.place = place
        self.weight = 0
        self.below: dict[Place, _Box] = {}

    def add(self, stack: Stack, weight: int) -> None:
        """Adds a stack that is called from here."""
        box = self
        box.weight += weight
        for place in stack:
            box = box.below.setdefault(place, _Box(place))
            box.weight += weight


def _drawn(root: _Box, total: int) -> Iterator[tuple[_Box, int, int]]:
    """What is wide enough to be drawn, with its depth, and how much stands to the left of it."""
    left = [(root, 0, 0)]
    while left:
        box, depth, before = left.pop()
        yield box, depth, before
        for place in sorted(box.below):
            below = box.below[place]
            if below.weight >= total * LEAST_SHARE:
                left.append((below, depth + 1, before))
            before += below.weight


def _label(function: str, x: float, y: float, width: float) -> str:
    room = int((width - 4) / LETTER)
    if room < SHORTEST_TEXT:
        return ""
    shown = function if len(function) <= room else f"{function[: room - 1]}…"
    return f'<text x="{x + 3:.2f}" y="{y + ROW - 5}">{_text(shown)}</text>'


def _colour(place: Place) -> str:
    """The same for a function in every graph."""
    if not place.file:
        return "hsl(210,15%,85%)"
    mark = zlib.crc32(f"{place.file}:{place.function}".encode(errors="replace"))
    return f"hsl({mark % 55},{60 + mark // 55 % 30}%,{62 + mark // 1650 % 14}%)"


def _text(text: str) -> str:
    # XML knows no way to write a control character or half a surrogate pair.
    return escape("".join(letter if letter.isprintable() else "?" for letter in text))


def _frame(place: Place) -> dict[str, object]:
    return (
        {"name": place.function, "file": place.file, "line": place.line}
        if place.file
        else {"name": place.function}
    )


def _in_order(weights: Mapping[Stack, int]) -> list[tuple[Stack, int]]:
    return sorted(weights.items())
