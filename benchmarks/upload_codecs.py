"""What upload codecs cost in accuracy on SST-2 and save in bytes: three methods, three seeds.

    python benchmarks/upload_codecs.py run --data FOLDER --backbone FOLDER/bert  # goes on
    python benchmarks/upload_codecs.py table            # --json FILE for the numbers behind it

Runs are those of benchmarks/baselines.py on SST-2 with 10 clients (800 sentences, dense head), at
the learning rates that it chose, with one of the presets callbacks/*_upload.yaml. `table` prints
accuracy after the last round, mean ± standard deviation over seeds, and the bytes that all clients
sent in all rounds, head included, as Markdown.
"""

from __future__ import annotations

import argparse
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import baselines
from grid import Cell, run_cells
from scores import shown, summarize

RATES = {"FedTT r=5": "1e-2", "FedTT+ r=5": "1e-2", "LoRA r=8": "3e-3"}
SPLITS = ("i.i.d.", "severe")
NO_FEEDBACK = ("--federation.upload.error_feedback", "false")
UPLOADS: dict[str, tuple[tuple[str, ...], tuple[str, ...]]] = {
    # config files, options
    "as it is": ((), ()),
    "Float16": (("callbacks/fp16_upload.yaml",), ()),
    "BFloat16": (("callbacks/bf16_upload.yaml",), ()),
    "Int8": (("callbacks/int8_upload.yaml",), ()),
    "TopK 10 %": (("callbacks/topk_upload.yaml",), ()),
    "TopK 10 %, no feedback": (("callbacks/topk_upload.yaml",), NO_FEEDBACK),
}
REFERENCE = ("LoRA r=8", "as it is")


def cell(method: str, upload: str, split: str, seed: int) -> Cell:
    base = baselines.cell("SST-2", method, split, 10, RATES[method], seed)
    configs, options = UPLOADS[upload]
    return replace(
        base,
        name=f"{upload.replace(' ', '_')}/{base.name}",
        configs=(*base.configs, *configs),
        options=(*base.options, *options),
    )


def cells() -> list[Cell]:
    """Return all runs, the seeds one after another, so that whoever stops early has whole ones."""
    return [
        cell(method, upload, split, seed)
        for seed in baselines.SEEDS
        for split in SPLITS
        for method in RATES
        for upload in UPLOADS
    ]


def results(out: Path) -> list[dict[str, Any]]:
    """Return one row for each method, codec and split that has a run."""
    rows = []
    for method in RATES:
        for upload in UPLOADS:
            for split in SPLITS:
                runs = [cell(method, upload, split, seed) for seed in baselines.SEEDS]
                records = [record for run in runs if (record := run.finished(out)) is not None]
                if records:
                    rows.append(
                        {"method": method, "upload": upload, "split": split, **summarize(records)}
                    )
    return rows


def table(out: Path) -> None:
    rows = {(row["method"], row["upload"], row["split"]): row for row in results(out)}
    full = next((rows[(*REFERENCE, s)] for s in SPLITS if (*REFERENCE, s) in rows), None)
    print(f"| method | upload | {' | '.join(SPLITS)} | up a visit | up in all | fewer |")
    print("|---|---|" + "---|" * (len(SPLITS) + 3))
    for method in RATES:
        for upload in UPLOADS:
            found = [rows.get((method, upload, split)) for split in SPLITS]
            if (one := next((row for row in found if row is not None), None)) is None:
                continue
            scores = " | ".join(shown(row, len(baselines.SEEDS)) for row in found)
            visit, total = one["upload_bytes"], one["upload_bytes_total"]
            fewer = f"{full['upload_bytes_total'] / total:.1f}×" if full else "–"
            print(
                f"| {method} | {upload} | {scores} | {visit / 1024:.1f} KiB "
                f"| {total / 1024**2:.2f} MiB | {fewer} |"
            )
    done = sum(row["seeds"] for row in rows.values())
    print(f"\n{done} of {len(cells())} runs are done.")


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("command", choices=["run", "table"])
    parser.add_argument("--data", default="", help="folder of glue/SST-2")
    parser.add_argument("--backbone", default="", help="folder or hub name of the encoder")
    parser.add_argument("--out", type=Path, default=Path("runs/upload_codecs"))
    parser.add_argument("--jobs", type=int, default=1, help="runs at a time (default: 1)")
    parser.add_argument("--json", type=Path, help="file for the table's numbers")
    args = parser.parse_args()
    good = True
    if args.command == "run":
        if not args.data or not args.backbone:
            parser.error("run needs --data and --backbone")
        good = run_cells(cells(), args.out, args.data, args.backbone, args.jobs)
    table(args.out)
    if args.json is not None:
        args.json.write_text(json.dumps(results(args.out), indent=1) + "\n")
    if not good:
        raise SystemExit("some runs failed: see above and the workers' logs, then run again")


if __name__ == "__main__":
    main()
