"""Columns of the tables that training a policy writes."""

from __future__ import annotations

from tinycats.files.tables import Columns

#: the two directions of the divergence, for each completion or averaged over completions
KL: Columns = {
    "kl_policy_to_base_nats": "KL(policy‖base), exact sum over the vocabulary at each"
    " state visited, summed over the completion, nats",
    "kl_base_to_policy_nats": "KL(base‖policy), likewise, nats",
}

#: policies/**/training.csv
TRAINING: Columns = {
    "step": "1-based; row k describes the batch drawn before update k, so row 1 is the base",
    "loss": "the loss that was differentiated",
    "reward_mean": "mean reward of the batch",
    "reward_std": "standard deviation of the reward over the batch",
    **KL,
    "kl_post_unit": "the post's KL: KL(base‖policy) nats / (50257 · NUM_TOKENS)",
    "entropy_nats": "entropy of the policy at the states visited, summed over the completion, nats",
    "distinct_completions": "distinct completions in the batch",
    "top_1_mass": "share of the batch that is its most frequent completion",
    "top_10_mass": "share of the batch that is among its ten most frequent completions",
    "gradient_norm": "Euclidean norm of the gradient",
    "gradient_snr": "gradient signal-to-noise ratio from the two halves of the batch (docs/methods.md); empty where not measured",
    "seconds": "wall seconds of the step",
    "samples_per_second": "batch size / seconds",
}

#: policies/**/top_completions.csv
TOP_COMPLETIONS: Columns = {
    "step": "as in training.csv",
    "prompt": "the prompt",
    "text": "completion, without the prompt",
    "count": "how often it occurs in the batch",
    "reward": "its reward",
}
