"""While threads are looked at no garbage is collected; afterwards it is as before."""

import gc
import sys
import threading
from collections.abc import Callable, Iterator
from types import FrameType

import pytest

from tests.debugging.work import running, waiter
from tq.debugging.frames import frames_now
from tq.debugging.profile import record
from tq.debugging.threads import threads_now


@pytest.fixture(params=[True, False], ids=["collecting", "not collecting"])
def collects(request: pytest.FixtureRequest) -> Iterator[bool]:
    """Whether garbage is collected; afterwards it is."""
    wanted = bool(request.param)
    if not wanted:
        gc.disable()
    yield wanted
    gc.enable()


@pytest.fixture
def collections() -> Iterator[list[set[str]]]:
    """The functions that this thread was in at each collection; nearly everything that it makes begins one."""
    within: list[set[str]] = []
    own, earlier = threading.get_ident(), gc.get_threshold()

    def note(phase: str, _about: dict[str, int]) -> None:
        if phase == "start" and threading.get_ident() == own:
            within.append(set(functions_of(sys._getframe(1))))

    gc.callbacks.append(note)
    gc.set_threshold(1)
    yield within
    gc.set_threshold(*earlier)
    gc.callbacks.remove(note)


def functions_of(frame: FrameType | None) -> Iterator[str]:
    """Their names, innermost first."""
    while frame is not None:
        yield frame.f_code.co_name
        frame = frame.f_back


def test_every_thread_has_its_frame() -> None:
    with running(waiter, waiter), frames_now() as frames:
        assert frames.keys() >= {thread.ident for thread in threading.enumerate()}


def test_no_garbage_is_collected_until_the_frames_have_been_gone_through(
    collects: bool, collections: list[set[str]]
) -> None:
    with running(waiter, waiter), frames_now() as frames:
        collections.clear()
        assert [list(functions_of(frame)) for frame in frames.values()]
        assert not collections

    assert gc.isenabled() is collects
    assert bool([[] for _ in range(10)] and collections) is collects


@pytest.mark.parametrize(
    ("looks", "looking"),
    [(threads_now, "_stack"), (lambda: record(seconds=0.1, hz=1000), "_look_at")],
    ids=["threads", "profile"],
)
def test_whoever_goes_through_frames_does_so_without_collections(
    looks: Callable[[], object], looking: str, collections: list[set[str]]
) -> None:
    with running(waiter, waiter):
        looks()

    assert collections
    assert not any(looking in functions for functions in collections)


def test_what_fails_leaves_it_as_before(collects: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "_current_frames", lambda: 1 / 0)

    with pytest.raises(ZeroDivisionError), frames_now():
        pass

    assert gc.isenabled() is collects
