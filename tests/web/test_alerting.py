"""That the web process watches over the system while it serves."""

from collections.abc import Iterator

import pytest
from pydantic import SecretStr

from tests.alerts.receiver import Receiver
from tests.waiting import eventually
from tests.web.conftest import Open


@pytest.fixture
def receiver() -> Iterator[Receiver]:
    """A dead man's switch that is held from here."""
    with Receiver() as serving:
        yield serving


@pytest.mark.usefixtures("well")
def test_a_dead_mans_switch_is_held_while_the_app_lives(opened: Open, receiver: Receiver) -> None:
    caller = opened(heartbeat_url=SecretStr(f"{receiver.url}/alive"))

    caller.living(lambda: eventually(lambda: len(receiver.calls) == 1))

    assert receiver.calls[0].path.endswith("/alive")
