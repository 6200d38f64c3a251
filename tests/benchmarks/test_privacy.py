"""Cells of the privacy benchmark are as private as they say, and its table and plot tell it."""

import json
from pathlib import Path

import pytest
from grid import Cell, run_cells

import privacy
from fedtt_lightning.data.builtin_text import generate_reviews

RUNS = {  # in which FactorFreezing comes before the callback that --trainer.callbacks speaks to
    "local": ("FedTT+ r=5", privacy.Setting("1e-2", "0.25")),
    "central": ("FFA-LoRA r=8", privacy.Setting("1e-2", "0.125")),
}


@pytest.fixture
def sst2(tmp_path: Path) -> Path:
    """A folder with a very small SST-2 in glue/."""
    folder = tmp_path / "data/glue/SST-2"
    folder.mkdir(parents=True)
    for split, size in (("train", 60), ("dev", 20)):
        rows = generate_reviews(size, 0, split)
        lines = [f"{t}\t{y}\n" for t, y in zip(rows["text"], rows["label"], strict=True)]
        (folder / f"{split}.tsv").write_text("".join(["sentence\tlabel\n", *lines]))
    return tmp_path / "data"


@pytest.mark.processes
def test_each_cell_spends_the_budget_it_is_named_for(
    tmp_path: Path, sst2: Path, tiny_backbone: str
) -> None:
    out = tmp_path / "runs"
    cells = {k: privacy.cell(k, m, "3", s, 0) for k, (m, s) in RUNS.items()}
    assert run_cells(list(cells.values()), out, str(sst2), tiny_backbone, 1)
    for kind, cell in cells.items():
        record = cell.finished(out)
        assert record is not None
        assert 2.9 < record["summary"]["metrics"]["dp/epsilon_max"] <= 3.0
        assert record["summary"]["uploads"] == 10 * privacy.ROUNDS
        config = (out / cell.name / "config.yaml").read_text()
        assert "delta: 1.0e-05" in config and f"clip: {RUNS[kind][1].clip}" in config
    unlike = privacy.cell("local", "FedTT+ r=5", "6", RUNS["local"][1], 0)
    assert unlike.key != cells["local"].key


def finish(out: Path, one: Cell, accuracy: float, **metrics: float) -> None:
    summary = {
        "metrics": {"val_acc": accuracy, **metrics},
        "trainable_parameters": 30,
        "upload_bytes_per_client": 3072,
        "upload_bytes_total": 9000,
    }
    folder = out / one.name
    folder.mkdir(parents=True)
    record = {"key": one.key, "seconds": 1.0, "head_parameters": 256, "summary": summary}
    (folder / "done.json").write_text(json.dumps(record))


@pytest.fixture
def finished(tmp_path: Path) -> Path:
    """Runs of one method: everything is tuned, and of the best settings some cells are there."""
    method = "LoRA r=8"
    for kind, accuracies in (("none", (0.75, 0.5)), ("local", (0.5, 0.75)), ("central", (0.5,))):
        settings = privacy.KINDS[kind].settings
        for number, setting in enumerate(settings):
            score = accuracies[number] if number < len(accuracies) else 0.25
            finish(tmp_path, privacy.tuning(kind, method, setting), score)
    second = privacy.KINDS["local"].settings[1]
    for seed, score in enumerate((0.5, 0.75, 1.0)):
        one = privacy.cell("none", method, "∞", privacy.KINDS["none"].settings[0], seed)
        finish(tmp_path, one, score)
        one = privacy.cell("local", method, "6", second, seed)
        finish(tmp_path, one, score - 0.25, **{"dp/epsilon_max": 5.99})
    finish(tmp_path, privacy.cell("local", method, "1", second, 0), 0.25)
    return tmp_path


def test_the_table_shows_the_best_settings_of_each_kind(
    finished: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert privacy.best(finished, "local", "LoRA r=8") == privacy.KINDS["local"].settings[1]
    assert privacy.best(finished, "local", "FedTT r=5") is None
    rows = privacy.results(finished)
    assert [row["epsilon"] for row in rows] == ["∞", "6", "1"]
    assert rows[1]["spent"] == [5.99] * 3
    privacy.table(rows)
    out = capsys.readouterr().out
    scores = ".750 ± .250 | .500 ± .250 | – | .250 (1) | – | – | –"
    assert f"| LoRA r=8 | {scores} | 3.0 KiB | 2.0 KiB |" in out
    assert "7 of 84 runs are done" in out


def test_the_plot_shows_the_rows_and_is_the_same_file_again(finished: Path) -> None:
    from privacy_plot import figure, save

    rows = privacy.results(finished)
    drawn = figure(rows, ("1", "3", "6"), 0.5)
    local, central = drawn.axes
    assert [text.get_text() for text in local.get_xticklabels()] == ["1", "3", "6", "∞"]
    (points, _, (bars,)) = local.containers[0]
    assert list(points.get_ydata()) == [0.25, 0.5, 0.75]
    assert [round(x) for x in points.get_xdata()] == [0, 2, 3]
    assert [list(bar[:, 1]) for bar in bars.get_segments()] == [
        [0.25, 0.25],
        [0.25, 0.75],
        [0.5, 1],
    ]
    assert list(central.containers[0][0].get_ydata()) == [0.75]
    first = [file.read_bytes() for file in save(drawn, finished / "docs/one.svg")]
    again = save(figure(rows, ("1", "3", "6"), 0.5), finished / "two.svg")
    assert [file.suffix for file in again] == [".svg", ".png"]
    assert [file.read_bytes() for file in again] == first


def test_without_runs_there_is_nothing_to_plot(tmp_path: Path) -> None:
    with pytest.raises(SystemExit, match="`run` first"):
        privacy.plot(privacy.results(tmp_path), tmp_path / "privacy.svg")
