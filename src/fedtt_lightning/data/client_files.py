"""Files that belong to clients: which they are, what their rows hold, and that none is left out."""

from __future__ import annotations

from collections.abc import Sequence
from glob import glob
from pathlib import Path
from typing import Any

from fedtt_lightning.data.by_column import ByColumn
from fedtt_lightning.data.json_rows import JsonRow
from fedtt_lightning.data.partition import Partitioner
from fedtt_lightning.data.row_draws import draw_rows, take
from fedtt_lightning.errors import ConfigError
from fedtt_lightning.federation.seeds import generator_for

FILE = "file"  # column of the rows: the number of their file
Names = str | list[str]


def find_files(names: Names, endings: Sequence[str], key: str) -> list[Path]:
    """Return the files that `data.<key>` names, in its order: files, folders, or patterns with `*`.

    A folder stands for its files with one of the endings, sorted by name; a pattern for what it
    matches, sorted. Raises ConfigError if an entry stands for no file.
    """
    paths: list[Path] = []
    for name in [names] if isinstance(names, str) else names:
        path = Path(name).expanduser()
        if path.is_dir():
            found = sorted(file for file in path.iterdir() if file.suffix in endings)
        elif path.is_file():
            found = [path]
        else:
            found = sorted(map(Path, glob(str(path), recursive=True)))
        if not found:
            raise ConfigError(
                f"data.{key}: {name} is no file, pattern of files, or folder of "
                f"{' or '.join(endings)} files"
            )
        paths += found
    if not paths:
        raise ConfigError(f"data.{key} is empty: name files, a folder, or a pattern such as a/*")
    return paths


def check_evaluation(test_files: Names | None, holdout: int) -> None:
    """Raise ConfigError if there is nothing to evaluate on."""
    if test_files is None and not holdout:
        raise ConfigError(
            "data: there is nothing to evaluate on; name data.test_files, or set data.holdout to "
            "put training rows aside"
        )


def own_files(partition: Partitioner | None, files: Sequence[Path]) -> Partitioner | None:
    """Return the partition to use: where none is given and there are several files, one a file."""
    return ByColumn(FILE) if partition is None and len(files) > 1 else partition


def required_text(row: JsonRow, name: str) -> str:
    """Return a field that must be a text and not blank, or raise ConfigError with file and line."""
    text = row.text(name)
    if not text.strip():
        raise ConfigError(f"{row.where}: field {name!r} is blank; mend the row or leave it out")
    return text


def column_names(rows: Sequence[JsonRow], partition: Partitioner | None) -> list[str]:
    """Return the fields that partitions may use: texts or whole numbers in all rows.

    Raises ConfigError, with file and line, for a row without the column that ByColumn divides by.
    """
    if isinstance(partition, ByColumn) and partition.column != FILE:
        for row in rows:
            if not isinstance(row.fields.get(partition.column), str | int):
                raise ConfigError(
                    f"{row.where}: there is no field {partition.column!r}, a text or whole number, "
                    "by which data.partition divides the rows"
                )
    kinds = {name: type(value) for name, value in rows[0].fields.items() if name != FILE}
    return sorted(
        name
        for name, kind in kinds.items()
        if issubclass(kind, str | int) and all(type(row.fields.get(name)) is kind for row in rows)
    )


def check_every_file(
    left: Sequence[int], files: Sequence[Path], partition: Partitioner | None
) -> None:
    """Raise ConfigError if files are clients and one of them has no row in column `file` left."""
    if isinstance(partition, ByColumn) and partition.column == FILE:
        for number in sorted(set(range(len(files))) - set(left)):
            raise ConfigError(
                f"{files[number]}: no row is left to train its client on; lower data.holdout, "
                "raise data.train_limit, or leave the file out"
            )


def held_out(rows: Any, holdout: int, seed: int, draw: tuple[str, ...]) -> Any:
    """Return the rows that `TextData` puts aside, to evaluate on where there are no test files."""
    return take(rows, draw_rows(len(rows), holdout, generator_for(seed, *draw))[0])
