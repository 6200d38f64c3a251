"""A trained model as a folder: a PEFT adapter, perhaps with its base model, or a whole model."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from copy import deepcopy
from pathlib import Path
from typing import Any, Literal

from fedtt_lightning.errors import ConfigError

Kind = Literal["adapter", "adapter with base", "model"]


def check_output(output: Path, overwrite: bool) -> None:
    """Raise ConfigError if a folder cannot be written, or holds files that are to stay.

    Those of a folder without a model stay in any case: it may be a run's, or somebody's home.
    """
    if output.exists() and not output.is_dir():
        raise ConfigError(f"--output {output} is a file: name a folder")
    if not output.is_dir() or not any(output.iterdir()):
        return
    if not overwrite:
        raise ConfigError(f"--output {output} is not empty: name another, or add --overwrite")
    if not any((output / name).is_file() for name in ("adapter_config.json", "config.json")):
        raise ConfigError(
            f"--output {output} holds other files and no model, so --overwrite does not replace "
            "it: name another"
        )


def check_sources(output: Path, sources: dict[str, str]) -> None:
    """Raise ConfigError if replacing a folder would delete what the export is made from.

    Args:
        sources: paths, or names on the hub, by the option that gave them.
    """
    folder = output.resolve()
    for option, source in sources.items():
        path = Path(source).expanduser().resolve()
        if path.exists() and (path == folder or folder in path.parents):
            raise ConfigError(
                f"--output {output} would replace what {option} names ({source}): name another"
            )


@contextmanager
def whole_folder(output: Path, overwrite: bool) -> Iterator[Path]:
    """Give a folder to write to, which becomes `output` if all goes well and is gone if not."""
    check_output(output, overwrite)
    output.parent.mkdir(parents=True, exist_ok=True)
    part = Path(tempfile.mkdtemp(prefix=f".{output.name}.", dir=output.parent))
    former = part.with_name(f"{part.name}.former")
    try:
        yield part
        part.chmod(0o755)
        if output.exists():
            output.rename(former)
        try:
            part.rename(output)
        except OSError:
            if former.exists():
                former.rename(output)
            raise
        shutil.rmtree(former, ignore_errors=True)
    finally:
        shutil.rmtree(part, ignore_errors=True)


def kind_of(model: Any, with_base: bool) -> Kind:
    """Return what `write_model` will write."""
    from peft import PeftModel

    if not isinstance(model, PeftModel):
        return "model"
    return "adapter with base" if with_base else "adapter"


def write_model(model: Any, folder: Path, backbone: str, kind: Kind, merged: bool) -> None:
    """Write a PeftModel's adapter, perhaps its base model too, or a model without PEFT.

    A whole model comes with its tokenizer, if it has one. The model is not to be used afterwards.

    Args:
        backbone: the base model's name.
        merged: whether the base has weights that no file of `backbone` holds.

    Raises:
        ConfigError: the adapter alone, or together with the base, would not be the model.
    """
    if kind == "model":
        model.save_pretrained(folder)
        _save_tokenizer(model.name_or_path, folder)
        return
    config, base = model.active_peft_config, model.get_base_model()
    if merged and kind == "adapter":
        raise ConfigError(
            "the run has merged updates into the base model's weights, which an adapter alone "
            "lacks: add --with-base"
        )
    if kind == "adapter with base" and config.is_prompt_learning:
        raise ConfigError(
            f"--with-base: transformers cannot put {type(config).__name__} into a model by itself: "
            "leave it out"
        )
    _save_adapter(model, folder, base.name_or_path if backbone == "builtin" else backbone)
    if kind == "adapter with base":
        path = base.name_or_path
        model.unload().save_pretrained(folder)
        _save_tokenizer(path, folder)


def _save_adapter(model: Any, folder: Path, name: str) -> None:
    """Write an adapter with everything that trained, also what PEFT's own method leaves out."""
    from peft import get_peft_model_state_dict
    from safetensors.torch import save_file

    config = deepcopy(model.active_peft_config)
    # Embeddings are saved where they train, as modules_to_save; to guess would ask the hub.
    state = get_peft_model_state_dict(model, save_embedding_layers=False)
    saved = {tensor.data_ptr() for tensor in state.values()}
    besides = {
        key: parameter
        for key, parameter in model.named_parameters()
        if parameter.requires_grad
        and parameter.data_ptr() not in saved
        and not key.startswith("prompt_encoder.")
    }
    if besides:
        # A layer that the base's files lack, such as a pooler, trains without PEFT's knowledge.
        prefix = "base_model." if config.is_prompt_learning else "base_model.model."
        modules = {key.removeprefix(prefix).rpartition(".")[0] for key in besides}
        config.modules_to_save = [*(config.modules_to_save or []), *sorted(modules)]
    config.inference_mode = True
    config.base_model_name_or_path = name
    config.save_pretrained(folder)
    tensors = {
        key: value.detach().cpu().contiguous() for key, value in {**state, **besides}.items()
    }
    save_file(tensors, folder / "adapter_model.safetensors", {"format": "pt"})


def _save_tokenizer(path: str, folder: Path) -> None:
    from transformers import AutoTokenizer

    with suppress(OSError, ValueError):  # a model may come without
        tokenizer = AutoTokenizer.from_pretrained(path)
        if len(tokenizer) > len(set(tokenizer.all_special_tokens)):  # else it is made up
            tokenizer.save_pretrained(folder)
