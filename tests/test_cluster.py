"""The files in configs/cluster run by every launcher, with the result of one process."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import pytest
import torch
from torch import Tensor

from fedtt_lightning.__main__ import main
from launch import launch, run_command

ROOT = Path(__file__).parents[1]
CLUSTER = "configs/cluster"
# Starts what it is given as two tasks, of two nodes by their numbers.
SRUN = """#!/usr/bin/env bash
shift
for rank in 0 1; do
  SLURM_PROCID=$rank SLURM_NODEID=$rank SLURM_LOCALID=0 "$@" &
  tasks+=($!)
done
for task in "${tasks[@]}"; do wait "$task" || exit 1; done
"""


def small(folder: Path, backbone: str) -> list[str]:
    return [
        *("--data", "fedtt_lightning.BuiltinText", "--data.train_size", "60"),
        *("--data.validation_size", "20", "--data.test_size", "20", "--data.clients", "3"),
        *("--model.backbone", backbone, "--trainer.accelerator", "cpu"),
        *("--trainer.default_root_dir", str(folder), "--trainer.max_epochs", "2"),
        *("--trainer.enable_progress_bar", "false"),
    ]


def weights(folder: Path) -> dict[str, Tensor]:
    path = folder / "checkpoints" / "last.ckpt"
    return torch.load(path, weights_only=True)["state_dict"]  # type: ignore[no-any-return]


def environment(folder: Path) -> dict[str, str]:
    """Of a job of two nodes, with `srun` and `scontrol` from a folder."""
    port = str(20000 + os.getpid() % 10000)
    return {
        **os.environ,
        "PATH": f"{folder}:{os.environ['PATH']}",
        "PYTHON": sys.executable,
        "PYTHONPATH": str(ROOT / "src"),
        "MASTER_PORT": port,
        "PORT": port,
    }


SLURM = {
    "SLURM_JOB_ID": "77",
    "SLURM_JOB_NAME": "fedtt",
    "SLURM_NTASKS": "2",
    "SLURM_NNODES": "2",
    "SLURM_NTASKS_PER_NODE": "1",
    "SLURM_NODELIST": "127.0.0.1",
}


def run(command: list[str], environment: dict[str, str], timeout: float = 150) -> None:
    """Run a command of the repository; nothing that it starts outlives it."""
    process = subprocess.Popen(command, cwd=ROOT, env=environment, start_new_session=True)
    try:
        assert process.wait(timeout) == 0
    finally:
        kill(process)


def kill(process: subprocess.Popen[bytes]) -> None:
    with suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()


def wait_for(condition: Callable[[], bool], seconds: float = 100) -> None:
    until = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < until
        time.sleep(0.05)


def script(folder: Path, name: str, text: str) -> None:
    (folder / name).write_text(text)
    (folder / name).chmod(0o755)


@pytest.mark.processes
def test_lanes_by_launchers_of_one_node(tiny_backbone: str, tmp_path: Path) -> None:
    config = f"{CLUSTER}/lanes.yaml"
    one = small(tmp_path / "one", tiny_backbone)
    alone = ["--trainer.strategy", "auto", "--trainer.devices", "1"]
    assert main(["fit", "--config", str(ROOT / config), *one, *alone]) == 0
    expected = weights(tmp_path / "one")
    launchers = {
        "own": [sys.executable, "-m", "fedtt_lightning", "fit", "--config", config],
        "torchrun": [f"{CLUSTER}/torchrun.sh", config],
    }
    for name, command in launchers.items():
        run([*command, *small(tmp_path / name, tiny_backbone)], environment(tmp_path))
        assert all(torch.equal(v, expected[n]) for n, v in weights(tmp_path / name).items()), name


@pytest.mark.processes
def test_a_silo_over_two_nodes_of_slurm(tiny_backbone: str, tmp_path: Path) -> None:
    config = f"{CLUSTER}/silo_ddp.yaml"
    one = [*small(tmp_path / "one", tiny_backbone), "--trainer.strategy", "auto"]
    alone = ["--trainer.num_nodes", "1", "--trainer.devices", "1", "--data.batch_size", "16"]
    assert main(["fit", "--config", str(ROOT / config), *one, *alone]) == 0
    expected = weights(tmp_path / "one")
    script(tmp_path, "srun", SRUN)
    two = [*small(tmp_path / "two", tiny_backbone), "--trainer.strategy.silos", "1"]
    command = ["bash", f"{CLUSTER}/slurm.sbatch", config, *two, "--data.batch_size", "8"]
    run(command, environment(tmp_path) | SLURM)
    for name, value in weights(tmp_path / "two").items():
        torch.testing.assert_close(value, expected[name], rtol=0, atol=1e-5, msg=name)


@pytest.mark.processes
def test_a_silo_that_loses_a_process_ends_with_one_line(tiny_backbone: str, tmp_path: Path) -> None:
    command = ["fit", "--config", str(ROOT / CLUSTER / "lanes.yaml")]
    options = [*small(tmp_path, tiny_backbone), "--trainer.strategy.silos", "1"]
    dies = ["--trainer.callbacks+", "toy_run.Dies", "--trainer.callbacks.rank", "1"]
    codes = launch(run_command, tmp_path, [*command, *options, *dies], processes=2)
    assert codes == [2, -signal.SIGKILL]
    shown = (tmp_path / "said-0").read_text()
    (line,) = [line for line in shown.splitlines() if line.startswith("error: ")]
    assert "lost" in line and line.endswith("--ckpt_path last")
    assert "Traceback" not in shown


TORCHRUN = {"RANK": "0", "LOCAL_RANK": "0", "GROUP_RANK": "0", "LOCAL_WORLD_SIZE": "3"}


@pytest.mark.parametrize(
    "started",
    [
        {**TORCHRUN, "WORLD_SIZE": "3", "TORCHELASTIC_RUN_ID": "1"},
        {
            **SLURM,
            "SLURM_PROCID": "0",
            "SLURM_LOCALID": "0",
            "SLURM_NODEID": "0",
            "SLURM_NTASKS_PER_NODE": "3",
        },
    ],
    ids=["torchrun", "srun"],
)
def test_a_launcher_that_has_started_others_than_the_config_says(
    started: dict[str, str],
    tiny_backbone: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    for name, value in started.items():
        monkeypatch.setenv(name, value)
    command = ["fit", "--config", str(ROOT / CLUSTER / "lanes.yaml")]
    assert main([*command, *small(tmp_path, tiny_backbone)]) == 2
    lines = capsys.readouterr().err.splitlines()
    (line,) = [line for line in lines if line.startswith("error: ")]
    assert line.startswith("error: trainer.devices, trainer.num_nodes: You set `devices=2`")
    assert not any("Traceback" in line for line in lines)


def test_a_job_at_its_time_limit_is_queued_again(tmp_path: Path) -> None:
    script(tmp_path, "srun", "#!/usr/bin/env bash\necho $* > started\nsleep 60\n")
    script(tmp_path, "scontrol", "#!/usr/bin/env bash\necho $* > asked\n")
    command = ["bash", str(ROOT / CLUSTER / "slurm.sbatch"), "a.yaml", "--seed_everything", "3"]
    variables = environment(tmp_path) | SLURM
    job = subprocess.Popen(command, cwd=tmp_path, env=variables, start_new_session=True)
    try:
        wait_for(lambda: (tmp_path / "started").exists())
        job.send_signal(signal.SIGUSR1)
        job.wait(60)
    finally:
        kill(job)
    assert (tmp_path / "asked").read_text() == "requeue 77\n"
    started = (tmp_path / "started").read_text()
    assert started.startswith("--kill-on-bad-exit=1 ")
    assert "--trainer.num_nodes 2 --trainer.devices 1 --ckpt_path last --seed_ev" in started
