"""Cohorts from a file that says which client was available in which round."""

from __future__ import annotations

import csv
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NoReturn

import numpy as np

from fedtt_lightning.errors import ConfigError
from fedtt_lightning.federation.sampling import ClientSampler
from fedtt_lightning.federation.seeds import generator_for

_COLUMNS = ("client", "round")


class TraceSampler(ClientSampler):
    """Takes the clients that an availability trace lists for a round.

    A round without a row has no client; `check` refuses a run of more rounds than the trace has.
    The file is read once, when it is first needed, and held as 4 bytes a row.

    Args:
        file: CSV with the header columns `client` (from 0) and `round` (from 1), in any order of
            columns and rows; other columns are ignored.
        clients_per_round: how many of the available to draw, uniformly without replacement; all
            of them if not given, or if there are not more.
    """

    def __init__(self, file: str, clients_per_round: int | None = None) -> None:
        self.file = file
        self.clients_per_round = clients_per_round
        self._trace: tuple[np.ndarray, np.ndarray] | None = None

    def check(self, sizes: np.ndarray, rounds: int | None) -> None:
        if self.clients_per_round is not None and self.clients_per_round < 1:
            raise ConfigError(
                f"federation.sampler.clients_per_round is {self.clients_per_round}, but must be "
                ">= 1"
            )
        clients, bounds = self._read()
        unknown = np.flatnonzero(clients >= len(sizes))
        if len(unknown):
            client = int(clients[unknown[0]])
            line = _line_of(self.file, client)
            known = f"the data have {len(sizes)} clients, 0 to {len(sizes) - 1}"
            _fail(self.file, line, f"client {client} is unknown: {known}")
        last = len(bounds) - 1
        if rounds is None or rounds > last:
            limit = "has no limit" if rounds is None else f"is {rounds}"
            raise ConfigError(
                f"federation.sampler.file {self.file} ends with round {last}, but "
                f"trainer.max_epochs {limit}: set it to {last} at most, or use a longer trace"
            )

    def cohort(self, experiment: int, round: int, sizes: np.ndarray) -> tuple[int, ...]:
        clients, bounds = self._read()
        if round >= len(bounds) - 1:
            return ()
        available = clients[bounds[round] : bounds[round + 1]]
        if self.clients_per_round is not None and self.clients_per_round < len(available):
            rng = generator_for(experiment, "cohort", round)
            available = np.sort(rng.choice(available, self.clients_per_round, replace=False))
        return tuple(available.tolist())

    def candidates(self, sizes: np.ndarray) -> Sequence[int]:
        return np.unique(self._read()[0]).tolist()

    def smallest_cohort(self, sizes: np.ndarray) -> int | None:
        return self._limited(int(np.diff(self._read()[1]).min()))

    def largest_cohort(self, sizes: np.ndarray) -> int:
        return self._limited(int(np.diff(self._read()[1]).max()))

    def _limited(self, available: int) -> int:
        wanted = self.clients_per_round
        return available if wanted is None else min(available, wanted)

    def _read(self) -> tuple[np.ndarray, np.ndarray]:
        """Return the clients of all rounds, ascending in each, and where each round begins."""
        if self._trace is None:
            self._trace = _group(self.file, *_read_columns(self.file))
        return self._trace


def _read_columns(file: str) -> tuple[np.ndarray, np.ndarray]:
    """Return the columns client and round, int64 (rows,) each, or raise ConfigError."""
    import pyarrow
    import pyarrow.csv

    _check_header(file)
    options = pyarrow.csv.ConvertOptions(
        include_columns=_COLUMNS, column_types=dict.fromkeys(_COLUMNS, pyarrow.int64())
    )
    try:
        table = pyarrow.csv.read_csv(file, convert_options=options)
    except pyarrow.ArrowInvalid:
        _complain_of_rows(file)
    if any(table.column(name).null_count for name in _COLUMNS):
        _complain_of_rows(file)
    if table.num_rows == 0:
        raise ConfigError(f"federation.sampler.file {file} has no rows below its header")
    return table.column("client").to_numpy(), table.column("round").to_numpy()


def _group(file: str, clients: np.ndarray, rounds: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    wrong = np.flatnonzero(rounds < 1)
    if len(wrong):
        row = int(wrong[0])
        what = f"round is {rounds[row]}, but rounds are numbered from 1"
        _fail(file, _line(file, row), what)
    wrong = np.flatnonzero((clients < 0) | (clients > np.iinfo(np.int32).max))
    if len(wrong):
        row = int(wrong[0])
        what = f"client {clients[row]} is unknown: clients are numbered from 0"
        _fail(file, _line(file, row), what)
    order = np.lexsort((clients, rounds))
    grouped, of_round = clients[order], rounds[order]
    twice = np.flatnonzero((np.diff(grouped) == 0) & (np.diff(of_round) == 0))
    if len(twice):
        first, second = sorted(order[twice[0] : twice[0] + 2].tolist())
        what = f"client {clients[second]} is listed for round {rounds[second]} a second time, after"
        _fail(file, _line(file, second), f"{what} line {_line(file, first)}")
    bounds = np.searchsorted(of_round, np.arange(1, of_round[-1] + 2))
    return grouped.astype(np.int32), bounds


# What follows runs only to say what is wrong, and where: a file of millions of rows is read by it
# no further than the line at fault.


def _check_header(file: str) -> None:
    try:
        with Path(file).open(encoding="utf-8-sig", newline="") as text:
            header = next(csv.reader(text), [])
    except OSError as error:
        raise ConfigError(f"federation.sampler.file {file}: {error.strerror}") from None
    except (UnicodeDecodeError, csv.Error):
        raise ConfigError(f"federation.sampler.file {file} is no CSV in UTF-8") from None
    missing = [name for name in _COLUMNS if header.count(name) != 1]
    if missing:
        found = ", ".join(header) or "nothing"
        what = "the header must name the columns client and round once each, separated by a comma"
        _fail(file, 1, f"{what}, but holds {found[:80]}")


def _rows(file: str) -> Iterator[tuple[int, dict[str, Any]]]:
    """Yield the line and the values of each row, as Arrow counts rows: without empty lines."""
    with Path(file).open(encoding="utf-8-sig", newline="") as text:
        reader = csv.DictReader(text)
        for row in reader:
            yield reader.line_num, row


def _line(file: str, row: int) -> int:
    return next(line for index, (line, _) in enumerate(_rows(file)) if index == row)


def _line_of(file: str, client: int) -> int:
    return next(line for line, row in _rows(file) if int(row["client"]) == client)


def _complain_of_rows(file: str) -> NoReturn:
    try:
        for line, row in _rows(file):
            if None in row or None in row.values():
                few = "many" if None in row else "few"
                _fail(file, line, f"the row has too {few} values for the header")
            for name in _COLUMNS:
                try:
                    int(row[name])
                except ValueError:
                    _fail(file, line, f"{name} is {row[name]!r}, but must be a whole number")
    except (UnicodeDecodeError, csv.Error):
        pass
    raise ConfigError(f"federation.sampler.file {file} cannot be read as CSV in UTF-8")


def _fail(file: str, line: int, what: str) -> NoReturn:
    raise ConfigError(f"federation.sampler.file {file}:{line}: {what}")
