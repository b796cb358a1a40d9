"""What holds for every request: errors in one form, an id, HEAD, one line in the log, and who may ask."""

import json
import re
from collections.abc import Iterator

import pytest
from fastapi import HTTPException
from loguru import logger

from tests.web.conftest import TOKEN, Caller, Open
from tq.errors import InvalidInput, InvalidSetting, RunNotFound, StoreUnavailable
from tq.redaction import redact
from tq.settings import is_loopback

SECRET = "planted-where-nobody-expects-it"


@pytest.fixture
def lines() -> Iterator[list[dict[str, object]]]:
    """Each line that is logged during the test, with its fields."""
    found: list[dict[str, object]] = []

    def hear(message: object) -> None:
        record = message.record  # type: ignore[attr-defined] # loguru's Message is a str with this
        caught = record["exception"]
        found.append(
            {"message": record["message"], "level": record["level"].name, "caught": caught, **record["extra"]}
        )

    sink = logger.add(hear, level="DEBUG")
    yield found
    logger.remove(sink)


def failing_with(web: Caller, error: Exception) -> None:
    """Has the app have a route that fails."""

    @web.app.get("/failing")
    def failing(number: int = 0) -> int:
        if number >= 0:
            raise error
        return number


# --- Errors ------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("error", "status", "code"),
    [
        (RunNotFound("run 'a~b' is not known"), 404, "not_found"),
        (InvalidInput("rate: 'x' is not a rate"), 422, "invalid_input"),
        (InvalidSetting("TQ_TASKS_FILE: is odd"), 503, "invalid_definitions"),
        (StoreUnavailable("Redis is away"), 503, "unavailable"),
        (HTTPException(413, "too much"), 413, "request_entity_too_large"),
    ],
)
def test_what_cannot_be_done_is_told_in_one_form(
    web: Caller, error: Exception, status: int, code: str
) -> None:
    failing_with(web, error)

    answer = web.get("/failing")

    assert answer.status_code == status
    assert answer.headers["content-type"] == "application/json"
    assert list(answer.json()) == ["error"]
    assert list(answer.json()["error"]) == ["code", "message", "details"]
    assert answer.json()["error"]["message"] in str(error) + str(getattr(error, "detail", ""))
    assert re.fullmatch(r"[a-z_]+", answer.json()["error"]["code"])
    if status != 413:  # the name of which differs between versions of Python
        assert answer.json()["error"]["code"] == code


def test_what_is_not_there_names_the_path_and_where_to_look(web: Caller) -> None:
    answer = web.get("/nowhere?token=abc")

    assert answer.status_code == 404
    assert answer.json()["error"]["message"] == (
        "there is nothing at /nowhere; /openapi.json lists what there is"
    )


def test_a_method_that_is_not_answered_is_told_with_those_that_are(web: Caller) -> None:
    answer = web.ask("DELETE", "/livez")

    assert (answer.status_code, answer.headers["allow"]) == (405, "GET, HEAD")
    assert answer.json()["error"]["message"] == "DELETE is not answered at /livez; use GET, HEAD"


def test_input_that_cannot_be_used_is_named_and_not_repeated(web: Caller) -> None:
    failing_with(web, AssertionError())

    answer = web.get(f"/failing?number={SECRET}")

    assert answer.status_code == 422
    [fault] = answer.json()["error"]["details"]
    assert fault["where"] == "query.number"
    assert "integer" in fault["message"]
    assert SECRET not in answer.text


def test_what_nobody_has_foreseen_is_logged_once_and_told_without_a_trace(
    web: Caller, lines: list[dict[str, object]]
) -> None:
    failing_with(web, RuntimeError(SECRET))

    answer = web.get("/failing", x_request_id="from-the-proxy")

    assert answer.status_code == 500
    assert answer.json()["error"]["code"] == "internal_error"
    assert "from-the-proxy" in answer.json()["error"]["message"]
    assert SECRET not in answer.text
    assert "Traceback" not in answer.text
    [told] = [line for line in lines if line["level"] == "ERROR"]
    assert (told["message"], told["request_id"]) == ("request failed unexpectedly", "from-the-proxy")
    assert SECRET in str(told["caught"])


# --- Its id, its method, its line ----------------------------------------------------------------------


def test_a_request_has_an_id_its_callers_if_that_can_stand_in_a_log(web: Caller) -> None:
    taken = web.get("/livez", x_request_id="8f3c:4/a=b").headers["x-request-id"]
    odd = [
        web.get("/livez", x_request_id=given).headers["x-request-id"] for given in ("", "a b", "x" * 129, '"')
    ]
    made = [web.get("/livez").headers["x-request-id"] for _ in range(2)]

    assert taken == "8f3c:4/a=b"
    assert all(re.fullmatch("[0-9a-f]{32}", one) for one in [*odd, *made])
    assert len({*odd, *made}) == len([*odd, *made])


