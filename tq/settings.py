"""What an operator can set from outside, and where each value came from.

Values are read from the environment (prefix `TQ_`), then from a file `.env` in the working
directory, then from the defaults below.
"""

import ipaddress
import re
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Annotated, Any, Literal
from urllib.parse import parse_qsl, urlencode, urlsplit, urlunsplit

from dotenv import dotenv_values
from pydantic import AliasChoices, Field, SecretStr, ValidationError, field_validator
from pydantic_settings import BaseSettings, NoDecode, SettingsConfigDict

from tq.errors import InvalidSetting
from tq.models import Duration, Rate, Strategy
from tq.redaction import register_secret

SENTINEL_PORT = 26379
_SENTINEL_SCHEMES = {"redis+sentinel": "redis", "rediss+sentinel": "rediss"}
# Shorter ones can be guessed by whoever may ask often enough.
LEAST_TOKEN = 16
# What RFC 6750 lets stand after `Bearer`.
_TOKEN = rf"[A-Za-z0-9._~+/-]{{{LEAST_TOKEN},}}=*"
HOW_TO_MAKE_ONE = "such as `openssl rand -hex 32` makes"
_NAMESPACE = r"^[A-Za-z0-9][A-Za-z0-9_.-]{0,49}$"


class Settings(BaseSettings):
    """Every setting, with its default and its meaning."""

    model_config = SettingsConfigDict(
        env_prefix="TQ_", env_file=".env", extra="ignore", frozen=True, populate_by_name=True
    )

    redis_url: str = Field(
        default="redis://127.0.0.1:6379/0",
        description=(
            "Where all state is: redis://, rediss:// or unix://, with user and password if needed; or "
            "redis+sentinel://user:password@host:26379,host:26379/service/number, which finds the primary by Sentinels."
        ),
    )
    broker: Literal["redis", "stub"] = Field(
        default="redis", description="redis, or stub: messages go to an outbox that tests pump by hand."
    )
    namespace: str = Field(
        default="taskqueue", pattern=_NAMESPACE, description="The prefix of every Redis key."
    )
    actors: str = Field(
        default="actors",
        description="The module that says how messages travel; both commands and workers load it.",
    )
    tasks_file: Path = Field(default=Path("tasks.yaml"), description="The file that declares task types.")
    task_modules: Annotated[tuple[str, ...], NoDecode] = Field(
        default=(), description="Python modules that declare task types with @task, separated by commas."
    )
    rate_limit: Rate = Field(
        default=100.0, description="The most calls per second of all tasks together, such as 100 or 100/s."
    )
    rate_strategy: Strategy = Field(
        default=Strategy.ADAPTIVE,
        description="adaptive: find the rate below the ceiling; stepped: half, once or twice the rate by errors.",
    )
    allow_private_endpoints: bool = Field(
        default=False,
        description="Whether calls may go to addresses that are not public, such as 127.0.0.1 or 10.0.0.1.",
    )
    result_history: int = Field(
        default=5, ge=1, le=100, description="How many results are kept per user and task."
    )
    result_ttl: Duration = Field(
        default=timedelta(days=30), description="How long results and failures are kept."
    )
    api_host: str = Field(
        default="127.0.0.1",
        min_length=1,
        description="The address at which tq web listens; any but loopback needs TQ_API_TOKEN.",
    )
    api_port: int = Field(
        default=8080, ge=0, le=65535, description="The port at which tq web listens; 0 takes a free one."
    )
    api_token: str = Field(
        default="",
        repr=False,
        description="What callers of tq web send as `Authorization: Bearer …`; optional on loopback.",
    )
    health_file: Path | None = Field(
        default=None,
        description="A file that workers and schedulers touch while they are well; see Health in README.",
    )
    log_level: Literal["TRACE", "DEBUG", "INFO", "WARNING", "ERROR", "CRITICAL"] = Field(
        default="INFO",
        validation_alias=AliasChoices("LOG_LEVEL"),
        description="The least important lines that are written.",
    )
    log_format: Literal["json", "console"] | None = Field(
        default=None,
        validation_alias=AliasChoices("LOG_FORMAT"),
        description="json or console; unset: console where a person watches, else json.",
    )
    debug_scheduler: bool = Field(
        default=False,
        validation_alias=AliasChoices("DEBUG_SCHEDULER"),
        description="Debug lines of tick and schedule, whatever LOG_LEVEL says.",
    )
    debug_worker: bool = Field(
        default=False,
        validation_alias=AliasChoices("DEBUG_WORKER"),
        description="Debug lines of workers, queues and calls, whatever LOG_LEVEL says.",
    )
    debug_redis: bool = Field(
        default=False,
        validation_alias=AliasChoices("DEBUG_REDIS"),
        description="A line for every command sent to Redis, with its time.",
    )
    debug_endpoints: bool = Field(
        default=False,
        description="Whether processes answer on loopback what tq debug asks: threads, memory, CPU profiles.",
    )

    trace_libraries: Annotated[tuple[Literal["httpx", "redis"], ...], NoDecode] = Field(
        default=(),
        description="Libraries whose own work is told in traces, separated by commas: httpx, redis. A task's HTTP call is always told.",
    )
    alert_webhook: SecretStr | None = Field(
        default=None, description="Where tq web posts what tq doctor finds wrong, as JSON; a secret."
    )
    alert_level: Literal["problem", "warning"] = Field(
        default="problem", description="From which status on a finding is posted: problem, or warning."
    )
    heartbeat_url: SecretStr | None = Field(
        default=None,
        description="What tq web calls each minute while ticks come and nobody is unaccounted for; a secret.",
    )

    @field_validator("task_modules", "trace_libraries", mode="before")
    @classmethod
    def _split(cls, value: Any) -> Any:
        if isinstance(value, str):
            return tuple(part.strip() for part in value.split(",") if part.strip())
        return value

    @field_validator("log_level", mode="before")
    @classmethod
    def _upper(cls, value: Any) -> Any:
        return value.upper() if isinstance(value, str) else value

    @field_validator("alert_webhook", "heartbeat_url", mode="before")
    @classmethod
    def _is_web_address(cls, value: Any) -> Any:
        if not isinstance(value, str):
            return value
        url = value.strip()
        if not url:
            return None
        # Whoever knows such a URL may post there: its path is the key. It is masked wherever it is written.
        register_secret(url)
        try:
            parts = urlsplit(url)
            valid = parts.scheme in {"http", "https"} and bool(parts.hostname) and parts.port != 0
        except ValueError:
            valid = False
        if not valid or not url.isprintable() or " " in url:
            raise ValueError("not a web address; write https://host/path, as its receiver gave it to you")
        return url

    @field_validator("api_token")
    @classmethod
    def _is_token(cls, value: str) -> str:
        if value and not re.fullmatch(_TOKEN, value):
            raise ValueError(
                f"cannot be a token; write at least {LEAST_TOKEN} letters, digits or - . _ ~ + /, {HOW_TO_MAKE_ONE}"
            )
        return value

    @field_validator("health_file", mode="before")
    @classmethod
    def _none_if_empty(cls, value: Any) -> Any:
        return value or None

    @field_validator("redis_url")
    @classmethod
    def _is_redis(cls, value: str) -> str:
        try:
            parts = urlsplit(value)
            valid = sentinels_in(value) is not None or (
                parts.scheme in {"redis", "rediss", "unix"} and (parts.port is None or parts.port > 0)
            )
        except ValueError:
            valid = False
        if not valid:
            form = "redis://user:password@host:port/number"
            if value.partition("://")[0] in _SENTINEL_SCHEMES:
                form = "redis+sentinel://user:password@host:port,host:port/service/number"
            raise ValueError(
                f"not a Redis URL; write {form}, with special characters in the password percent-encoded"
            )
        return value


