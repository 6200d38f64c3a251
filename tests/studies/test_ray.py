"""A study on the nodes of a Ray cluster; skipped where Ray is not installed."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from studies.study_files import ROOT, said, write

pytest.importorskip("ray")

_SCRIPT = str(ROOT / "configs/cluster/study_ray.py")


@pytest.fixture(scope="module")
def environment() -> Iterator[dict[str, str]]:
    """Of a cluster of two nodes, both on this machine."""
    os.environ["RAY_USAGE_STATS_ENABLED"] = "0"
    from ray.cluster_utils import Cluster

    cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 1})
    try:
        cluster.add_node(num_cpus=1)
        yield {**os.environ, "PYTHONPATH": f"{ROOT / 'src'}:{os.environ.get('PYTHONPATH', '')}"} | {
            "RAY_ADDRESS": cluster.address
        }
    finally:
        cluster.shutdown()


def run(path: str, folder: Path, environment: dict[str, str], *more: str) -> tuple[int, str, str]:
    command = [sys.executable, _SCRIPT, path, *more]
    done = subprocess.run(
        command, env=environment, cwd=folder, capture_output=True, text=True, timeout=240
    )
    return done.returncode, done.stdout, done.stderr


def test_nodes_run_shares(tmp_path: Path, environment: dict[str, str]) -> None:
    path = write(tmp_path, said(tmp_path))
    code, out, error = run(path, tmp_path, environment)
    assert code == 0, error
    records = [json.loads(p.read_text()) for p in tmp_path.glob("runs/*/*/cell.json")]
    assert [record["error"] for record in records] == [None] * 4
    assert (out + error).count("[1/2]") == (out + error).count("[2/2]") == 2
    code, out, error = run(path, tmp_path, environment, "--cells", "1/1")
    assert (code, out) == (2, "")
    assert error == "error: leave out --cells: each node has a share of them\n"


def test_an_interrupt_reaches_the_cells(tmp_path: Path, environment: dict[str, str]) -> None:
    study = said(tmp_path)
    study["options"]["trainer.max_epochs"] = 1000
    process = subprocess.Popen(
        [sys.executable, _SCRIPT, write(tmp_path, study)],
        env=environment,
        cwd=tmp_path,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    try:
        while not all("round 2/" in log for log in _logs(tmp_path)) or len(_logs(tmp_path)) < 2:
            assert process.poll() is None, process.communicate()[0]
            time.sleep(0.2)
        process.send_signal(signal.SIGINT)
        assert process.wait(timeout=90) == 130
    finally:
        process.kill()
        process.communicate(timeout=30)
    before = _logs(tmp_path)
    time.sleep(2)
    assert _logs(tmp_path) == before


def _logs(folder: Path) -> list[str]:
    return [path.read_text() for path in sorted(folder.glob("runs/*/*/log.txt"))]