@pytest.mark.parametrize(
    "path", ["/livez", "/readyz?verbose", "/health", "/stats", "/openapi.json", "/nowhere"]
)
def test_head_tells_what_get_tells_without_the_body(opened: Open, path: str) -> None:
    web = opened(redis_url="redis://127.0.0.1:1/0")

    asked, told = web.ask("HEAD", path), web.get(path)

    assert asked.content == b""
    assert told.content
    assert asked.status_code == told.status_code
    assert asked.headers["content-type"] == told.headers["content-type"]
    assert asked.headers["content-length"] == told.headers["content-length"]


def test_a_request_is_one_debug_line_without_its_query(web: Caller, lines: list[dict[str, object]]) -> None:
    web.get(f"/livez?key={SECRET}", x_request_id="one")

    [line] = [line for line in lines if line.get("request_id") == "one"]
    assert (line["level"], line["message"]) == ("DEBUG", "request answered")
    assert (line["method"], line["path"], line["status"]) == ("GET", "/livez", 200)
    assert SECRET not in str(lines)


def test_no_id_stays_with_what_is_logged_later(web: Caller, lines: list[dict[str, object]]) -> None:
    web.get("/livez", x_request_id="one")

    logger.info("something else")

    assert "request_id" not in lines[-1]


def test_answers_are_kept_by_nobody_and_the_documentation_loads_nothing_from_elsewhere(web: Caller) -> None:
    answer = web.get("/livez")

    assert answer.headers["cache-control"] == "no-store"
    assert answer.headers["x-content-type-options"] == "nosniff"
    assert [web.get(path).status_code for path in ("/docs", "/redoc")] == [404, 404]
    assert json.loads(web.get("/openapi.json").text)["info"]["title"] == "TaskQueue"


# --- Who may ask -------------------------------------------------------------------------------------


def test_with_a_token_only_who_sends_it_sees_what_is_not_for_everybody(opened: Open) -> None:
    web = opened(api_token=TOKEN)

    right = [web.get("/stats", authorization=f"{scheme} {TOKEN}") for scheme in ("Bearer", "bearer")]
    without = web.get("/stats")
    wrong = [
        web.get("/stats", authorization=given)
        for given in (
            f"Bearer {TOKEN}x",
            "Bearer",
            "Bearer ",
            f"Basic {TOKEN}",
            TOKEN,
            f"Bearer {TOKEN[:-1]}",
        )
    ]

    assert [answer.status_code for answer in right] == [200, 200]
    assert {answer.status_code for answer in (without, *wrong)} == {401}
    assert without.headers["www-authenticate"] == 'Bearer realm="taskqueue"'
    assert {answer.headers["www-authenticate"] for answer in wrong} == {
        'Bearer realm="taskqueue", error="invalid_token"'
    }
    assert without.json()["error"]["code"] == "unauthorized"
    assert all(TOKEN not in answer.text for answer in (without, *wrong, *right))


def test_the_token_is_a_secret_from_then_on(opened: Open) -> None:
    opened(api_token=TOKEN)

    assert redact(f"somebody sent {TOKEN} here") == "somebody sent *** here"


@pytest.mark.parametrize(
    ("host", "status"),
    [
        ("127.0.0.1:8080", 200),
        ("[::1]:8080", 200),
        ("localhost", 200),
        ("tq.localhost:8080", 200),
        ("web:8080", 200),
        ("rebound.example.com", 421),
        ("127.0.0.1.example.com:8080", 421),
    ],
)
def test_without_a_token_a_page_in_a_browser_cannot_ask_by_a_name_of_its_own(
    web: Caller, host: str, status: int
) -> None:
    assert web.ask("GET", "/stats", host=host).status_code == status
    assert web.ask("GET", "/livez", host=host).status_code == 200
    assert ("checks" in web.ask("GET", "/health", host=host).json()) == (status == 200)


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "10.1.2.3", "example.com"])  # noqa: S104 - nothing listens there
def test_there_is_no_app_that_strangers_could_reach_without_a_token(opened: Open, host: str) -> None:
    with pytest.raises(
        InvalidSetting, match=rf"^TQ_API_TOKEN: is needed where TQ_API_HOST is '{host}'.*openssl rand"
    ):
        opened(api_host=host)

    assert opened(api_host=host, api_token=TOKEN).get("/livez").status_code == 200


@pytest.mark.parametrize("host", ["127.0.0.1", "127.9.9.9", "::1", "localhost", "LOCALHOST"])
def test_loopback_is_whatever_only_this_machine_reaches(host: str) -> None:
    assert is_loopback(host)


def test_every_path_is_described_with_the_one_form_that_errors_have(web: Caller) -> None:
    described = json.loads(web.get("/openapi.json").text)

    answers = [operation["responses"] for path in described["paths"].values() for operation in path.values()]
    assert answers
    for responses in answers:
        assert "422" not in responses
        schema = responses["default"]["content"]["application/json"]["schema"]
        error = json.loads(web.get("/nowhere").text)
        assert set(error) == set(schema["required"])
        assert set(error["error"]) == set(schema["properties"]["error"]["required"])
    assert "HTTPValidationError" not in json.dumps(described)
