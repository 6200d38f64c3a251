"""Peak memory of a federated run in two processes, against torch.distributed by hand.

    python benchmarks/process_memory.py

The clients of benchmarks/federated_round.py, each batch of 8 shared by two processes: Lightning's
plain `ddp` with FederatedRounds, against a loop in PyTorch with transformers and PEFT in which both
processes take gradients of their half and all-reduce them. Clients are not spread over processes
here. Measured is the largest resident set (ru_maxrss) of each process, both added up: libraries
that they share are counted in each, on either side of the ratio. It is checked that both end with
the same adapter. Most of the difference is torchmetrics, which Lightning imports: it brings
scipy.signal (27 MiB a process) and, where that is installed, matplotlib (25 MiB).
"""

from __future__ import annotations

import logging
import os
import socket
import statistics
import subprocess
import sys
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import encoders
import federated_round as clients
from timing import Row, main

BATCH, PROCESSES, ROUNDS = 8, 2, 3
METHODS = {"lora": "PEFT LoRA r=8", "fedtt": "FedTT r=5"}
KINDS = ("library", "by_hand")


def measure(repeats: int) -> list[Row]:
    rows = []
    with TemporaryDirectory() as name:
        folder = Path(name)
        write_plan(folder)
        for method, title in METHODS.items():
            peaks: dict[str, list[float]] = {kind: [] for kind in KINDS}
            for _ in range(repeats):
                for kind in KINDS:
                    peaks[kind].append(peak(kind, method, folder))
            check(folder)
            pairs = [a / b for a, b in zip(*peaks.values(), strict=True)]
            low, middle, high = statistics.quantiles(pairs, n=4)
            what = f"peak memory of {PROCESSES} processes that share batches, 2 layers × 128"
            detail = " / ".join(f"{statistics.median(values):.0f}" for values in peaks.values())
            against = "torch.distributed by hand"
            rows.append(
                Row(f"{what}, {title}", against, middle, low, high, 1.1, detail=f"{detail} MiB")
            )
    return rows


def peak(kind: str, method: str, folder: Path) -> float:
    """Run both processes and return their largest resident sets, added up, in MiB."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    variables = {"OMP_NUM_THREADS": "1", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    command = [sys.executable, "-W", "ignore", __file__, kind, method, str(folder)]
    running = [
        subprocess.Popen(
            command,
            env={**os.environ, **variables, "LOCAL_RANK": str(rank)},
            stdout=subprocess.DEVNULL,
        )
        for rank in range(PROCESSES)
    ]
    total = 0
    for process in running:
        _, status, usage = os.wait4(process.pid, 0)
        process.returncode = os.waitstatus_to_exitcode(status)
        if process.returncode:
            raise SystemExit(f"{' '.join(command)} failed")
        total += usage.ru_maxrss
    return total / 1024


def write_plan(folder: Path) -> None:
    """Write the texts and each round's clients and batches, as the library draws them."""
    import torch

    from fedtt_lightning.federation import generator_for, seed_for

    texts = clients.data(BATCH)
    texts.setup("fit")
    texts.federate(0)
    rounds = []
    for round in range(ROUNDS):
        chosen = generator_for(0, "cohort", round).choice(
            clients.CLIENTS, clients.COHORT, replace=False
        )
        visits = []
        for client in sorted(chosen.tolist()):
            drawn = generator_for(seed_for(0, "visit", round, client), "order", 0)
            visits.append(torch.from_numpy(drawn.permutation(texts.clients[client])).split(BATCH))
        rounds.append(visits)
    torch.save({"texts": texts.train_data.tensors, "rounds": rounds}, folder / "plan.pt")


def check(folder: Path) -> None:
    """Raise AssertionError unless both kinds ended with the same adapter."""
    import torch

    ours, theirs = (torch.load(folder / f"{kind}.pt") for kind in KINDS)
    torch.testing.assert_close(ours, theirs, rtol=0, atol=1e-4)


def library(method: str, folder: Path) -> dict[str, Any]:
    """Train as a user does; return what was trained."""
    from lightning.pytorch import Trainer

    from fedtt_lightning import FederatedRounds
    from fedtt_lightning.federation import UniformSampler

    for name in ("lightning.pytorch", "lightning.fabric"):
        logging.getLogger(name).setLevel(logging.ERROR)
    module = clients.module()
    module.model = getattr(encoders, method)(clients.SIZE)
    trainer = Trainer(
        max_epochs=ROUNDS,
        accelerator="cpu",
        strategy="ddp",
        devices=PROCESSES,
        callbacks=[FederatedRounds(UniformSampler(clients.COHORT), seed=0)],
        logger=False,
        default_root_dir=folder,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
    )
    trainer.fit(module, clients.data(BATCH // PROCESSES))
    return clients.trained(module.model)


def by_hand(method: str, folder: Path) -> dict[str, Any]:
    """Train the same without the library and Lightning; return what was trained."""
    import torch
    import torch.distributed as dist

    rank = int(os.environ["LOCAL_RANK"])
    dist.init_process_group("gloo", rank=rank, world_size=PROCESSES)
    plan = torch.load(folder / "plan.pt")
    ids, labels = plan["texts"]
    model = getattr(encoders, method)(clients.SIZE)
    params = clients.trained(model)
    for visits in plan["rounds"]:
        old = {name: p.detach().clone() for name, p in params.items()}
        total = {name: torch.zeros_like(p, dtype=torch.float64) for name, p in params.items()}
        for batches in visits:
            with torch.no_grad():
                for name, p in params.items():
                    p.copy_(old[name])
            optimizer = torch.optim.AdamW(params.values(), lr=1e-3, fused=True)
            for rows in batches:
                optimizer.zero_grad()
                share = rows[rank::PROCESSES]
                clients.loss(model, ids[share], labels[share]).backward()
                gradients = [p.grad for p in params.values() if p.grad is not None]
                flat = torch.cat([g.flatten() for g in gradients])
                dist.all_reduce(flat)
                parts = (flat / PROCESSES).split([g.numel() for g in gradients])
                for gradient, part in zip(gradients, parts, strict=True):
                    gradient.copy_(part.view_as(gradient))
                optimizer.step()
            for name, p in params.items():
                total[name] += p.detach().double() - old[name]
        with torch.no_grad():
            for name, p in params.items():
                p.copy_(old[name] + total[name] / clients.COHORT)
    dist.destroy_process_group()
    return params


def child(kind: str, method: str, folder: Path) -> None:
    trained = {"library": library, "by_hand": by_hand}[kind](method, folder)
    if os.environ["LOCAL_RANK"] == "0":
        import torch

        torch.save({name: p.detach() for name, p in trained.items()}, folder / f"{kind}.pt")


if __name__ == "__main__":
    if "LOCAL_RANK" in os.environ and sys.argv[1] in KINDS:
        child(sys.argv[1], sys.argv[2], Path(sys.argv[3]))
    else:
        main(__doc__, measure, repeats=3)
