"""`python -m fedtt_lightning silo`: from a config file to a process that can be interrupted."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest

from fedtt_lightning.__main__ import main
from fedtt_lightning.silo.messages import Done, Hello, Here, Update
from silo.asking import PlainServer

TESTS = Path(__file__).parents[1]
CONFIG = """
seed_everything: 11
trainer:
  max_epochs: 3
  precision: 64-true
  accelerator: cpu
  default_root_dir: {folder}
  logger: false
  enable_progress_bar: false
  enable_model_summary: false
  callbacks:
    - class_path: fedtt_lightning.callbacks.FactorFreezing
    - class_path: fedtt_lightning.callbacks.FederatedCheckpoint
model: {{class_path: toy.ToyModule}}
data:
  class_path: fedtt_lightning.FederatedDataModule
  init_args: {{inner: {{class_path: toy.ToyData}}, clients: 4}}
silo: {{client: 1, clients: 4, socket: {socket}}}
"""


def _config(folder: Path, socket: str) -> list[str]:
    path = folder / "silo.yaml"
    path.write_text(CONFIG.format(folder=folder, socket=socket))
    return ["silo", "--config", str(path)]


@pytest.mark.processes
def test_an_interrupted_silo_goes_on_where_it_was(tmp_path: Path) -> None:
    path = os.pathsep.join([str(TESTS), str(TESTS.parent / "src")])
    environment = {**os.environ, "PYTHONPATH": path, "OMP_NUM_THREADS": "1"}
    with TemporaryDirectory() as folder:
        server = PlainServer(f"{folder}/own/s")
        command = [sys.executable, "-m", "fedtt_lightning", *_config(tmp_path, str(server.socket))]
        updates = []
        for stop in (signal.SIGTERM, None):
            silo = subprocess.Popen(command, env=environment, stderr=subprocess.PIPE, text=True)
            try:
                assert isinstance(server.say(Hello("run-1"), seconds=60), Here)
                updates.append(server.say(server.request(0)))
                if stop is None:
                    assert server.say(Done("run-1")) == Done("run-1")
                else:
                    silo.send_signal(stop)
                said = silo.communicate(timeout=60)[1]
            finally:
                silo.kill()
            assert silo.returncode == (0 if stop is None else 128 + stop)
            assert ("silo was interrupted; started again" in said) == (stop is not None)
    assert isinstance(updates[0], Update)
    assert updates[1] == updates[0]
    saved = list(tmp_path.rglob("*.ckpt"))
    assert saved and all(path.stat().st_mode & 0o077 == 0 for path in saved)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["--silo.client", "4"], "silo.client is 4"),
        (["--silo.clients", "3"], "data.clients is 4, but a silo's data are its own"),
        (["--federation.failures.class_path", "ClientFailures"], "federation.failures simulates"),
        (["--trainer.callbacks", "[]"], "FederatedCheckpoint to trainer.callbacks"),
        (["--silo.socket", "/s" * 60], "silo.socket: /s/s"),
    ],
)
def test_bad_input_is_one_line(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], options: list[str], words: str
) -> None:
    assert main([*_config(tmp_path, "s"), *options]) == 2
    error = capsys.readouterr().err.strip().splitlines()[-1]
    assert error.startswith("error: ")
    assert words in error
