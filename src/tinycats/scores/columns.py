"""Columns of the tables of scores, and what each metric is called, measured in and good for."""

from __future__ import annotations

from typing import Literal, NamedTuple

from tinycats.completions.columns import MODEL
from tinycats.files.tables import Columns


class Metric(NamedTuple):
    """A metric for people.

    Attributes:
        label: its name.
        unit: ``share``, ``nats``, …; may be empty. :data:`REWARD`: that of the study's reward.
        direction: which is better: ``up``, ``down`` or ``none``; ``cost`` of what any change of a
            model pays, more or less.
    """

    label: str
    unit: str
    direction: str


REWARD = "reward"
#: metric name → label, unit, direction, in the order of the tables
METRICS: dict[str, Metric] = {
    "completion_reward": Metric("reward (prompt + completion)", REWARD, "up"),
    "story_reward": Metric("reward of the whole story", REWARD, "up"),
    "mentions_concept": Metric("stories that mention the concept", "share", "up"),
    "mentions_per_100_words": Metric("mentions per 100 words", "count", "none"),
    "perplexity_under_base": Metric("perplexity under the base model", "", "none"),
    "base_perplexity_under_policy": Metric(
        "perplexity on base-model stories (forgetting)", "", "cost"
    ),
    "line_breaks": Metric("line breaks per story", "count", "none"),
    "ended": Metric("stories that reach end-of-text", "share", "up"),
    "distinct_2": Metric("distinct bigrams within a story", "share", "up"),
    "repeated_4_grams": Metric("repeated 4-grams within a story", "share", "down"),
    "words": Metric("words per story", "count", "none"),
    "kl_policy_to_base_nats": Metric("KL(policy‖base) per completion", "nats", "cost"),
    "kl_base_to_policy_nats": Metric("KL(base‖policy) per completion", "nats", "cost"),
    "self_bleu": Metric("self-BLEU across stories", "", "down"),
    "vendi_score": Metric("Vendi score (word n-gram kernel)", "effective stories", "up"),
    "compression_ratio": Metric("compression ratio of all stories", "", "down"),
    "distinct_completions": Metric("distinct completions of 1000", "count", "up"),
}

#: correlate at |r| ≥ 0.73 over policies: one finding with four measures
DIVERSITY = ("distinct_completions", "vendi_score", "self_bleu", "compression_ratio")

#: scores/stories.csv
STORIES: Columns = {
    **MODEL,
    "prompt_group": "group of the prompt in the config",
    "prompt": "the prompt",
    "story": "index of the story in its stories file",
    "completion_reward": "reward of prompt + first new tokens, as trained",
    "story_reward": "reward of the generated text",
    "mentions_concept": "1 if the generated text has a word of the concept's list, else 0",
    "mentions_per_100_words": "words of the list per 100 words of generated text",
    "perplexity_under_base": "exp(mean −log p) per generated token under the base, end token counted",
    "base_perplexity_under_policy": "the same of the base's story of this index under the policy",
    "line_breaks": "line breaks in the generated text",
    "ended": "1 if the story ended by itself, else 0",
    "distinct_2": "distinct word bigrams / word bigrams",
    "repeated_4_grams": "1 − distinct word 4-grams / word 4-grams",
    "words": "words in the generated text",
    "tokens": "generated tokens, end token counted",
}

#: scores/judges.csv, of a study with judges
JUDGES: Columns = {
    **MODEL,
    "judge": "name of a reward that was not trained on",
    "texts": "`completions`: those drawn after the training prompt, with the prompt; `stories`: the"
    " generated text of the training prompts' stories",
    "count": "texts, as often as drawn",
    "reward": "their mean reward, as trained on",
    "score": "their mean score by the judge",
}

#: scores/sets.csv
SETS: Columns = {
    **MODEL,
    "prompt_group": "group of the prompts whose stories form the set",
    "stories": "number of stories in the set",
    "self_bleu": "mean BLEU-4 of a story against the others (subsample named in docs/metrics.md)",
    "vendi_score": "exponential entropy of the spectrum of a word n-gram kernel",
    "compression_ratio": "bytes / gzipped bytes of all stories of the set",
}

#: scores/opening_sets.csv: as sets.csv, of the stories that decomposition.csv compares
OPENING_SETS: Columns = {column: text for column, text in SETS.items() if column != "prompt_group"}


#: shares of stories; other shares are of what is in a story
PROPORTIONS = ("mentions_concept", "ended")


def scale(metric: str) -> Literal["plain", "log", "logit", "proportion"]:
    """How the interval of a metric's mean over seeds is computed: see tables/intervals.py."""
    if metric in PROPORTIONS:
        return "proportion"
    unit = METRICS[metric].unit
    return "plain" if unit == REWARD else "logit" if unit == "share" else "log"
