"""The methods that benchmarks compare: config files, and options with which all train one head."""

from __future__ import annotations

Method = tuple[tuple[str, ...], tuple[str, ...]]  # config files, options
FEDTT = ("configs/methods/fedtt.yaml",)
LORA = ("configs/methods/lora.yaml",)
DENSE_HEAD = ("--model.peft.tt_classifier", "false")  # the head of all the others
METHODS: dict[str, Method] = {
    "FedTT r=5": (FEDTT, DENSE_HEAD),
    "FedTT+ r=5": ((*FEDTT, "callbacks/fedtt_plus.yaml"), DENSE_HEAD),
    "LoRA r=8": (LORA, ()),
    "FFA-LoRA r=8": ((*LORA, "callbacks/ffa_lora.yaml"), ()),
    "RoLoRA r=8": ((*LORA, "callbacks/rolora.yaml"), ()),
    "dense adapter": (("configs/methods/dense_adapter.yaml",), ()),
    "head only": (("configs/methods/head_only.yaml",), ()),
}
