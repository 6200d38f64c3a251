"""Causal language modelling with any PEFT method; it knows nothing of federation."""

from __future__ import annotations

from contextlib import nullcontext
from typing import Any, Literal

import torch
from lightning.pytorch import LightningModule
from lightning.pytorch.utilities import rank_zero_warn
from peft import PeftConfig, TaskType
from torch import Tensor
from torch.optim import Optimizer

from fedtt_lightning.errors import ConfigError
from fedtt_lightning.modules.answer_loss import (
    Likelihood,
    answer_likelihood,
    answer_targets,
    example_numbers,
)
from fedtt_lightning.modules.answer_metrics import (
    answer_metrics,
    count_choices,
    count_likelihood,
    count_texts,
)
from fedtt_lightning.modules.answer_scores import gold_losses, right_candidates, score_table
from fedtt_lightning.modules.backbone import load_causal_lm
from fedtt_lightning.modules.decoder_inputs import check_fits, check_prompts_fit, decoder_inputs
from fedtt_lightning.modules.decoder_set_up import recompute_activations, train_in_float32
from fedtt_lightning.modules.generation import generate_texts, load_text_tokenizer
from fedtt_lightning.modules.methods import choose_trained, fused_adamw
from fedtt_lightning.modules.slim_checkpoint import fingerprint, leave_out, put_back

Batch = dict[str, Any]

_GENERATED = 32  # tokens in test and predict, where generate_max_tokens is 0


