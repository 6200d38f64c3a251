"""What a study will take, from the cells that have finished: its time and its bytes."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from typing import Any

from fedtt_lightning.studies.cells import Cell
from fedtt_lightning.wording import human_bytes


def study_plan(cells: Sequence[Cell], mine: Sequence[Cell], jobs: int) -> dict[str, Any]:
    """Return this process's cells with their states, and what is left of them will take.

    A cell is taken to need the time of finished cells at its point of the grid (other seeds), or
    else of all of them, also if it has been stopped on the way. Bytes are those of finished cells
    at its point alone, since other points send other messages.

    Returns:
        `cells`, each with `name`, `folder`, `state` (finished, resumes, to run), `seconds` and
        `bytes` (up and down; both measured if it has finished, else expected, None if unknown); and
        `seconds_left` on `jobs` jobs, `bytes_left`, None where nothing is known, and
        `cells_of_unknown_bytes`.
    """
    records = [cell.finished() for cell in cells]
    done = [(cell, record) for cell, record in zip(cells, records, strict=True) if record]
    rows: list[dict[str, Any]] = []
    for cell, record in zip(cells, records, strict=True):
        if cell not in mine:
            continue
        same = [record] if record else [r for other, r in done if other.point == cell.point]
        times = [r["seconds"] for r in same or [r for _, r in done]]
        rows.append(
            {
                "name": cell.name,
                "folder": str(cell.folder),
                "state": "finished" if record else "resumes" if cell.resumes() else "to run",
                "seconds": statistics.fmean(times) if times else None,
                "bytes": statistics.fmean([_bytes(r["summary"]) for r in same]) if same else None,
            }
        )
    todo = [row for row in rows if row["state"] != "finished"]
    known = [row["bytes"] for row in todo if row["bytes"] is not None]
    seconds = sum(row["seconds"] or 0.0 for row in todo) / max(1, min(jobs, len(todo)))
    return {
        "cells": rows,
        "jobs": jobs,
        "seconds_left": seconds if done or not todo else None,
        "bytes_left": sum(known) if known or not todo else None,
        "cells_of_unknown_bytes": len(todo) - len(known),
    }


def _bytes(summary: dict[str, Any]) -> int:
    return int(summary["upload_bytes_total"] + summary["download_bytes_total"])


def plan_text(plan: dict[str, Any]) -> str:
    """Return the plan as lines: one a cell, and the sums."""
    rows = plan["cells"]
    width = max((len(row["name"]) for row in rows), default=0)
    lines = []
    for row in rows:
        time = "" if row["seconds"] is None else f"{row['seconds']:8.0f} s"
        size = "" if row["bytes"] is None else f"  {human_bytes(row['bytes'])}"
        lines.append(f"{row['name']:<{width}}  {row['state']:<8}{time}{size}".rstrip())
    todo = sum(row["state"] != "finished" for row in rows)
    lines.append(f"{len(rows)} cells, {todo} to run, {plan['jobs']} at a time")
    if not todo:
        return "\n".join(lines)
    if plan["seconds_left"] is None:
        lines.append("no cell has finished: nothing is known of time and bytes yet")
        return "\n".join(lines)
    lines.append(f"about {plan['seconds_left'] / 60:.1f} minutes, as finished cells have taken")
    unknown = plan["cells_of_unknown_bytes"]
    known = "" if plan["bytes_left"] is None else f"{human_bytes(plan['bytes_left'])} up and down"
    more = f"unknown for {unknown} cells whose choices no finished cell has" if unknown else ""
    lines.append("bytes: " + "; ".join(part for part in (known, more) if part))
    return "\n".join(lines)
