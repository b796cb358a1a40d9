"""Looking at threads keeps no garbage collection from later, and has none at the same time."""

import gc
import sys
import threading
from collections.abc import Iterator

import pytest

from tests.debugging.work import running, waiter
from tq.debugging.frames import current_frames


@pytest.fixture(params=[True, False], ids=["collecting", "not collecting"])
def collects(request: pytest.FixtureRequest) -> Iterator[bool]:
    """Whether garbage is collected; afterwards it is."""
    wanted = bool(request.param)
    if not wanted:
        gc.disable()
    yield wanted
    gc.enable()


def test_every_thread_has_its_frame() -> None:
    with running(waiter, waiter):
        assert current_frames().keys() >= {thread.ident for thread in threading.enumerate()}


def test_no_garbage_is_collected_meanwhile_and_afterwards_as_before(
    collects: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen = []
    monkeypatch.setattr(sys, "_current_frames", lambda: seen.append(gc.isenabled()))

    current_frames()

    assert seen == [False]
    assert gc.isenabled() is collects


def test_what_fails_leaves_it_as_before(collects: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "_current_frames", lambda: 1 / 0)

    with pytest.raises(ZeroDivisionError):
        current_frames()

    assert gc.isenabled() is collects
