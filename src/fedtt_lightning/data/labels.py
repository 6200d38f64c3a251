"""Labels and columns of any map-style dataset, without a loader or a batch."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from torch.utils.data import ConcatDataset, Subset, TensorDataset

from fedtt_lightning.errors import ConfigError

LABEL_NAMES = ("label", "labels", "target", "targets")


def read_labels(dataset: Any, from_examples: bool = True) -> np.ndarray | None:
    """Return the integer label of each example [len(dataset)], or None if there are none.

    Looks, in this order, at the data of a Subset or ConcatDataset, a `datasets` column, the last
    tensor of a TensorDataset, an attribute (`.targets` as in torchvision), and last reads each
    example once (only if `from_examples`) and takes `example["label"]` or the last item of a tuple.
    Real-valued, one-hot and multi-label targets count as no labels.
    """
    values = _raw_labels(dataset, from_examples)
    return None if values is None or len(values) != len(dataset) else _as_integers(values)


def read_column(dataset: Any, name: str) -> np.ndarray:
    """Return column `name` of a `datasets.Dataset`, or of examples that are dicts.

    Raises ConfigError if there is no such column, naming those there are.
    """
    if isinstance(dataset, Subset):
        return read_column(dataset.dataset, name)[np.asarray(dataset.indices)]
    if isinstance(dataset, ConcatDataset):
        return np.concatenate([read_column(part, name) for part in dataset.datasets])
    known = _column_names(dataset)
    if name not in known:
        raise ConfigError(
            f"data.partition: the training data has no column {name!r}; "
            + (f"it has {', '.join(known)}" if known else "its examples have no named columns")
        )
    if hasattr(dataset, "column_names"):
        return np.asarray(dataset[name])
    return np.asarray([dataset[i][name] for i in range(len(dataset))])


def _column_names(dataset: Any) -> list[str]:
    names = getattr(dataset, "column_names", None)
    if names is None and len(dataset):
        first = dataset[0]
        names = list(first) if isinstance(first, Mapping) else []
    return list(names or [])


def _raw_labels(dataset: Any, from_examples: bool) -> np.ndarray | None:
    if isinstance(dataset, Subset):
        inner = _raw_labels(dataset.dataset, from_examples)
        return None if inner is None else inner[np.asarray(dataset.indices, dtype=np.int64)]
    if isinstance(dataset, ConcatDataset):
        parts = [_raw_labels(part, from_examples) for part in dataset.datasets]
        return None if any(part is None for part in parts) else np.concatenate(parts)  # type: ignore[arg-type]
    if isinstance(dataset, TensorDataset):
        return _to_numpy(dataset.tensors[-1]) if len(dataset.tensors) > 1 else None
    columns = getattr(dataset, "column_names", None)
    for name in LABEL_NAMES:
        if columns is not None:
            if name in columns:
                # Lists of token labels are no classes, and long to read.
                return _to_numpy(dataset[name]) if _holds_numbers(dataset, name) else None
        elif getattr(dataset, name, None) is not None and not callable(getattr(dataset, name)):
            return _to_numpy(getattr(dataset, name))
    if columns is not None or not from_examples:
        return None
    return _labels_of_examples(dataset)


def _holds_numbers(dataset: Any, name: str) -> bool:
    return len(dataset) == 0 or np.size(_to_numpy(dataset[0][name])) == 1


def _labels_of_examples(dataset: Any) -> np.ndarray | None:
    if len(dataset) == 0 or _label_of(dataset[0]) is None:
        return None
    return _to_numpy([_label_of(dataset[i]) for i in range(len(dataset))])


def _label_of(example: Any) -> Any:
    if isinstance(example, Mapping):
        value = next((example[name] for name in LABEL_NAMES if name in example), None)
    elif isinstance(example, (tuple, list)) and len(example) > 1:
        value = example[-1]
    else:
        return None
    # Anything larger than a scalar is no class label: stop before the whole dataset is read.
    return value if value is not None and np.size(_to_numpy(value)) == 1 else None


def _to_numpy(values: Any) -> np.ndarray:
    if isinstance(values, torch.Tensor):
        return values.detach().cpu().numpy()
    if isinstance(values, (list, tuple)) and values and isinstance(values[0], torch.Tensor):
        return np.asarray([value.item() if value.numel() == 1 else None for value in values])
    return np.asarray(values)


def _as_integers(values: np.ndarray) -> np.ndarray | None:
    if values.ndim == 2 and values.shape[1] == 1:
        values = values[:, 0]
    if values.ndim != 1 or values.dtype.kind not in "biuf":
        return None
    # Float labels that are whole numbers occur with binary cross-entropy; scores are real-valued.
    if values.dtype.kind == "f" and not (np.isfinite(values) & (values % 1 == 0)).all():
        return None
    return values.astype(np.int64)
