"""The TT or LoRA rank of each client, where clients differ in capacity."""

from __future__ import annotations

import csv
from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import numpy as np

from fedtt_lightning.errors import ConfigError
from fedtt_lightning.federation.seeds import seed_for


class ClientRanks(ABC):
    """Gives each client the rank at which it trains and communicates."""

    @abstractmethod
    def ranks(self, experiment: int, num_clients: int) -> np.ndarray:
        """Return the rank of each client, int64 (clients,), keyed by the experiment if drawn.

        Raises:
            ConfigError: the settings do not give each client a rank.
        """

    def place(self, client: int) -> str:
        """Return where a client's rank is set: a key, or a file and line."""
        return "federation.ranks"


class RankList(ClientRanks):
    """Gives the ranks of a list to the clients in turn, again from its start if it is shorter.

    Args:
        ranks: client c has rank `ranks[c % len(ranks)]`.

    Examples:
        >>> RankList([1, 4]).ranks(experiment=0, num_clients=5).tolist()
        [1, 4, 1, 4, 1]
    """

    def __init__(self, ranks: Sequence[int]) -> None:
        self.values = list(ranks)

    def ranks(self, experiment: int, num_clients: int) -> np.ndarray:
        if not 1 <= len(self.values) <= num_clients:
            raise ConfigError(
                f"federation.ranks.ranks has {len(self.values)} entries for {num_clients} clients: "
                "give one a client, or fewer to repeat, but at least one"
            )
        return np.resize(np.array(self.values, dtype=np.int64), num_clients)

    def place(self, client: int) -> str:
        return f"federation.ranks.ranks[{client % len(self.values)}]"


class RankShares(ClientRanks):
    """Draws each client's rank once for the whole run, with the given probabilities.

    The draw of client c is the number keyed by (experiment, "rank", c), so that it is the same
    whatever the number of clients.

    Args:
        shares: for each rank, its share of the clients; shares are divided by their sum.
    """

    def __init__(self, shares: Mapping[int, float]) -> None:
        self.shares = {int(rank): float(share) for rank, share in shares.items()}

    def ranks(self, experiment: int, num_clients: int) -> np.ndarray:
        shares = np.array(list(self.shares.values()))
        if not len(shares) or not np.isfinite(shares).all() or min(shares) < 0 or not shares.sum():
            raise ConfigError(
                f"federation.ranks.shares is {self.shares}, but must give each rank a share >= 0, "
                "and one of them a share > 0"
            )
        edges = np.cumsum(shares / shares.sum())
        edges[-1] = 1.0
        # The keyed hash itself is the draw: a generator for each of 100,000 clients is slow.
        draws = [seed_for(experiment, "rank", c) / 2**63 for c in range(num_clients)]
        chosen = np.searchsorted(edges, draws, side="right")
        return np.array(list(self.shares), dtype=np.int64)[chosen]


class RankColumn(ClientRanks):
    """Reads each client's rank from a CSV file with a row for each client.

    Args:
        path: the file; its first line names the columns.
        column: the column with ranks.
        client: the column with the clients' numbers, from 0.
    """

    def __init__(self, path: str | Path, column: str = "rank", client: str = "client") -> None:
        self.path, self.column, self.client = str(path), column, client

    def ranks(self, experiment: int, num_clients: int) -> np.ndarray:
        ranks = np.zeros(num_clients, dtype=np.int64)
        seen = np.zeros(num_clients, dtype=bool)
        try:
            for line, client, rank in self._rows():
                if not 0 <= client < num_clients:
                    raise self._error(
                        f"client {client} does not exist: clients are 0 to {num_clients - 1}", line
                    )
                if seen[client]:
                    raise self._error(f"client {client} has a rank already: remove one", line)
                ranks[client], seen[client] = rank, True
        except (OSError, UnicodeDecodeError, csv.Error) as error:
            raise ConfigError(
                f"federation.ranks.path {self.path} cannot be read: {error}"
            ) from None
        if not seen.all():
            missing = np.flatnonzero(~seen)
            raise self._error(
                f"{len(missing)} of {num_clients} clients have no rank, first client {missing[0]}: "
                f"add a row for each of the clients 0 to {num_clients - 1}"
            )
        return ranks

    def place(self, client: int) -> str:
        """Return the line that gives the client's rank; reads the file up to it."""
        line = next(line for line, found, _ in self._rows() if found == client)
        return f"{self.path}:{line}"

    def _rows(self) -> Iterator[tuple[int, int, int]]:
        """Yield the line, client and rank of each row."""
        with open(self.path, newline="") as file:
            rows = csv.DictReader(file)
            self._check_columns(rows.fieldnames or [])
            for row in rows:
                yield rows.line_num, *self._read(row, rows.line_num)

    def _check_columns(self, names: Sequence[str]) -> None:
        for key, name in (("column", self.column), ("client", self.client)):
            if name not in names:
                raise self._error(
                    f"there is no column {name!r}: set federation.ranks.{key} to one of "
                    f"{', '.join(names) or '(none: the file is empty)'}",
                    1,
                )

    def _read(self, row: Mapping[str, str | None], line: int) -> tuple[int, int]:
        try:
            return int(row[self.client] or ""), int(row[self.column] or "")
        except ValueError:
            raise self._error(
                f"{self.client}={row[self.client]!r}, {self.column}={row[self.column]!r} are no "
                "whole numbers",
                line,
            ) from None

    def _error(self, message: str, line: int | None = None) -> ConfigError:
        where = self.path if line is None else f"{self.path}:{line}"
        return ConfigError(f"federation.ranks.path {where}: {message}")


class RankRangeError(ConfigError):
    """A client's rank that the server's adapter cannot have."""

    def __init__(
        self, client: int, rank: int, largest: int, place: str = "federation.ranks"
    ) -> None:
        super().__init__(
            f"federation.ranks gives client {client} the rank {rank}, but the smallest is 1 and "
            f"the largest {largest}, that of the server's adapter: change {place}, or the rank in "
            "model.peft"
        )
        self.client, self.rank, self.largest = client, rank, largest

    def at(self, place: str) -> RankRangeError:
        """Return the error with the place where the client's rank is set."""
        return RankRangeError(self.client, self.rank, self.largest, place)


def check_rank_range(ranks: np.ndarray, largest: int) -> None:
    """Raise RankRangeError for the first client whose rank is below 1 or above `largest`.

    Args:
        ranks: of each client, int64 (clients,).
        largest: the rank of the server's adapter.
    """
    wrong = np.flatnonzero((ranks < 1) | (ranks > largest))
    if len(wrong):
        raise RankRangeError(int(wrong[0]), int(ranks[wrong[0]]), largest)
