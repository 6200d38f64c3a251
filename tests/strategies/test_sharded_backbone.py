"""A decoder sharded over two processes learns what one process learns, and what DDP does."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from launch import launch
from strategies.sharded_runs import build, fit_exact, run_sharded, written
from tiny_models import language_model


@pytest.fixture(scope="module")
def backbone(tmp_path_factory: pytest.TempPathFactory) -> str:
    folder = str(tmp_path_factory.mktemp("llama"))
    language_model("llama", initializer_range=0.3).save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def runs(backbone: str, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, list[Any]]:
    """The folder of the runs, and what each of two processes found."""
    folder = tmp_path_factory.mktemp("runs")
    assert launch(run_sharded, folder, backbone, processes=2) == [0, 0]
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
