"""Tiny random models of the causal language models of transformers, one of each family."""

from __future__ import annotations

from typing import Any

import torch

VOCABULARY = 48
END = 1

#: small values of the entries that configurations share, under all their names
SMALL: dict[str, Any] = {
    **dict.fromkeys(("vocab_size", "vocab_size_per_layer_input"), VOCABULARY),
    **dict.fromkeys(("hidden_size", "n_embd", "d_model", "dim", "word_embed_proj_dim"), 32),
    **dict.fromkeys(("embedding_size", "input_embedding_size", "output_embedding_size"), 32),
    **dict.fromkeys(
        ("intermediate_size", "ffn_dim", "n_inner", "dff", "ffn_hidden_size", "d_ff"), 48
    ),
    **dict.fromkeys(("decoder_ffn_dim", "encoder_ffn_dim", "moe_intermediate_size"), 48),
    **dict.fromkeys(("shared_expert_intermediate_size", "shared_intermediate_size"), 48),
    **dict.fromkeys(("num_hidden_layers", "n_layer", "n_layers", "num_layers"), 2),
    **dict.fromkeys(("decoder_layers", "encoder_layers"), 2),
    **dict.fromkeys(("num_attention_heads", "n_head", "n_heads", "num_heads"), 4),
    **dict.fromkeys(("decoder_attention_heads", "encoder_attention_heads"), 4),
    **dict.fromkeys(("num_key_value_heads", "num_kv_heads", "multi_query_group_num"), 2),
    **dict.fromkeys(("head_dim", "kv_channels", "qk_rope_head_dim", "qk_nope_head_dim"), 8),
    **dict.fromkeys(("rotary_dim", "state_size", "v_head_dim"), 8),
    **dict.fromkeys(("kv_lora_rank", "q_lora_rank", "per_layer_input"), 16),
    **dict.fromkeys(("num_experts", "num_local_experts", "n_routed_experts"), 4),
    **dict.fromkeys(("num_experts_per_tok", "moe_topk", "n_shared_experts"), 2),
    **dict.fromkeys(("n_group", "topk_group", "first_k_dense_replace"), 1),
    **dict.fromkeys(("max_position_embeddings", "n_positions", "n_ctx", "max_seq_len"), 64),
    **dict.fromkeys(("sliding_window", "window_size", "attention_chunk_size"), 4),
    **dict.fromkeys(("bos_token_id", "pad_token_id"), 0),
    **dict.fromkeys(("eos_token_id", "sep_token_id", "decoder_start_token_id"), END),
    "is_decoder": True,
    "add_cross_attention": False,
    "use_cache": True,
    "router_jitter_noise": 0.0,
    "input_jitter_noise": 0.0,
    "mamba_n_heads": 8,
    "type_vocab_size": 1,
}

_EXPANDED = {"num_key_value_heads": 4, "v_head_dim": 12}  # keys and values differ in width
_GROUPED = {"num_key_value_heads": 2, "head_dim": 8}

#: what some families need besides
OVERRIDES: dict[str, dict[str, Any]] = {
    "axk1": _EXPANDED,
    "axk2": _EXPANDED,
    "deepseek_v2": _EXPANDED,
    "deepseek_v3": _EXPANDED,
    "deepseek_v32": _EXPANDED,
    "glm4_moe_lite": _EXPANDED,
    "glm_moe_dsa": _EXPANDED,
    "minicpm3": _EXPANDED,
    "youtu": _EXPANDED,
    "hunyuan_v1_dense": _GROUPED,
    "hunyuan_v1_moe": _GROUPED,
    "ministral": _GROUPED,
    "nemotron": _GROUPED,
    "gpt_neo": {"attention_types": [[["global", "local"], 1]]},
}

#: families without a small configuration here: they have images or sound, or entries of their own
NOT_SMALL = frozenset({
    "blt", "cohere_compass_text", "dbrx", "dots1", "dots3_note", "dots3_note_text", "emu3",
    "fuyu", "gemma3", "gemma3n", "gemma3n_text", "gemma4", "gemma4_assistant",
    "gemma4_unified", "gemma4_unified_assistant", "git", "got_ocr2", "kimi_linear",
    "lfm2_moe", "llama4", "longcat_flash", "mamba2", "mllama", "moss_transcribe_diarize",
    "musicgen", "musicgen_melody", "phi4_multimodal", "qwen3_5", "qwen3_5_moe", "qwen4_exp",
    "reformer", "roc_bert", "xlm", "zamba", "zamba2", "zaya",
})  # fmt: skip


def small_config(family: str) -> Any:
    """A small configuration of a family (a ``model_type`` of transformers)."""
    from transformers.models.auto.configuration_auto import CONFIG_MAPPING

    kind = CONFIG_MAPPING[family]
    known = vars(kind())
    aliases = getattr(kind, "attribute_map", {})
    options = {
        name: value
        for name, value in SMALL.items()
        if name == "is_decoder" or (name not in aliases and known.get(name) is not None)
    }
    return kind(**{**options, **OVERRIDES.get(family, {})})


def small_model(family: str, seed: int = 0) -> Any:
    """A random model whose distributions are far from uniform, in eval mode, without dropout.

    Raises:
        ValueError: the configuration is not a small one.
    """
    from transformers import AutoModelForCausalLM

    config = small_config(family)
    with torch.device("meta"):
        size = sum(p.numel() for p in AutoModelForCausalLM.from_config(config).parameters())
    if size > 3_000_000:
        raise ValueError(f"{size} parameters")
    torch.manual_seed(seed)
    model: Any = AutoModelForCausalLM.from_config(config, dtype=torch.float32).eval()
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.dim() > 1 and parameter.is_floating_point():
                parameter.copy_(0.2 * torch.randn(parameter.shape, generator=generator))
    return model
