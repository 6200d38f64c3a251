"""Plain data parallelism inside a run: two processes give what one gives."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from callbacks.two_processes import run_ddp
from launch import launch
from toy_run import clients_files


@pytest.mark.processes
def test_two_processes_equal_one(tmp_path: Path) -> None:
    run_ddp(tmp_path, 1, 8)
    assert launch(run_ddp, tmp_path, 2, 4, processes=2) == [0, 0]
    one, first, second = (
        torch.load(tmp_path / f"{name}.pt", weights_only=True) for name in ("1-0", "2-0", "2-1")
    )
    last = torch.load(tmp_path / "checkpoints-2" / "last.ckpt", weights_only=True)["state_dict"]
    assert all(torch.equal(value, last[name]) for name, value in first["state"].items())
    assert one["uploaded"] == first["uploaded"] > 0
    for name, value in one["state"].items():
        assert torch.equal(first["state"][name], second["state"][name]), name
        torch.testing.assert_close(first["state"][name], value, rtol=0, atol=1e-12)
    assert {"fed/drift", "fed/loss_spread", "client/personal_mean"} <= one["metrics"].keys()
    assert one["metrics"].keys() == first["metrics"].keys()
    for name, value in one["metrics"].items():
        assert torch.equal(first["metrics"][name], second["metrics"][name]), name
        torch.testing.assert_close(first["metrics"][name], value, rtol=0, atol=1e-12)
    ours, theirs = (clients_files(tmp_path / f"root-{devices}" / "clients") for devices in (1, 2))
    for client in range(3):
        own = ours.load(client, 4)
        assert own is not None
        torch.testing.assert_close(theirs.load(client, 4), own, rtol=0, atol=1e-12)
        assert not torch.equal(own["net.head.weight"], one["state"]["net.head.weight"])
    ours, theirs = (clients_files(tmp_path / f"root-{devices}" / "residuals") for devices in (1, 2))
    for client in range(3):
        kept = ours.load(client, 4)
        assert kept and all("head" not in name for name in kept)
        torch.testing.assert_close(theirs.load(client, 4), kept, rtol=0, atol=1e-12)
