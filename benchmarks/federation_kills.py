"""Kills processes of a federation at random, and compares its adapter with that of a simulation.

    python benchmarks/federation_kills.py --kills 20
    python benchmarks/federation_kills.py --kills 20 --transport flower

The built-in task with FedTT+ and local privacy: first simulated by `fit`, then trained by `serve`
and three `silo`, each a process of its own. One that runs is killed with SIGKILL, and started again
at once, as systemd would; over Flower also a SuperLink, a SuperNode and the server's relay, which
`serve` and `silo` start again or end with. The seed says which, and how long after a round's end.

Reported are the kills; the rounds that were trained again although they had ended; the visits that
rounds went without (dropped, late or rejected); the largest difference between the adapters, and
between what silos have spent of their privacy; how often a command ended by itself, such as `serve`
without its SuperLink; the seconds. The exit code is 1 if anything was lost or differs.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import signal
import subprocess
import sys
import time
from collections import Counter
from contextlib import suppress
from functools import partial
from itertools import pairwise
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

ROOT = Path(__file__).parents[1]
SILOS = 3
PRIVACY = """
trainer:
  callbacks+:
    - class_path: fedtt_lightning.callbacks.LocalDP
      init_args: {accountant: gdp, noise_multiplier: 1.0, delta: 1.0e-5, clip: 1.0}
"""
CHILDREN = {  # what Flower's processes have in their command lines
    "superlink": b"flower_main\0superlink",
    "supernode": b"flower_main\0supernode",
    "relay": b"flwr-serverapp",
}
WRONG = ("rounds_lost", "visits_lost", "largest_difference", "epsilon_difference")
LOST = (" is dropped: ", " is late: ", " is rejected: ")


class Command:
    """`python -m fedtt_lightning`, started again whenever it was ended, until it ends by itself."""

    def __init__(self, name: str, folder: Path, args: list[str]) -> None:
        self.name = name
        self.log = folder / f"{name}.log"
        self._args = [sys.executable, "-m", "fedtt_lightning", *args]
        self.failures = 0
        self.done = self.killed = False
        self.start()

    def start(self) -> None:
        with self.log.open("ab") as log:
            environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONWARNINGS": "ignore"}
            self.process = subprocess.Popen(
                self._args, stdin=subprocess.DEVNULL, stdout=log, stderr=log, env=environment
            )

    def kill(self) -> None:
        self.killed = True
        self.process.kill()

    def watch(self) -> None:
        """Start it again if it has ended otherwise than with its work."""
        if self.done or (code := self.process.poll()) is None:
            return
        self.done = code == 0
        if not self.done:
            if not self.killed:
                self.failures += 1
                words = self.log.read_text(errors="replace").strip().splitlines()[-1:]
                print(f"{self.name} ended with {code}: {' '.join(words)}", flush=True)
            self.killed = False
            self.start()


def descendants(pids: list[int]) -> dict[int, bytes]:
    """Return the command lines of all that these processes have started, by process id."""
    parents, lines = {}, {}
    for folder in Path("/proc").glob("[0-9]*"):
        with suppress(OSError):
            parents[int(folder.name)] = int(
                (folder / "stat").read_text().rpartition(")")[2].split()[1]
            )
            lines[int(folder.name)] = (folder / "cmdline").read_bytes()
    found = set(pids)
    while more := {pid for pid, parent in parents.items() if parent in found} - found:
        found |= more
    return {pid: lines[pid] for pid in found - set(pids)}


def kill_one(commands: list[Command], choice: random.Random) -> str | None:
    """Kill a process and return of what kind it was; None if none runs."""
    running = [command for command in commands if command.process.poll() is None]
    targets = [(command.name.partition("-")[0], command.kill) for command in running]
    for pid, line in sorted(descendants([command.process.pid for command in running]).items()):
        for kind, words in CHILDREN.items():
            if words in line:
                targets.append((kind, partial(os.kill, pid, signal.SIGKILL)))
    if not targets:
        return None
    kind, kill = choice.choice(targets)
    with suppress(ProcessLookupError):
        kill()
    return kind


def write_configs(folder: Path, transport: str, grace: float) -> None:
    """Write the keys of server and silos to `server.yaml` and `silo-K.yaml`; JSON is YAML."""
    serve: dict[str, Any] = {"silos": SILOS, "grace": grace, "round_deadline": 600}
    silos: list[dict[str, Any]] = [
        {"client": k, "clients": SILOS, "socket": str(folder / f"own-{k}" / "s")}
        for k in range(SILOS)
    ]
    if transport == "direct":
        serve["sockets"] = [silo["socket"] for silo in silos]
    else:
        from fedtt_lightning.silo.certificates import write_certificates, write_node_key
        from fedtt_lightning.silo.flower_processes import free_port

        write_certificates(folder, ["127.0.0.1"], 1)
        port = free_port()
        serve |= {"port": port, "ca_certificate": str(folder / "ca.crt")}
        serve |= {
            "certificate": str(folder / "server.crt"),
            "private_key": str(folder / "server.key"),
        }
        serve["node_keys"] = [str(folder / f"silo-{k}.pub") for k in range(SILOS)]
        for k, silo in enumerate(silos):
            write_node_key(folder / f"silo-{k}")
            silo |= {"server": f"127.0.0.1:{port}", "root_certificate": str(folder / "ca.crt")}
            silo["key"] = str(folder / f"silo-{k}")
    for name, keys in [
        ("server", {"serve": serve}),
        *((f"silo-{k}", {"silo": s}) for k, s in enumerate(silos)),
    ]:
        (folder / f"{name}.yaml").write_text(json.dumps(keys))
    (folder / "privacy.yaml").write_text(PRIVACY)


def options(folder: Path, name: str, rounds: int) -> list[str]:
    configs = [ROOT / "configs/quickstart.yaml", ROOT / "callbacks/fedtt_plus.yaml"]
    return [
        *(f"--config={path}" for path in (*configs, folder / "privacy.yaml")),
        *(f"--data.clients={SILOS}", "--data.train_size=200", "--data.validation_size=100"),
        f"--trainer.max_epochs={rounds}",
        *("--trainer.enable_progress_bar=false", "--trainer.logger=false"),
        f"--trainer.default_root_dir={folder / 'runs' / name}",
    ]


def outcome(folder: Path, name: str) -> tuple[dict[str, Any], float]:
    """Return the last checkpoint's weights and the largest epsilon of a run."""
    from fedtt_lightning.callbacks.checkpoint_io import SafeCheckpointIO

    run = folder / "runs" / name
    checkpoint = SafeCheckpointIO().load_checkpoint(run / "checkpoints" / "last.ckpt")
    metrics = json.loads((run / "summary.json").read_text())["metrics"]
    spent = metrics.get("dp/silo_epsilon_max", metrics.get("dp/epsilon_max"))
    return checkpoint["state_dict"], spent


