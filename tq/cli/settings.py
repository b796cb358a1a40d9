"""`tq settings`: what is set, and where each value comes from."""

import os
from collections.abc import Sequence
from datetime import timedelta
from pathlib import Path

from pydantic import SecretStr

from tq.cli.app import app
from tq.cli.output import AsJson, print_json, print_table
from tq.models import format_duration
from tq.redaction import MASK, is_secret_name, redact
from tq.settings import Settings, load_settings, source_of, variable_of, without_password


@app.command("settings")
def show_settings(as_json: AsJson = False) -> None:
    """Show every setting: its value, where that comes from, and what it is for."""
    settings = load_settings()
    environ = dict(os.environ)
    rows = [
        {
            "variable": variable_of(name),
            "value": _shown(variable_of(name), getattr(settings, name)),
            "source": source_of(name, environ),
            "description": field.description,
        }
        for name, field in Settings.model_fields.items()
    ]
    if as_json:
        print_json(rows)
    else:
        print_table(("variable", "value", "source", "what it is for"), [tuple(row.values()) for row in rows])


def _shown(variable: str, value: object) -> object:
    """A value as it may be shown, in the form in which it is written into the environment."""
    match value:
        case bool():
            return str(value).lower()
        case SecretStr():
            return MASK
        case None | int() | float():
            return value
        case timedelta():
            return format_duration(value)
        case Path():
            return str(value)
        case str() | Sequence():
            text = value if isinstance(value, str) else ",".join(map(str, value))
            secret = is_secret_name(variable.removesuffix("S"))
            return MASK if secret and text else redact(without_password(text)) if "://" in text else text
        case _:
            return str(value)
