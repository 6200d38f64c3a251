"""What the benchmarks of decoders share: methods, their learning rates, and what runs came to."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

from grid import Cell

SEEDS = (0, 1, 2)
TUNING_SEED = 100
Method = tuple[tuple[str, ...], tuple[str, ...], tuple[str, ...]]  # configs, options, rates
_RATES = ("3e-3", "1e-2", "3e-2")
_FEDTT = (
    "--model.peft", "fedtt_lightning.TTAdapterConfig", "--model.peft.rank", "5",
    "--model.peft.bottleneck", "16",  # the model is 64 wide
    # Five factors a train, of which FedTT+ has some to freeze: by itself it would have three.
    "--model.peft.down_modes", "[4, 4, 4, 4, 4]", "--model.peft.up_modes", "[4, 4, 4, 4, 4]",
)  # fmt: skip
_LORA = ("--model.peft", "peft.LoraConfig", "--model.peft.r", "8", "--model.peft.lora_alpha", "16")
METHODS: dict[str, Method] = {
    "base model": ((), _LORA, ("0.0",)),  # one round that changes nothing
    "FedTT r=5": ((), _FEDTT, _RATES),
    "FedTT+ r=5": (("callbacks/fedtt_plus.yaml",), _FEDTT, _RATES),
    "LoRA r=8": ((), _LORA, _RATES),
    "full fine-tuning": ((), (), ("3e-4", "1e-3", "3e-3")),
}


def make_cell(name: str, method: str, lr: str, seed: int, rounds: int, *options: str) -> Cell:
    """Return the run of a method, evaluated after its last round."""
    configs, chosen, _ = METHODS[method]
    count = str(1 if method == "base model" else rounds)
    common = (
        "--trainer.max_epochs", count, "--trainer.check_val_every_n_epoch", count,
        "--model.lr", lr, "--seed_everything", str(seed),
    )  # fmt: skip
    folder = f"{name}/{method}/lr={lr}/seed={seed}".replace(" ", "_")
    return Cell(folder, ("benchmarks/decoders.yaml", *configs), (*chosen, *options, *common))


def best_rate(
    out: Path, method: str, tuning: Callable[[str], Cell], metric: str, least: bool = False
) -> str | None:
    """Return the rate with the best metric, None before all are tuned; the first of one."""
    rates = METHODS[method][2]
    if len(rates) == 1:
        return rates[0]
    scores = {lr: values(out, [tuning(lr)], metric) for lr in rates}
    if not all(scores.values()):
        return None
    return (min if least else max)(rates, key=lambda lr: scores[lr][0])


def values(out: Path, cells: Iterable[Cell], metric: str) -> list[float]:
    """Return a metric after the last round of each run that is finished."""
    records = [record for one in cells if (record := one.finished(out)) is not None]
    return [float(record["summary"]["metrics"][metric]) for record in records]


def spread(scores: Sequence[float], digits: int = 3) -> str:
    """Return `mean ± deviation`, and in brackets how many seeds where some are missing."""
    if not scores:
        return "–"
    deviation = f" ± {statistics.stdev(scores):.{digits}f}" if len(scores) > 1 else ""
    few = f" ({len(scores)})" if len(scores) < len(SEEDS) else ""
    return f"{statistics.mean(scores):.{digits}f}{deviation}{few}"


def upload(out: Path, cells: Iterable[Cell]) -> str:
    """Return what a visit sends, in KiB."""
    for one in cells:
        record: dict[str, Any] | None = one.finished(out)
        if record is not None:
            return f"{record['summary']['upload_bytes_per_client'] / 1024:.1f}"
    return "–"
