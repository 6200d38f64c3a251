"""A round between organisations over Flower: ours beside an app as Flower's examples have it.

    pip install -c constraints.txt -e ".[flower]"
    python benchmarks/silo_rounds.py --rounds 4 --json silo_rounds.json

Two silos and a server on this machine, TLS and keys on, the built-in task and FedTT. *Ours* are
`serve` and `silo`, which live through all rounds, behind thin Flower apps. *Naive* is a ClientApp
that imports torch and Lightning, loads the backbone and calls `Trainer.fit` for each message, and
a ServerApp with Flower's FedAvg, in Flower's own processes as they come. Both train the same model
on as many texts with as many steps.

Reported are, for each round but the first: seconds from its begin to its end at the server, less
those that the slower silo trained (from its first batch to its last), and the bytes that pass
through the port between silos and server, whatever they are for. The cases take turns.
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import statistics
import subprocess
import sys
import sysconfig
import time
from contextlib import ExitStack
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from byte_counter import ByteCounter
from timing import Row, report

SILOS = 2
TEXTS = 1000
PATIENCE = 400.0
HERE = Path(__file__).parent
MARKS = "silo_marks.Marks"


def start(stack: ExitStack, args: list[str], folder: Path, name: str, **variables: str) -> Any:
    """Start a process that ends with this benchmark; what it prints goes to a file."""
    path = os.pathsep.join([sysconfig.get_path("scripts"), os.environ["PATH"]])
    environment = {**os.environ, "PATH": path, "PYTHONPATH": str(HERE), "OMP_NUM_THREADS": "1"}
    environment |= {"FLWR_TELEMETRY_ENABLED": "0", "FLWR_DISABLE_UPDATE_CHECK": "1", **variables}
    with (folder / f"{name}.log").open("ab") as log:
        process = subprocess.Popen(
            args, cwd=folder, env=environment, stdout=log, stderr=log, start_new_session=True
        )

    def end() -> None:
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGINT)
            try:
                process.wait(15)
            except subprocess.TimeoutExpired:
                os.killpg(process.pid, signal.SIGKILL)
                process.wait()

    stack.callback(end)
    return process


def federation(folder: Path, rounds: int) -> tuple[int, ByteCounter]:
    """Write a new federation whose silos reach the server through a counter of bytes."""
    from fedtt_lightning.silo.flower_processes import free_port
    from fedtt_lightning.silo.new_federation import write_federation

    port = free_port()
    write_federation(folder, SILOS, ["127.0.0.1"], port, 1)
    counter = ByteCounter(port)
    for file in folder.glob("*.yaml"):
        text = file.read_text().replace("max_epochs: 12 ", f"max_epochs: {rounds} ")
        text = text.replace("  callbacks:\n", f"  callbacks:\n    - class_path: {MARKS}\n")
        text = text.replace("Dirichlet\n      init_args:\n        alpha: 1.0", "IID")
        text += f"    train_size: {TEXTS}\n    validation_size: 100\n"
        text = text.replace(f"server: 127.0.0.1:{port}", f"server: 127.0.0.1:{counter.port}")
        file.write_text(text)
    return port, counter


def ours(stack: ExitStack, folder: Path, rounds: int) -> list[tuple[float, float]]:
    _, counter = federation(folder, rounds)
    stack.callback(counter.close)
    command = [sys.executable, "-m", "fedtt_lightning"]
    server = start(stack, [*command, "serve", "--config", "federation.yaml"], folder, "server")
    for silo in range(SILOS):
        args = [*command, "silo", "--config", f"silo-{silo}.yaml"]
        start(stack, args, folder, f"silo-{silo}")
    assert server.wait(PATIENCE) == 0, (folder / "server.log").read_text()[-2000:]
    marks = [_lines(folder / f"runs/silo-{silo}/marks") for silo in range(SILOS)]
    trained = [[b - a for kind, a, b in lines if kind == "trained"] for lines in marks]
    times = [(a, b) for kind, a, b in _lines(folder / "runs/server/marks") if kind == "round"]
    return _rounds(times, [max(seconds) for seconds in zip(*trained, strict=True)], counter)


def naive(stack: ExitStack, folder: Path, rounds: int) -> list[tuple[float, float]]:
    port, counter = federation(folder, rounds)
    stack.callback(counter.close)
    home = {"FLWR_HOME": str(folder / "flower")}
    (folder / "flower").mkdir()
    (folder / "flower/config.toml").write_text(
        f'[superlink.loop]\naddress = "127.0.0.1:{port}"\n'
        f'root-certificates = "{folder}/certificates/ca.crt"\n'
    )
    files = [f"--ssl-{a}file=certificates/{b}" for a, b in FILES.items()]
    link = ["flower-superlink", *files, "--enable-supernode-auth", f"--port={port}"]
    link += ["--host=127.0.0.1", "--disable-runtime-dependency-installation"]
    start(stack, link, folder, "superlink", **home)
    begun = time.monotonic()
    for silo in range(SILOS):
        register = ["flwr", "supernode", "register", f"keys/silo-{silo}.pub", "loop"]
        while start(stack, register, folder, "flwr", **home).wait(PATIENCE):
            assert time.monotonic() - begun < PATIENCE, (folder / "flwr.log").read_text()
            time.sleep(1)
    for silo in range(SILOS):
        node = ["flower-supernode", f"--superlink=127.0.0.1:{counter.port}"]
        node += ["--root-certificates=certificates/ca.crt", f"--port={19094 + silo}"]
        node += [f"--auth-supernode-private-key=keys/silo-{silo}"]
        node += ["--node-config", f"silo={silo} silos={SILOS} texts={TEXTS}"]
        start(stack, node, folder, f"silo-{silo}", FLWR_HOME=str(folder / f"flower-{silo}"))
    app = folder / "app"
    app.mkdir()
    (app / "pyproject.toml").write_text((HERE / "naive_silo.toml").read_text())
    (app / "naive_silo.py").write_text((HERE / "naive_silo.py").read_text())
    marks = folder / "marks"
    config = f'rounds={rounds} silos={SILOS} marks="{marks}"'
    run = ["flwr", "run", str(app), "loop", "--run-config", config]
    assert start(stack, run, folder, "flwr", **home).wait(PATIENCE) == 0
    while not marks.exists():
        assert time.monotonic() - begun < PATIENCE, (folder / "superlink.log").read_text()[-2000:]
        time.sleep(0.5)
    lines = _lines(marks)
    return _rounds([(a, b) for a, b, _ in lines], [seconds for _, _, seconds in lines], counter)


FILES = {"ca-cert": "ca.crt", "cert": "server.crt", "key": "server.key"}


def _lines(file: Path) -> list[Any]:
    return [json.loads(line) for line in file.read_text().splitlines()]


def _rounds(
    times: list[tuple[float, float]], trained: list[float], counter: ByteCounter
) -> list[tuple[float, float]]:
    """Return the overhead in seconds and the bytes of each round but the first."""
    return [
        (end - begin - seconds, counter.at(end) - counter.at(begin))
        for (begin, end), seconds in zip(times[1:], trained[1:], strict=True)
    ]


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rounds", type=int, default=4, help="of each run")
    parser.add_argument("--repeats", type=int, default=1, help="runs of each case, in turns")
    parser.add_argument("--json", type=Path, help="file for the numbers, with the machine")
    args = parser.parse_args()
    found: dict[str, list[tuple[float, float]]] = {"ours": [], "naive": []}
    for _ in range(args.repeats):
        for name, case in (("ours", ours), ("naive", naive)):
            with TemporaryDirectory() as folder, ExitStack() as stack:
                found[name] += case(stack, Path(folder) / "out", args.rounds)
    rows = []
    for index, (what, unit, bar) in enumerate(
        [("overhead of a round", "s", 10.0), ("bytes of a round, both ways", "bytes", None)]
    ):
        for name in found:
            low, middle, high = statistics.quantiles([round[index] for round in found[name]], n=4)
            limit = bar if name == "ours" else None
            rows.append(Row(f"{what}, {name}", "–", middle, low, high, limit, unit))
        ratio = rows[-2].value / rows[-1].value
        rows.append(Row(what, "naive", ratio, ratio, ratio))
    report(rows, args.json)


if __name__ == "__main__":
    main()
