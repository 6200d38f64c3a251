"""A study by its axes: what its table and its charts hold, whatever order the folders are in."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from fedtt_lightning.report import Report
from fedtt_lightning.report.charts import Dots, Lines
from fedtt_lightning.report.drawing import draw_file, draw_svg
from fedtt_lightning.report.groups import Task, group_runs
from fedtt_lightning.report.run_folder import read_runs
from fedtt_lightning.report.study_cells import read_cells
from fedtt_lightning.report.study_grid import StudyGrid, study_grid
from run_files import NOT_A_NUMBER, study_score, write_run, write_study

GRID = {"model.peft.rank": ["16", "2"], "split": ["severe", "iid", "alpha 1"]}


def tasks_of(*folders: Path) -> list[Task]:
    runs, _ = read_runs(folders)
    read_cells(runs)
    return group_runs(runs)


def grid_of(folder: Path) -> StudyGrid:
    (task,) = tasks_of(folder)
    grid = study_grid(task)
    assert grid is not None
    return grid


def test_table_has_the_longest_axis_down_and_the_next_across(tmp_path: Path) -> None:
    table = grid_of(write_study(tmp_path, GRID)).table("")
    assert table.title == "val_acc by rank and split"
    assert table.header == ["split", "rank 16", "rank 2"]
    sd = np.std([study_score("2", "iid", seed) for seed in (0, 1)], ddof=1)
    assert table.rows == [
        [split, *(f"{study_score(rank, split, 0) + 0.01:.4f} ± {sd:.4f}" for rank in ("16", "2"))]
        for split in GRID["split"]
    ]


def test_names_along_are_dots_with_whiskers(tmp_path: Path) -> None:
    (chart,) = grid_of(write_study(tmp_path, GRID)).charts("task1-")
    assert isinstance(chart, Dots) and chart.key == "task1-grid1"
    assert chart.choices == GRID["split"]
    assert [label for _, label, _ in chart.series] == ["rank 16", "rank 2"]
    expected = [
        [f"rank {rank}", split, study_score(rank, split, 0) + 0.01, np.std([0, 1 / 50], ddof=1), 2]
        for rank in ("16", "2")
        for split in GRID["split"]
    ]
    for row, line in zip(chart.rows(), expected, strict=True):
        assert row[:2] == line[:2] and row[2:] == pytest.approx(line[2:])


def test_numbers_along_are_an_axis(tmp_path: Path) -> None:
    grid = {"rank": ["32", "1", "8"], "split": ["iid", "severe"]}
    (chart,) = grid_of(write_study(tmp_path, grid)).charts("")
    assert isinstance(chart, Lines) and chart.x_label == "rank"
    assert sorted(chart.ticks) == [1, 8, 32]
    assert [[x for x, _ in points] for _, _, points in chart.curves] == [[1, 8, 32]] * 2
    assert [label for _, label, _ in chart.curves] == ["iid", "severe"]


def test_further_axes_have_charts_apart_of_one_scale(tmp_path: Path) -> None:
    grid = {"rank": ["2", "16"], "split": ["iid", "b"], "data.clients": ["3", "50", "7"]}
    found = grid_of(write_study(tmp_path, grid, seeds=1))
    charts = found.charts("")
    titles = [f"val_acc by split and clients, rank {rank}" for rank in (2, 16)]
    assert [chart.title for chart in charts] == titles
    low, high = charts[0].limits or (0, 0)
    assert charts[1].limits == (low, high)
    values = [study_score(rank, split, 0) for rank in grid["rank"] for split in grid["split"]]
    assert low < min(values) and high > max(values)
    assert found.table("").header == ["rank", "clients", "iid", "b"]
    assert len(found.table("").rows) == 6


def test_seeds_that_have_not_ended_are_told(tmp_path: Path) -> None:
    folder = write_study(tmp_path, GRID)
    for seed, point in enumerate(("2_iid", "2_severe")):
        (folder / point / f"seed={seed}" / "summary.json").unlink()
    (folder / "2_severe" / "seed=0" / "summary.json").unlink()
    grid = grid_of(folder)
    rows = grid.table("").rows
    assert rows[0][2] == "" and rows[1][2] == f"{study_score('2', 'iid', 1):.4f} (1/2)"
    (chart,) = grid.charts("")
    assert isinstance(chart, Dots) and chart.note.startswith("Some are of fewer than 2 seeds")
    *_, (_, _, dots, said) = chart.drawn()
    place, score = dots[0]
    assert (place, score.sd, score.seeds) == (1, None, 1) and said[0].endswith(" (1/2)")


def test_a_point_of_nan_is_in_the_table_and_not_drawn(tmp_path: Path) -> None:
    folder = write_study(tmp_path, GRID, seeds=1)
    point = {"model.peft.rank": "2", "split": "iid"}
    write_run(folder / "2_iid/seed=0", [0.1, NOT_A_NUMBER], rank=2, point=point)
    found = grid_of(folder)
    assert found.table("").rows[1] == ["iid", f"{study_score('16', 'iid', 0):.4f}", "nan"]
    (chart,) = found.charts("")
    assert [len(said) for *_, said in chart.drawn()] == [3, 2]
    assert all(np.isfinite(chart.limits or NOT_A_NUMBER))


def test_points_of_one_configuration_stay_apart(tmp_path: Path) -> None:
    """Such as a choice that names what is the default."""
    folders = [write_run(tmp_path / n / "s", point={"method": n}) for n in ("FedTT", "same")]
    (task,) = tasks_of(*folders)
    assert [group.label for group in task.groups] == ["1 FedTT", "2 same"]


@pytest.mark.parametrize("points", [[None, None], [{"a": "1"}, None], [{"a": "1"}, {"b": "1"}]])
def test_no_grid(tmp_path: Path, points: list[dict[str, str] | None]) -> None:
    for i, point in enumerate(points):
        write_run(tmp_path / f"{i}" / "s", rank=i + 1, point=point)
    assert {study_grid(task) for task in tasks_of(tmp_path)} == {None}


def test_the_page_has_it_first(tmp_path: Path) -> None:
    report = Report([write_study(tmp_path, GRID, seeds=1)])
    (task,) = report.numbers()["tasks"]
    assert [*task["charts"]][:2] == ["task1-grid1", "task1-score-rounds"]
    labels = [group["label"] for group in task["groups"]]
    assert labels[:2] == ["1 rank 16, severe", "2 rank 16, iid"]
    title = "val_acc by rank and split"
    assert report.html.count(f"<h3>{title}</h3>") == 2  # of the table and of the chart
    assert report.html.index(title) < report.html.index("Methods")


def test_dots_are_drawn(tmp_path: Path) -> None:
    (chart,) = grid_of(write_study(tmp_path, GRID)).charts("")
    assert draw_svg(chart).count('class="mark"') == 6
    starts = {"svg": b"<?xml", "png": b"\x89PNG", "pdf": b"%PDF"}
    for kind, start in starts.items():
        assert draw_file(chart, kind).startswith(start)


@pytest.mark.parametrize(
    "text", ["", "[1]", '{"grid": 3, "metric": [1]}', '{"grid": {"split": "iid"}}', '{"grid": {"sp']
)
def test_a_study_that_cannot_be_read_costs_its_order_alone(tmp_path: Path, text: str) -> None:
    (write_study(tmp_path, GRID, seeds=1) / "study.json").write_text(text)
    report = Report([tmp_path])
    assert len(report.problems) == (not text.endswith("}"))  # not one for each run
    found = grid_of(tmp_path)
    assert {axis: sorted(choices) for axis, choices in found.axes.items()} == {
        axis: sorted(choices) for axis, choices in GRID.items()
    }
    assert len(found.table("").rows) == 3


@pytest.mark.parametrize("text", ["", "[]", '{"point": {"split": '])
def test_a_record_that_cannot_be_read_costs_its_point_alone(tmp_path: Path, text: str) -> None:
    folder = write_study(tmp_path, {"rank": ["2", "4"], "split": ["iid"]}, seeds=1)
    (folder / "2_iid" / "seed=0" / "cell.json").write_text(text)
    report = Report([folder])
    alone, study = report.numbers()["tasks"]
    assert [group["label"] for group in alone["groups"]] == ["1 FedTT"]
    assert [group["label"] for group in study["groups"]] == ["1 rank 4, iid"]
    assert len(report.problems) == 1 and report.problems[0].startswith("2_iid/seed=0: ")


def test_a_point_of_anything_is_text(tmp_path: Path) -> None:
    for i, point in enumerate([{"a": None, "b": [1]}, {"a": "x", "b": 2}]):
        place = write_run(tmp_path / f"{i}" / "s", rank=i + 1)
        (place / "cell.json").write_text(json.dumps({"point": point}))
    assert grid_of(tmp_path).axes == {"a": ["None", "x"], "b": ["[1]", "2"]}
