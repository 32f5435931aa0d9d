"""Columns of the tables that figures and report read."""

from __future__ import annotations

from tinycats.completions.columns import MODEL
from tinycats.files.tables import Columns
from tinycats.policies.columns import KL

INTERVAL: Columns = {
    "mean": "mean over seeds",
    "low": "lower end of the 95 % interval over seeds (docs/metrics.md); empty with fewer than four seeds,"
    " and where they do not scatter like a normal distribution",
    "high": "upper end",
    "seeds": "number of seeds",
    "each": "their values, with blanks between; in training.csv only where low and high are empty",
}

#: name of a file in tables/ → its columns
TABLES: dict[str, Columns] = {
    "summary": {
        "model": MODEL["model"],
        "variant": MODEL["variant"],
        "kl_factor": MODEL["kl_factor"],
        "kl_coefficient_per_nat": "kl_factor / 50257, reward units per nat; empty for base and prompted",
        "metric": "name as in docs/metrics.md; stories of the training prompt's group",
        **INTERVAL,
    },
    "by_prompt_group": {
        "model": MODEL["model"],
        "variant": MODEL["variant"],
        "kl_factor": MODEL["kl_factor"],
        "prompt_group": "group of the prompts",
        "prompt": "one prompt of the group, for metrics that a single story has; not of `prompted`, whose"
        " every story mentions what it was made to say; empty: all prompts together",
        "metric": "name as in docs/metrics.md",
        **INTERVAL,
    },
    "by_position": {
        "model": MODEL["model"],
        "variant": MODEL["variant"],
        "kl_factor": MODEL["kl_factor"],
        "prompt_group": "group of the prompts",
        "position_from": "first new token of the bin, counted from 0",
        "position_to": "first new token after the bin",
        "metric": "`mentions_per_100_tokens`, `kl_policy_to_base_nats_per_token` or `log_ratio_nats_per_token`",
        **INTERVAL,
    },
    "paired_differences": {
        "comparison": "`A − B`, for example `KL 6000 − KL 0`",
        "minuend": "A: `base`, `prompted` or a KL factor",
        "subtrahend": "B, likewise",
        "variant": "A's variant",
        "subtrahend_variant": "B's variant; empty for base and prompted",
        "metric": "name as in docs/metrics.md",
        **INTERVAL,
        "p_value": "two-sided p-value of the paired t-test that the difference is 0 (empty with one seed)",
        "p_holm": "the same, adjusted for the number of rows in this table (Holm 1979)",
        "verdict": "`better`, `worse`, or `higher`, `lower` where neither is better, if p_holm < 0.05;"
        " else `undecided`",
    },
    "equal_kl": {
        "variant": MODEL["variant"],
        "kl_factor": "KL factor; empty: between the variant's KL factors, at the KL of prompting",
        "rival": "`best_of_n`, `prompted` (as many completions as give the same KL) or `variant`,"
        " another one between its KL factors",
        "rival_variant": "which, of the rival `variant`",
        "kl_policy_to_base_nats": "the policy's KL(policy‖base), at which the rival is held; mean over"
        " seeds, as all that follows",
        "reward": "the policy's reward",
        "rival_reward": "the rival's at the same KL",
        "share_of_attainable_gain": "the policy's share, as in frontier/policies.csv",
        "rival_share": "the rival's at the same KL",
        "regret_nats": "the policy's regret, as in frontier/policies.csv",
        "rival_regret_nats": "the rival's at the same KL",
        "mean": "reward − rival's reward, paired by seed",
        "low": "lower end of its 95 % interval: between seeds, and the rival's own error (empty with fewer"
        " than four seeds)",
        "high": INTERVAL["high"],
        "seeds": INTERVAL["seeds"],
        "each": "the differences of the seeds, with blanks between",
        "p_value": "two-sided p-value of no difference (empty with one seed)",
        "p_holm": "the same, adjusted for the number of rows in this table (Holm 1979)",
        "verdict": "`better` or `worse` than the rival if p_holm < 0.05; else `undecided`",
    },
    "first_token": {
        "model": MODEL["model"],
        "variant": MODEL["variant"],
        "kl_factor": MODEL["kl_factor"],
        "after": "the new tokens before it: none, or the base model's likeliest first token",
        "token": "text of the next token",
        "probability": "its exact probability after the training prompt and `after`, mean over seeds",
    },
    "decomposition": {
        "model": "whose change is split: `policy`, `best_of_n` (at the KL of that policy) or `prompted`",
        "variant": MODEL["variant"],
        "kl_factor": MODEL["kl_factor"],
        "kl_policy_to_base_nats": "its KL(policy‖base), mean over seeds",
        "metric": "name as in docs/metrics.md; stories of the training prompt",
        "part": "`necessary`, `off_frontier`, `spillover`, or `whole`, their sum (docs/damage.md)",
        **INTERVAL,
    },
    "training": {
        "variant": MODEL["variant"],
        "kl_factor": MODEL["kl_factor"],
        "step": "as in training.csv",
        "metric": "a column of training.csv",
        **INTERVAL,
    },
    "top_completions": {
        "variant": MODEL["variant"],
        "kl_factor": MODEL["kl_factor"],
        "seed": MODEL["seed"],
        "step": "as in training.csv",
        "prompt": "the prompt",
        "text": "completion",
        "share": "share of the batch",
        "reward": "its reward",
    },
    "trajectories": {
        "variant": MODEL["variant"],
        "kl_factor": MODEL["kl_factor"],
        "seed": MODEL["seed"],
        "step": "as in training.csv; one past the last: the finished policy's completions",
        "completions_drawn": "completions that training had drawn before this batch",
        "reward": "mean reward",
        **KL,
    },
}
