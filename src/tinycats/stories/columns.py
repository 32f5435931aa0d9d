"""Fields of the files of stories: one JSON object a line."""

from __future__ import annotations

from tinycats.files.tables import Columns

#: one story a line in stories/**.jsonl
STORY_FIELDS: Columns = {
    "prompt_group": "group of the prompt in the config",
    "prompt": "the prompt",
    "forced": "what the model was made to begin with (empty but for `prompted`); part of text and token_ids",
    "text": "generated text",
    "token_ids": "generated token ids, end token included",
    "tokens": "the same as pieces of text",
    "log_prob_policy": "log probability of each token under the model that told the story, nats",
    "log_prob_base": "log probability of each token under the base, nats",
    "kl_policy_to_base_nats": "exact KL(model‖base) at each token's state, nats",
    "kl_base_to_policy_nats": "exact KL(base‖model) at each token's state, nats",
    "ended": "whether the story ended by itself",
    "sample_seed": "seed of its random numbers: of seed, prompt and index among the prompt's stories",
}

#: one line for each of the base's stories in stories/**.base.jsonl: how a policy finds them
FORGETTING_FIELDS: Columns = {
    "story": "index in the base's stories file of the same seed",
    "log_prob_policy": "log probability of each of its tokens under the policy, nats",
}
