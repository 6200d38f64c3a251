"""A decoder sharded over two processes learns what one process learns, and what DDP does."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

from strategies.sharded_runs import build, fit_exact, written
from tiny_models import language_model

TESTS = Path(__file__).parents[1]


@pytest.fixture(scope="module")
def backbone(tmp_path_factory: pytest.TempPathFactory) -> str:
    folder = str(tmp_path_factory.mktemp("llama"))
    language_model("llama", initializer_range=0.3).save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def runs(backbone: str, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, list[Any]]:
    """The folder of the runs, and what each of two processes found."""
    folder = tmp_path_factory.mktemp("runs")
    # Below the range from which systems hand out ports, so that nobody else has it by chance.
    port = str(20000 + os.getpid() % 10000)
    path = os.pathsep.join([str(TESTS), str(TESTS.parent / "src")])
    environment = {**os.environ, "PYTHONPATH": path, "OMP_NUM_THREADS": "1", "MASTER_PORT": port}
    script = str(TESTS / "strategies" / "sharded_runs.py")
    command = [sys.executable, script, str(folder), backbone]
    # Started as a cluster's launcher would, so that none outlives the test.
    ranks = [
        subprocess.Popen(command, env={**environment, "LOCAL_RANK": str(rank)}) for rank in range(2)
    ]
    try:
        assert [rank.wait(timeout=240) for rank in ranks] == [0, 0]
    finally:
        for rank in ranks:
            rank.kill()
    return folder, [torch.load(folder / f"{rank}.pt", weights_only=True) for rank in range(2)]


@pytest.mark.processes
def test_two_processes_equal_one(
    runs: tuple[Path, list[Any]], backbone: str, tmp_path: Path
) -> None:
    folder, (first, second) = runs
    module = build(backbone, dtype="float32")
    one = fit_exact(tmp_path, module, "auto", 1)
    for name, value in one["trained"].items():
        assert torch.equal(first["trained"][name], second["trained"][name]), name
        torch.testing.assert_close(first["trained"][name], value, rtol=0, atol=1e-12)
    for found in (first, second):
        assert 0.5 <= found["bytes"] / one["bytes"] < 0.51
        torch.testing.assert_close(found["losses"], one["losses"], rtol=0, atol=1e-12)
        assert found["predicted"] == pytest.approx(one["predicted"], abs=1e-12)
    ours, theirs = (
        torch.load(path / "last.ckpt", weights_only=True) for path in (folder / "exact", tmp_path)
    )
    assert ours["state_dict"].keys() == theirs["state_dict"].keys() == one["trained"].keys()
    assert ours["frozen_fingerprint"] == theirs["frozen_fingerprint"]
    for name, value in ours["state_dict"].items():
        assert torch.equal(value, first["trained"][name]), name
    texts = [written(module, rank) for rank in range(2)]
    assert [first["written"], second["written"]] == texts
    assert len(texts[0][0]) != len(texts[1][0]), "one process was to write longer than the other"


@pytest.mark.processes
def test_half_precision_equals_ddp(runs: tuple[Path, list[Any]]) -> None:
    folder, results = runs
    expected = results[0]["ddp"]
    assert len(expected) > 20
    for result in results:
        for name, value in expected.items():
            assert torch.equal(result["sharded"][name], value), name
    # These modules leave nothing out of their checkpoints.
    ours, theirs = (
        torch.load(folder / name / "last.ckpt", weights_only=True)["state_dict"]
        for name in ("sharded", "ddp")
    )
    assert ours.keys() == theirs.keys() > expected.keys()
    for name, value in theirs.items():
        assert type(ours[name]) is torch.Tensor
        assert torch.equal(ours[name], value), name
