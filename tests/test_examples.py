"""Each example runs, shortened where it would take long, and says what is true."""

from __future__ import annotations

import ast
import difflib
import json
import re
import runpy
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from scipy.optimize import minimize

from cli_options import ROOT, options
from fedtt_lightning.__main__ import main
from fedtt_lightning.federation import WeightedMean

EXAMPLES = ROOT / "examples"
PROJECT = EXAMPLES / "existing_project"


def changed(text: str, old: str, new: str) -> str:
    """Return a script with something replaced that stands there once."""
    assert text.count(old) == 1, old
    return text.replace(old, new)


@pytest.fixture
def aggregator(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> dict[str, Any]:
    """What custom_aggregator.py defines, run as from its folder."""
    monkeypatch.syspath_prepend(str(EXAMPLES))
    monkeypatch.chdir(tmp_path)
    return runpy.run_path(str(EXAMPLES / "custom_aggregator.py"))


def test_the_readme_lists_every_example() -> None:
    readme = (EXAMPLES / "README.md").read_text()
    for path in EXAMPLES.iterdir():
        if path.name not in ("README.md", "runs", "__pycache__", ".ipynb_checkpoints"):
            assert f"]({path.name}" in readme, path.name
    for name in re.findall(r"\b(?:examples|configs)/[\w/]+\.\w+", readme):
        assert (ROOT / name).is_file(), name


def test_the_diff_shown_is_that_of_the_files() -> None:
    before, after = (
        (PROJECT / name).read_text().splitlines(keepends=True) for name in ("before.py", "after.py")
    )
    diff = "".join(difflib.unified_diff(before, after, "before.py", "after.py"))
    assert f"```diff\n{diff}```" in (PROJECT / "README.md").read_text()
    assert sum(line.startswith("-") for line in diff.splitlines()[2:]) == 1


@pytest.mark.parametrize("name", ["before.py", "after.py"])
def test_the_existing_project(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    script = tmp_path / name
    script.write_text(changed((PROJECT / name).read_text(), "max_epochs=10", "max_epochs=2"))
    trainer = runpy.run_path(str(script), run_name="__main__")["trainer"]
    assert trainer.current_epoch == 2 and float(trainer.callback_metrics["val_acc"]) > 0.2
    if name == "after.py":
        summary = json.loads((tmp_path / "runs/digits/summary.json").read_text())
        assert summary["uploads"] == 2 * 5
        values = 64 * 64 + 64 + 64 * 10 + 10
        assert 4 * values < summary["upload_bytes_per_client"] < 4 * values + 256


def test_a_vision_transformer(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    runpy.run_path(str(EXAMPLES / "vision_digits.py"))["main"](epochs=1, rounds=1)
    text = capsys.readouterr().out
    found = re.findall(r"^(head alone|FedTT\+?) +(\.?[\d.]+)  ([\d.]+) KiB", text, re.MULTILINE)
    sizes = {method: float(size) for method, _, size in found}
    assert sizes.keys() == {"head alone", "FedTT", "FedTT+"}
    head = 4 * (64 * 10 + 10) / 1024
    assert head < sizes["head alone"] < head + 0.25 < sizes["FedTT+"] < sizes["FedTT"]


def test_the_rule_equals_its_formula(aggregator: dict[str, Any]) -> None:
    """The point that a general minimizer finds, and with one update far away hardly another."""
    rule = aggregator["GeometricMedian"](steps=1000)
    updates = np.random.default_rng(0).normal(size=(7, 4))

    def distances(point: np.ndarray) -> float:
        return float(np.linalg.norm(updates - point, axis=1).sum())

    expected = minimize(distances, updates.mean(axis=0), tol=1e-10).x
    assert rule.combine(torch.tensor(updates)).numpy() == pytest.approx(expected, abs=1e-5)
    updates[0] *= 1e6
    assert np.linalg.norm(rule.combine(torch.tensor(updates)).numpy() - expected) < 2
    assert rule.problem(2) and not rule.problem(3)


def test_the_rule_bears_a_false_client(aggregator: dict[str, Any]) -> None:
    mean, median = (
        aggregator["fit"](rule, rounds=3)
        for rule in (WeightedMean(), aggregator["GeometricMedian"]())
    )
    assert median > 0.5 > 0.3 > mean


def test_the_rule_in_a_config(
    tiny_backbone: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.syspath_prepend(str(EXAMPLES))
    more = ["--config", str(EXAMPLES / "geometric_median.yaml"), "--trainer.max_epochs", "1"]
    assert main(["fit", *options(tiny_backbone, tmp_path, *more)]) == 0
    summary = json.loads((tmp_path / "summary.json").read_text())
    assert summary["aggregation"] == "GeometricMedian" and summary["uploads"] == 3


def test_the_notebook(tiny_backbone: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    notebook = json.loads((EXAMPLES / "compare.ipynb").read_text())
    cells = [cell for cell in notebook["cells"] if cell["cell_type"] == "code"]
    assert not any(cell["outputs"] or cell["execution_count"] for cell in cells)
    (tmp_path / "configs").symlink_to(ROOT / "configs")
    (tmp_path / "examples").mkdir()
    monkeypatch.chdir(tmp_path / "examples")
    first, *others = ("".join(cell["source"]) for cell in cells)
    names: dict[str, Any] = {}
    smaller = f'common += ["--data.clients", "3", "--model.backbone", {tiny_backbone!r}]\n'
    first = changed(
        changed(first, "rounds = 6", "rounds = 1"), "methods = ", f"{smaller}methods = "
    )
    exec(first, names)
    shown = [run_cell(source, names) for source in others]
    page = shown[0]._repr_html_()
    assert "LoRA" in page and "FedTT" in page and shown[0].problems == []
    assert sorted(group["label"] for group in shown[1]) == ["1 FedTT", "2 LoRA"]


def run_cell(source: str, names: dict[str, Any]) -> Any:
    """Run a cell and return the value of its last line, which a notebook shows."""
    *lines, last = ast.parse(source).body
    assert isinstance(last, ast.Expr)
    exec(compile(ast.Module(lines, []), "cell", "exec"), names)
    return eval(compile(ast.Expression(last.value), "cell", "eval"), names)