def saved(checkpoint: Path) -> float:
    """Return when a checkpoint was written, 0 if it was not."""
    return checkpoint.stat().st_mtime if checkpoint.exists() else 0.0


def run(args: argparse.Namespace, folder: Path) -> dict[str, Any]:
    write_configs(folder, args.transport, args.grace)
    print("simulating the federation", flush=True)
    simulation = ["fit", *options(folder, "simulation", args.rounds)]
    command = [sys.executable, "-W", "ignore", "-m", "fedtt_lightning", *simulation]
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    wanted, spent = outcome(folder, "simulation")
    began = time.monotonic()
    commands = [
        Command(
            name,
            folder,
            [
                "serve" if name == "server" else "silo",
                f"--config={folder / name}.yaml",
                *options(folder, name, args.rounds),
            ],
        )
        for name in ("server", *(f"silo-{k}" for k in range(SILOS)))
    ]
    last = folder / "runs" / "server" / "checkpoints" / "last.ckpt"
    choice, kills = random.Random(args.seed), Counter[str]()
    try:
        seen, due = 0.0, None
        while not all(command.done for command in commands):
            now = time.monotonic()
            if now - began > 60 * args.minutes:
                raise SystemExit(
                    f"the run is not over after {args.minutes:g} minutes: see {folder}"
                )
            if due is None and saved(last) != seen:
                due = now + choice.uniform(0, args.pause)
            if (
                due is not None
                and now > due
                and not commands[0].done
                and kills.total() < args.kills
            ):
                if (kind := kill_one(commands, choice)) is not None:
                    kills[kind] += 1
                    print(f"{now - began:5.0f} s: kill {kills.total()}, {kind}", flush=True)
                # Mostly when a round has ended since, else also what is still starting.
                early, seen = choice.random() < args.early, saved(last)
                due = now + choice.uniform(0, args.pause) if early else None
            for command in commands:
                command.watch()
            time.sleep(0.05)
    finally:
        for command in commands:
            command.process.kill()
            command.process.wait()
    found, theirs = outcome(folder, "server")
    said = (folder / "server.log").read_text(errors="replace").splitlines()
    ended = [int(line.split()[1].split("/")[0]) for line in said if line.startswith("round ")]
    return {
        "kills": dict(sorted(kills.items())),
        "rounds": len(set(ended)),
        # The open round may be told of twice: before its checkpoint was written, and again.
        "rounds_lost": sum(max(a - b, 0) for a, b in pairwise(ended)),
        "visits_lost": sum(any(words in line for words in LOST) for line in said),
        "largest_difference": max(float((found[n] - wanted[n]).abs().max()) for n in wanted),
        "epsilon_difference": abs(theirs - spent),
        "ended_by_themselves": sum(command.failures for command in commands),
        "seconds": round(time.monotonic() - began),
    }


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--transport", choices=["direct", "flower"], default="direct")
    parser.add_argument("--kills", type=int, default=20)
    parser.add_argument("--rounds", type=int, default=80)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--pause", type=float, default=3, help="longest wait for a kill, in s")
    parser.add_argument("--early", type=float, default=0.25, help="share that waits for no round")
    parser.add_argument("--grace", type=float, default=240, help="serve.grace")
    parser.add_argument("--minutes", type=float, default=30, help="after which it is given up")
    parser.add_argument("--keep", type=Path, help="folder to use, and to leave there")
    parser.add_argument("--json", type=Path, help="file to write the numbers to")
    args = parser.parse_args()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))  # no process is left behind
    with TemporaryDirectory(prefix="kills-") as name:
        folder = args.keep or Path(name)
        folder.mkdir(parents=True, exist_ok=True)
        numbers = run(args, folder.absolute())
    print(json.dumps(numbers, indent=1))
    if args.json is not None:
        args.json.write_text(json.dumps(numbers, indent=1) + "\n")
    return int(any(numbers[key] for key in WRONG) or numbers["rounds"] != args.rounds)


if __name__ == "__main__":
    sys.exit(main())
