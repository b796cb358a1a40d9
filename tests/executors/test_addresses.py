"""Addresses: which are public, how long they are remembered, and that connections go nowhere else."""

import contextlib
import os
import socket
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from threading import Event, Thread

import httpcore
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.waiting import eventually
from tq.executors.addresses import MAX_HOSTS, MAX_LOOKUPS, Connections, Place, Places, Until, is_public

from . import Endpoint

LOOKUPS = {
    "api.example.com": ("93.184.215.14", "2606:2800:21f:cb07:6820:80da:af6b:8b2c"),
    "inside.example.com": ("93.184.215.14", "10.0.0.1", "127.0.0.1"),
}


class Directory:
    """Names and their addresses, as they are now, and how often it was asked."""

    def __init__(self, **addresses: tuple[str, ...]) -> None:
        self.addresses = {**LOOKUPS, **addresses}
        self.asked: list[str] = []

    def __call__(self, host: str) -> tuple[str, ...]:
        self.asked.append(host)
        if host not in self.addresses:
            raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")
        return self.addresses[host]


class Hand:
    """The hand of a clock that a test moves."""

    def __init__(self) -> None:
        self.seconds = 1000.0

    def __call__(self) -> float:
        return self.seconds


@pytest.mark.parametrize(
    "address",
    [
        "93.184.215.14",
        "1.1.1.1",
        "2606:4700:4700::1111",
        "::ffff:1.1.1.1",
        "64:ff9b::1.1.1.1",
        "2002:101:101::1",
    ],
)
def test_an_address_of_the_public_internet_may_be_called(address: str) -> None:
    assert is_public(address)


@pytest.mark.parametrize(
    "address",
    [
        "127.0.0.1",
        "127.8.8.8",
        "0.0.0.0",  # noqa: S104 - it is judged, not bound
        "10.0.0.1",
        "172.16.0.1",
        "192.168.1.1",
        "100.64.0.1",
        "169.254.169.254",
        "192.0.2.1",
        "198.18.0.1",
        "224.0.0.1",
        "239.255.255.250",
        "240.0.0.1",
        "255.255.255.255",
        "::",
        "::1",
        "fe80::1",
        "fe80::1%eth0",
        "fc00::1",
        "fd00:ec2::254",
        "fec0::1",
        "ff02::1",
        "2001:db8::1",
        "100::1",
        "5f00::1",
        "64:ff9b:1::1.1.1.1",
        "::ffff:127.0.0.1",
        "::127.0.0.1",
        "64:ff9b::10.0.0.1",
        "2002:7f00:1::1",
        "2002:a9fe:a9fe::1",
        "2001:0:4136:e378:8000:63bf:80ff:fffe",
    ],
)
def test_an_address_that_is_not_public_is_known_whatever_it_is_wrapped_in(address: str) -> None:
    assert not is_public(address)


@given(st.ip_addresses(v=4))
def test_wrapping_an_address_changes_nothing_about_whether_it_is_public(address: object) -> None:
    plain = is_public(str(address))

    wrapped = {is_public(f"::ffff:{address}"), is_public(f"64:ff9b::{address}"), is_public(f"::{address}")}

    assert wrapped == {plain}


def test_one_private_address_among_public_ones_is_found() -> None:
    places = Places(resolve=Directory())

    public = places.find("api.example.com")
    inside = places.find("inside.example.com")

    assert public == Place(LOOKUPS["api.example.com"], None)
    assert inside == Place(LOOKUPS["inside.example.com"], "10.0.0.1")


def test_the_addresses_of_a_host_are_remembered_for_half_a_minute() -> None:
    directory, hand = Directory(), Hand()
    places = Places(resolve=directory, monotonic=hand)

    before = places.find("api.example.com")
    directory.addresses["api.example.com"] = ("127.0.0.1",)
    hand.seconds += 29.9
    within = places.find("api.example.com")
    hand.seconds += 0.1
    after = places.find("api.example.com")

    assert within == before
    assert after.private == "127.0.0.1"
    assert len(directory.asked) == 2


def test_a_name_that_could_not_be_resolved_is_asked_for_again() -> None:
    directory = Directory()
    places = Places(resolve=directory)

    for _ in range(2):
        with pytest.raises(socket.gaierror):
            places.find("nowhere.example.com")

    assert directory.asked == ["nowhere.example.com"] * 2


def test_what_is_remembered_is_bounded() -> None:
    places = Places(resolve=lambda _: ("1.1.1.1",))

    for number in range(3 * MAX_HOSTS):
        places.find(f"host-{number}.example.com")

    assert len(places._known) <= MAX_HOSTS


