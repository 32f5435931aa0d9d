"""Columns of the tables of completions."""

from __future__ import annotations

from tinycats.files.tables import Columns
from tinycats.policies.columns import KL

#: which model a row is about
MODEL: Columns = {
    "model": "`base`, `prompted` (the base made to begin with the concept) or `policy`; for stories also `optimal`, `best_of_n`, `opening_only` and `optimal_prompted` (docs/damage.md)",
    "variant": "name of the training settings (`blog` unless the study names others); empty for base and prompted",
    "kl_factor": "the post's KL_FACTOR; empty for base and prompted",
    "seed": "seed of the run (the base is sampled separately for each seed)",
}

#: completions/**.csv
COMPLETIONS: Columns = {
    "prompt": "the training prompt",
    "token_ids": "new token ids separated by blanks (an end token included)",
    "text": "completion, without the prompt",
    "count": "how often it was drawn",
    "reward": "reward of prompt + completion",
    "log_prob_policy": "log probability under the model it was drawn from, nats",
    "log_prob_base": "log probability under the base model, nats",
    **KL,
}

#: completions/searched.csv
SEARCHED: Columns = {
    "prompt": COMPLETIONS["prompt"],
    "token_ids": "new token ids separated by blanks (an end token included) of a completion that was"
    " found by the search and drawn from no model of the pool",
    "text": COMPLETIONS["text"],
    "reward": COMPLETIONS["reward"],
    "log_prob_base": COMPLETIONS["log_prob_base"],
}

#: completions/first_token.csv
FIRST_TOKEN: Columns = {
    **MODEL,
    "prompt": COMPLETIONS["prompt"],
    "after": "the new tokens before it: none, or the base model's likeliest first token",
    "token": "text of the next token",
    "probability": "its exact probability after the prompt and `after` (1e-4 and more)",
}
