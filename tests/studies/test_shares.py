"""A study in several processes: each cell is of one share, and of one process at a time."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fedtt_lightning.__main__ import main
from fedtt_lightning.errors import ConfigError
from fedtt_lightning.studies.cells import Cell, cells_of
from fedtt_lightning.studies.shares import alone_with, share_of
from fedtt_lightning.studies.study_file import read_study
from studies.study_files import ROOT, said, write

# Locks cells of a study, says so, and ends when its input does.
HOLDER = """
import sys
from fedtt_lightning.studies.cells import cells_of
from fedtt_lightning.studies.shares import alone_with, share_of
from fedtt_lightning.studies.study_file import read_study
study = read_study(sys.argv[1])
with alone_with(study.folder, share_of(cells_of(study), sys.argv[2])):
    print("locked", flush=True)
    sys.stdin.read()
"""


def some_cells(count: int) -> list[Cell]:
    return [Cell({"rank": str(i)}, 0, Path(f"{i}"), (), {}) for i in range(count)]


@given(st.integers(0, 40), st.integers(1, 12))
def test_each_cell_is_of_one_share(cells: int, shares: int) -> None:
    all_cells = some_cells(cells)
    parts = [share_of(all_cells, f"{number + 1}/{shares}") for number in range(shares)]
    assert sorted(cell.folder for part in parts for cell in part) == sorted(
        cell.folder for cell in all_cells
    )
    assert max(map(len, parts)) - min(map(len, parts)) <= 1


@pytest.mark.parametrize("share", ["0/3", "4/3", "3", "1/", "-1/2", "1/0", "a/b", "1/2/3"])
def test_no_share(tmp_path: Path, capsys: pytest.CaptureFixture[str], share: str) -> None:
    study = write(tmp_path, said(tmp_path))
    assert main(["study", "--config", study, f"--cells={share}"]) == 2
    assert capsys.readouterr().err == (
        f"error: --cells {share}: give K/N, the K-th of N shares, such as 3/8\n"
    )


@pytest.fixture
def path(tmp_path: Path) -> str:
    return write(tmp_path, said(tmp_path))


@pytest.fixture
def holder(path: str) -> Iterator[None]:
    """Another process that runs the first of two shares."""
    environment = {**os.environ, "PYTHONPATH": str(ROOT / "src")}
    process = subprocess.Popen(
        [sys.executable, "-c", HOLDER, path, "1/2"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        env=environment,
    )
    try:
        assert process.stdout is not None and process.stdout.readline() == "locked\n"
        yield
    finally:
        process.kill()
        process.communicate(timeout=30)


@pytest.mark.usefixtures("holder")
def test_cell_is_of_one_process_at_a_time(
    path: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    study = read_study(path)
    cells = cells_of(study)
    taken = pytest.raises(ConfigError, match=r"a study runs rank=1 seed=1 .* now")
    with taken, alone_with(study.folder, cells[1:]):
        pytest.fail("a cell of another process was taken")
    with alone_with(study.folder, share_of(cells, "2/2")):
        pass
    assert main(["study", "--config", path]) == 2
    error = capsys.readouterr().err
    assert error.startswith("error: a study runs rank=1 seed=0 in ") and error.count("\n") == 1
    assert [entry.name for entry in (tmp_path / "runs").iterdir()] == [".lock"]


def test_job_array_runs_shares(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    """With stand-ins for `srun` and Python, which shows its arguments."""
    srun = tmp_path / "srun"
    srun.write_text('#!/bin/sh\nexec "$@"\n')
    srun.chmod(0o755)
    job = {"SLURM_ARRAY_TASK_ID": "2", "SLURM_ARRAY_TASK_COUNT": "8", "PYTHON": "echo"}
    path = {"PATH": f"{tmp_path}:{os.environ['PATH']}"}
    script = str(ROOT / "configs/cluster/study.sbatch")
    command = ["bash", script, "a study.yaml", "--jobs", "2"]
    subprocess.run(command, env={**os.environ, **path, **job}, timeout=60, check=True)
    expected = "-m fedtt_lightning study --config a study.yaml --cells 2/8 --jobs 2\n"
    assert capfd.readouterr().out == expected
