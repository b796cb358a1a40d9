"""Redis and its Sentinels behind TLS: whoever has the right certificate is connected, and nobody else."""

import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.ports import free_port
from tests.sentinels import SENTINEL_PASSWORD, SERVICE, sentinel
from tq.errors import StoreUnavailable
from tq.redis_server import HOST, RedisServer, find_server

from . import DIGEST, enable, open_store

PASSWORD = "s3cr3t"
OPENSSL = shutil.which("openssl")


def speaks_tls() -> bool:
    """Whether the server here was built with TLS: then it misses a certificate, else it does not know the option."""
    command = [str(find_server()), "--port", "0", "--tls-port", "1"]
    return "tls-cert-file" in subprocess.run(command, capture_output=True, text=True, check=False).stdout


def certificate(folder: Path, name: str) -> Path:
    """A certificate of this machine that vouches for itself; its key lies beside it."""
    file = folder / f"{name}.pem"
    subprocess.run(
        [
            *(
                str(OPENSSL),
                "req",
                "-x509",
                "-newkey",
                "ec",
                "-pkeyopt",
                "ec_paramgen_curve:prime256v1",
                "-nodes",
            ),
            *("-keyout", str(file.with_suffix(".key")), "-out", str(file), "-subj", f"/CN={name}"),
            *("-addext", f"subjectAltName=IP:{HOST}"),
        ],
        check=True,
        capture_output=True,
    )
    return file


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[int, Path]]:
    """The port of a Sentinel that speaks TLS only, as the primary does that it watches; and their certificate."""
    if OPENSSL is None or not speaks_tls():
        pytest.skip("needs openssl, and a Redis that was built with TLS")
    folder = tmp_path_factory.mktemp("tls")
    own = certificate(folder, "own")
    options = {
        "tls-cert-file": own,
        "tls-key-file": own.with_suffix(".key"),
        "tls-ca-cert-file": own,
        "tls-auth-clients": "no",
        "tls-replication": "yes",
    }
    port, sentinel_port = free_port(), free_port()
    extra = [word for name, value in options.items() for word in (f"--{name}", str(value))]
    config = [f"{name} {value}" for name, value in options.items()]
    config += ["port 0", f"tls-port {sentinel_port}"]
    with (
        RedisServer(
            folder / "redis", persist=False, password=PASSWORD, extra=("--tls-port", str(port), *extra)
        ),
        sentinel(folder, port, PASSWORD, config),
    ):
        yield sentinel_port, own


def url_of(port: int, scheme: str, trusted: Path | None = None) -> str:
    trusting = f"&ssl_ca_certs={trusted}" if trusted else ""
    return f"{scheme}+sentinel://:{PASSWORD}@{HOST}:{port}/{SERVICE}/0?sentinel_password={SENTINEL_PASSWORD}{trusting}"


def test_the_primary_is_found_and_spoken_to_by_tls(place: tuple[int, Path]) -> None:
    port, own = place
    store = open_store(url_of(port, "rediss", own))

    enable(store, ["ada"], DIGEST)

    assert [preference.user_id for preference in store.preferences.everybody()] == ["ada"]
    store.close()


@pytest.mark.parametrize("scheme", ["rediss", "redis"])
def test_who_does_not_trust_the_certificate_or_speaks_no_tls_is_not_connected(
    place: tuple[int, Path], scheme: str, tmp_path: Path
) -> None:
    port, _ = place
    other = certificate(tmp_path, "other") if scheme == "rediss" else None
    store = open_store(url_of(port, scheme, other))

    with pytest.raises(StoreUnavailable) as refused:
        enable(store, ["ada"], DIGEST)

    assert PASSWORD not in str(refused.value)
    store.close()
