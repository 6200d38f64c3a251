"""Charts that are read by eye, by mouse and by machine."""

from __future__ import annotations

import re
from itertools import combinations
from pathlib import Path
from xml.etree import ElementTree

import numpy as np
import pytest

from fedtt_lightning.report.charts import Chart, HeatMap, Lines, task_charts
from fedtt_lightning.report.drawing import COLOURS, draw_file, draw_svg
from fedtt_lightning.report.groups import group_runs
from fedtt_lightning.report.run_folder import read_runs
from fedtt_lightning.report.scores import Score
from run_files import NOT_A_NUMBER, write_run

SVG = "{http://www.w3.org/2000/svg}"
PAGE = (Path(__file__).parents[2] / "src/fedtt_lightning/report/page.html").read_text()


def charts_of(*folders: Path) -> dict[str, Chart]:
    (task,) = group_runs(read_runs(folders)[0])
    return {chart.key.removeprefix("task1-"): chart for chart in task_charts(task, 1)}


def tips(chart: Chart) -> list[str]:
    """Return the words at each mark, its lines joined by a bar."""
    root = ElementTree.fromstring(draw_svg(chart))
    marks = [node for node in root.iter(f"{SVG}g") if node.get("class") == "mark"]
    return ["|".join(line.text or "" for line in mark.iter(f"{SVG}tspan")) for mark in marks]


def luminance(colour: str) -> float:
    """As the accessibility guidelines of the web (WCAG 2) define it."""
    parts = [int(colour[i : i + 2], 16) / 255 for i in (1, 3, 5)]
    linear = [p / 12.92 if p <= 0.04045 else ((p + 0.055) / 1.055) ** 2.4 for p in parts]
    return float(np.dot(linear, (0.2126, 0.7152, 0.0722)))


def contrast(one: str, other: str) -> float:
    dark, light = sorted((luminance(one), luminance(other)))
    return (light + 0.05) / (dark + 0.05)


@pytest.mark.parametrize("colour", COLOURS)
def test_lines_stand_out_in_both_themes(colour: str) -> None:
    papers = re.findall(r"--paper: (#\w{6})", PAGE)
    assert len(papers) == 2 and contrast(*papers) > 10
    for paper in papers:
        assert contrast(colour, paper) >= 3, paper


@pytest.mark.parametrize(
    ("red_and_green", "blue"),
    [((0.29275, 0.70725), -0.02234), ((0.11238, 0.88762), 0.00401)],  # deutan, protan
)
def test_lines_are_told_apart_by_the_red_green_blind(
    red_and_green: tuple[float, float], blue: float
) -> None:
    """As Viénot, Brettel and Mollon (1999) simulate their sight."""
    simulated = np.array([[*red_and_green, 0], [*red_and_green, 0], [blue, -blue, 1]])
    rgb = np.array([[int(c[i : i + 2], 16) / 255 for i in (1, 3, 5)] for c in COLOURS])
    seen = np.clip(rgb**2.2 @ simulated.T, 0, 1) ** (1 / 2.2)
    for one, other in combinations(seen, 2):
        assert np.linalg.norm(one - other) > 0.2


def test_every_chart_of_a_run(tmp_path: Path) -> None:
    charts = charts_of(write_run(tmp_path / "a"))
    names = ["score-rounds", "score-bytes", "clients", "drift", "participation", "partition1"]
    assert [*charts] == names
    assert tips(charts["score-rounds"]) == [
        f"1 FedTT|round {r}, val_acc {score}"
        for r, score in ((1, "0.5000"), (2, "0.6000"), (3, "0.7000"))
    ]
    bytes_chart = charts["score-bytes"]
    assert [row[1] for row in bytes_chart.rows()] == [2000, 4000, 6000]
    assert tips(bytes_chart)[0] == "1 FedTT|bytes 2.0 KiB, val_acc 0.5000"
    assert [row[2] for row in charts["clients"].rows()] == [0.4, 0.7, 0.9]
    visits = [row[1:3] for row in charts["participation"].rows()]
    assert visits == [[1, pytest.approx(100 / 3)], [3, pytest.approx(200 / 3)]]
    counts = [["0", 0, 10], ["1", 1, 10], ["2", 2, 10]]
    assert charts["partition1"].header() == ["client", "bad", "good"]
    assert charts["partition1"].rows() == counts
    assert tips(charts["partition1"])[2:4] == [
        "client 1, bad|1 examples",
        "client 1, good|10 examples",
    ]


def test_the_spread_over_seeds(tmp_path: Path) -> None:
    folders = [write_run(tmp_path / f"{s}", [x, 0.7], seed=s) for s, x in enumerate((0.5, 0.6))]
    chart = charts_of(*folders)["score-rounds"]
    assert chart.rows()[0][1:] == pytest.approx([1, 0.55, np.std([0.5, 0.6], ddof=1), 2])
    assert tips(chart) == [
        "1 FedTT|round 1, val_acc 0.5500 ± 0.0707",
        "1 FedTT|round 2, val_acc 0.7000 ± 0.0000",
    ]
    assert chart.note == ""


