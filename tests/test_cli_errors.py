"""A mistyped class, a class of another kind or no class at all: the line says what to write."""

from __future__ import annotations

from pathlib import Path

import pytest

from cli_options import options
from fedtt_lightning.__main__ import main

CASES = {
    "federation.sampler PoisonSampler": "no class 'PoisonSampler'; did you mean 'PoissonSampler'?",
    "federation.aggregation Median": "no class 'Median'; did you mean 'CoordinateMedian'?",
    "federation.aggregation FedAdam": "no AggregationRule: it belongs in federation.server",
    "federation.server Krum": "Krum is no ServerOptimizer: it belongs in federation.aggregation",
    "federation.server fedtt_lightning.federation.Krum": "it belongs in federation.aggr",
    "federation.server fedtt_lightning.federation.FedAda": "FedAda'; did you mean 'FedAdam'?",
    "federation.server Zzz": "no class 'Zzz': one of FedAdagrad, FedAdam, FedAvg, ",
    "federation.ranks [1,2]": "is [1, 2], but must be a class: one of RankColumn, RankList, "
    "RankShares, as in --federation.ranks=RankList --federation.ranks.ranks=[1,2]",
    "federation.ranks 8": "is 8, but must be a class: one of RankColumn, ",
    "federation.weighting equals": "must be one of examples, equal; did you mean 'equal'?",
    "trainer.callbacks+ EarlySign": "did you mean 'EarlySigns'?",
    "trainer.callbacks+ EarlyStoping": "did you mean 'EarlyStopping'?",
    "data.partition Dirichelt": "data.partition: there is no class 'Dirichelt'; did you mean 'Dir",
    "model.peft LoraConfg": "model.peft: there is no class 'LoraConfg'; did you mean 'LoraConfig'?",
}


@pytest.mark.parametrize(("given", "message"), CASES.items())
def test_one_line(
    given: str, message: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    key, value = given.split()
    assert main(["fit", *options("none", tmp_path, f"--{key}", value)]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith(f"error: {key.rstrip('+')}: ") and message in line
    assert len(line) < 250


@pytest.mark.parametrize("block", ["serve", "silo"])
def test_a_block_of_another_command(
    block: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    config = tmp_path / "federation.yaml"
    config.write_text(f"{block}:\n  socket: here\n")
    assert main(["fit", "--config", str(config), *options("none", tmp_path)]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith(f"error: {config}:2: {block}.socket: ")
    assert line.endswith(f"the block `{block}` is for the command {block}: leave it out here")
