"""`/metrics` as a scraper asks for it."""

from prometheus_client.parser import text_string_to_metric_families

from tests.waiting import eventually
from tests.web.conftest import TOKEN, Open
from tq.metrics import FAMILIES, Meter, exposed
from tq.runtime import Runtime


def test_a_scrape_finds_all_that_there_is(opened: Open, runtime: Runtime) -> None:
    runtime.definitions.publish(runtime.store.planning.look(limit=0))

    answer = opened().get("/metrics")

    assert answer.status_code == 200
    assert answer.headers["content-type"] == "text/plain; version=0.0.4; charset=utf-8"
    families = {family.name: family for family in text_string_to_metric_families(answer.text)}
    assert set(families) <= {family.name.removesuffix("_total") for family in FAMILIES}
    limits = {sample.labels["task"]: sample.value for sample in families["tq_ratelimit_limit"].samples}
    assert limits.items() >= {"*": 100, "email_digest": 20, "hourly_sync": 100}.items()


def test_a_web_process_counts_among_those_that_live(opened: Open, runtime: Runtime) -> None:
    caller = opened()

    def shown() -> float:
        text = exposed(Meter(runtime).read())
        return next(
            sample.value
            for family in text_string_to_metric_families(text)
            for sample in family.samples
            if sample.name == "tq_processes" and sample.labels["component"] == "web"
        )

    assert shown() == 0
    caller.living(lambda: eventually(lambda: shown() == 1))
    assert shown() == 0


def test_a_scrape_needs_the_token_if_there_is_one(opened: Open) -> None:
    caller = opened(api_token=TOKEN)

    assert caller.get("/metrics").status_code == 401
    assert caller.get("/metrics", authorization=f"Bearer {TOKEN}").status_code == 200


def test_a_redis_that_is_away_is_told_as_such(opened: Open) -> None:
    answer = opened(redis_url="redis://127.0.0.1:1/0").get("/metrics")

    assert answer.status_code == 503
    assert answer.json()["error"]["code"] == "unavailable"
