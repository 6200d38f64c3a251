"""`python -m fedtt_lightning study`: a grid of config keys × seeds, run by one command."""

from __future__ import annotations

import argparse
import json
import os
import sys

from fedtt_lightning.arguments import Parser
from fedtt_lightning.errors import ConfigError
from fedtt_lightning.studies.cells import Cell, cells_of
from fedtt_lightning.studies.shares import alone_with, share_of
from fedtt_lightning.studies.study_file import Study, as_text, read_study


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
        cells = cells_of(study)
        mine = share_of(cells, args.cells)
        folders = _folders(study, cells, args)
        return _run(study, cells, mine, folders, args)
    except ConfigError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    except OSError as error:
        if error.filename is None:
            raise
        print(f"error: {error.filename}: {error.strerror}", file=sys.stderr)
        return 2


def _folders(study: Study, cells: list[Cell], args: argparse.Namespace) -> dict[str, str]:
    given = {"data": args.data, "backbone": args.backbone}
    for name, folder in given.items():
        uses = [key for c in cells for key, v in c.options.items() if f"{{{name}}}" in as_text(v)]
        if uses and folder is None:
            raise ConfigError(f"{study.path}: {uses[0]} needs {{{name}}}: add --{name} FOLDER")
    return {name: folder for name, folder in given.items() if folder is not None}


def _run(
    study: Study,
    cells: list[Cell],
    mine: list[Cell],
    folders: dict[str, str],
    args: argparse.Namespace,
) -> int:
    """Run this process's cells, and tell the results of all that have finished so far."""
    # Which import torch and Lightning: after --help and what can be refused at once.
    from rich.console import Console

    from fedtt_lightning.cli import silence_libraries
    from fedtt_lightning.studies.cell_checks import check_cells
    from fedtt_lightning.studies.estimate import plan_text, study_plan
    from fedtt_lightning.studies.results import results_table, study_results, write_results
    from fedtt_lightning.studies.runner import StudyRunner, cores

    silence_libraries()
    gpus = _gpus() if check_cells(study, cells, folders) else []
    jobs = args.jobs or len(gpus) or cores()
    if args.dry_run:
        plan = study_plan(cells, mine, jobs)
        print(json.dumps(plan, indent=2) if args.json else plan_text(plan))
        return 0
    runner = StudyRunner(mine, study.metric, folders, jobs, gpus)
    stopped = False
    try:
        with alone_with(study.folder, mine):
            study.write({c.folder.relative_to(study.folder).as_posix(): c.key() for c in cells})
            runner.run()
    except KeyboardInterrupt:
        stopped = True
    rows = study_results(study, cells)
    write_results(study, rows)
    if args.json:
        failed = [{"name": c.name, "log": str(c.log), "error": e} for c, e in runner.failed]
        result = {"metric": study.metric, "points": rows, "failed": failed, "stopped": stopped}
        print(json.dumps(result, indent=2))
    else:
        width = None if sys.stdout.isatty() else 120
        Console(highlight=False, width=width).print(results_table(study, rows))
        print(f"written to {study.folder / 'results.csv'}")
    for cell, reason in runner.failed:
        print(f"failed: {cell.name}: {reason} (see {cell.log})", file=sys.stderr)
    if stopped:
        left = sum(cell.finished() is None for cell in mine)
        print(f"stopped with {left} cells to run: the same command goes on", file=sys.stderr)
        return 130
    return 1 if runner.failed else 0


def _gpus() -> list[str]:
    """Return the names of the GPUs that this process may use."""
    import torch

    count = torch.cuda.device_count()
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    return visible.split(",")[:count] if visible else [str(number) for number in range(count)]
