"""`serve` and `silo` with the config of `fit`: the same adapter, and ends of one line."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest
import torch

from cli_options import options
from fedtt_lightning.__main__ import main
from silo.forks import Forks

SILOS = range(3)


@pytest.fixture
def forks() -> Iterator[Forks]:
    forks = Forks("fedtt_lightning.silo.serve_command", "fedtt_lightning.silo.silo_command")
    yield forks
    forks.close()


@pytest.fixture
def sockets() -> Iterator[list[str]]:
    """Paths that are short enough wherever pytest keeps its own folders."""
    with TemporaryDirectory() as folder:
        yield [f"{folder}/own/{client}" for client in SILOS]


def weights(folder: Path) -> dict[str, torch.Tensor]:
    path = folder / "checkpoints" / "last.ckpt"
    return dict(torch.load(path, weights_only=True)["state_dict"])


@pytest.mark.parametrize("command", ["serve", "silo"])
def test_help_names_the_command(command: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stop:
        main([command, "--help"])
    assert stop.value.code == 0
    assert capsys.readouterr().out.startswith(f"usage: python -m fedtt_lightning {command} [")


@pytest.mark.processes
def test_one_config_gives_one_adapter_by_fit_and_by_serve(
    forks: Forks, tiny_backbone: str, tmp_path: Path, sockets: list[str]
) -> None:
    command = "silo.forks:run_command"
    plus = ("--config", "callbacks/fedtt_plus.yaml", "--trainer.precision", "64-true")

    def silo(client: int, *more: str) -> int:
        folder = tmp_path / f"silo-{client}"
        args = ["silo", *options(tiny_backbone, folder, *plus, *more)]
        args += ["--silo.client", str(client), "--silo.clients", str(len(SILOS))]
        return forks.start(command, folder, args=[*args, "--silo.socket", sockets[client]])

    def serve() -> int:
        args = ["serve", *options(tiny_backbone, tmp_path / "server", *plus)]
        args += ["--serve.silos", str(len(SILOS)), "--serve.sockets", str(sockets)]
        return forks.start(command, tmp_path / "server", args=args)

    silos = [silo(0), silo(1), silo(2, "--federation.local_epochs", "2")]
    server = serve()
    assert forks.wait(silos[2]) == 2
    refusal = (tmp_path / "silo-2" / "log").read_text().splitlines()[-1]
    assert refusal.startswith("error: ") and "client 2 has local_epochs 2" in refusal
    os.kill(server, signal.SIGTERM)
    assert forks.wait(server) == 128 + signal.SIGTERM
    assert "serve was interrupted" in (tmp_path / "server" / "log").read_text()
    silos[2], server = silo(2), serve()
    assert forks.wait(server) == 0
    assert [forks.wait(silo) for silo in silos] == [0, 0, 0]
    fit = ["fit", *options(tiny_backbone, tmp_path / "fit", *plus)]  # by as many threads
    assert forks.wait(forks.start(command, tmp_path / "fit", args=fit)) == 0
    served, simulated = weights(tmp_path / "server"), weights(tmp_path / "fit")
    assert served.keys() == simulated.keys()
    for name, wanted in simulated.items():
        assert wanted.dtype == torch.float64 and torch.equal(served[name], wanted), name


@pytest.mark.parametrize(
    ("more", "words"),
    [
        (["--serve.silos", "0"], "serve.silos is 0, but must be >= 1"),
        (["--serve.sockets", "[a, b]"], "serve.sockets names 2 sockets, but serve.silos is 3"),
        (["--serve.sockets", "null"], "serve.ca_certificate is not set"),
        (["--serve.round_deadline", "0"], "serve.round_deadline is 0"),
        (["--serve.round_deadline", ".inf"], "serve.round_deadline is inf"),
        (["--serve.message_limit", "-1"], "serve.message_limit is -1"),
        (["--trainer.callbacks", "[]"], "add fedtt_lightning.callbacks.FederatedCheckpoint"),
        (["--federation.failures", "ClientFailures"], "federation.failures simulates"),
        (["--config", "callbacks/scaffold.yaml"], "Scaffold in trainer.callbacks sends more"),
        (
            ["--config", "configs/methods/lora.yaml", "--config", "callbacks/flora.yaml"],
            "LoRAMerging in trainer.callbacks changes",
        ),
        (["--data.clients", "5"], "data.clients is 5"),
        (["--serve.join_timeout", "0.1"], "silos are missing after serve.join_timeout=0.1"),
    ],
)
def test_bad_input_is_one_line(
    tiny_backbone: str,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    more: list[str],
    words: str,
) -> None:
    silos = ["--serve.silos", "3", "--serve.sockets", f"[{tmp_path}/a, {tmp_path}/b, c]"]
    assert main(["serve", *options(tiny_backbone, tmp_path), *silos, *more]) == 2
    errors = [line for line in capsys.readouterr().err.splitlines() if line.startswith("error: ")]
    assert any(words in error for error in errors), errors
