"""The README.md of an exported folder, as the hub reads it."""

from __future__ import annotations

import json
import shlex
from dataclasses import MISSING, fields
from importlib.metadata import version
from pathlib import Path
from typing import Any

from huggingface_hub import ModelCardData

from fedtt_lightning import __version__
from fedtt_lightning.export.adapter_folder import Kind
from fedtt_lightning.export.trained_run import TrainedRun

_LIBRARIES = ("torch", "lightning", "transformers", "peft")
_IMPORT = "import fedtt_lightning.adapters"


def model_card(run: TrainedRun, kind: Kind, options: list[str]) -> str:
    """Return the card: front matter, what was trained how and how well, and how to load it.

    `options` are those of `fit`.
    """
    parts = [
        _front_matter(run, kind),
        f"# {run.method} on {Path(run.backbone).name}",
        _training(run),
        f"## How to load it\n\n```python\n{_loading(run, kind)}\n```",
        _which_base(run, kind),
        _method(run),
        "## Made with\n\n"
        f"    {shlex.join(['python', '-m', 'fedtt_lightning', 'fit', *options])}\n\n"
        + ", ".join(
            [f"fedtt-lightning {__version__}", *(f"{name} {version(name)}" for name in _LIBRARIES)]
        ),
    ]
    return "\n\n".join(part for part in parts if part) + "\n"


def _front_matter(run: TrainedRun, kind: Kind) -> str:
    head = "text-generation" if _auto_class(run).endswith("CausalLM") else "text-classification"
    on_hub = not Path(run.backbone).exists() and run.backbone != "builtin"
    data = ModelCardData(
        base_model=run.backbone if on_hub else None,  # the hub refuses what is no name of its own
        library_name="transformers" if kind == "model" else "peft",
        pipeline_tag=head,
        tags=["fedtt-lightning", "federated-learning", *_tags(run)],
    )
    return f"---\n{data.to_yaml()}\n---"


def _tags(run: TrainedRun) -> list[str]:
    config = getattr(run.model, "active_peft_config", None)
    if config is None:
        return []
    return [str(getattr(config.peft_type, "value", config.peft_type)).lower()]


def _training(run: TrainedRun) -> str:
    trained = sum(p.numel() for p in run.model.parameters() if p.requires_grad)
    rows = {"base model": run.backbone, "method": run.method, "trained parameters": f"{trained:,}"}
    if run.rounds is not None:
        rows["rounds"] = str(run.rounds)
    if run.clients is not None:
        rows["clients"] = str(run.clients)
    rows |= {f"ε spent ({name})": f"{value:.4g}" for name, value in run.epsilon.items()}
    rows |= {
        name.partition(" (")[0]: value
        for name, value in run.settings.items()
        if not value.endswith("none")
    }
    rows |= {name: f"{value:.4f}" for name, value in sorted(run.metrics.items())}
    table = [f"| {name} | {value.replace('|', '/')} |" for name, value in rows.items()]
    return "\n".join(["## Training", "", "| | |", "|---|---|", *table])


def _method(run: TrainedRun) -> str:
    """Return the settings of the PEFT method that are not its defaults."""
    config = getattr(run.model, "active_peft_config", None)
    if config is None:
        return ""
    defaults = {
        field.name: field.default if field.default_factory is MISSING else field.default_factory()
        for field in fields(config)
    }
    chosen = {
        name: value for name, value in config.to_dict().items() if value != defaults.get(name)
    }
    shown = json.dumps(chosen, indent=2, sort_keys=True, default=_plain)
    return f"## {type(config).__name__}\n\nWhat differs from its defaults:\n\n```json\n{shown}\n```"


def _plain(value: Any) -> Any:
    return sorted(value) if isinstance(value, set | frozenset) else str(value)


def _auto_class(run: TrainedRun) -> str:
    base = run.model.get_base_model() if hasattr(run.model, "get_base_model") else run.model
    causal = type(base).__name__.endswith(("CausalLM", "LMHeadModel"))
    return "AutoModelForCausalLM" if causal else "AutoModelForSequenceClassification"


def _which_base(run: TrainedRun, kind: Kind) -> str:
    """Return which base model transformers takes by itself, where it can load the adapter."""
    config = getattr(run.model, "active_peft_config", None)
    if config is None or config.is_prompt_learning:
        return ""
    named = "the base model that adapter_config.json names"
    if kind == "adapter with base":
        return (
            "transformers takes the copy of the base model out of a local folder. By a name on the "
            f"hub it takes {named}: download the folder first."
        )
    if not _auto_class(run).endswith("CausalLM"):
        return ""
    dtype = str(run.model.get_base_model().dtype).removeprefix("torch.")
    call = f'`AutoModelForCausalLM.from_pretrained("FOLDER", dtype="{dtype}")`'
    after = f", after `{_IMPORT}`" if "tt_adapter" in _tags(run) else ""
    return f"{call} of transformers loads it too{after}, in that precision: it takes {named}."


def _loading(run: TrainedRun, kind: Kind) -> str:
    """Return the lines that load what was written from FOLDER."""
    auto = _auto_class(run)
    labels = "" if auto.endswith("CausalLM") else f", num_labels={run.model.config.num_labels}"
    base = run.model.get_base_model() if kind == "adapter" else run.model
    name = base.name_or_path if run.backbone == "builtin" else run.backbone
    dtype = str(base.dtype).removeprefix("torch.")  # in which it was trained, whatever the files'
    own = [f"{_IMPORT}  # makes PEFT know the method"]
    lines = own if "tt_adapter" in _tags(run) else []
    if kind == "adapter":
        lines += ["from peft import PeftModel", f"from transformers import {auto}", ""]
        lines += [
            f'base = {auto}.from_pretrained("{name}", dtype="{dtype}"{labels})',
            'model = PeftModel.from_pretrained(base, "FOLDER")',
        ]
    else:
        lines += [f"from transformers import {auto}", ""]
        lines += [f'model = {auto}.from_pretrained("FOLDER")']
    return "\n".join(lines)
