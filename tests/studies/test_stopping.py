"""A study that is stopped leaves no process behind and loses nothing."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from fedtt_lightning.__main__ import main
from studies.study_files import ROOT, fit, run, said, write

pytestmark = pytest.mark.processes


def writing_to(log: Path) -> list[str]:
    """Return the processes that print to a file."""
    found = []
    for link in Path("/proc").glob("[0-9]*/fd/1"):
        try:
            if link.readlink() == log:
                found.append(link.parts[2])
        except OSError:
            continue  # it has ended, or is another user's
    return found


def wait_until(condition: Callable[[], bool], seconds: float = 120) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.02)


@pytest.mark.skipif(not Path("/proc").is_dir(), reason="looks for processes in /proc")
def test_killed_and_interrupted_study_goes_on(
    tmp_path: Path, tiny_backbone: str, capsys: pytest.CaptureFixture[str]
) -> None:
    study = said(tmp_path, tiny_backbone, grid={"model.peft.rank": [2]}, seeds=[0])
    study["options"]["trainer.max_epochs"] = 25
    path = write(tmp_path, study)
    folder = tmp_path / "runs/rank=2/seed=0"
    last, log = folder / "checkpoints/last.ckpt", folder / "log.txt"

    command = [sys.executable, "-m", "fedtt_lightning", "study", "--config", path]
    environment = {**os.environ, "PYTHONPATH": str(ROOT / "src"), "OMP_NUM_THREADS": "1"}
    process = subprocess.Popen(command, env=environment)
    try:
        wait_until(last.is_file)
    finally:
        process.kill()  # without a chance to stop its cells
        process.wait()
    wait_until(lambda: not writing_to(log), seconds=20)
    assert json.loads((folder / "cell.json").read_text())["summary"] is None

    saved = last.stat().st_mtime_ns

    def interrupt() -> None:
        wait_until(lambda: last.stat().st_mtime_ns > saved)
        os.kill(os.getpid(), signal.SIGINT)
        wait_until(lambda: signal.getsignal(signal.SIGINT) is signal.SIG_IGN)
        os.kill(os.getpid(), signal.SIGINT)  # another, while it stops its cell

    thread = threading.Thread(target=interrupt)
    thread.start()
    assert main(["study", "--config", path]) == 130
    thread.join()
    assert "stopped with 1 cells to run: the same command goes on" in capsys.readouterr().err
    assert not writing_to(log)
    stopped = json.loads((folder / "cell.json").read_text())
    assert stopped["summary"] is None and stopped["seconds"] > 0

    code, result = run(path, capsys)
    assert code == 0
    assert log.read_text().count("Restoring states from the checkpoint") == 2
    alone = fit(study, tmp_path / "alone", "--model.peft.rank=2")
    summary = json.loads((folder / "summary.json").read_text())
    for key in ("metrics", "uploads", "upload_bytes_total", "rounds"):
        assert summary[key] == alone[key]
    assert result["points"][0]["scores"] == {"0": alone["metrics"]["val_acc"]}


def test_ctrl_c_before_the_first_cell_is_no_traceback(tmp_path: Path) -> None:
    """While the study file is read, which the test here is slow to write."""
    path = tmp_path / "study.yaml"
    os.mkfifo(path)
    command = [sys.executable, "-m", "fedtt_lightning", "study", "--config", str(path)]
    environment = {**os.environ, "PYTHONPATH": str(ROOT / "src")}
    process = subprocess.Popen(command, env=environment, stderr=subprocess.PIPE, text=True)
    files: list[int] = []
    try:
        wait_until(lambda: opens_for_a_reader(path, files))
        process.send_signal(signal.SIGINT)
        assert process.communicate(timeout=60)[1] == ""
        assert process.returncode == 130
    finally:
        process.kill()
        process.communicate(timeout=30)
        for file in files:
            os.close(file)


def opens_for_a_reader(pipe: Path, files: list[int]) -> bool:
    try:
        files.append(os.open(pipe, os.O_WRONLY | os.O_NONBLOCK))
    except OSError:
        return False
    return True
