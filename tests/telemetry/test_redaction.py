"""Redaction: what is secret by its form or its value is masked, and what is not stays readable."""

import string
import time
from threading import Thread

import httpx
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tq.redaction import MAX_SECRETS, is_secret_name, redact, register_secret


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("GET https://ada:pw@host/p?token=abc#top failed", "GET https://ada:***@host/p?***#top failed"),
        ("redis://:pw@host:6379/0", "redis://:***@host:6379/0"),
        ("https://ghp_x@github.com/a@b", "https://***@github.com/a@b"),
        ("a http://h/?x=1 b http://h/?y=2", "a http://h/?*** b http://h/?***"),
        ("Authorization: Bearer abc.def", "Authorization: ***"),
        ("{'Authorization': 'Basic dXNlcjpwYXNz', 'x': 1}", "{'Authorization': '***', 'x': 1}"),
        ("[(b'authorization', b'Bearer abc'), (b'x', b'y')]", "[(b'authorization', b'***'), (b'x', b'y')]"),
        ("Proxy-Authorization: Digest a, b", "Proxy-Authorization: ***"),
        ("Set-Cookie: sid=abc; Path=/", "Set-Cookie: ***"),
        ("sent bearer abc-def_1.2", "sent bearer ***"),
        ("sent Basic dXNlcjpwYXNz", "sent Basic ***"),
        ('{"token": "a\\"bc", "n": 1}', '{"token": "***", "n": 1}'),
        ('{\\"token\\": \\"abc\\", \\"n\\": 1}', '{\\"token\\": \\"***\\", \\"n\\": 1}'),
        ('cut off: {"token": "ab', 'cut off: {"token": "***"'),
        ("client_secret: b'abc'", "client_secret: b'***'"),
        ("password=hunter2&user=1", "password=***&user=1"),
        ("/hook?api_key=abc&user=1", "/hook?api_key=***&user=1"),
        ("AWS_SECRET_ACCESS_KEY = x/y", "AWS_SECRET_ACCESS_KEY = ***"),
    ],
)
def test_what_has_the_form_of_a_secret_is_masked(text: str, shown: str) -> None:
    once = redact(text)
    twice = redact(once)

    assert once == shown
    assert twice == shown


@pytest.mark.parametrize(
    "text",
    [
        "",
        "slot distributed",
        "tokens=5 key=2 keyboard=1",
        "secretary: Bob",
        "basic checks passed",
        "https://host/path/a@b",
        "the task's key: value pairs",
    ],
)
def test_what_is_no_secret_stays_readable(text: str) -> None:
    assert redact(text) == text


@pytest.mark.parametrize(
    "written",
    [
        'planted "value"/1',
        "planted%20%22value%22%2F1",
        "planted%20%22value%22/1",
        "planted+%22value%22%2F1",
        r"planted \"value\"/1",
    ],
)
def test_a_registered_value_is_masked_wherever_it_stands_and_however_it_is_written(written: str) -> None:
    register_secret('planted "value"/1')

    shown = redact(f"it said: {written}, twice: {written}")

    assert shown == "it said: ***, twice: ***"


@given(st.text(string.ascii_letters + string.punctuation.replace(".", "") + " ", min_size=6))
def test_a_registered_value_is_masked_in_the_url_that_httpx_makes_of_it(value: str) -> None:
    register_secret(value)
    # What looks like a query or a fragment is one, what is encoded already stays so, and dots may be steps.
    path = httpx.URL(f"http://host/{value}" if not set(value) & set("?#%") else "http://host/")
    query = httpx.URL(f"http://host/?{value}" if not set(value) & set("#%") else "http://host/")

    shown = [redact(url.raw_path.decode()) for url in (path, query)]

    assert all(text in {"/***", "/", "/?***"} for text in shown)


def test_a_value_within_another_does_not_keep_the_rest_of_it_visible() -> None:
    register_secret("inner-value-2")
    register_secret("outer-inner-value-2-end")

    shown = redact("x outer-inner-value-2-end y")

    assert shown == "x *** y"


def test_a_short_value_is_not_registered_since_it_is_part_of_ordinary_words() -> None:
    register_secret("")
    register_secret("queue")

    assert redact("the queue is empty") == "the queue is empty"


def test_registered_values_are_bounded_and_the_oldest_go_first() -> None:
    register_secret("oldest-value-3")

    for number in range(MAX_SECRETS):
        register_secret(f"newer-value-{number}")

    assert redact("oldest-value-3") == "oldest-value-3"
    assert redact(f"newer-value-{MAX_SECRETS - 1}") == "***"


def test_values_registered_by_many_threads_are_all_masked() -> None:
    names = [f"thread-{thread}-value-{number}" for thread in range(4) for number in range(50)]

    def register(part: list[str]) -> None:
        for name in part:
            register_secret(name)

    threads = [Thread(target=register, args=(names[start : start + 50],)) for start in (0, 50, 100, 150)]

    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    assert {redact(name) for name in names} == {"***"}


@pytest.mark.parametrize(
    "name", ["token", "api_token", "Authorization", "Set-Cookie", "db_password", "apiKey"]
)
def test_a_field_of_such_a_name_holds_a_secret(name: str) -> None:
    assert is_secret_name(name)


@pytest.mark.parametrize("name", ["task_id", "tokens", "key", "secretary", "status"])
def test_a_field_of_another_name_does_not(name: str) -> None:
    assert not is_secret_name(name)


@given(st.text())
def test_any_text_can_be_redacted(text: str) -> None:
    assert isinstance(redact(text), str)


@pytest.mark.parametrize(
    "part",
    ["://", "token", "token:", "bearer ", "cookie,", "basic a", 'token="\\', "token\\", "://a@", "://?"],
)
def test_the_time_it_takes_grows_no_faster_than_the_text(part: str) -> None:
    text = part * (200_000 // len(part))
    started = time.process_time()

    redact(text)

    # It takes some hundredths of a second; by the square of the length it would take minutes.
    assert time.process_time() - started < 2
