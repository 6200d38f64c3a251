"""`python -m fedtt_lightning account`: parameters and bytes of the methods, side by side."""

from __future__ import annotations

import json
import sys
import warnings

from fedtt_lightning.account.families import FAMILIES
from fedtt_lightning.arguments import Parser
from fedtt_lightning.errors import ConfigError


def main(argv: list[str]) -> int:
    """Print the account of a model family and return the exit code: 0, or 2 for bad input."""
    warnings.filterwarnings("ignore", message=".*is_gradient_checkpointing.*")  # PEFT's own
    parser = Parser(
        prog="python -m fedtt_lightning account",
        description=(
            "Trainable parameters by part and bytes a client sends and gets a round, for FedTT, "
            "FedTT+, LoRA, FFA-LoRA, RoLoRA and dense adapters. Models are built from their "
            "published sizes without weights: nothing is downloaded."
        ),
    )
    parser.add_argument("--family", required=True, choices=list(FAMILIES), help="the model family")
    parser.add_argument("--rank", type=int, default=5, help="TT rank (default: 5)")
    parser.add_argument(
        "--bottleneck", type=int, default=64, help="width inside the adapters (default: 64)"
    )
    parser.add_argument(
        "--dtype",
        choices=["float32", "float16", "bfloat16"],
        default="float32",
        help="of the values sent (default: float32)",
    )
    parser.add_argument("--json", action="store_true", help="print JSON instead of a table")
    try:
        args = parser.parse_args(argv)
        from fedtt_lightning.account.report import account, as_table  # torch, after --help

        result = account(args.family, args.rank, args.bottleneck, args.dtype)
    except ConfigError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    print(json.dumps(result, indent=2) if args.json else as_table(result))
    return 0