def test_many_threads_can_ask_at_once() -> None:
    places = Places(resolve=lambda _: ("1.1.1.1",))
    found: list[Place] = []

    def ask() -> None:
        found.extend(places.find(f"host-{number % 50}.example.com") for number in range(500))

    threads = [Thread(target=ask) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    assert found == [Place(("1.1.1.1",), None)] * 2000


def test_a_lookup_is_made_once_for_all_who_ask_and_nobody_waits_longer_than_they_may() -> None:
    asked, may_answer = [], Event()

    def resolve(host: str) -> tuple[str, ...]:
        asked.append(host)
        may_answer.wait()
        return ("1.1.1.1",)

    places = Places(resolve=resolve)
    with ThreadPoolExecutor(4) as threads:
        patient = [threads.submit(places.find, "api.example.com") for _ in range(4)]
        with pytest.raises(TimeoutError):
            places.find("api.example.com", within=0.05)
        may_answer.set()

        assert {call.result() for call in patient} == {Place(("1.1.1.1",), None)}
    assert asked == ["api.example.com"]


def test_lookups_that_hang_are_bounded_and_begin_anew_in_a_fork() -> None:
    parent, may_answer = os.getpid(), Event()

    def resolve(_: str) -> tuple[str, ...]:
        if os.getpid() == parent:
            may_answer.wait()
        return ("1.1.1.1",)

    places = Places(resolve=resolve)
    for number in range(MAX_LOOKUPS):
        with pytest.raises(TimeoutError):
            places.find(f"host-{number}.example.com", within=0)

    with pytest.raises(socket.gaierror, match="too many"):
        places.find("one-more.example.com", within=0)
    child = os.fork()
    if child == 0:
        found = places.find("host-0.example.com", within=30)
        os._exit(0 if found.addresses == ("1.1.1.1",) else 1)
    _, status = os.waitpid(child, 0)

    assert os.waitstatus_to_exitcode(status) == 0
    may_answer.set()


def test_a_mistake_in_a_lookup_is_told_and_keeps_nobody_waiting(monkeypatch: pytest.MonkeyPatch) -> None:
    told: list[str] = []
    monkeypatch.setattr(threading, "excepthook", lambda args: told.append(args.exc_type.__name__))
    known: dict[str, tuple[str, ...]] = {}
    places = Places(resolve=known.__getitem__)

    with pytest.raises(OSError, match="broke off"):
        places.find("api.example.com")

    eventually(lambda: told == ["KeyError"])


@pytest.mark.parametrize("host", ["127.0.0.1", "127.1", "0x7f.1", "2130706433", "::1", "localhost"])
def test_this_machine_is_known_under_all_its_names(host: str) -> None:
    place = Places().find(host)

    assert place.private in {"127.0.0.1", "::1"}


def test_a_host_that_can_be_no_name_is_told_apart_from_one_that_is_not_known() -> None:
    with pytest.raises(UnicodeError):
        Places().find("a" * 64 + ".example.com")


def test_a_connection_tries_the_next_address_when_one_refuses(endpoint: Endpoint) -> None:
    places = Places(resolve=lambda _: ("::1", "127.0.0.1"))
    connections = Connections(places, allow_private=True)

    stream = connections.connect_tcp("api.example.com", endpoint.port, Until(5))

    assert stream.get_extra_info("server_addr") == ("127.0.0.1", endpoint.port)
    stream.close()


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux lets a full queue swallow connections")
def test_an_address_that_swallows_connections_leaves_time_for_the_next(endpoint: Endpoint) -> None:
    places = Places(resolve=lambda _: ("127.0.0.2", "127.0.0.1"))
    connections = Connections(places, allow_private=True)
    with socket.socket() as swallower, contextlib.ExitStack() as waiting:
        swallower.bind(("127.0.0.2", endpoint.port))
        swallower.listen(0)
        for _ in range(4):
            caller = waiting.enter_context(socket.socket())
            caller.setblocking(False)
            caller.connect_ex(("127.0.0.2", endpoint.port))

        stream = connections.connect_tcp("api.example.com", endpoint.port, Until(0.4))

    assert stream.get_extra_info("server_addr") == ("127.0.0.1", endpoint.port)
    stream.close()


def test_a_connection_to_a_private_address_is_refused_even_if_the_check_saw_another(
    endpoint: Endpoint,
) -> None:
    directory, hand = Directory(), Hand()
    places = Places(resolve=directory, monotonic=hand)
    connections = Connections(places, allow_private=False)

    seen = places.find("api.example.com")
    directory.addresses["api.example.com"] = ("127.0.0.1",)
    hand.seconds += 60

    assert seen.private is None
    with pytest.raises(httpcore.ConnectError, match=r"its address 127\.0\.0\.1 is not public"):
        connections.connect_tcp("api.example.com", endpoint.port, Until(5))
    assert endpoint.connections == 0


def test_nothing_is_begun_when_the_time_is_over(endpoint: Endpoint) -> None:
    connections = Connections(Places(), allow_private=True)
    stream = connections.connect_tcp("127.0.0.1", endpoint.port, Until(5))

    with pytest.raises(httpcore.ConnectTimeout):
        connections.connect_tcp("127.0.0.1", endpoint.port, Until(0))
    with pytest.raises(httpcore.WriteTimeout):
        stream.write(b"GET", Until(0))
    with pytest.raises(httpcore.ReadTimeout):
        stream.read(1, Until(0))
    stream.close()
