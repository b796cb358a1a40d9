"""Prometheus' own tool, where there is one."""

import re
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

PROMTOOL = shutil.which("promtool")
needs_promtool = pytest.mark.skipif(
    PROMTOOL is None,
    reason="there is no promtool on PATH; Debian and Ubuntu have it in the package prometheus",
)
# A name with a colon before or after it is that of a recorded series.
_METRIC = re.compile(r"(?<![:\w])(tq_\w+)(?![:\w])(?:\{([^}]*)\})?")
_LABEL = re.compile(r"(\w+)\s*(?:=~|!~|!=|=)")


def promtool(*words: str | Path, told: str = "") -> subprocess.CompletedProcess[str]:
    """What the tool has said, if it was told this."""
    assert PROMTOOL is not None
    return subprocess.run(
        [PROMTOOL, *map(str, words)], input=told, capture_output=True, text=True, timeout=60, check=False
    )


def series_in(query: str) -> Iterator[tuple[str, set[str]]]:
    """Each series of ours that a query names, and the labels by which it is selected."""
    for name, selector in _METRIC.findall(query):
        yield name, set(_LABEL.findall(selector))
