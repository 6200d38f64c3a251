"""The page: complete in itself, the same each time, and nothing in it but what is meant."""

from __future__ import annotations

import json
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest

from fedtt_lightning.report import Report
from run_files import NOT_A_NUMBER, write_run

VOID = {"meta", "br", "img", "link", "input"}


class Page(HTMLParser):
    """The elements of a page, each closed in its turn, and all of its text."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.text = ""
        self._open: list[str] = []
        self.feed(text)
        self.close()
        assert not self._open

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))
        if tag not in VOID:
            self._open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))

    def handle_endtag(self, tag: str) -> None:
        assert self._open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.text += data

    def count(self, tag: str) -> int:
        return sum(name == tag for name, _ in self.elements)


def test_the_page_holds_all_and_asks_for_nothing(tmp_path: Path) -> None:
    report = Report([write_run(tmp_path / name, rank=rank) for name, rank in (("a", 2), ("b", 8))])
    page = Page(report.html)
    assert page.count("svg") == page.count("figure") == 6
    assert page.count("details") == 6 + 2 * 2
    for text in (
        "1 FedTT, rank 2",
        "0.7",
        "2,626",
        "python -m fedtt_lightning fit --seed_everything 0",
        "torch 2.13.0",
        "model.peft.rank",
        "Examples of each label",
    ):
        assert text in page.text, text
    assert page.count("script") == page.count("img") == page.count("link") == 0
    for tag, attributes in page.elements:
        for name, value in attributes.items():
            assert not name.startswith("on"), (tag, name)
            if name.endswith("href") or name == "src":
                assert (value or "").startswith("#"), (tag, name, value)
    assert not report.problems and "Not all could be read" not in page.text


ATTACKS = (
    "<script>alert(1)</script>",
    '"><img src=x onerror=alert(1)>',
    "</title></svg><script>alert(1)</script>",
    "{{ 7 * 7 }}{% raw %}",
    "$\\frac$ \\alpha_",
    "\x1b[31m\x07\u202e",
)


@pytest.mark.parametrize("attack", ATTACKS)
def test_names_and_values_are_text(tmp_path: Path, attack: str) -> None:
    """In a folder's name, the summary, the config's keys and values, labels, clients."""
    folder = write_run(
        tmp_path / attack.replace("/", "|"),
        method=attack,
        task=attack,
        command=attack,
        versions={attack: attack},
    )
    write_run(tmp_path / "_b", method=attack, task=attack, rank=8)
    (folder / "partition.csv").write_text(
        f'client,examples,"{attack.replace(chr(34), "")}"\n0,1,1\n'
    )
    config = folder / "lightning_logs" / "version_0" / "config.yaml"
    config.write_text(config.read_text() + f"{json.dumps(attack)}: {json.dumps(attack)}\n")
    report = Report([tmp_path])
    page = Page(report.html)
    assert page.count("script") == page.count("img") == 0
    assert page.count("svg") == page.count("figure") == 7  # with a division for each run
    shown = "".join(c if c.isprintable() else "\ufffd" for c in attack)
    assert page.text.count(shown) >= 5
    if not attack.isprintable():
        assert attack not in report.html and attack not in json.dumps(report.numbers())
    notebook = Page(report._repr_html_())
    ((tag, attributes),) = notebook.elements
    assert tag == "iframe" and attributes["srcdoc"] == report.html


def test_the_same_runs_give_the_same_page(tmp_path: Path) -> None:
    for seed in range(2):
        write_run(tmp_path / str(seed), seed=seed)
    page = Report([tmp_path]).html
    assert page == Report([tmp_path]).html == Report(tmp_path).html == Report(str(tmp_path)).html


def test_figures(tmp_path: Path) -> None:
    Report([write_run(tmp_path / "a")]).write_figures(tmp_path / "figures")
    charts = ("score-rounds", "score-bytes", "clients", "drift", "participation", "partition1")
    expected = {
        f"task1-{chart}.{kind}" for chart in charts for kind in ("svg", "png", "pdf", "csv")
    }
    expected |= {"task1-methods.csv", "task1-differences.csv"}
    assert {path.name for path in (tmp_path / "figures").iterdir()} == expected
    lines = (tmp_path / "figures" / "task1-score-bytes.csv").read_text().splitlines()
    assert lines[:2] == ["runs,bytes,val_acc,± over seeds,seeds", "1 FedTT,2000.0,0.5,,1"]
    methods = (tmp_path / "figures" / "task1-methods.csv").read_text().splitlines()
    assert methods[1] == '1 FedTT,1,3,"2,626",500 B,2.0 KiB,5.9 KiB,0.7000,2.0'


def test_numbers(tmp_path: Path) -> None:
    scores = (0.7, 0.8)
    runs = [write_run(tmp_path / f"{s}", [0.5, x], seed=s) for s, x in enumerate(scores)]
    numbers = Report(runs).numbers()
    ((group,),) = [task["groups"] for task in numbers["tasks"]]
    assert group["metrics"]["val_acc"] == {
        "mean": pytest.approx(0.75),
        "sd": pytest.approx(0.1 / 2**0.5),
        "values": [0.7, 0.8],
    }
    assert group["runs"] == ["0", "1"] and group["rounds"] == [2, 2] and group["seconds"] == 2
    assert group["bytes_total"] == 4000 and group["bytes_per_round"] == 2000
    assert group["trainable_parameters"] == 2626
    assert [run["group"] for run in numbers["runs"]] == ["1 FedTT", "1 FedTT"]
    rows = numbers["tasks"][0]["charts"]["task1-score-bytes"]["rows"]
    assert [row[:3] for row in rows] == [["1 FedTT", 2000, 0.5], ["1 FedTT", 4000, 0.75]]


def test_numbers_that_are_not_finite_are_none(tmp_path: Path) -> None:
    report = Report([write_run(tmp_path / "a", [0.5, NOT_A_NUMBER])])
    numbers = json.loads(json.dumps(report.numbers(), allow_nan=False))
    assert numbers["tasks"][0]["groups"][0]["metrics"]["val_acc"]["mean"] is None
    assert "nan" in Page(report.html).text


def test_tasks_have_tables_of_their_own(tmp_path: Path) -> None:
    runs = [write_run(tmp_path / task, task=task) for task in ("sst2", "qnli")]
    page = Page(Report(runs).html)
    assert "GlueData, task: sst2" in page.text and "GlueData, task: qnli" in page.text
    assert "never averaged" in page.text and page.count("section") == 3


@pytest.mark.parametrize(
    "summary",
    [{}, {"rounds": "x", "metrics": 3, "method": ["a"], "command": 7, "versions": "2"}],
)
def test_summaries_of_other_versions(tmp_path: Path, summary: dict[str, Any]) -> None:
    write_run(tmp_path / "a")
    (write_run(tmp_path / "b", rank=8) / "summary.json").write_text(json.dumps(summary))
    report = Report([tmp_path])
    page = Page(report.html)
    assert page.count("svg") == 6 and "No command is known." in page.text
    assert any(problem.startswith("b: ") for problem in report.problems)


def test_a_folder_with_a_config_alone(tmp_path: Path) -> None:
    folder = write_run(tmp_path / "a")
    for path in [*folder.glob("*.csv"), *folder.glob("*/*/metrics.csv"), folder / "summary.json"]:
        path.unlink()
    report = Report([folder])
    page = Page(report.html)
    assert page.count("svg") == 0 and "no rounds in metrics.csv" in page.text


def test_a_problem_of_many_runs_is_told_once(tmp_path: Path) -> None:
    for seed in range(4):
        write_run(tmp_path / f"{seed}", seed=seed)
        if seed:
            (tmp_path / f"{seed}" / "summary.json").unlink()
    (problem,) = Report([tmp_path]).problems
    assert problem.startswith("1 and 2 more: no summary.json: ")
