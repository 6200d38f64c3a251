"""Objects read from JSON files, each with the place it stands at, and what can be wrong."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from fedtt_lightning.data.text_files import read_json_lines, read_text
from fedtt_lightning.errors import ConfigError

_NAMES = {str: "a text", int: "a whole number", list: "a list", dict: "an object"}


@dataclass(frozen=True)
class JsonRow:
    """An object of a file: `row["field"]`-like access that knows what to say when it fails.

    Attributes:
        where: file and line (or place in the file).
        fields: the object.
    """

    where: str
    fields: dict[str, Any]

    def text(self, name: str) -> str:
        """Return a field that is a text."""
        return self._get(name, str)

    def number(self, name: str) -> int:
        """Return a field that is a whole number."""
        return self._get(name, int)

    def inner(self, name: str) -> JsonRow:
        """Return a field that is an object."""
        return JsonRow(self.where, self._get(name, dict))

    def rows(self, name: str) -> list[JsonRow]:
        """Return a field that is a list of objects."""
        items = self._get(name, list)
        if not all(isinstance(item, dict) for item in items):
            raise ConfigError(f"{self.where}: field {name!r} is not a list of objects")
        return [JsonRow(self.where, item) for item in items]

    def _get(self, name: str, kind: type) -> Any:
        if name not in self.fields:
            known = ", ".join(self.fields) or "none"
            raise ConfigError(
                f"{self.where}: there is no field {name!r} (fields: {known}); mend the file"
            )
        value = self.fields[name]
        if not isinstance(value, kind):
            raise ConfigError(
                f"{self.where}: field {name!r} is {value!r:.40}, not {_NAMES[kind]}; mend the file"
            )
        return value


def read_jsonl(path: Path, files: str) -> list[JsonRow]:
    """Return the objects of a file with one a line; ConfigError with file and line.

    `files` says what the folder should hold, for the message where the file is missing.
    """
    _check(path, files)
    return [JsonRow(where, row) for where, row in read_json_lines(path)]


def read_json(path: Path, files: str) -> JsonRow:
    """Return the object that a file holds; ConfigError with file and line."""
    _check(path, files)
    try:
        value = json.loads(read_text(path))
    except json.JSONDecodeError as error:
        raise ConfigError(
            f"{path}:{error.lineno}: no JSON ({error.msg} in column {error.colno}); get the "
            "official file again"
        ) from error
    if not isinstance(value, dict):
        raise ConfigError(f"{path}: {type(value).__name__} in place of an object {{...}}")
    return JsonRow(str(path), value)


def _check(path: Path, files: str) -> None:
    if not path.is_file():
        raise ConfigError(
            f"{path} is missing; data.data_dir must hold the official files ({files})"
        )
