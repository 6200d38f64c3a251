"""`python -m fedtt_lightning export`: a checkpoint's adapter in PEFT's format."""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path
from typing import Any

from fedtt_lightning.arguments import Parser
from fedtt_lightning.errors import ConfigError, FedTTError


def _parser() -> Parser:
    parser = Parser(
        prog="python -m fedtt_lightning export",
        usage=(
            "%(prog)s --ckpt FILE --config FILE [--config FILE ...] [options of fit] "
            "--output FOLDER [--with-base] [--overwrite] [--json]"
        ),
        description=(
            "Writes what a checkpoint has trained to a folder: a PEFT adapter "
            "(adapter_config.json, adapter_model.safetensors) with a model card, which "
            "PeftModel.from_pretrained loads, or the whole model if it was trained without PEFT. "
            "Config files and options are those that fit was run with; of them, the model decides."
        ),
        allow_abbrev=False,
    )
    parser.add_argument("--ckpt", type=Path, required=True, help="checkpoint of a run")
    parser.add_argument("--output", type=Path, required=True, help="folder to write")
    parser.add_argument(
        "--with-base",
        action="store_true",
        help="put a copy of the base model and its tokenizer into the folder too",
    )
    parser.add_argument("--overwrite", action="store_true", help="replace a folder that has files")
    parser.add_argument("--json", action="store_true", help="print what was written as JSON")
    return parser


def main(argv: list[str]) -> int:
    """Export a checkpoint and return the exit code: 0, or 2 for bad input."""
    try:
        args, options = _parser().parse_known_args(argv)
        if not any(option.split("=")[0] == "--config" for option in options):
            raise ConfigError("--config is missing: name the config files that fit was run with")
        result = _export(args, options)
    except FedTTError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    except OSError as error:
        if error.filename is None:
            raise
        print(f"error: {error.filename}: {error.strerror}", file=sys.stderr)
        return 2
    if args.json:
        print(json.dumps(result, indent=2))
    else:
        print(f"wrote {', '.join(result['files'])} to {result['output']}")
    return 0


def _export(args: argparse.Namespace, options: list[str]) -> dict[str, Any]:
    from fedtt_lightning.export.adapter_folder import (
        check_output,
        check_sources,
        kind_of,
        whole_folder,
        write_model,
    )

    check_output(args.output, args.overwrite)
    check_sources(args.output, {"--ckpt": str(args.ckpt)})
    # Lightning and transformers, which take seconds: after --help and what can be refused at once.
    from fedtt_lightning.export.model_card import model_card
    from fedtt_lightning.export.trained_run import load_run

    run = load_run(args.ckpt, options)
    check_sources(args.output, {"model.backbone": run.backbone})
    kind = kind_of(run.model, args.with_base)
    card = model_card(run, kind, options)
    with whole_folder(args.output, args.overwrite) as folder:
        write_model(run.model, folder, run.backbone, kind, run.merged)
        (folder / "README.md").write_text(card, encoding="utf-8")
        files = sorted(path.name for path in folder.iterdir())
    return {
        "output": str(args.output),
        "files": files,
        "kind": kind,
        "method": run.method,
        "base_model": run.backbone,
        "rounds": run.rounds,
        "clients": run.clients,
        "epsilon": run.epsilon,
        "metrics": run.metrics,
    }
