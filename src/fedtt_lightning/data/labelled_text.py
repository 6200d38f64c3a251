"""Text classification from plain files: a label, a separator and a text on each line."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from fedtt_lightning.data.partition import Partitioner
from fedtt_lightning.data.text_data import TextData
from fedtt_lightning.errors import ConfigError
from fedtt_lightning.federation.seeds import generator_for


class LabelledText(TextData):
    """Files of `label text` lines divided among clients; batches are those of `TextData`.

    The form of TREC (Li and Roth 2002) and SUBJ (Pang and Lee 2004) as they are passed on. Metrics
    are accuracy; validation, test and predict run on the test rows, validation on `holdout` rows
    where they are set.

    Args:
        train_file: one example a line.
        tokenizer: name on the hub or folder, usually the model's backbone.
        test_file: the same for the test rows; None draws them from `train_file`.
        test_fraction: share of `train_file` drawn as test rows, where there is no `test_file`.
        labels: the labels as they are written, in the order of the classes; None takes those of
            `train_file`, ascending (as numbers, if all are whole numbers).
        separator: what stands between label and text; a text may hold it too.
        encoding: of both files, as Python names it.
        max_length: longest sequence in tokens; longer texts are cut.
        batch_size: examples in a training batch.
        eval_batch_size: examples a batch in validation, test and predict.
        num_workers: processes that read batches; 0 reads in the main one.
        group_by_length: put texts of like length into the same training batches, see `TextData`.
        token_cache: keep tokens in the user's cache folder, see `TextData`.
        holdout: training rows put aside and used for validation instead of the test rows.
        train_limit: use only so many of the other training rows, drawn at random.
        split_seed: seed of those draws; not the experiment's, see `TextData`.
        clients: number of clients, None where `partition` tells.
        partition: how examples go to clients; None is IID.
        client_holdout: share of each client's examples kept for evaluation by client.

    Raises ConfigError, with file and line, for a file that is missing, of another encoding or not
    of this form, and for a test label that no training row has.
    """

    task = "text"

    def __init__(
        self,
        train_file: str,
        tokenizer: str,
        test_file: str | None = None,
        test_fraction: float = 0.0,
        labels: list[str] | None = None,
        separator: str = " ",
        encoding: str = "utf-8",
        max_length: int = 128,
        batch_size: int = 32,
        eval_batch_size: int = 128,
        num_workers: int = 0,
        group_by_length: bool = False,
        token_cache: bool = True,
        holdout: int = 0,
        train_limit: int | None = None,
        split_seed: int = 0,
        clients: int | None = 10,
        partition: Partitioner | None = None,
        client_holdout: float = 0.0,
    ) -> None:
        super().__init__(
            tokenizer,
            max_length=max_length,
            batch_size=batch_size,
            eval_batch_size=eval_batch_size,
            num_workers=num_workers,
            group_by_length=group_by_length,
            token_cache=token_cache,
            holdout=holdout,
            train_limit=train_limit,
            split_seed=split_seed,
            clients=clients,
            partition=partition,
            client_holdout=client_holdout,
        )
        if (test_file is None) == (test_fraction == 0) or not 0 <= test_fraction < 1:
            raise ConfigError(
                "data: give the test rows as either test_file, or test_fraction between 0 and 1 to "
                "draw them from train_file"
            )
        if not separator:
            raise ConfigError("data.separator is empty; give what stands between label and text")
        self.train_file = Path(train_file).expanduser()
        self.test_file = None if test_file is None else Path(test_file).expanduser()
        self.test_fraction = test_fraction
        self.separator = separator
        self.encoding = encoding
        # The model is built with their number before any setup.
        self.label_names = sorted_labels(self._lines("train")) if labels is None else list(labels)
        self.num_labels = len(self.label_names)
        if self.num_labels < 2 or len(set(self.label_names)) < self.num_labels:
            where = "data.labels" if labels is not None else str(self.train_file)
            raise ConfigError(
                f"{where}: a classification needs two or more different labels, but has "
                f"{self.label_names}"
            )

    def _lines(self, split: str) -> list[LabelledLine]:
        path = self.train_file if split == "train" else self.test_file
        assert path is not None
        return read_lines(path, self.separator, self.encoding)

    def _read(self, split: str) -> Any:
        from datasets import Dataset

        if self.test_file is not None:
            lines = self._lines(split)
        else:
            lines = self._part(self._lines("train"), split)
        assert self.label_names is not None
        classes = {name: index for index, name in enumerate(self.label_names)}
        for line in lines:
            if line.label not in classes:
                raise ConfigError(
                    f"{line.where}: label {line.label!r} is not one of "
                    f"{', '.join(self.label_names[:12])}; mend the line or set data.labels"
                )
        return Dataset.from_dict(
            {
                "text": [line.text for line in lines],
                "label": [classes[line.label] for line in lines],
            }
        )

    def _part(self, lines: list[LabelledLine], split: str) -> list[LabelledLine]:
        count = round(self.test_fraction * len(lines))
        if not 0 < count < len(lines):
            raise ConfigError(
                f"data.test_fraction is {self.test_fraction}, which makes {count} test rows of the "
                f"{len(lines)} in {self.train_file}; leave one or more on either side"
            )
        order = generator_for(self.split_seed, "test rows").permutation(len(lines))
        chosen = order[:count] if split == "dev" else order[count:]
        return [lines[index] for index in np.sort(chosen)]


@dataclass(frozen=True)
class LabelledLine:
    """One example, and the file and line it stands on."""

    where: str
    label: str
    text: str


def read_lines(path: Path, separator: str, encoding: str) -> list[LabelledLine]:
    """Return the examples of a file, or raise ConfigError with file and line."""
    try:
        content = path.read_bytes()
    except OSError as error:
        raise ConfigError(
            f"{path}: {error.strerror}; data.train_file and data.test_file name files of lines "
            f"'label{separator}text'"
        ) from error
    try:
        text = content.decode(encoding).removeprefix("\ufeff")
    except UnicodeDecodeError as error:
        line = content.count(b"\n", 0, error.start) + 1
        raise ConfigError(
            f"{path}:{line}: not {encoding} ({error.reason}); set data.encoding (older sets are "
            "often latin-1)"
        ) from error
    except LookupError as error:
        raise ConfigError(
            f"data.encoding is {encoding!r}, which Python does not know; try utf-8 or latin-1"
        ) from error
    # Lines end at "\n" alone: texts contain other characters that Python takes for line ends.
    lines = text.removesuffix("\n").split("\n")
    if not text.strip():
        raise ConfigError(f"{path}: the file has no lines")
    return [_parse(line, f"{path}:{number}", separator) for number, line in enumerate(lines, 1)]


def _parse(line: str, where: str, separator: str) -> LabelledLine:
    label, found, text = line.rstrip("\r").partition(separator)
    if not found or not label or not text.strip():
        shown = line[:40] + ("…" if len(line) > 40 else "")
        raise ConfigError(
            f"{where}: {shown!r} is not of the form 'label{separator}text'; mend the line or set "
            "data.separator"
        )
    return LabelledLine(where, label, text.strip())


def sorted_labels(lines: Sequence[LabelledLine]) -> list[str]:
    """Return the different labels, ascending: as numbers if all are whole numbers."""
    labels = {line.label for line in lines}
    if all(label.removeprefix("-").isdecimal() for label in labels):
        return sorted(labels, key=lambda label: (int(label), label))
    return sorted(labels)
