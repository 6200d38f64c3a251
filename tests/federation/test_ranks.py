"""Which rank each client gets, and what is refused."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from fedtt_lightning.errors import ConfigError
from fedtt_lightning.federation import RankColumn, RankList, RankShares
from fedtt_lightning.federation.ranks import check_rank_range


def test_a_list_is_repeated() -> None:
    ranks = RankList([1, 2, 8]).ranks(0, 7)
    assert ranks.dtype == np.int64 and ranks.tolist() == [1, 2, 8, 1, 2, 8, 1]
    assert RankList([1, 2, 8]).ranks(0, 3).tolist() == [1, 2, 8]
    for wrong in ([], [1, 2, 3, 4]):
        with pytest.raises(ConfigError, match="3 clients"):
            RankList(wrong).ranks(0, 3)


def test_shares_are_frequencies_and_keyed() -> None:
    ranks = RankShares({1: 3, 4: 5, 8: 2}).ranks(5, 20_000)
    assert ranks.dtype == np.int64
    for rank, share in ((1, 0.3), (4, 0.5), (8, 0.2)):
        sigma = np.sqrt(share * (1 - share) / len(ranks))
        assert abs(np.mean(ranks == rank) - share) < 5 * sigma
    assert np.array_equal(ranks[:50], RankShares({1: 3, 4: 5, 8: 2}).ranks(5, 50))
    assert not np.array_equal(ranks, RankShares({1: 3, 4: 5, 8: 2}).ranks(6, 20_000))
    assert set(RankShares({1: 0, 4: 1}).ranks(0, 500)) == {4}
    for wrong in ({}, {1: -1.0, 2: 3.0}, {1: 0.0}, {1: float("nan")}):
        with pytest.raises(ConfigError, match=r"federation\.ranks\.shares"):
            RankShares(wrong).ranks(0, 3)


def test_a_column(tmp_path: Path) -> None:
    path = tmp_path / "clients.csv"
    path.write_text("client,memory,rank\n2,16,8\n0,2,1\n1,4,2\n")
    assert RankColumn(path).ranks(0, 3).tolist() == [1, 2, 8]
    assert RankColumn(str(path), column="memory").ranks(0, 3).tolist() == [2, 4, 16]
    with pytest.raises(ConfigError, match=r"no rank, first client 3: add a row .* 0 to 3"):
        RankColumn(path).ranks(0, 4)
    with pytest.raises(ConfigError, match=r"clients\.csv:2: client 2 does not exist: .* 0 to 1"):
        RankColumn(path).ranks(0, 2)
    with pytest.raises(ConfigError, match="client, memory, rank"):
        RankColumn(path, column="ranks").ranks(0, 3)
    with pytest.raises(ConfigError, match="cannot be read"):
        RankColumn(tmp_path / "none.csv").ranks(0, 3)
    for row, message in (("0,2,1", ":5: client 0 has a rank already"), ("0,2,x", ":5: ")):
        path.write_text(f"client,memory,rank\n2,16,8\n0,2,1\n1,4,2\n{row}\n")
        with pytest.raises(ConfigError, match=message):
            RankColumn(path).ranks(0, 3)


def test_where_a_rank_is_set(tmp_path: Path) -> None:
    path = tmp_path / "clients.csv"
    path.write_text("client,rank\n2,16\n0,2\n")
    assert RankColumn(path).place(0) == f"{path}:3"
    assert RankList([1, 2]).place(3) == "federation.ranks.ranks[1]"
    assert RankShares({1: 1}).place(3) == "federation.ranks"


def test_ranks_lie_between_one_and_the_servers() -> None:
    check_rank_range(np.array([1, 5, 8]), 8)
    for ranks, message in (([1, 0], "client 1 the rank 0"), ([9, 0], "client 0 the rank 9")):
        with pytest.raises(ConfigError, match=message):
            check_rank_range(np.array(ranks), 8)
