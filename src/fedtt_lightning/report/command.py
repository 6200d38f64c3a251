"""`python -m fedtt_lightning report`: a page on finished runs, side by side."""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path

from fedtt_lightning.arguments import Parser
from fedtt_lightning.errors import ConfigError


def _path(text: str) -> Path:
    if not text:
        raise argparse.ArgumentTypeError("the name is empty: give one")
    return Path(text)


def main(argv: list[str]) -> int:
    """Write the report on some runs and return the exit code: 0, or 2 for bad input."""
    parser = Parser(
        prog="python -m fedtt_lightning report",
        description=(
            "Writes a page on runs of `fit`: accuracy against rounds and bytes, parameters, "
            "clients, privacy, and where the configurations differ. It needs no network and no "
            "other file. Runs that differ in their seed only are averaged; runs of different "
            "tasks are kept apart."
        ),
    )
    parser.add_argument(
        "folders", nargs="+", help="trainer.default_root_dir of runs, or folders of such folders"
    )
    parser.add_argument(
        "-o", "--output", type=_path, help="the page (default: report.html, or none with --json)"
    )
    parser.add_argument(
        "--figures",
        type=_path,
        metavar="FOLDER",
        help="write each chart as SVG, PNG, PDF and CSV, and each table as CSV",
    )
    parser.add_argument("--json", action="store_true", help="print the numbers as JSON")
    try:
        args = parser.parse_args(argv)
        from fedtt_lightning.report.report import Report  # numpy and yaml, after --help

        report = Report(args.folders)
        for problem in report.problems:
            print(f"warning: {problem}", file=sys.stderr)
        if args.figures is not None:
            report.write_figures(args.figures)
        if args.output is not None or not args.json:
            path = args.output or Path("report.html")
            report.write(path)
            print(f"wrote {path}", file=sys.stderr if args.json else sys.stdout)
        if args.json:
            print(json.dumps(report.numbers(), indent=1, allow_nan=False))
    except ConfigError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    return 0
