"""Columns of the tables of the limit."""

from __future__ import annotations

from tinycats.completions.columns import MODEL
from tinycats.files.tables import Columns
from tinycats.policies.columns import KL

#: frontier/limit.csv
LIMIT: Columns = {
    "beta": "strength β of the KL penalty, reward units per nat",
    "log_z": "log Z(β) = log E_base[exp(r/β)]",
    "kl_policy_to_base_nats": "KL of the best policy at β, nats",
    "reward": "reward of the best policy at β",
    "low": "lower end of the 95 % interval of the limit at this KL",
    "high": "upper end; presumes that no unseen completion has a higher reward than any seen",
    "certified": "lower bound of the limit by the exact sum over the completions seen; empty where it"
    " is below the base's mean reward",
    "exact_share": "share of Z(β) that is summed exactly, over the completions seen",
}

#: frontier/best_of_n.csv
BEST_OF_N: Columns = {
    "n": "number of candidates",
    "reward": "expected reward of the best of n",
    "reward_low": "lower end of its 95 % interval, by the jackknife over the base's draws",
    "reward_high": "upper end",
    "kl_policy_to_base_nats": "its exact KL by order statistics, ties handled, nats",
    "kl_bound_nats": "log n − (n − 1)/n, the usual upper bound",
}

#: how a model's completions stand against the limit at their KL
AGAINST_LIMIT: Columns = {
    "limit": "R*(K) at its KL(policy‖base)",
    "limit_low": "lower end of the limit's 95 % interval, the KL's own error included",
    "limit_high": "upper end",
    "limit_certified": "lower bound of the limit at that KL, as in limit.csv",
    "gap": "limit − reward",
    "base_reward": "mean reward of the base",
    "share_of_attainable_gain": "(reward − base reward) / (limit − base reward)",
    "share_low": "lower end of its 95 % interval: errors of reward, KL, limit and base reward",
    "share_high": "upper end",
    "beta": "β whose best policy π* has this KL, reward units per nat; empty if the KL is 0 or beyond all",
    "regret_nats": "KL(policy‖π*) = (J* − J) / β with J = reward − β·KL; since the KLs are equal, gap / β",
    "regret_low": "lower end of its 95 % interval",
    "regret_high": "upper end",
}

#: frontier/policies.csv
POLICIES: Columns = {
    "variant": MODEL["variant"],
    "kl_factor": MODEL["kl_factor"],
    "seed": MODEL["seed"],
    "reward": "mean reward of its completions",
    **KL,
    **AGAINST_LIMIT,
    "best_of": "n of the best-of-n that has the same KL; between whole n a mixture of both; empty where"
    " it would be more than a tenth of the base's completions",
    "best_of_n_reward": "its reward",
    "best_of_n_error": "standard error of that, the same draws for all policies",
    "prompted_share": "share of completions to prompt (prompted.csv) for the same KL; empty where"
    " prompting all does not have it",
    "prompted_reward": "the reward then",
    "prompted_error": "standard error of that, the same draws for all policies",
}

#: frontier/prompted.csv
PROMPTED: Columns = {
    "text": "what the base was made to begin with",
    "reward": "mean reward of completions that begin so",
    "reward_error": "standard error of that",
    "kl_policy_to_base_nats": "−log p_base(text), exact, nats",
    **AGAINST_LIMIT,
}

#: frontier/openings.csv: what stories begin with at a policy's KL (docs/damage.md)
OPENINGS: Columns = {
    "model": "`optimal`, `best_of_n`, or `optimal_prompted` (at the KL of the prompted base)",
    "variant": MODEL["variant"],
    "kl_factor": MODEL["kl_factor"],
    "seed": "seed of the policy; empty for `optimal_prompted`",
    "wanted_kl_nats": "KL(policy‖base) of the policy beside it, nats",
    "beta": "β of the optimal policy, reward units per nat",
    "n": "n of best of n, not only whole numbers",
    "kl_policy_to_base_nats": "KL of the distribution, nats; less than wanted where the completions seen have no more",
    "reward": "its mean reward",
    "effective_completions": "1 / Σ π² over the completions seen",
}

#: name of a file in frontier/ → its columns
TABLES: dict[str, Columns] = {
    "limit": LIMIT,
    "best_of_n": BEST_OF_N,
    "policies": POLICIES,
    "prompted": PROMPTED,
    "openings": OPENINGS,
}
