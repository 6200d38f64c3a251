"""An availability trace gives the rows of its file, and says where a file is wrong."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from fedtt_lightning.errors import ConfigError
from fedtt_lightning.federation import TraceSampler

TEN = np.full(10, 5)


def write(folder: Path, text: str) -> str:
    path = folder / "trace.csv"
    path.write_text(text, encoding="utf-8")
    return str(path)


@settings(deadline=None)  # the first time imports Arrow
@given(st.sets(st.tuples(st.integers(0, 9), st.integers(1, 8)), min_size=1), st.randoms())
def test_gives_the_rows_of_a_round(
    tmp_path_factory: pytest.TempPathFactory, rows: set[tuple[int, int]], random: object
) -> None:
    shuffled = sorted(rows)
    random.shuffle(shuffled)  # type: ignore[attr-defined]
    lines = [f"{round},x,{client}" for client, round in shuffled]
    text = "\n".join(["round,note,client", *lines]) + "\n"
    sampler = TraceSampler(write(tmp_path_factory.mktemp("trace"), text))
    last = max(round for _, round in rows)
    sampler.check(TEN, last)
    counts = []
    for round in range(last):
        expected = tuple(sorted(client for client, at in rows if at == round + 1))
        assert sampler.cohort(0, round, TEN) == expected
        counts.append(len(expected))
    assert sampler.smallest_cohort(TEN) == min(counts)
    assert sampler.largest_cohort(TEN) == max(counts)


def test_draws_uniformly_among_the_available(tmp_path: Path) -> None:
    lines = [f"{client},{round}" for round in range(1, 3001) for client in (1, 4, 5, 8)]
    text = "\n".join(["client,round", *lines, "7,3001"])
    sampler = TraceSampler(write(tmp_path, text), clients_per_round=2)
    drawn = [sampler.cohort(3, round, TEN) for round in range(3000)]
    assert drawn[::-1] == [sampler.cohort(3, round, TEN) for round in reversed(range(3000))]
    pairs, counts = np.unique(drawn, axis=0, return_counts=True)
    assert pairs.tolist() == [[1, 4], [1, 5], [1, 8], [4, 5], [4, 8], [5, 8]]
    assert stats.chisquare(counts).pvalue > 1e-4
    assert sampler.cohort(3, 3000, TEN) == (7,)
    assert (sampler.smallest_cohort(TEN), sampler.largest_cohort(TEN)) == (1, 2)


def test_the_file_is_read_once_and_not_before_it_is_needed(tmp_path: Path) -> None:
    sampler = TraceSampler(str(tmp_path / "trace.csv"))
    path = write(tmp_path, "client,round\n3,1\n")
    sampler.check(TEN, 1)
    Path(path).unlink()
    assert sampler.cohort(0, 0, TEN) == (3,)


def test_reads_what_spreadsheets_write(tmp_path: Path) -> None:
    path = tmp_path / "trace.csv"
    path.write_bytes(b'\xef\xbb\xbf"client","round"\r\n"3","1"\r\n\r\n2,1\r\n')
    sampler = TraceSampler(str(path))
    sampler.check(TEN, 1)
    assert sampler.cohort(0, 0, TEN) == (2, 3)


WRONG = {
    "client;round\n1;1\n": r":1: the header must name the columns client and round .* client;round",
    "client\n1\n": r":1: the header must name",
    "": r":1: the header must name .* holds nothing",
    "client,client,round\n1,1,1\n": r":1: the header must name",
    "client,round\n": r"has no rows",
    "client,round\n1,1\n\nx,1\n": r":4: client is 'x', but must be a whole number",
    "client,round\n1,1\n1,2.0\n": r":3: round is '2\.0', but must be a whole number",
    "client,round\n1,1\n,1\n": r":3: client is '', but must be a whole number",
    "client,round\n1,1\n2,1,7\n": r":3: the row has too many values",
    "client,round\n1,1\n2\n": r":3: the row has too few values",
    "client,round\n1,1\n2,1e9\n": r":3: round is '1e9'",
    "client,round\n1,1\n\n\n10,1\n": r":5: client 10 is unknown: the data have 10 clients, 0 to 9",
    "client,round\n1,1\n-1,1\n": r":3: client -1 is unknown",
    "client,round\n1,1\n9999999999,1\n": r":3: client 9999999999 is unknown",
    "client,round\n1,0\n": r":2: round is 0, but rounds are numbered from 1",
    "client,round\n1,1\n2,1\n1,2\n2,1\n": r":5: client 2 is listed for round 1 .* after line 3",
    "client,round\n1,1\n2,4\n": r"ends with round 4, but trainer.max_epochs is 5",
}


@pytest.mark.parametrize("text", WRONG, ids=[repr(text[-12:]) for text in WRONG])
def test_says_what_is_wrong_and_where(tmp_path: Path, text: str) -> None:
    path = write(tmp_path, text)
    with pytest.raises(ConfigError, match=WRONG[text]) as caught:
        TraceSampler(path).check(TEN, 5)
    message = str(caught.value)
    assert message.startswith(f"federation.sampler.file {path}") and "\n" not in message


def test_other_checks(tmp_path: Path) -> None:
    path = write(tmp_path, "client,round\n1,1\n")
    with pytest.raises(ConfigError, match=r"max_epochs has no limit: set it to 1"):
        TraceSampler(path).check(TEN, None)
    with pytest.raises(ConfigError, match=r"clients_per_round is 0"):
        TraceSampler(path, 0).check(TEN, 1)
    with pytest.raises(ConfigError, match=r"nowhere\.csv: No such file"):
        TraceSampler("nowhere.csv").check(TEN, 1)
    with pytest.raises(ConfigError, match=r"federation\.sampler\.file .*: Is a directory"):
        TraceSampler(str(tmp_path)).check(TEN, 1)
    (tmp_path / "binary.csv").write_bytes(b"client,round\n1,1\n\xff\xfe,1\n")
    with pytest.raises(ConfigError, match=r"binary\.csv is no CSV in UTF-8"):
        TraceSampler(str(tmp_path / "binary.csv")).check(TEN, 1)
