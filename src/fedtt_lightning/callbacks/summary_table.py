"""What a run's table and `summary.json` say, and how."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from lightning.pytorch import LightningModule, Trainer
from rich.table import Table

from fedtt_lightning.account.reference import lora_reference
from fedtt_lightning.callbacks.communication import Communication
from fedtt_lightning.callbacks.fed_prox import FedProx
from fedtt_lightning.callbacks.federated_rounds import find_federation
from fedtt_lightning.callbacks.scaffold import Scaffold
from fedtt_lightning.federation import (
    FactorSchedule,
    FedAvg,
    FederatedLoop,
    FFALoRA,
    RoLoRA,
    WeightedMean,
)
from fedtt_lightning.wording import human_bytes, shown_scores

_ADAPTER = re.compile(r"\.tt_adapter\.|\.lora_")
# PEFT's name of a method, and ours.
_METHODS = {
    "TT_ADAPTER": "FedTT",
    "LORA": "LoRA",
    "IA3": "(IA)³",
    "PROMPT_TUNING": "prompt tuning",
    "PREFIX_TUNING": "prefix tuning",
}
_SCHEDULES: dict[str, dict[type, str]] = {
    "TT_ADAPTER": {FactorSchedule: "FedTT+"},
    "LORA": {FFALoRA: "FFA-LoRA", RoLoRA: "RoLoRA"},
}
# A model's own weights, by the patterns of SequenceClassifier's `trainable`.
_PATTERNS = {None: "full fine-tuning", (): "head only", (r"\.bias$",): "BitFit"}


def run_summary(
    trainer: Trainer, module: LightningModule, loop: FederatedLoop, comm: Communication
) -> dict[str, Any]:
    """Return the numbers of a run so far: what was run, its bytes and its last metrics."""
    ranks = loop.ranks
    summary: dict[str, Any] = {
        "method": ", ".join([method_name(module, loop.schedule), *_additions(trainer, loop)]),
        "aggregation": type(loop.aggregation).__name__,
        "server": type(loop.server).__name__,
        "ranks": None if ranks is None else {"min": int(ranks.min()), "max": int(ranks.max())},
        "rounds": loop.round + (not loop.is_open),
        "uploads": comm.uploads,
        "downloads": comm.downloads,
        "trainable_parameters": loop.schema.numel,
        "upload_bytes_per_client": comm.uploaded_total / max(comm.uploads, 1),
        "upload_bytes_total": comm.uploaded_total,
        "download_bytes_total": comm.downloaded_total,
        "metrics": {name: float(value) for name, value in trainer.callback_metrics.items()},
    }
    besides = [spec for spec in loop.schema.specs if not _ADAPTER.search(spec.name)]
    head = getattr(module, "fresh_parameters", sum(spec.numel for spec in besides))
    if (lora := lora_reference(module, head)) is not None:
        summary["lora_r8_trainable_parameters"], summary["lora_r8_upload_bytes"] = lora
    return summary


def _additions(trainer: Trainer, loop: FederatedLoop) -> list[str]:
    """Name what differs from plain federated averaging: aggregation, server, upload, callbacks."""
    upload = find_federation(trainer).upload
    parts = [loop.aggregation, loop.server, *([] if upload is None else [upload])]
    kept = [c for c in trainer.callbacks if isinstance(c, (FedProx, Scaffold))]  # type: ignore[attr-defined]
    kinds = [type(part) for part in (*parts, *kept)]
    return [kind.__name__ for kind in kinds if kind not in (WeightedMean, FedAvg)]


def client_scores(metrics: Mapping[str, Any]) -> dict[str, float]:
    """Return ClientEvaluation's scores to show: those with the clients' own tensors, if any."""
    kind = "personal" if "client/personal_mean" in metrics else "global"
    names = {"clients": f"client/{kind}_mean", "worst tenth": f"client/{kind}_worst_decile"}
    return {label: float(metrics[name]) for label, name in names.items() if name in metrics}


def summary_table(summary: dict[str, Any]) -> Table:
    metrics = summary["metrics"]
    scores = {name: f"{metrics[name]:.3f}" for name in shown_scores(metrics)}
    scores |= {label: f"{value:.3f}" for label, value in client_scores(metrics).items()}
    uploads = summary["uploads"]
    skipped = f" ({summary['skipped_rounds']} skipped)" if summary["skipped_rounds"] else ""
    caption = "* not trained: its bytes on PEFT's default targets, with a dense head"
    table = Table(
        title=f"{summary['rounds']} rounds{skipped}, {uploads} uploads",
        caption=caption if "lora_r8_upload_bytes" in summary else None,
    )
    table.add_column("method")
    for column in ("trainable", "an upload", "total up", "total down", *scores):
        table.add_column(column, justify="right")
    table.add_row(
        summary["method"],
        f"{summary['trainable_parameters']:,}",
        human_bytes(summary["upload_bytes_per_client"]),
        human_bytes(summary["upload_bytes_total"]),
        human_bytes(summary["download_bytes_total"]),
        *scores.values(),
    )
    if (size := summary.get("lora_r8_upload_bytes")) is not None:
        table.add_row(
            "LoRA r=8 *",
            f"{summary['lora_r8_trainable_parameters']:,}",
            *(human_bytes(count) for count in (size, size * uploads, size * summary["downloads"])),
            *("" for _ in scores),
        )
    return table


def method_name(module: LightningModule, schedule: object) -> str:
    """Name what is run: FedTT, FedTT+, LoRA, FFA-LoRA, dense adapter, BitFit, ...

    `schedule` is the freezing schedule or its class.
    """
    for part in module.modules():
        configs = getattr(part, "peft_config", None)
        if isinstance(configs, dict) and configs:
            config = next(iter(configs.values()))
            name = str(getattr(config.peft_type, "value", config.peft_type))
            if name == "TT_ADAPTER" and not config.tensorized:
                return "dense adapter"
            for kind, scheduled in _SCHEDULES.get(name, {}).items():
                if issubclass(schedule if isinstance(schedule, type) else type(schedule), kind):
                    return scheduled
            return _METHODS.get(name, name)
    if not hasattr(module, "fresh_parameters"):  # not a SequenceClassifier
        return "no PEFT method"
    patterns = getattr(module, "trainable", None)
    return _PATTERNS.get(None if patterns is None else tuple(patterns), "weights by name")
