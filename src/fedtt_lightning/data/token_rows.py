"""Tokenized texts held as flat arrays, from which a batch is cut in microseconds."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch


@dataclass(frozen=True)
class Lists:
    """A column of lists: all their values one after another, and where each list begins.

    Attributes:
        values: int8 where the column is, else int32; in memory or in a file's memory map.
        starts: int64 [lists + 1].
    """

    values: torch.Tensor
    starts: torch.Tensor


class TokenRows:
    """The rows of a `datasets.Dataset` in memory: `rows[i]` is a dict, `rows["label"]` a column.

    A column of lists becomes one tensor and the places where its rows begin; read row by row
    from Arrow, a batch of 32 texts costs about as much as a training step of a small model.

    Args:
        dataset: the rows.
        tokens: further columns of as many lists, which may lie in a file's memory map.
    """

    def __init__(self, dataset: Any, tokens: Mapping[str, Lists] | None = None) -> None:
        table = dataset.with_format("arrow")[:]
        lists = {**list_columns(table), **(tokens or {})}
        plain = [name for name in table.column_names if name not in lists]
        self.column_names: list[str] = [*plain, *lists]
        self._size = len(dataset)
        self._plain: dict[str, list[Any]] = {name: table[name].to_pylist() for name in plain}
        self._lists: dict[str, tuple[torch.Tensor, list[int]]] = {}
        starts = torch.empty(0)
        for name, column in lists.items():
            if not torch.equal(column.starts, starts):  # those of a tokenizer's columns are
                starts, places = column.starts, column.starts.tolist()
            self._lists[name] = (column.values, places)

    def __len__(self) -> int:
        return self._size

    def __getitem__(self, key: int | str) -> Any:
        if isinstance(key, str):
            if key in self._plain:
                return self._plain[key]
            return [self[index][key].tolist() for index in range(self._size)]
        if not -self._size <= key < self._size:
            raise IndexError(f"row {key} of {self._size}")
        key %= self._size
        row: dict[str, Any] = {name: column[key] for name, column in self._plain.items()}
        for name, (flat, starts) in self._lists.items():
            row[name] = flat[starts[key] : starts[key + 1]]
        return row

    @property
    def lengths(self) -> np.ndarray:
        """The tokens of each row, int64 [rows], known without reading any."""
        return np.diff(self._lists["input_ids"][1])


def list_columns(table: Any) -> dict[str, Lists]:
    """Return the columns of an Arrow table that hold lists of integers."""
    columns = {}
    for name in table.column_names:
        column = table[name].combine_chunks()
        if not hasattr(column, "offsets"):
            continue
        starts = column.offsets.to_numpy().astype(np.int64)
        values = column.values.to_numpy(zero_copy_only=False)[starts[0] : starts[-1]]
        flat = values.astype(np.int8 if values.dtype == np.int8 else np.int32)
        columns[name] = Lists(torch.from_numpy(flat), torch.from_numpy(starts - starts[0]))
    return columns
