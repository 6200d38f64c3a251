"""The account as a table and as JSON."""

from __future__ import annotations

from typing import Any

import torch

from fedtt_lightning.account.families import is_decoder
from fedtt_lightning.account.methods import PARTS, Method, methods

_REFERENCE = "LoRA r=8"


def account(family: str, rank: int, bottleneck: int, dtype: str) -> dict[str, Any]:
    """Return parameters by part and bytes a round of every method, as plain values."""
    rows = [_row(method, getattr(torch, dtype)) for method in methods(family, rank, bottleneck)]
    reference = next(row for row in rows if row["method"] == _REFERENCE)
    for row in rows:
        row["reference_ratio"] = reference["upload"]["mean"] / row["upload"]["mean"]
    return {
        "family": family,
        "rank": rank,
        "bottleneck": bottleneck,
        "dtype": dtype,
        "reference": _REFERENCE,
        "methods": rows,
    }


def _row(method: Method, dtype: torch.dtype) -> dict[str, Any]:
    upload = _spread(method.message_sizes(dtype, head=False))
    return {
        "method": method.name,
        "parameters": method.parameters(),
        "upload": upload,
        # What the server changed in the round before is what it has to send: the same tensors.
        "download": upload,
        "upload_with_head": _spread(method.message_sizes(dtype, head=True)),
    }


def _spread(sizes: list[int]) -> dict[str, float]:
    return {"mean": sum(sizes) / len(sizes), "least": min(sizes), "most": max(sizes)}


def as_table(result: dict[str, Any]) -> str:
    """Return the account as text, with what is counted and what is not below it."""
    header = ["method", *PARTS, "up", "least", "most", "down", "up+head", f"{_REFERENCE} / up"]
    lines = [header]
    for row in result["methods"]:
        upload = row["upload"]
        varies = upload["least"] != upload["most"]
        lines.append(
            [
                row["method"],
                *(f"{row['parameters'][part]:,}" for part in PARTS),
                f"{upload['mean']:,.0f}",
                f"{upload['least']:,}" if varies else "",
                f"{upload['most']:,}" if varies else "",
                f"{row['download']['mean']:,.0f}",
                f"{row['upload_with_head']['mean']:,.0f}",
                f"{row['reference_ratio']:.2f}x",
            ]
        )
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    table = [
        "  ".join(
            cell.ljust(width) if i == 0 else cell.rjust(width)
            for i, (cell, width) in enumerate(zip(line, widths, strict=True))
        ).rstrip()
        for line in lines
    ]
    rule = "-" * max(map(len, table))
    title = (
        f"{result['family']}, TT rank {result['rank']}, bottleneck {result['bottleneck']}, "
        f"{result['dtype']}"
    )
    return "\n".join([title, "", table[0], rule, *table[1:], "", *_notes(result["family"])])


def _notes(family: str) -> list[str]:
    head = (
        "head: none is trained, the language model's own stays as it is."
        if is_decoder(family)
        else "head: of 2 classes; FedTT's is tensorized, the others' is what PEFT's LoRA trains."
    )
    return [
        "Parameters: what trains, by part. factors: TT factors, or LoRA's and dense adapters'",
        f"matrices. {head}",
        "Bytes: one client's serialized message of a round, without the head (up+head: with it).",
        "up, down: mean over rounds; least, most: where rounds differ. down: to a client of the",
        "round before; the first download holds every trained tensor.",
    ]
