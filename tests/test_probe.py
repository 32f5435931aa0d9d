"""What a language model is checked for when it is loaded, and how prompts are encoded."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from families import END, small_model
from tiny_model import SENTENCES, write_model

from tinycats.completions.collector import Collector
from tinycats.language_model.network import Network
from tinycats.language_model.sampling import uniform_generator
from tinycats.language_model.text import decode, encode, encode_prompt
from tinycats.models.folders import load_causal_lm
from tinycats.policies.settings import TrainingSettings
from tinycats.policies.training import Trainer
from tinycats.program import UserError
from tinycats.stories.storytelling import requests, tell_stories


def refusal(model) -> str:
    with pytest.raises(UserError) as error:
        Network(model)
    assert "\n" not in str(error.value)
    return str(error.value)


def test_weights_that_are_not_finite_are_named() -> None:
    model = small_model("llama")
    model.model.layers[1].mlp.up_proj.weight.data[0, 0] = float("nan")
    assert "not finite (NaN or infinite), the first in model.layers.1.mlp" in refusal(model)


def test_a_policy_that_diverged_is_named_as_such() -> None:
    model = small_model("gpt2")
    with torch.no_grad():
        for parameter in model.parameters():
            parameter *= 1e4
    assert "training diverged (a smaller training.learning_rate helps)" in refusal(model)


def test_a_model_that_reads_later_tokens_is_refused() -> None:
    model = small_model("bert-generation")
    model.config.is_decoder = False
    for module in model.modules():
        if hasattr(module, "is_causal"):
            module.is_causal = False
        if hasattr(module, "is_decoder"):
            module.is_decoder = False
    assert "reads tokens after the one it predicts" in refusal(model)


def test_logits_changed_in_another_way_are_refused() -> None:
    model = small_model("llama")
    model.lm_head.register_forward_hook(lambda module, inputs, logits: logits)
    original = model.forward

    def squared(*values, **options):
        out = original(*values, **options)
        out.logits = out.logits * out.logits.abs()
        return out

    model.forward = squared
    assert "other logits than its output layer gives" in refusal(model)


def test_return_dict_false_changes_nothing(tmp_path: Path) -> None:
    folder = write_model(tmp_path / "tiny")
    expected, tokenizer = load_causal_lm(folder)
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, "return_dict": False}))
    found, _ = load_causal_lm(folder)
    ids = torch.tensor([[5, 6, 7]])
    assert torch.equal(found(ids).logits, expected(ids).logits)
    network = Network(found)
    asked = requests(tokenizer, {"training": ["Once"]}, {"training": 1}, "", 0)
    assert tell_stories(network, network, tokenizer, asked, 3)


# ---- prompts ---------------------------------------------------------------------------------------


def llama_tokenizer(end: str = ""):
    """A tokenizer like Llama's, which puts ``<s>`` in front (and ``end`` after, as T5's does)."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers
    from transformers import PreTrainedTokenizerFast

    tokenizer = Tokenizer(models.BPE(unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace()
    tokenizer.decoder = decoders.Metaspace()
    special = ["<s>", "</s>", "<unk>"]
    trainer = trainers.BpeTrainer(vocab_size=48, special_tokens=special, show_progress=False)
    tokenizer.train_from_iterator(SENTENCES * 4, trainer)
    tokenizer.post_processor = processors.TemplateProcessing(
        single=f"<s> $A {end}".strip(), special_tokens=[("<s>", 0), ("</s>", END)]
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, bos_token="<s>", eos_token="</s>", unk_token="<unk>"
    )


@pytest.mark.parametrize("end", ["", "</s>"])
def test_special_tokens_in_front_of_a_prompt_are_kept(end: str) -> None:
    tokenizer = llama_tokenizer(end)
    ids = encode_prompt(tokenizer, "Once upon a time")
    assert ids == [0, *encode(tokenizer, "Once upon a time")]
    assert ids == llama_tokenizer().encode("Once upon a time"), "the post's own call"
    assert 0 not in encode(tokenizer, " a cat"), "nothing comes before a forced beginning"
    assert decode(tokenizer, ids) == "Once upon a time"


def test_nano_has_no_special_tokens_in_front() -> None:
    from transformers import AutoTokenizer

    nano = AutoTokenizer.from_pretrained(Path(__file__).parents[1] / "workflow/resources/nano")
    for text in ("Once upon a time there was", "", "<|endoftext|> a"):
        assert encode_prompt(nano, text) == encode(nano, text)


def test_stories_follow_the_special_token(tmp_path: Path) -> None:
    """Stories' log-probabilities are those of the model's own pass over ``<s>`` and the prompt."""
    model, tokenizer = small_model("llama"), llama_tokenizer()
    network = Network(model)
    asked = requests(tokenizer, {"training": ["Once upon"]}, {"training": 3}, "", 0)
    for row in tell_stories(network, network, tokenizer, asked, 6):
        prompt = tokenizer.encode("Once upon")
        assert prompt[0] == 0
        ids = row["token_ids"]
        with torch.no_grad():
            log_p = model(torch.tensor([prompt + ids])).logits.log_softmax(-1)
        own = log_p[0, len(prompt) - 1 : -1].gather(1, torch.tensor(ids)[:, None])[:, 0]
        assert row["log_prob_base"] == pytest.approx(own.tolist(), abs=1e-3)


@pytest.mark.parametrize("activation", ["gelu", "gelu_new"])
def test_gpt_neo_for_gpus_is_transformers_gpt_neo(activation):
    from transformers import GPTNeoConfig, GPTNeoModel

    from tinycats.language_model.cache import branch
    from tinycats.language_model.gpt_neo import GptNeoBody

    torch.manual_seed(0)
    shape: dict[str, Any] = {"vocab_size": 50, "hidden_size": 24, "num_layers": 2, "num_heads": 3}
    body = GPTNeoModel(
        GPTNeoConfig(
            **shape,
            max_position_embeddings=32,
            window_size=8,
            attention_types=[[["global", "local"], 1]],
            activation_function=activation,
            resid_dropout=0.0,
            embed_dropout=0.0,
            attention_dropout=0.0,
        )
    )
    fast = GptNeoBody(body)
    past: list = []
    for length in (4, 1, 3):  # the prompt, a level of the tree, the tail
        inputs = torch.randint(50, (5, length))
        assert fast.serves(inputs, past)
        cache = branch(past)
        out = body(input_ids=inputs, past_key_values=cache, use_cache=True).last_hidden_state
        hidden, new = fast(inputs, past)
        torch.testing.assert_close(hidden, out, rtol=1e-4, atol=1e-5)
        seed = torch.randn_like(out)
        ours, theirs = (
            torch.autograd.grad(x, list(body.parameters()), seed, allow_unused=True)
            for x in (hidden, out)
        )
        for a, b in zip(ours, theirs, strict=True):
            if b is not None:
                torch.testing.assert_close(a, b, rtol=1e-3, atol=1e-4)
        new = [(k.detach(), v.detach()) for k, v in new]
        if past:
            past = [([*a, k], [*b, v]) for (a, b), (k, v) in zip(past, new, strict=True)]
        else:
            past = [([k], [v]) for k, v in new]
    assert not fast.serves(inputs, past)  # beyond the window of local attention
    assert GptNeoBody.of(body) is None  # on a CPU


def test_training_and_completions_follow_the_special_token(tmp_path: Path) -> None:
    """What they say of ``<s>`` and the prompt is the model's own pass; rewards see no ``<s>``."""
    base, policy, tokenizer = small_model("llama"), small_model("llama"), llama_tokenizer()
    prompt = tokenizer.encode("Once upon")
    rewarded: list[str] = []

    def reward(texts: list[str]) -> torch.Tensor:
        rewarded.extend(texts)
        return torch.tensor([float(text.count("a")) for text in texts])

    def log_p(ids: list[int]) -> float:
        with torch.no_grad():
            logits = base(torch.tensor([prompt + ids])).logits.log_softmax(-1)
        return float(logits[0, len(prompt) - 1 : -1].gather(1, torch.tensor(ids)[:, None]).sum())

    short = len(prompt) + 3
    collector = Collector(base, tokenizer, reward, ["Once upon"], short, 16)  # type: ignore[arg-type]
    collector.draw_base(20)
    ((_, rows),) = collector.tables
    for row in rows:
        ids = [int(token) for token in row["token_ids"].split()]
        assert len(ids) <= 3
        assert row["log_prob_base"] == pytest.approx(log_p(ids), abs=1e-3)
    assert rewarded
    assert all(text.startswith("Once upon") for text in rewarded)
    del rewarded[:]
    settings = TrainingSettings(
        kl_factor=0.0, steps=1, batch_size=20, prompts=("Once upon",), num_tokens=short
    )
    trainer = Trainer(policy, base, tokenizer, reward, settings, "a test", tmp_path / "state.pt")
    rollout = trainer.mixture.samplers[0].sample(20, uniform_generator(0, 0))
    for tokens, found in zip(rollout.tokens.tolist(), rollout.log_prob.tolist(), strict=True):
        assert found == pytest.approx(log_p([i for i in tokens if i >= 0]), abs=1e-3)
    trainer.take_step()
    assert rewarded
    assert all(text.startswith("Once upon") for text in rewarded)
    none = replace(settings, num_tokens=len(prompt))
    with pytest.raises(UserError, match=f"the prompt 'Once upon' has {len(prompt)}"):
        Trainer(policy, base, tokenizer, reward, none, "a test", tmp_path / "state.pt")
