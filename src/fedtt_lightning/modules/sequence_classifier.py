"""Sequence classification with any PEFT method; it knows nothing of federation."""

from __future__ import annotations

from typing import Any

from lightning.pytorch import LightningModule
from peft import PeftConfig, TaskType
from torch import Tensor
from torch.optim import Optimizer

from fedtt_lightning.errors import ConfigError
from fedtt_lightning.modules.backbone import load_backbone
from fedtt_lightning.modules.methods import choose_trained, fused_adamw
from fedtt_lightning.modules.metrics import is_regression, task_metrics
from fedtt_lightning.modules.slim_checkpoint import fingerprint, leave_out, put_back


class SequenceClassifier(LightningModule):
    """A pretrained model with a classification head, fine-tuned with a PEFT method or by itself.

    Batches are dicts of `input_ids` (B, T), `attention_mask` (B, T), perhaps `token_type_ids`, and
    `labels` (B,); those that evaluate MultiRC also have `group`, a list of the question of each
    answer. Parameters that the pretrained files do not hold (head, sometimes the pooler) always
    train. Checkpoints leave out the frozen pretrained weights and hold a fingerprint of them
    instead.

    Args:
        backbone: Model on the hub, folder with a model, or `builtin` for the small one that is
            made on the spot.
        peft: Any PEFT configuration by class_path, such as fedtt_lightning.adapters.TTAdapterConfig
            or peft.LoraConfig; null trains the model's own weights.
        trainable: Without `peft`, which weights train beside those no file held: regular
            expressions searched in the names of the model's parameters. `[]` trains the head only,
            `["\\.bias$"]` is BitFit (arXiv 2106.10199), null trains every weight.
        num_labels: Number of classes (1 for a regression task).
        task: GLUE task, which decides the metrics; any other name means accuracy.
        lr: Learning rate of AdamW.
        weight_decay: Weight decay of AdamW.

    Attributes:
        fresh_parameters: How many parameters the pretrained files do not hold.

    Raises:
        ConfigError: the backbone cannot be loaded, the PEFT method does not fit it, or an entry of
            `trainable` matches nothing.
    """

    def __init__(
        self,
        backbone: str,
        peft: PeftConfig | None = None,
        num_labels: int = 2,
        task: str = "builtin",
        lr: float = 1e-3,
        weight_decay: float = 0.0,
        trainable: list[str] | None = None,
    ) -> None:
        super().__init__()
        self.save_hyperparameters(ignore=["peft"])
        if "_instantiator" in self.hparams:  # from the command line: plain values, peft's as well
            self.save_hyperparameters()
        self.lr = lr
        self.weight_decay = weight_decay
        self.trainable = trainable
        self.regression = is_regression(task)
        if num_labels < 1 or (self.regression and num_labels != 1):
            raise ConfigError(
                f"model.num_labels is {num_labels}; {task} needs "
                f"{'exactly 1, a score' if self.regression else 'at least 1'}"
            )
        loaded = load_backbone(backbone, num_labels, self.regression)
        parameters = dict(loaded.model.named_parameters(remove_duplicate=False))
        pretrained = {id(p) for name, p in parameters.items() if name not in loaded.fresh}
        self.fresh_parameters = sum(parameters[name].numel() for name in loaded.fresh)
        self.model = choose_trained(loaded.model, peft, trainable, TaskType.SEQ_CLS, loaded.fresh)
        self._pretrained = frozenset(
            name
            for name, parameter in self.named_parameters(remove_duplicate=False)
            if id(parameter) in pretrained
        )
        self._fingerprint = fingerprint(self._frozen())
        self.val_metrics = task_metrics(task, num_labels).clone(prefix="val_")
        self.test_metrics = task_metrics(task, num_labels).clone(prefix="test_")

    def forward(self, **batch: Tensor) -> Tensor:
        """Return the logits (B, num_labels)."""
        logits: Tensor = self.model(**batch).logits
        return logits

    def training_step(self, batch: dict[str, Tensor], batch_idx: int) -> Tensor:
        loss: Tensor = self.model(**batch).loss
        self.log("train_loss", loss, prog_bar=True)
        return loss

    def validation_step(self, batch: dict[str, Any], batch_idx: int) -> None:
        self._evaluate(batch, "val", self.val_metrics)

    def test_step(self, batch: dict[str, Any], batch_idx: int) -> None:
        self._evaluate(batch, "test", self.test_metrics)

    def predict_step(self, batch: dict[str, Any], batch_idx: int) -> dict[str, Tensor]:
        """Return `prediction` (B,): class or score, and `probabilities` (B, C) of classes."""
        logits = self(**_inputs(batch))
        result = {"prediction": self._predicted(logits)}
        if not self.regression:
            result["probabilities"] = logits.softmax(-1)
        return result

    def score(self, batch: dict[str, Any]) -> Tensor:
        """Return (B,), higher is better: 1 where right, else 0; minus squared errors of scores."""
        logits = self(**_inputs(batch))
        predicted, labels = self._predicted(logits), batch["labels"]
        return -(predicted - labels).square() if self.regression else (predicted == labels).float()

    def configure_optimizers(self) -> Optimizer:
        return fused_adamw(self, self.lr, self.weight_decay)

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        leave_out(checkpoint, self._frozen(), self._fingerprint)

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Put the frozen weights back; ConfigError if the checkpoint is of another model."""
        put_back(checkpoint, self.state_dict(), self._frozen(), self._fingerprint)

    def _evaluate(self, batch: dict[str, Any], stage: str, metrics: Any) -> None:
        labels = batch["labels"]
        output = self.model(**_inputs(batch), labels=labels)
        metrics.update(self._predicted(output.logits), labels, group=batch.get("group"))
        self.log(f"{stage}_loss", output.loss, batch_size=len(labels), sync_dist=True)
        self.log_dict(metrics, prog_bar=True, batch_size=len(labels))

    def _predicted(self, logits: Tensor) -> Tensor:
        return logits.squeeze(-1) if self.regression else logits.argmax(-1)

    def _frozen(self) -> dict[str, Tensor]:
        parameters = self.named_parameters(remove_duplicate=False)
        return {n: p.data for n, p in parameters if n in self._pretrained and not p.requires_grad}


def _inputs(batch: dict[str, Any]) -> dict[str, Tensor]:
    """Return what the model takes, but for labels."""
    return {key: value for key, value in batch.items() if key not in ("labels", "group")}
