"""LightningModules to fine-tune; any PEFT method, no knowledge of federation."""

from fedtt_lightning.modules.causal_lm import CausalLM
from fedtt_lightning.modules.sequence_classifier import SequenceClassifier

__all__ = ["CausalLM", "SequenceClassifier"]
