"""The URL that names Sentinels instead of a server."""

import pytest
from pydantic import ValidationError

from tq.settings import Settings, sentinels_in, without_password

URL = "redis+sentinel://ada:p%40ss@first:1,second/orders/3"


def test_it_names_sentinels_and_the_service_to_ask_them_for() -> None:
    found = sentinels_in(URL)

    assert found is not None
    assert found.sentinels == (("first", 1), ("second", 26379))
    assert found.service == "orders"
    assert found.server_url == "redis://ada:p%40ss@/3"


def test_without_a_number_it_is_the_first_database() -> None:
    found = sentinels_in("rediss+sentinel://first/orders")

    assert found is not None
    assert found.server_url == "rediss:///0"


def test_sentinels_have_a_login_of_their_own_and_other_options_are_the_servers() -> None:
    found = sentinels_in(f"{URL}?sentinel_username=bob&sentinel_password=x%26y&ssl_ca_certs=/ca.pem")

    assert found is not None
    assert (found.username, found.password) == ("bob", "x&y")
    assert found.server_url == "redis://ada:p%40ss@/3?ssl_ca_certs=%2Fca.pem"


@pytest.mark.parametrize("url", ["redis://host:1/0", "unix:///socket"])
def test_any_other_names_none(url: str) -> None:
    assert sentinels_in(url) is None


@pytest.mark.parametrize(
    "places",
    [
        "",
        "first",
        "first/",
        "/orders",
        "first,,second/orders",
        "first:x/orders",
        "first/orders/x",
        "first/a/1/2",
    ],
)
def test_one_that_cannot_be_used_is_refused_with_the_form_to_write(places: str) -> None:
    with pytest.raises(ValidationError) as caught:
        Settings(redis_url=f"redis+sentinel://:s3cr3t@{places}")

    [error] = caught.value.errors()
    assert "write redis+sentinel://user:password@host:port,host:port/service/number" in error["msg"]


def test_no_password_of_either_is_shown() -> None:
    shown = without_password(f"{URL}?sentinel_password=x")

    assert shown == "redis+sentinel://ada:***@first:1,second/orders/3?***"
