"""A tiny, randomly initialised model of every family, with its real classes."""

import torch
import transformers as hf

ENCODER = {
    "vocab_size": 60,
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "intermediate_size": 48,
    "max_position_embeddings": 40,
}
DECODER = {**ENCODER, "num_key_value_heads": 1, "head_dim": 16, "pad_token_id": 0}
DISENTANGLED = {
    **ENCODER,
    "relative_attention": True,
    "pos_att_type": ["p2c", "c2p"],
    "max_relative_positions": 16,
}

CONFIGS = {
    "bert": lambda: hf.BertConfig(**ENCODER),
    "roberta": lambda: hf.RobertaConfig(**ENCODER),
    "xlm-roberta": lambda: hf.XLMRobertaConfig(**ENCODER),
    "camembert": lambda: hf.CamembertConfig(**ENCODER),
    "electra": lambda: hf.ElectraConfig(**ENCODER, embedding_size=16),
    "deberta": lambda: hf.DebertaConfig(**DISENTANGLED),
    "deberta-v2": lambda: hf.DebertaV2Config(
        **DISENTANGLED, share_att_key=True, position_buckets=8, norm_rel_ebd="layer_norm"
    ),
    "distilbert": lambda: hf.DistilBertConfig(
        vocab_size=60, dim=32, n_layers=2, n_heads=2, hidden_dim=48, max_position_embeddings=40
    ),
    "llama": lambda: hf.LlamaConfig(**DECODER),
    "mistral": lambda: hf.MistralConfig(**DECODER),
    "qwen2": lambda: hf.Qwen2Config(**DECODER),
    "qwen3": lambda: hf.Qwen3Config(**DECODER),
    "gemma": lambda: hf.GemmaConfig(**DECODER),
    "gemma2": lambda: hf.Gemma2Config(**DECODER, query_pre_attn_scalar=16),
    "gemma3_text": lambda: hf.Gemma3TextConfig(**DECODER, query_pre_attn_scalar=16),
    "phi3": lambda: hf.Phi3Config(**DECODER),
    "phi": lambda: hf.PhiConfig(**DECODER),
    "gpt_neox": lambda: hf.GPTNeoXConfig(**ENCODER, pad_token_id=0),
    "gpt2": lambda: hf.GPT2Config(
        vocab_size=60, n_embd=32, n_layer=2, n_head=2, n_positions=40, pad_token_id=0
    ),
    "opt": lambda: hf.OPTConfig(
        vocab_size=60,
        hidden_size=32,
        num_hidden_layers=2,
        num_attention_heads=2,
        ffn_dim=48,
        max_position_embeddings=40,
        word_embed_proj_dim=32,
        pad_token_id=1,
    ),
    "t5": lambda: hf.T5Config(
        vocab_size=60,
        d_model=32,
        d_kv=16,
        d_ff=48,
        num_layers=2,
        num_heads=2,
        pad_token_id=0,
        decoder_start_token_id=0,
    ),
}


DECODERS = [
    *("llama", "mistral", "qwen2", "qwen3", "gemma", "gemma2", "gemma3_text", "phi3", "phi"),
    *("gpt_neox", "gpt2", "opt"),
]


def classifier(family, seed=0, **config):
    """A sequence classifier of the family, in evaluation mode so that its dropout is off."""
    torch.manual_seed(seed)
    made = CONFIGS[family]()
    for key, value in config.items():
        setattr(made, key, value)
    return hf.AutoModelForSequenceClassification.from_config(made).eval()


def language_model(family, seed=0, **config):
    """A causal language model of a decoder family, in evaluation mode."""
    torch.manual_seed(seed)
    made = CONFIGS[family]()
    for key, value in config.items():
        setattr(made, key, value)
    return hf.AutoModelForCausalLM.from_config(made).eval()


def batch(seed=0):
    generator = torch.Generator().manual_seed(seed)
    ids = torch.randint(3, 60, (3, 7), generator=generator)
    ids[:, -1] = 1  # T5's end token, which its classifier pools
    return {
        "input_ids": ids,
        "attention_mask": torch.ones_like(ids),
        "labels": torch.tensor([0, 1, 0]),
    }