def test_fewer_seeds_than_others_have(tmp_path: Path) -> None:
    """Are told at the marks, and one has no spread."""
    folders = [write_run(tmp_path / f"{s}", seed=s) for s in range(3)]
    charts = charts_of(*folders, write_run(tmp_path / "b", rank=8))
    for name in ("score-rounds", "score-bytes"):
        chart = charts[name]
        assert tips(chart)[-1].endswith("val_acc 0.7000 (1/3)")
        assert chart.rows()[-1][-3:] == [0.7, None, 1]
        assert chart.note == "Some are of fewer than 3 seeds, as the words at their marks say."


def test_scores_of_one_round_alone_are_no_chart(tmp_path: Path) -> None:
    """They would be one above the other; those of different rounds are not."""
    folders = [write_run(tmp_path / f"{rank}", [0.5], rank=rank) for rank in (2, 8)]
    names = ["score-bytes", "clients", "participation", "partition1"]
    assert [*charts_of(*folders)] == names
    assert "score-rounds" in charts_of(*folders, write_run(tmp_path / "b", [0.5, 0.6]))


def test_nan_is_left_out_of_a_line_and_kept_in_its_table(tmp_path: Path) -> None:
    chart = charts_of(write_run(tmp_path / "a", [0.5, NOT_A_NUMBER, 0.7]))["score-rounds"]
    assert len(tips(chart)) == 2 and len(chart.rows()) == 3
    assert chart.note == "Values that are not finite are left out of the lines."


def test_a_run_of_nan_alone_has_no_line(tmp_path: Path) -> None:
    charts = charts_of(write_run(tmp_path / "a", [NOT_A_NUMBER, NOT_A_NUMBER]))
    assert "score-rounds" not in charts and "drift" in charts


def test_metrics_that_some_runs_lack(tmp_path: Path) -> None:
    for name in ("partition", "clients", "participation"):
        (write_run(tmp_path / "b", rank=8) / f"{name}.csv").unlink()
    charts = charts_of(write_run(tmp_path / "a"), tmp_path / "b")
    assert {row[0] for row in charts["score-rounds"].rows()} == {
        "1 FedTT, rank 4",
        "2 FedTT, rank 8",
    }
    assert {row[0] for row in charts["participation"].rows()} >= {"1 FedTT, rank 4"}


def test_many_clients_and_groups_are_drawn_in_part() -> None:
    counts = np.arange(120 * 50).reshape(120, 50)
    heat = HeatMap("k", "t", [*map(str, range(120))], [f"l{i}" for i in range(50)], counts)
    assert len(tips(heat)) == 100 * 40 and len(heat.rows()) == 120
    lines = Lines("k", "t", "round", "y", [(i, f"{i} x", [(1.0, Score(0.5))]) for i in range(30)])
    assert len(tips(lines)) == 24 and len(lines.rows()) == 30


def test_charts_say_that_they_hold_a_part_of_the_groups(tmp_path: Path) -> None:
    charts = charts_of(*(write_run(tmp_path / f"{rank}", rank=rank) for rank in range(1, 26)))
    for name in ("score-rounds", "score-bytes", "clients", "participation"):
        assert charts[name].note == "The first 24 of 25 are drawn.", name


@pytest.mark.parametrize("label", ["1 $\\frac$ & <b>", "1 _x", "1 \"'><img src=x>"])
def test_labels_are_text(label: str) -> None:
    chart = Lines("k", "<t>", "round", "y", [(0, label, [(1.0, Score(0.5)), (2.0, Score(0.6))])])
    root = ElementTree.fromstring(draw_svg(chart))
    assert not [node for node in root.iter() if node.tag in (f"{SVG}b", f"{SVG}img")]
    assert [node.text for node in root.iter(f"{SVG}text") if node.text == label] == [label]
    assert tips(chart) == [f"{label}|round 1, y 0.5000", f"{label}|round 2, y 0.6000"]
    assert draw_file(chart, "png").startswith(b"\x89PNG")


def test_links_inside_a_drawing_lead_to_it_alone(tmp_path: Path) -> None:
    charts = charts_of(write_run(tmp_path / "a")).values()
    roots = [ElementTree.fromstring(draw_svg(chart)) for chart in charts]
    ids = [{node.attrib["id"] for node in root.iter() if "id" in node.attrib} for root in roots]
    assert len(set().union(*ids)) == sum(map(len, ids))
    for root, own in zip(roots, ids, strict=True):
        text = ElementTree.tostring(root, encoding="unicode")
        links = re.findall(r'href="#([^"]*)"|url\(#([^)]*)\)', text)
        assert links and {one or other for one, other in links} == own


def test_drawings_are_the_same_each_time(tmp_path: Path) -> None:
    chart = charts_of(write_run(tmp_path / "a"))["score-bytes"]
    assert draw_svg(chart) == draw_svg(chart)
    for kind in ("png", "pdf", "svg"):
        assert draw_file(chart, kind) == draw_file(chart, kind)
