"""The clients x labels table that `fit` shows before the first round."""

from __future__ import annotations

import numpy as np

from fedtt_lightning.data.partition import Partition

MAX_CLIENTS = 20
MAX_LABELS = 12


def count_labels(
    clients: Partition, labels: np.ndarray | None
) -> tuple[np.ndarray, np.ndarray | None]:
    """Return (counts int64 [clients, classes], the class values), or sizes [clients, 0] and None.

    Classes are the distinct labels in ascending order.
    """
    if labels is None:
        return np.zeros((len(clients), 0), dtype=np.int64), None
    values, classes = np.unique(labels, return_inverse=True)
    return clients.count(classes, len(values)), values


def partition_table(
    clients: Partition, labels: np.ndarray | None, names: list[str] | None = None
) -> str:
    """Return an aligned text table: a row a client, its examples, and its examples of each label.

    Beyond 20 clients the first 10 rows and min, median and max of each column stand for all;
    beyond 12 labels the rest are added up under "others". `names[label]` heads a column where
    given.
    """
    counts, values = count_labels(clients, labels)
    heads = [] if values is None else [label_head(int(value), names) for value in values]
    if len(heads) > MAX_LABELS:
        rest = counts[:, MAX_LABELS:].sum(axis=1, keepdims=True)
        counts = np.concatenate([counts[:, :MAX_LABELS], rest], axis=1)
        heads = [*heads[:MAX_LABELS], "others"]
    numbers = np.concatenate([clients.sizes[:, None], counts], axis=1)

    rows = [["client", "examples", *heads]]
    shown = len(clients) if len(clients) <= MAX_CLIENTS else MAX_CLIENTS // 2
    rows += [[str(client), *map(str, numbers[client])] for client in range(shown)]
    if shown < len(clients):
        rows.append(["..."] + [""] * numbers.shape[1])
        for name, reduce in (("min", np.min), ("median", np.median), ("max", np.max)):
            rows.append([name, *(f"{value:g}" for value in reduce(numbers, axis=0))])
    total = numbers.sum(axis=0)
    rows.append([f"all {len(clients)}", *map(str, total)])
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    lines = ["  ".join(map(str.rjust, row, widths)) for row in rows]
    return "\n".join(line.rstrip() for line in lines)


def label_head(label: int, names: list[str] | None) -> str:
    """Return what heads the column of a label: its name, if it has one."""
    return names[label] if names is not None and 0 <= label < len(names) else f"label {label}"