def load_settings() -> Settings:
    """The settings in force.

    Raises:
        InvalidSetting: names the variable, what was found, and what is allowed.
    """
    try:
        return Settings()
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        name = variable_of(str(first["loc"][0]))
        message = first["msg"].removeprefix("Value error, ")
        if first["type"] == "bool_parsing":
            message = "neither true nor false"
        # What is wrong with a URL may be that its password cannot be told from the rest.
        hidden = name in {"TQ_REDIS_URL", "TQ_API_TOKEN", "TQ_ALERT_WEBHOOK", "TQ_HEARTBEAT_URL"}
        found = f" (found {first['input']!r})" if not hidden and repr(first["input"]) not in message else ""
        raise InvalidSetting(f"{name}: {message}{found}") from None


def variable_of(field: str) -> str:
    """The environment variable that sets a field."""
    known = Settings.model_fields.get(field)
    if known is not None and isinstance(known.validation_alias, AliasChoices):
        return str(known.validation_alias.choices[0])
    return field if field.isupper() else f"TQ_{field.upper()}"


def source_of(field: str, environ: dict[str, str]) -> Literal["environment", ".env", "default"]:
    """Where the value of a field comes from."""
    name = variable_of(field)
    if any(key.upper() == name for key in environ):
        return "environment"
    if any(key.upper() == name for key in dotenv_values(".env")):
        return ".env"
    return "default"


def is_loopback(host: str) -> bool:
    """Whether only this machine reaches what listens at the address."""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host.lower() == "localhost"


def without_password(url: str) -> str:
    """The URL as it may be shown: without a password, wherever one stands in it."""
    try:
        parts = urlsplit(url)
        if not parts.scheme:
            return "***"
        login, at, place = parts.netloc.rpartition("@")
    except ValueError:
        return "***"
    user, colon, _ = login.partition(":")
    shown = f"{user}{':***' if colon else ''}{at}{place}"
    return urlunsplit(parts._replace(netloc=shown, query="***" if parts.query else ""))


@dataclass(frozen=True)
class SentinelAddress:
    """Where Sentinels are, and how to log in there; the service to ask them for, and how its server is used.

    `server_url` is that of one server, but for its host, which the Sentinels know.
    """

    sentinels: tuple[tuple[str, int], ...]
    service: str
    server_url: str
    username: str | None
    password: str | None


def sentinels_in(url: str) -> SentinelAddress | None:
    """What a URL such as `redis+sentinel://user:password@host1:26379,host2/service/0` says; None for any other.

    User, password, number and options are those of the server; `sentinel_username` and
    `sentinel_password` among the options are for the Sentinels.

    Raises:
        ValueError: if it names no Sentinel, no service, or something else is wrong with it.
    """
    parts = urlsplit(url)
    if parts.scheme not in _SENTINEL_SCHEMES:
        return None
    login, at, places = parts.netloc.rpartition("@")
    hosts = [urlsplit(f"//{place}") for place in places.split(",")]
    service, _, number = parts.path.strip("/").partition("/")
    if not service or not all(host.hostname for host in hosts) or not (number or "0").isdecimal():
        raise ValueError("it must name at least one Sentinel, the service and the number of the database")
    options = dict(parse_qsl(parts.query))
    username, password = options.pop("sentinel_username", None), options.pop("sentinel_password", None)
    server_url = f"{_SENTINEL_SCHEMES[parts.scheme]}://{login}{at}/{number or 0}"
    return SentinelAddress(
        tuple((str(host.hostname), host.port or SENTINEL_PORT) for host in hosts),
        service,
        f"{server_url}?{urlencode(options)}" if options else server_url,
        username,
        password,
    )
