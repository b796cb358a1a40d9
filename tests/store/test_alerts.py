"""One process at a time has the watch; what another one would note is left out."""

from datetime import timedelta

from tq.store import Store

from . import NOW, frozen

LASTS = timedelta(seconds=45)


def test_one_process_has_the_watch_until_its_time_is_over(store: Store) -> None:
    assert store.alerts.take("web:1", lasts=LASTS) is not None
    frozen(store).advance(LASTS - timedelta(milliseconds=1))
    assert store.alerts.take("web:2", lasts=LASTS) is None

    frozen(store).advance(timedelta(milliseconds=1))

    assert store.alerts.take("web:2", lasts=LASTS) is not None
    assert store.alerts.take("web:1", lasts=LASTS) is None


def test_whoever_goes_on_keeps_it_and_whoever_gives_it_up_lets_another_have_it(store: Store) -> None:
    for _ in range(3):
        assert store.alerts.take("web:1", lasts=LASTS) is not None
        frozen(store).advance(LASTS / 2)
    assert store.alerts.take("web:2", lasts=LASTS) is None

    store.alerts.give_up("web:2")  # it has nothing to give up
    assert store.alerts.take("web:2", lasts=LASTS) is None
    store.alerts.give_up("web:1")

    assert store.alerts.take("web:2", lasts=LASTS) is not None


def test_what_was_noted_is_there_for_the_next_one(store: Store) -> None:
    store.alerts.take("web:1", lasts=LASTS, changes={"ticks": "{1}", "workers": "{2}"}, heartbeat_at=NOW)
    store.alerts.take("web:1", lasts=LASTS, changes={"ticks": None})
    store.alerts.give_up("web:1")

    notes = store.alerts.take("web:2", lasts=LASTS)

    assert notes is not None
    assert (notes.now, notes.alerts, notes.heartbeat_at) == (NOW, {"workers": "{2}"}, NOW)


def test_who_has_lost_the_watch_notes_nothing(store: Store) -> None:
    store.alerts.take("web:1", lasts=LASTS, changes={"ticks": "old"})
    frozen(store).advance(LASTS)
    store.alerts.take("web:2", lasts=LASTS, changes={"ticks": "new"})

    assert store.alerts.take("web:1", lasts=LASTS, changes={"ticks": None}, heartbeat_at=NOW) is None

    notes = store.alerts.take("web:2", lasts=LASTS)
    assert notes is not None
    assert (notes.alerts, notes.heartbeat_at) == ({"ticks": "new"}, None)
