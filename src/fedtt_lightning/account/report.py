"""The account as a table and as JSON."""

from __future__ import annotations

from typing import Any

import torch

from fedtt_lightning.account.families import is_decoder
from fedtt_lightning.account.methods import PARTS, Method, methods
from fedtt_lightning.federation import BFloat16, Float16, Int8, TopK, UploadCodec

_REFERENCE = "LoRA r=8"
_CODECS: dict[str, UploadCodec] = {
    "Float16": Float16(),
    "BFloat16": BFloat16(),
    "Int8": Int8(),
    "TopK 0.1": TopK(0.1),
}


def account(family: str, rank: int, bottleneck: int, dtype: str) -> dict[str, Any]:
    """Return parameters by part and bytes a round of every method, as plain values.

    Args:
        dtype: of the model, and so of what is sent without a codec.
    """
    rows = [_row(method, getattr(torch, dtype)) for method in methods(family, rank, bottleneck)]
    reference = next(row for row in rows if row["method"] == _REFERENCE)
    for row in rows:
        for sent in (row, *row["codecs"].values()):
            sent["reference_ratio"] = reference["upload"]["mean"] / sent["upload"]["mean"]
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
        "codecs": {
            name: {"upload": _spread(method.message_sizes(dtype, False, codec))}
            for name, codec in _CODECS.items()
        },
    }


def _spread(sizes: list[int]) -> dict[str, float]:
    return {"mean": sum(sizes) / len(sizes), "least": min(sizes), "most": max(sizes)}


def as_table(result: dict[str, Any]) -> str:
    """Return the account as text, with what is counted and what is not below it."""
    lines = [["method", *PARTS, "up", "least", "most", "down", "up+head", f"{_REFERENCE} / up"]]
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
    title = (
        f"{result['family']}, TT rank {result['rank']}, bottleneck {result['bottleneck']}, "
        f"{result['dtype']}"
    )
    return "\n".join(
        [
            title,
            "",
            *_ruled(lines),
            "",
            _summary(result),
            "",
            *_notes(result["family"]),
            "",
            *_codec_table(result),
        ]
    )


def _codec_table(result: dict[str, Any]) -> list[str]:
    shown = [name for name in _CODECS if name != "BFloat16"]  # as long as Float16
    names = {"Float16": "(B)Float16"}
    lines = [["method", *(part for name in shown for part in (names.get(name, name), "ratio"))]]
    for row in result["methods"]:
        cells = [row["method"]]
        for sent in (row["codecs"][name] for name in shown):
            cells += [f"{sent['upload']['mean']:,.0f}", f"{sent['reference_ratio']:.1f}x"]
        lines.append(cells)
    return [
        f"up, with a codec (federation.upload); ratio: {_REFERENCE} without a codec / that",
        "",
        *_ruled(lines),
    ]


def _ruled(lines: list[list[str]]) -> list[str]:
    """Return rows of cells as lines of text, with a rule below the first."""
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    table = [
        "  ".join(
            cell.ljust(width) if i == 0 else cell.rjust(width)
            for i, (cell, width) in enumerate(zip(line, widths, strict=True))
        ).rstrip()
        for line in lines
    ]
    return [table[0], "-" * max(map(len, table)), *table[1:]]


def _summary(result: dict[str, Any]) -> str:
    """Say how many parameters FedTT trains, what share are biases, and how many LoRA trains."""
    rows = {row["method"]: row["parameters"] for row in result["methods"]}
    counts = {name: sum(parts.values()) - parts["head"] for name, parts in rows.items()}
    fedtt, lora = counts["FedTT"], counts[_REFERENCE]
    biases = rows["FedTT"]["biases"] / fedtt
    return (
        f"FedTT trains {fedtt:,} parameters without the head, {biases:.0%} of them biases: "
        f"{lora / fedtt:.2f}x fewer than {_REFERENCE} with {lora:,}."
    )


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
