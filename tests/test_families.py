"""Every family of transformers' language models on the prefix tree against its plain forward pass.

A family is right (log-probabilities, KLs and gradients within 1e-4), or refused in one line.
"""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from families import END, NOT_SMALL, VOCABULARY, small_model
from torch import Tensor
from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING_NAMES as FAMILIES

from tinycats.language_model.cache import growing_cache
from tinycats.language_model.network import Network
from tinycats.language_model.sampling import uniform_generator
from tinycats.policies.rollout import Sampler
from tinycats.program import UserError

PROMPT = [5, 9, 17, 3, 40, 0, 22]
NEW_TOKENS = 6
COEFFICIENT = 0.3

#: must be right; the first ones are those that were once wrong in silence
RIGHT = (
    "cohere", "cohere2", "vaultgemma", "gemma2", "bert-generation", "granite", "deepseek_v3",
    "gpt2", "gpt_neo", "gpt_neox", "llama", "mistral", "mixtral", "qwen2", "qwen3", "gemma",
    "gemma3_text", "phi3", "opt", "bloom", "olmo2", "smollm3", "gpt_oss",
)  # fmt: skip
#: must be refused, with the reason
REFUSED = {
    **dict.fromkeys(("mamba", "rwkv", "jamba", "openai-gpt", "bamba", "xlnet"), "past_key_values"),
    **dict.fromkeys(("bert", "roberta", "electra"), "output layer"),
}
REST = sorted({*FAMILIES} - {*RIGHT, *REFUSED} - NOT_SMALL)


def moved(model: Any) -> Any:
    """A copy whose parameters are changed a little."""
    generator = torch.Generator().manual_seed(1)
    other = copy.deepcopy(model)
    with torch.no_grad():
        for parameter in other.parameters():
            parameter += 0.02 * torch.randn(parameter.shape, generator=generator)
    return other


def log_probabilities(model: Any, ids: list[int]) -> Tensor:
    """log p after each token of ``ids`` but the last, from the prompt's last one on."""
    logits = model(input_ids=torch.tensor([ids]), use_cache=False).logits
    return logits[0, len(PROMPT) - 1 : -1].float().log_softmax(-1)


def check(family: str) -> None:
    """Compare one family with its plain forward pass.

    Raises:
        UserError: the family is refused.
    """
    base = small_model(family)
    policy = moved(base)
    networks = Network(policy), Network(base)
    tree = Sampler(*networks, PROMPT, NEW_TOKENS, END, micro_batch=16, tree_depth=4)
    rollout = tree.sample(24, uniform_generator(0, 0), keep_graph=True)
    drawn = [[i for i in row if i >= 0] for row in rollout.tokens.tolist()]
    advantage = torch.rand(len(drawn), generator=uniform_generator(1, 0)) - 0.3
    loss, expected = torch.zeros(()), []
    policy.zero_grad(set_to_none=True)
    for ids, weight in zip(drawn, advantage, strict=True):
        log_p = log_probabilities(policy, PROMPT + ids)
        with torch.no_grad():
            log_p_base = log_probabilities(base, PROMPT + ids)
        taken = torch.tensor(ids)[:, None]
        backward = (log_p_base.exp() * (log_p_base - log_p)).sum()
        expected.append(
            [
                log_p.gather(1, taken).sum(),
                log_p_base.gather(1, taken).sum(),
                (log_p.exp() * (log_p - log_p_base)).sum(),
                backward,
            ]
        )
        loss = loss - weight * expected[-1][0] + COEFFICIENT * backward
    (loss / len(drawn)).backward()
    wanted = {n: p.grad.clone() for n, p in policy.named_parameters() if p.grad is not None}
    names = ("log_prob", "log_prob_base", "kl_policy_to_base", "kl_base_to_policy")
    for name, values in zip(names, zip(*expected, strict=True), strict=True):
        found_sums, wanted_sums = getattr(rollout, name).float(), torch.stack(values).detach()
        torch.testing.assert_close(found_sums, wanted_sums, rtol=1e-4, atol=1e-4)
    policy.zero_grad(set_to_none=True)
    tree.backward(rollout, advantage, COEFFICIENT, "base_to_policy", 1)
    found = {n: p.grad for n, p in policy.named_parameters() if p.grad is not None}
    for name in {*wanted, *found}:
        zero = torch.zeros(1)
        difference = (found.get(name, zero) - wanted.get(name, zero)).abs().max()
        size = max(1.0, float(wanted.get(name, zero).abs().max()))
        assert float(difference) < 1e-4 * size, f"gradient of {name}: {difference}"
    # a long story, past the sliding window and longer than the check at load
    story = PROMPT + torch.randint(VOCABULARY, (20,), generator=uniform_generator(2, 0)).tolist()
    cache, fed, steps = growing_cache(len(story)), torch.tensor([PROMPT]), []
    with torch.no_grad():
        for token in story[len(PROMPT) :]:
            steps.append(networks[0].next_log_probabilities(fed, cache)[0])
            fed = torch.tensor([[token]])
        plain = log_probabilities(policy, story)
    torch.testing.assert_close(torch.stack(steps), plain, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("family", RIGHT)
def test_common_families_are_right(family: str) -> None:
    check(family)


@pytest.mark.parametrize("family", REFUSED)
def test_what_the_tree_cannot_compute_is_refused_with_the_reason(family: str) -> None:
    with pytest.raises(UserError, match=REFUSED[family]) as error:
        check(family)
    assert "\n" not in str(error.value)


@pytest.mark.slow
@pytest.mark.parametrize("family", REST)
def test_every_other_family_is_right_or_refused(family: str) -> None:
    try:
        check(family)
    except UserError as error:
        assert "\n" not in str(error)  # noqa: PT017
