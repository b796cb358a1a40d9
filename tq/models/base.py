"""What all models share: frozen, strict about unknown keys, compact when written."""

from typing import Self

from pydantic import BaseModel, ConfigDict


class Model(BaseModel):
    """A frozen value. An unknown key is an error, not something to ignore."""

    model_config = ConfigDict(frozen=True, extra="forbid", ser_json_timedelta="float")

    def to_json(self) -> str:
        """Compact JSON: what has its default value, and what is None, is left out."""
        return self.model_dump_json(exclude_defaults=True, exclude_none=True)

    @classmethod
    def from_json(cls, text: str | bytes) -> Self:
        """The value that `to_json` wrote.

        Raises:
            pydantic.ValidationError: if the text is not such a value.
        """
        return cls.model_validate_json(text)
