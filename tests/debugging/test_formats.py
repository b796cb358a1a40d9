"""What a profile is written as is what others can read."""

from xml.etree import ElementTree as ET

import orjson
import pytest

from tq.debugging.formats import collapsed, flame_graph, from_speedscope, speedscope
from tq.debugging.places import Place
from tq.debugging.profile import Profile

THREAD = Place("thread worker-N")
OUTER, INNER = Place("Job.run", "app/jobs.py", 3), Place("<lambda> & co", "app/jobs.py", 9)
PROFILE = Profile(
    "process 7", {(THREAD, OUTER): 1_000_000, (THREAD, OUTER, INNER): 3_000_000, (THREAD, INNER): 4_000}
)
SVG = "{http://www.w3.org/2000/svg}"


def boxes(svg: bytes) -> dict[str, dict[str, str]]:
    """The rectangles of a flame graph by their titles."""
    found = {}
    for group in ET.fromstring(svg).iter(f"{SVG}g"):  # noqa: S314 - our own
        [title], [box] = group.findall(f"{SVG}title"), group.findall(f"{SVG}rect")
        found[title.text or ""] = dict(box.attrib)
    return found


def test_speedscope_gets_shared_frames_and_weights_that_add_up() -> None:
    document = orjson.loads(speedscope(PROFILE))

    assert document["$schema"] == "https://www.speedscope.app/file-format-schema.json"
    frames = document["shared"]["frames"]
    assert len(frames) == 3
    assert {"name": "Job.run", "file": "app/jobs.py", "line": 3} in frames
    [profile] = document["profiles"]
    assert (profile["type"], profile["unit"], profile["startValue"]) == ("sampled", "nanoseconds", 0)
    assert len(profile["samples"]) == len(profile["weights"]) == 3
    assert sum(profile["weights"]) == profile["endValue"] == PROFILE.total
    assert all(0 <= index < len(frames) for sample in profile["samples"] for index in sample)


def test_speedscope_is_read_back_as_it_was_written() -> None:
    assert from_speedscope(speedscope(PROFILE)) == PROFILE


def test_collapsed_stacks_are_lines_of_functions_and_microseconds() -> None:
    lines = collapsed(PROFILE).decode().splitlines()

    assert "thread worker-N;Job.run (app/jobs.py:3);<lambda> & co (app/jobs.py:9) 3000" in lines
    assert len(lines) == 3


def test_a_flame_graph_is_as_wide_as_the_share_and_tells_its_figures() -> None:
    drawn = boxes(flame_graph(PROFILE))

    whole = drawn["all: 100.0%, 0.004 s"]
    inner = drawn["<lambda> & co (app/jobs.py:9): 74.9%, 0.003 s"]
    assert float(inner["width"]) == pytest.approx(float(whole["width"]) * 3000 / 4004, abs=0.1)
    assert float(inner["y"]) > float(drawn["Job.run (app/jobs.py:3): 99.9%, 0.004 s"]["y"])


def test_a_function_has_one_colour_in_every_graph_and_nothing_is_fetched() -> None:
    other = Profile("another", {(INNER,): 5, (OUTER,): 5})

    assert {
        box["fill"]
        for svg in (flame_graph(PROFILE), flame_graph(other))
        for title, box in boxes(svg).items()
        if title.startswith("<lambda>")
    } == {boxes(flame_graph(other))["<lambda> & co (app/jobs.py:9): 50.0%, 0.000 s"]["fill"]}
    assert b"<script" not in flame_graph(PROFILE)
    assert flame_graph(PROFILE).count(b"http") == 1  # the name of SVG itself


def test_a_profile_in_which_nothing_worked_is_written_all_the_same() -> None:
    nothing = Profile("idle", {})

    assert list(boxes(flame_graph(nothing))) == ["all: 0.0%, 0.000 s"]
    assert from_speedscope(speedscope(nothing)) == nothing
    assert collapsed(nothing) == b""
