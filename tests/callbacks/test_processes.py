"""Plain data parallelism inside a run: two processes give what one gives."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from toy_run import clients_files

TESTS = Path(__file__).parents[1]


@pytest.mark.processes
def test_two_processes_equal_one(tmp_path: Path) -> None:
    path = os.pathsep.join([str(TESTS), str(TESTS.parent / "src")])
    # Below the range from which systems hand out ports, so that nobody else has it by chance.
    port = str(20000 + os.getpid() % 10000)
    environment = {**os.environ, "PYTHONPATH": path, "OMP_NUM_THREADS": "1", "MASTER_PORT": port}
    script = str(TESTS / "callbacks" / "two_processes.py")
    for devices, batch_size in ((1, 8), (2, 4)):
        command = [sys.executable, script, str(tmp_path), str(devices), str(batch_size)]
        # Started as a cluster's launcher would, so that none outlives the test.
        ranks = [
            subprocess.Popen(command, env={**environment, "LOCAL_RANK": str(rank)})
            for rank in range(devices)
        ]
        try:
            assert [rank.wait(timeout=240) for rank in ranks] == [0] * devices
        finally:
            for rank in ranks:
                rank.kill()
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
