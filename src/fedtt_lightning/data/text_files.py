"""UTF-8 files of text and of JSON lines, and errors that name file and line."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from fedtt_lightning.errors import ConfigError


def read_text(path: Path) -> str:
    """Return the content of a UTF-8 file, or raise ConfigError with the line that is none."""
    try:
        content = path.read_bytes()
    except OSError as error:
        raise ConfigError(f"{path}: {error.strerror}") from error
    try:
        return content.decode().removeprefix("\ufeff")
    except UnicodeDecodeError as error:
        line = content.count(b"\n", 0, error.start) + 1
        raise ConfigError(f"{path}:{line}: not UTF-8 ({error.reason}); convert the file") from error


def read_json_lines(path: Path) -> Iterator[tuple[str, dict[str, Any]]]:
    """Give (file:line, object) of each line that is not blank; ConfigError for anything else."""
    # Lines end at "\n" alone: JSON strings may hold other characters that Python takes for ends.
    for number, line in enumerate(read_text(path).split("\n"), 1):
        if not line.strip():
            continue
        where = f"{path}:{number}"
        try:
            row = json.loads(line)
        except json.JSONDecodeError as error:
            raise ConfigError(
                f"{where}: no JSON ({error.msg} in column {error.colno}); a line is one object"
            ) from error
        if not isinstance(row, dict):
            raise ConfigError(f"{where}: {type(row).__name__} in place of an object {{...}}")
        yield where, row
