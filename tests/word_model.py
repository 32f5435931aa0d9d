"""Tiny models of twenty words, a token each, whose completions repeat and often end early."""

from __future__ import annotations

from typing import Any

import ladder_steps
import torch

END = "<|endoftext|>"
VOCABULARY = [
    *(END, "once", "there", "was", "a", "cat", "dog", "bird", "who", "sat"),
    *("ran", "sang", "on", "the", "mat", "hill", "and", "then", "it", "slept"),
]


def word_tokenizer() -> Any:
    """One token a word; the end token is special."""
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    place = {word: i for i, word in enumerate(VOCABULARY)}
    words = Tokenizer(models.WordLevel(place, END))
    words.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    return PreTrainedTokenizerFast(tokenizer_object=words, eos_token=END)


def tied_model(end: float = 3.0) -> Any:
    """GPT-Neo, whose head is its embedding; ``end`` is added to the end token's logit."""
    model = ladder_steps.gpt_neo(len(VOCABULARY))
    with torch.no_grad():
        model.transformer.ln_f.weight.mul_(2)
        vector = model.transformer.wte.weight[0]
        model.transformer.ln_f.bias.add_(end * vector / vector.norm() ** 2)
    return model


def biased_model(end: float = 1.0) -> Any:
    """Phi, whose head has weights of its own and a bias."""
    from transformers import PhiConfig, PhiForCausalLM

    config = PhiConfig(
        vocab_size=len(VOCABULARY),
        hidden_size=16,
        intermediate_size=32,
        num_hidden_layers=2,
        num_attention_heads=2,
        max_position_embeddings=64,
        tie_word_embeddings=False,
        bos_token_id=0,
        eos_token_id=0,
    )
    model = ladder_steps._with_large_weights(PhiForCausalLM(config), 0)
    with torch.no_grad():
        model.lm_head.bias.copy_(torch.linspace(end, 0, len(VOCABULARY)))
    return model
