"""`python -m fedtt_lightning study`: a grid of config keys × seeds, run by one command."""

from __future__ import annotations

import argparse
import json
import os
import sys
from typing import Any

from fedtt_lightning.arguments import Parser
from fedtt_lightning.errors import ConfigError
from fedtt_lightning.studies.cells import Cell, cells_of
from fedtt_lightning.studies.shares import alone_with, share_of
from fedtt_lightning.studies.study_file import Study, as_text, read_study
from fedtt_lightning.wording import without_nan


def _jobs(text: str) -> int:
    if not text.strip().isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text!r} is no whole number above 0: give one")
    return int(text)


def _parser() -> Parser:
    parser = Parser(
        prog="python -m fedtt_lightning study",
        description=(
            "Runs `fit` for each point of a grid of config keys and each seed, several at a time, "
            "each in a process and a folder of its own. Finished cells are kept, so that the same "
            "command goes on after a stop; a cell whose settings have changed is run again."
        ),
    )
    parser.add_argument("--config", required=True, help="the study file")
    parser.add_argument(
        "--jobs", type=_jobs, help="cells at a time (default: the GPUs, or else the CPU cores)"
    )
    parser.add_argument(
        "--cells",
        metavar="K/N",
        default="1/1",
        help="run the K-th of N shares of the cells alone, such as 3/8 in the third of 8 jobs",
    )
    parser.add_argument("--data", help="folder that {data} stands for in the study file")
    parser.add_argument("--backbone", help="folder or name that {backbone} stands for")
    parser.add_argument(
        "--dry-run", action="store_true", help="list the cells and what they will take; run none"
    )
    parser.add_argument("--json", action="store_true", help="print JSON instead of a table")
    return parser


def main(argv: list[str]) -> int:
    """Run a study and return the exit code.

    0; 1 if cells have failed, 2 for input that cannot be used, 130 after a Ctrl-C.
    """
    try:
        args = _parser().parse_args(argv)
        study = read_study(args.config)
        given = {"data": args.data, "backbone": args.backbone}
        cells = cells_of(study, {name: folder for name, folder in given.items() if folder})
        _check_folders(study, cells)
        return _run(study, cells, share_of(cells, args.cells), args)
    except ConfigError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    except OSError as error:
        if error.filename is None:
            raise
        print(f"error: {error.filename}: {error.strerror}", file=sys.stderr)
        return 2


def _check_folders(study: Study, cells: list[Cell]) -> None:
    for name in ("data", "backbone"):
        uses = [key for c in cells for key, v in c.options.items() if f"{{{name}}}" in as_text(v)]
        if uses and name not in cells[0].folders:
            raise ConfigError(f"{study.path}: {uses[0]} needs {{{name}}}: add --{name} FOLDER")


def _run(study: Study, cells: list[Cell], mine: list[Cell], args: argparse.Namespace) -> int:
    """Run this process's cells, and tell the results of all that have finished so far."""
    if sys.stderr.isatty():
        print("checking the settings ...", file=sys.stderr)  # imports take seconds
    # Which import torch and Lightning: after --help and what can be refused at once.
    from rich.console import Console

    from fedtt_lightning.cli import silence_libraries
    from fedtt_lightning.studies.cell_checks import check_cells
    from fedtt_lightning.studies.estimate import plan_text, study_plan
    from fedtt_lightning.studies.results import results_table, study_results, write_results
    from fedtt_lightning.studies.runner import StudyRunner, cores
    from fedtt_lightning.studies.scores import without_metric

    silence_libraries()
    gpus = _gpus() if check_cells(study, cells) else []
    jobs = args.jobs or len(gpus) or cores()
    if args.dry_run:
        plan = study_plan(cells, mine, jobs)
        print(_json(plan) if args.json else plan_text(plan))
        return 0
    runner = StudyRunner(cells, mine, study.metric, jobs, gpus)
    stopped = False
    try:
        with alone_with(study.folder, mine):
            study.write(_keys(study, cells))
            runner.run()
    except KeyboardInterrupt:
        stopped = True
    study.write(_keys(study, cells))  # as configs are now: the table is of the same cells
    failed = runner.failed + without_metric(cells, study.metric)
    rows = study_results(study, cells)
    write_results(study, rows)
    if args.json:
        told = [{"name": c.name, "log": str(c.log), "error": e} for c, e in failed]
        result = {"metric": study.metric, "points": rows, "failed": told, "stopped": stopped}
        print(_json(result))
    else:
        width = None if sys.stdout.isatty() else 120
        Console(highlight=False, width=width).print(results_table(study, rows))
        print(f"written to {study.folder / 'results.csv'}")
    _tell(failed)
    left = sum(cell.finished() is None for cell in mine)
    if stopped:
        print(f"stopped with {left} cells to run: the same command goes on", file=sys.stderr)
        return 130
    if changed := left - len(runner.failed):
        print(
            f"{changed} cells are of a config file that has changed meanwhile: the same command "
            "runs them again",
            file=sys.stderr,
        )
    return 1 if failed or changed else 0


def _keys(study: Study, cells: list[Cell]) -> dict[str, str]:
    return {c.folder.relative_to(study.folder).as_posix(): c.key() for c in cells}


def _tell(failed: list[tuple[Cell, str]]) -> None:
    """Print a line for each reason for which cells have failed."""
    reasons: dict[str, list[Cell]] = {}
    for cell, reason in failed:
        reasons.setdefault(reason, []).append(cell)
    for reason, (first, *others) in reasons.items():
        more = f" and {len(others)} more" if others else ""
        print(f"failed: {first.name}{more}: {reason} (see {first.log})", file=sys.stderr)


def _json(value: Any) -> str:
    """Return a value as JSON, which has null for what is no number."""
    return json.dumps(without_nan(value), indent=2, allow_nan=False)


def _gpus() -> list[str]:
    """Return the names of the GPUs that this process may use."""
    import torch

    count = torch.cuda.device_count()
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    return visible.split(",")[:count] if visible else [str(number) for number in range(count)]