class CausalLM(LightningModule):
    """A pretrained causal language model, fine-tuned with a PEFT method or by itself.

    The loss of a batch is the mean over its examples of the mean negative log-likelihood of each
    example's answer tokens: each example counts the same. The language-model head is the pretrained
    one, frozen with a PEFT method. Checkpoints leave out the frozen pretrained weights and hold a
    fingerprint of them instead.

    Batches are dicts; int64 tensors if nothing else is said. To learn: `input_ids`, `labels`
    (R, T), -100 where no answer stands, and `attention_mask` (R, T) or, for several examples in a
    row, `position_ids` and `segments` (R, T), see `decoder_inputs`. To choose: the same for a row a
    candidate, `owner` and `candidate` (N,), see `score_table`, and `label` (B,), the right one, -1
    where unknown; perhaps `answers` and `gold`, lists of B lists of text, and `group`, a list of B
    names. To generate: `input_ids`, `attention_mask` (B, T), padded on the left, and `references`,
    a list of B lists of text.

    What is logged: `train_loss`; `val_loss` (of candidates, that of the right one, or of the
    likeliest of several right ones) and the task's metrics; the same for `test_`.

    Args:
        backbone: Causal language model on the hub, or folder with one.
        peft: Any PEFT configuration by class_path, such as fedtt_lightning.adapters.TTAdapterConfig
            or peft.LoraConfig; null trains the model's own weights.
        task: What it is trained for, which decides the metrics: a task of SuperGLUE, `squad` or
            `drop` (em and f1 of written answers), `instructions` or `text` (perplexity); any other
            name means accuracy.
        lr: Learning rate of AdamW.
        weight_decay: Weight decay of AdamW.
        trainable: Without `peft`, which weights train: regular expressions searched in the names of
            the model's parameters; null trains every weight.
        dtype: bfloat16, float16, float32 or auto (as in the files), of the frozen weights. What
            trains is float32: adapters always, and so the whole model if every weight trains.
        quantization: 8bit or 4bit, of the frozen linears, by bitsandbytes on a GPU; null for none.
        generate_max_tokens: Longest generated answer, in tokens. With 0 validation does not
            generate, and test and predict generate 32.
        gradient_checkpointing: Compute the activations of each block again in the backward pass:
            less memory for more time, the same gradients.
        attn_implementation: Attention of transformers, such as sdpa, eager or flash_attention_2;
            null leaves it the choice.

    Attributes:
        fresh_parameters: 0, since the pretrained files hold all.

    Raises:
        ConfigError: the backbone cannot be loaded, the PEFT method does not fit it, an entry of
            `trainable` matches nothing, or options contradict each other.
    """

    fresh_parameters = 0

    def __init__(
        self,
        backbone: str,
        peft: PeftConfig | None = None,
        task: str = "text",
        lr: float = 1e-3,
        weight_decay: float = 0.0,
        trainable: list[str] | None = None,
        dtype: Literal["bfloat16", "float16", "float32", "auto"] = "bfloat16",
        quantization: Literal["8bit", "4bit"] | None = None,
        generate_max_tokens: int = 0,
        gradient_checkpointing: bool = False,
        attn_implementation: str | None = None,
    ) -> None:
        super().__init__()
        self.save_hyperparameters(ignore=["peft"])
        if "_instantiator" in self.hparams:  # from the command line: plain values, peft's as well
            self.save_hyperparameters()
        if generate_max_tokens < 0:
            raise ConfigError(f"model.generate_max_tokens is {generate_max_tokens}; set 0 or more")
        if quantization is not None and peft is None:
            raise ConfigError(
                f"model.quantization={quantization} is of frozen weights, but without model.peft "
                "they train: set model.peft, or quantization to null"
            )
        self.backbone = backbone
        self.task = task
        self.lr = lr
        self.weight_decay = weight_decay
        self.trainable = trainable
        self.generate_max_tokens = generate_max_tokens
        frozen_dtype = "float32" if peft is None and trainable is None else dtype
        model = load_causal_lm(backbone, frozen_dtype, quantization, attn_implementation)
        pretrained = {id(p) for p in model.parameters()}
        if gradient_checkpointing:
            recompute_activations(model)
        self.model = choose_trained(model, peft, trainable, TaskType.CAUSAL_LM)
        self._autocast = train_in_float32(self.model)
        self._pretrained = frozenset(
            name
            for name, parameter in self.named_parameters(remove_duplicate=False)
            if id(parameter) in pretrained
        )
        self._fingerprint = fingerprint(self._frozen())
        self._tokenizer_name = ("model.backbone", backbone)
        self._tokenizer: Any = None
        self.val_metrics = answer_metrics(task)
        self.test_metrics = answer_metrics(task)

    def setup(self, stage: str) -> None:
        data = getattr(self.trainer, "datamodule", None)
        check_fits(self.model, getattr(data, "max_length", None))
        written = self.generate_max_tokens or (_GENERATED if stage in ("test", "predict") else 0)
        if written and (longest_prompt := getattr(data, "longest_prompt", None)) is not None:
            check_prompts_fit(self.model, longest_prompt(stage), written)
        if isinstance(name := getattr(data, "tokenizer", None), str):
            self._tokenizer_name, self._tokenizer = ("data.tokenizer", name), None

    def forward(self, **batch: Any) -> Tensor:
        """Return the logits (R, T, V), those of `logits_to_keep` only if that is given."""
        kept = {"logits_to_keep": batch["logits_to_keep"]} if "logits_to_keep" in batch else {}
        with self._precision():
            inputs = decoder_inputs(batch, self.model)
            logits: Tensor = self.model(**inputs, **kept, use_cache=False).logits
        return logits

    def likelihood(self, batch: Batch) -> Likelihood:
        """Return how likely the answers of a batch's examples are."""
        labels, segments = batch["labels"], batch.get("segments")
        targets, positions = answer_targets(labels, segments)
        # The head's output is the largest tensor of all: only where an answer stands, counted from
        # the end, since PEFT's prompts come before the row.
        logits = self(**batch, logits_to_keep=positions - labels.shape[1])
        owners, examples = example_numbers(labels, segments)
        return answer_likelihood(logits, targets[:, positions], owners[:, positions], examples)

    def training_step(self, batch: Batch, batch_idx: int) -> Tensor:
        losses = self.likelihood(batch).mean()
        loss = losses.mean()
        self.log("train_loss", loss, prog_bar=True, batch_size=len(losses))
        return loss

    def validation_step(self, batch: Batch, batch_idx: int) -> None:
        if "references" in batch and not self.generate_max_tokens:
            rank_zero_warn(
                "model.generate_max_tokens is 0, so what the model would write is not validated: "
                "set it to the tokens of the longest answer"
            )
            return
        self._evaluate(batch, "val", self.val_metrics)

    def test_step(self, batch: Batch, batch_idx: int) -> None:
        self._evaluate(batch, "test", self.test_metrics)

    def predict_step(self, batch: Batch, batch_idx: int) -> dict[str, Any]:
        """Return lists with an entry for each of B examples.

        To choose: `prediction`, the candidate's number, `scores` of all candidates, mean
        log-likelihoods of their tokens, and the candidate's `answer` if the batch has texts. To
        generate: `prediction`, the text. Else `log_likelihood` of the answer, and its `tokens`.
        """
        if "references" in batch:
            return {"prediction": self._generate(batch)}
        if "owner" not in batch:
            nll, tokens = self.likelihood(batch)
            return {"log_likelihood": (-nll).tolist(), "tokens": tokens.tolist()}
        table = self._scores(batch)
        chosen = table.argmax(1).tolist()
        counts = torch.bincount(batch["owner"]).tolist()
        rows = zip(table.tolist(), counts, strict=True)
        result = {"prediction": chosen, "scores": [row[:count] for row, count in rows]}
        if "answers" in batch:
            pairs = zip(batch["answers"], chosen, strict=True)
            result["answer"] = [answers[number] for answers, number in pairs]
        return result

    def score(self, batch: Batch) -> Tensor:
        """Return (B,), higher is better: the mean log-likelihood of each example's answer tokens.

        With candidates 1 where a right one is chosen, else 0.

        Raises:
            ConfigError: several examples lie in a row, so that their order is lost.
        """
        if "segments" in batch:
            raise ConfigError(
                "ClientEvaluation needs to know whose example is whose: set data.packing to false"
            )
        if "owner" in batch:
            table = self._scores(batch)
            right = right_candidates(batch, table.shape[1])
            return right.gather(1, table.argmax(1, keepdim=True)).squeeze(1).float()
        return -self.likelihood(batch).mean()

    def configure_optimizers(self) -> Optimizer:
        return fused_adamw(self, self.lr, self.weight_decay)

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        leave_out(checkpoint, self._frozen(), self._fingerprint)

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Put the frozen weights back; ConfigError if the checkpoint is of another model."""
        put_back(checkpoint, self.state_dict(), self._frozen(), self._fingerprint)

    def _evaluate(self, batch: Batch, stage: str, metrics: Any) -> None:
        if "references" in batch:
            texts = self._generate(batch)
            updated, losses = count_texts(metrics, texts, batch["references"], self.task), None
        elif "owner" in batch:
            table = self._scores(batch)
            updated = count_choices(metrics, table.argmax(1), batch)
            losses = gold_losses(table, right_candidates(batch, table.shape[1]))
        else:
            likelihood = self.likelihood(batch)
            updated, losses = count_likelihood(metrics, likelihood), likelihood.mean()
        if losses is not None and len(losses):
            self.log(f"{stage}_loss", losses.mean(), batch_size=len(losses), sync_dist=True)
        for name, metric in updated.items():
            self.log(f"{stage}_{name}", metric, prog_bar=True, batch_size=len(batch["input_ids"]))

    def _scores(self, batch: Batch) -> Tensor:
        found = self.likelihood(batch)
        return score_table(found, batch["owner"], batch["candidate"], len(batch["label"]))

    def _generate(self, batch: Batch) -> list[str]:
        if self._tokenizer is None:
            self._tokenizer = load_text_tokenizer(*self._tokenizer_name)
        size = self.generate_max_tokens or _GENERATED
        with self._precision():
            return generate_texts(self.model, self._tokenizer, batch, size)

    def _precision(self) -> Any:
        if self._autocast is None:
            return nullcontext()
        return torch.autocast(self.device.type, self._autocast)

    def _frozen(self) -> dict[str, Tensor]:
        parameters = self.named_parameters(remove_duplicate=False)
        return {n: p.data for n, p in parameters if n in self._pretrained and not p.requires_grad}
