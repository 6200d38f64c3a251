"""Peak memory of a federation with 100,000 clients against one with 100.

    python benchmarks/many_clients.py

Each federation runs in a process of its own: 200,000 generated texts of 32 tokens, the built-in
encoder with TT adapters, ten clients a round, two optimizer steps a client, three rounds, bytes,
early signs and checkpoints. Prints the peak resident memory of both and their ratio.
"""

from __future__ import annotations

import argparse
import json
import resource
import subprocess
import sys
import time
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

EXAMPLES = 200_000
LENGTH = 32
COHORT = 10


def federation(clients: int, partition: str, holdout: float, folder: Path) -> dict[str, Any]:
    """Run one federation; return peak and starting memory in MiB, and seconds by part."""
    import numpy as np
    import torch
    from lightning.pytorch import Trainer, seed_everything

    from fedtt_lightning import FederatedCheckpoint, FederatedRounds, TTAdapterConfig
    from fedtt_lightning.callbacks import Communication, EarlySigns, RoundReport
    from fedtt_lightning.data import IID, ClientDataModule, Dirichlet, LabelShares, LoaderOptions
    from fedtt_lightning.data.builtin_text import vocabulary
    from fedtt_lightning.federation import UniformSampler
    from fedtt_lightning.modules import SequenceClassifier

    class Tokens:
        """Examples in two arrays; what grows with the clients is not in the data."""

        def __init__(self) -> None:
            rng = np.random.default_rng(0)
            self.tokens = rng.integers(5, len(vocabulary()), (EXAMPLES, LENGTH), dtype=np.int32)
            self.label = (self.tokens[:, 0] % 2).astype(np.int64)

        def __len__(self) -> int:
            return EXAMPLES

        def __getitem__(self, index: int | str) -> Any:
            return self.label if index == "label" else (self.tokens[index], self.label[index])

    def collate(rows: list[Any]) -> dict[str, torch.Tensor]:
        tokens = torch.from_numpy(np.stack([row[0] for row in rows])).long()
        labels = torch.tensor([int(row[1]) for row in rows])
        mask = torch.ones_like(tokens)
        return {"input_ids": tokens, "attention_mask": mask, "labels": labels}

    class Population(ClientDataModule):
        def setup(self, stage: str) -> None:
            self.train_data = Tokens()
            self.loader = LoaderOptions(8, collate)

    torch.set_num_threads(1)
    seed_everything(0)
    partitioners = {
        "iid": IID(),
        "severe": LabelShares(level="severe"),
        "dirichlet": Dirichlet(1.0, min_examples=2),
    }
    start = time.monotonic()
    model = SequenceClassifier("builtin", TTAdapterConfig(rank=4, bottleneck=16))
    data = Population(clients, partitioners[partition], client_holdout=holdout)
    callbacks = [
        FederatedRounds(UniformSampler(COHORT), local_steps=2),
        Communication(),
        RoundReport(),
        EarlySigns(),
        FederatedCheckpoint(),
    ]
    trainer = Trainer(
        max_epochs=3,
        accelerator="cpu",
        callbacks=callbacks,
        logger=False,
        default_root_dir=folder,
        enable_progress_bar=False,
        enable_model_summary=False,
        num_sanity_val_steps=0,
    )
    ready = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    trainer.fit(model, data)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return {
        "clients": clients,
        "before_fit_mib": ready / 1024,
        "peak_mib": peak / 1024,
        "seconds": time.monotonic() - start,
    }


def measure(args: argparse.Namespace, clients: int) -> dict[str, Any]:
    with TemporaryDirectory() as folder:
        result = Path(folder) / "result.json"
        own = ["--clients", str(clients), "--result", str(result), "--folder", folder]
        common = ["--partition", args.partition, "--holdout", str(args.holdout)]
        command = [sys.executable, __file__, *own, *common]
        run = subprocess.run(command, capture_output=True, text=True)
        if run.returncode:
            raise SystemExit(f"the run with {clients} clients failed:\n{run.stderr[-2000:]}")
        record: dict[str, Any] = json.loads(result.read_text())
        return record


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--partition", choices=["iid", "severe", "dirichlet"], default="iid")
    parser.add_argument("--holdout", type=float, default=0.0, help="data.client_holdout")
    parser.add_argument("--clients", type=int, help="run one federation in this process")
    parser.add_argument("--folder", type=Path, default=Path("runs/many_clients"))
    parser.add_argument("--result", type=Path, help="file for its numbers")
    args = parser.parse_args()
    if args.clients is not None:
        record = federation(args.clients, args.partition, args.holdout, args.folder)
        print(json.dumps(record))
        if args.result is not None:
            args.result.write_text(json.dumps(record))
        return
    few, many = measure(args, 100), measure(args, 100_000)
    print("| clients | peak memory | before the fit | time |")
    print("|---|---|---|---|")
    for one in (few, many):
        print(
            f"| {one['clients']:,} | {one['peak_mib']:.0f} MiB | {one['before_fit_mib']:.0f} MiB "
            f"| {one['seconds']:.0f} s |"
        )
    print(f"\nratio {many['peak_mib'] / few['peak_mib']:.3f}")


if __name__ == "__main__":
    main()
