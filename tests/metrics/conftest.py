"""A system in which this and that has happened, and what a scrape of it finds."""

from collections.abc import Callable, Iterator
from contextlib import ExitStack
from typing import Any

import pytest
from prometheus_client.parser import text_string_to_metric_families

from tq.metrics import Meter, exposed
from tq.models import TaskType
from tq.pipeline.observe import bring
from tq.redis_server import RedisServer
from tq.testing import Journey

Begin = Callable[..., Journey]


class Scrape:
    """What was found: the values by name and labels."""

    def __init__(self, text: str) -> None:
        self.text = text
        self.families = {family.name: family for family in text_string_to_metric_families(text)}
        self.samples = {
            (sample.name, frozenset(sample.labels.items())): sample.value
            for family in self.families.values()
            for sample in family.samples
        }

    def of(self, name: str, **labels: str) -> float:
        """One value; fails if there is none."""
        return self.samples[name, frozenset(labels.items())]

    def all_of(self, name: str) -> dict[frozenset[tuple[str, str]], float]:
        """All values of that name, by their labels."""
        return {labels: value for (found, labels), value in self.samples.items() if found == name}


def scraped(journey: Journey, meter: Meter | None = None) -> Scrape:
    """What a scrape finds, once everything that was seen has been brought to Redis."""
    bring(journey.runtime)
    return Scrape(exposed((meter or Meter(journey.runtime)).read()))


@pytest.fixture
def begin(redis_server: RedisServer) -> Iterator[Begin]:
    """Begins a journey with some tasks at an instant; it ends with the test."""
    with ExitStack() as stack:

        def _begin(*tasks: TaskType, at: str, **options: Any) -> Journey:
            return stack.enter_context(Journey.begin(tasks, at=at, redis_url=redis_server.url, **options))

        yield _begin
