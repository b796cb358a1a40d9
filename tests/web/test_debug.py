"""`/debug` of the web process."""

import pytest

from tests.waiting import eventually
from tests.web.conftest import TOKEN, Open
from tq.runtime import Runtime


def test_nothing_is_told_unless_that_is_set(opened: Open) -> None:
    assert opened().get("/debug/threads").status_code == 404


def test_threads_heap_and_a_profile_are_told(opened: Open) -> None:
    caller = opened(debug_endpoints=True)

    threads = caller.get("/debug/threads")
    profile = caller.get("/debug/profile?seconds=0.1&format=collapsed")

    assert (threads.status_code, profile.status_code) == (200, 200)
    assert "MainThread" in threads.text
    assert caller.get("/debug/heap").status_code == 200
    assert caller.get("/debug/heap?stop=true").status_code == 200


@pytest.mark.parametrize(
    ("path", "headers", "status"),
    [
        ("/debug/threads", {"X_Forwarded_For": "10.0.0.1"}, 403),
        ("/debug/threads", {"Sec_Fetch_Site": "cross-site"}, 403),
        ("/debug/profile?seconds=never", {}, 422),
        ("/debug/nothing", {}, 404),
    ],
)
def test_who_may_not_ask_or_asks_wrongly_is_told_so(
    opened: Open, path: str, headers: dict[str, str], status: int
) -> None:
    answered = opened(debug_endpoints=True).get(path, **headers)

    assert answered.status_code == status
    assert set(answered.json()["error"]) == {"code", "message", "details"}


def test_the_token_is_needed_if_there_is_one(opened: Open) -> None:
    caller = opened(debug_endpoints=True, api_token=TOKEN)

    assert caller.get("/debug/threads").status_code == 401
    assert caller.get("/debug/threads", authorization=f"Bearer {TOKEN}").status_code == 200


def test_the_process_shows_where_it_can_be_asked(opened: Open, runtime: Runtime) -> None:
    caller = opened(debug_endpoints=True)

    def ports() -> list[int | None]:
        return [process.debug_port for process in runtime.store.vitals.signs().processes]

    caller.living(lambda: eventually(lambda: any(ports())))
