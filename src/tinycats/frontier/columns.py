"""Columns of the tables of the limit."""

from __future__ import annotations

from tinycats.completions.columns import MODEL
from tinycats.files.tables import Columns
from tinycats.policies.columns import KL

#: effective samples from which on an estimate of the limit is trusted; below, a lower bound
ENOUGH_SAMPLES = 200

#: frontier/limit.csv
LIMIT: Columns = {
    "beta": "strength β of the KL penalty, reward units per nat",
    "log_z": "log Z(β) = log E_base[exp(r/β)]",
    "kl_policy_to_base_nats": "KL of the best policy at β, nats",
    "reward": "reward of the best policy at β",
    "low": "lower end of the 95 % bootstrap band of the reward at this KL",
    "high": "upper end",
    "effective_sample_size": "(Σw)² / Σw²",
    "pool": "`base` (base samples only) or `pooled` (with every trained policy's)",
}

#: frontier/best_of_n.csv
BEST_OF_N: Columns = {
    "n": "number of candidates",
    "reward": "expected reward of the best of n",
    "kl_policy_to_base_nats": "its exact KL by order statistics, ties handled, nats",
    "kl_bound_nats": "log n − (n − 1)/n, the usual upper bound",
}

#: frontier/policies.csv
POLICIES: Columns = {
    "variant": MODEL["variant"],
    "kl_factor": MODEL["kl_factor"],
    "seed": MODEL["seed"],
    "reward": "mean reward of its completions",
    **KL,
    "limit": "R*(K) at its KL(policy‖base), from a pool without this policy",
    "limit_low": "lower end of the limit's 95 % bootstrap band",
    "limit_high": "upper end",
    "gap": "limit − reward",
    "share_of_attainable_gain": "(reward − base reward) / (limit − base reward)",
    "effective_sample_size": "of the limit at that KL",
}

#: frontier/prompted.csv
PROMPTED: Columns = {
    "text": "what the base was made to begin with",
    "reward": "mean reward of completions that begin so",
    "kl_policy_to_base_nats": "−log p_base(text), exact, nats",
}

#: name of a file in frontier/ → its columns
TABLES: dict[str, Columns] = {
    "limit": LIMIT,
    "best_of_n": BEST_OF_N,
    "policies": POLICIES,
    "prompted": PROMPTED,
}
