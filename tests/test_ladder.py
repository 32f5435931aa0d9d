"""The ladder: what each step leaves equal to the one before, and what it changes."""

from __future__ import annotations

import re
import sys

import ladder_changes
import ladder_steps
import plain_methods
import pytest
import torch
from ladder_steps import END, MODELS, assert_same_gradients, loss_and_gradients, step

PROMPT = [3, 1, 4]
POST_VOCABULARY = 50257


def batch(new_tokens: int, size: int = 8, vocabulary: int = 64, seed: int = 0):
    """Completions of which some end early and some are equal, and a reward for each."""
    generator = torch.Generator().manual_seed(seed)
    rows = torch.randint(1, vocabulary, (size, new_tokens), generator=generator).tolist()
    rows[1] = [END]
    rows[2] = [*rows[2][: new_tokens // 2], END]
    rows[3] = list(rows[0])
    rows[4] = [*rows[0][:-1], END]
    return rows, torch.rand(size, generator=generator)


# ---------------------------------------------------------------------------- the formulas


def distributions(model, completions):
    """For each completion the rows log π(·|s_<t), one forward pass a state, in float64."""
    model = model.double()
    for tokens in completions:
        prefixes = [PROMPT + tokens[:t] for t in range(len(tokens))]
        yield [model(torch.tensor([p])).logits[0, -1].log_softmax(-1) for p in prefixes]


@pytest.mark.parametrize("number", [1, 2, 3])
def test_the_loss_is_its_formula(number):
    model = ladder_steps.gpt_neo(vocabulary=11)
    base = ladder_steps.moved(model)
    completions, rewards = batch(4, vocabulary=11)
    n, factor = len(PROMPT) + 4, 6000.0
    found = step(number).loss(model, base, PROMPT, completions, rewards, n, factor, END)

    mean, total = rewards.mean().item(), 0.0
    policy, base = distributions(model, completions), distributions(base, completions)
    for tokens, reward, log_p, log_p_base in zip(
        completions, rewards.tolist(), policy, base, strict=True
    ):
        others = (mean * len(rewards) - reward) / (len(rewards) - 1)
        advantage = reward if number == 1 else reward - others
        for token, p, ref in zip(tokens, log_p, log_p_base, strict=True):
            to, of = (p, ref) if number == 3 else (ref, p)
            kl = (to.exp() * (to - of)).sum().item()
            total += (-advantage * p[token].item() + factor / POST_VOCABULARY * kl) / n
    assert found.item() == pytest.approx(total / len(rewards), rel=1e-5)


def test_the_unit_of_the_kl_factor_is_the_mean_over_the_posts_vocabulary():
    generator = torch.Generator().manual_seed(0)
    log_p, log_p_base = torch.randn(2, 3, POST_VOCABULARY, generator=generator).log_softmax(-1)
    post = torch.nn.functional.kl_div(log_p, log_p_base, reduction="none", log_target=True).mean(-1)
    plain = step(1)
    torch.testing.assert_close(plain.kl(log_p, log_p_base) / plain.V, post)
    assert round(6000 / plain.V, 4) == 0.1194


def test_a_story_that_ended_collects_nothing_more():
    model = ladder_steps.gpt_neo()
    base = ladder_steps.moved(model)
    for number in (1, 2, 3, 4):
        forced = torch.tensor([[5, END, 7, 8], [5, END, 9, 9]])
        args = (model, base, PROMPT, 7, 2, END, forced[:, :4].clone())
        if number == 4:  # rows come padded
            forced[:, 2:] = END
        _, log_probs, kls = step(number).rollout(*args[:-1], forced)
        assert (log_probs[:, :2] < 0).all()
        assert (kls[:, :2] > 0).all()
        assert (log_probs[:, 2:] == 0).all()
        assert (kls[:, 2:] == 0).all()


def test_step_2_changes_nothing_but_the_reward_for_the_advantage():
    model = ladder_steps.gpt_neo()
    base = ladder_steps.moved(model)
    completions, rewards = batch(4)
    others = (rewards.sum() - rewards) / (len(rewards) - 1)
    one = loss_and_gradients(
        step(1), model, base, PROMPT, completions, rewards - others, 7, 6e3, END
    )
    two = loss_and_gradients(step(2), model, base, PROMPT, completions, rewards, 7, 6e3, END)
    assert two[0] == pytest.approx(one[0], rel=1e-5)
    assert_same_gradients(two[1], one[1], 1e-5)


def test_step_3_changes_nothing_without_a_kl_term():
    model = ladder_steps.gpt_neo()
    completions, rewards = batch(4)
    base = ladder_steps.moved(model)
    two = loss_and_gradients(step(2), model, base, PROMPT, completions, rewards, 7, 0.0, END)
    three = loss_and_gradients(step(3), model, base, PROMPT, completions, rewards, 7, 0.0, END)
    assert three[0] == pytest.approx(two[0], rel=1e-6)
    assert_same_gradients(three[1], two[1], 1e-6)


# ---------------------------------------------------------------------------- other ways, same numbers


@pytest.mark.parametrize("new_tokens", [1, 4, 30, 244])
@pytest.mark.parametrize("architecture", MODELS)
def test_step_4_equals_step_3(architecture, new_tokens):
    size = 5 if new_tokens > 100 else 8
    model = MODELS[architecture]()
    base = ladder_steps.moved(model)
    completions, rewards = batch(new_tokens, size)
    args = (base, PROMPT, completions, rewards, len(PROMPT) + new_tokens, 6e3, END)
    three, four = (loss_and_gradients(step(number), model, *args) for number in (3, 4))
    assert four[0] == pytest.approx(three[0], rel=1e-5)
    assert_same_gradients(four[1], three[1], 1e-5)


@pytest.mark.parametrize("architecture", MODELS)
def test_step_4_with_the_posts_formulas_equals_the_post(architecture):
    model = MODELS[architecture]()
    base = ladder_steps.moved(model)
    completions, rewards = batch(4)
    args = (base, PROMPT, completions, rewards, 7, 6e3, END)
    post, fast = step(1), step(4)
    fast.kl, fast.objective = post.kl, post.objective
    one, four = loss_and_gradients(post, model, *args), loss_and_gradients(fast, model, *args)
    assert four[0] == pytest.approx(one[0], rel=1e-5)
    assert_same_gradients(four[1], one[1], 1e-5)


@pytest.mark.parametrize("kl", ["base_to_policy", "policy_to_base"])
@pytest.mark.parametrize("advantage", ["reward", "mean", "leave_one_out"])
@pytest.mark.parametrize("architecture", MODELS)
def test_step_5_equals_the_plain_loop_in_every_combination(architecture, advantage, kl):
    model = MODELS[architecture]()
    base = ladder_steps.moved(model)
    completions, rewards = batch(4, size=12)
    args = (base, PROMPT, completions, rewards, 7, 6e3, END)
    tree = step(5)
    tree.ADVANTAGE, tree.KL = advantage, kl
    five = loss_and_gradients(tree, model, *args)
    expected = loss_and_gradients(ladder_steps.plain(advantage, kl), model, *args)
    assert five[0] == pytest.approx(expected[0], rel=1e-5, abs=1e-6)  # terms of about 1 cancel
    assert_same_gradients(five[1], expected[1], 1e-5)


@pytest.mark.parametrize("architecture", MODELS)
def test_step_5_equals_step_4_where_stories_are_long(architecture):
    model = MODELS[architecture]()
    base = ladder_steps.moved(model)
    completions, rewards = batch(60, size=6)
    args = (base, PROMPT, completions, rewards, 63, 6e3, END)
    four, five = (loss_and_gradients(step(number), model, *args) for number in (4, 5))
    assert five[0] == pytest.approx(four[0], rel=1e-5, abs=1e-6)
    assert_same_gradients(five[1], four[1], 1e-5)


@pytest.mark.parametrize("architecture", MODELS)
def test_step_6_begins_as_step_5_and_goes_on_as_ppo(architecture):
    """Two updates of one batch, plain gradient descent in between."""
    model = MODELS[architecture]()
    base = ladder_steps.moved(model)
    completions, rewards = batch(4, size=12)
    five, six = step(5), step(6)
    _, first = loss_and_gradients(five, model, base, PROMPT, completions, rewards, 7, 6e3, END)

    networks = [six.network_with_onednn(m) for m in (model, base)]
    tree = six.Sampler(*networks, PROMPT, 4, END)
    rollout = tree.follow([tuple(tokens) for tokens in completions], keep_graph=True)
    then = plain_methods.measured(model, base, PROMPT, completions, 4).held()
    model.zero_grad(set_to_none=True)
    six.update(tree, rollout, rollout, rewards, 7, 6e3)
    assert_same_gradients({n: p.grad for n, p in model.named_parameters()}, first, 1e-6)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter -= 2 * parameter.grad / parameter.grad.norm()
    now = plain_methods.measured(model, base, PROMPT, completions, 4)
    ratio = (now.log_prob - then.log_prob).exp()
    assert ((ratio - 1).abs() > six.CLIP).any(), "nothing is clipped: the case is not tested"
    c = 6e3 / POST_VOCABULARY
    value = plain_methods.loss(
        *(now, rewards, "leave_one_out", "policy_to_base", 7, c), drawn=then, clip=six.CLIP
    )
    names, parameters = zip(*model.named_parameters(), strict=True)
    expected = dict(zip(names, torch.autograd.grad(value, parameters), strict=True))
    model.zero_grad(set_to_none=True)
    six.update(tree, tree.again(rollout, keep_graph=True), rollout, rewards, 7, 6e3)
    assert_same_gradients({n: p.grad for n, p in model.named_parameters()}, expected, 1e-5)


# ---------------------------------------------------------------------------- sampling


@pytest.fixture(scope="module")
def toy():
    """Vocabulary 6, 3 new tokens: every completion, its probability, and a reward."""
    model = ladder_steps.gpt_neo(vocabulary=6).double()
    base = ladder_steps.moved(model, by=0.2)
    completions = ladder_steps.all_completions()
    generator = torch.Generator().manual_seed(2)
    rewards = torch.rand(len(completions), generator=generator, dtype=torch.float64)
    return model, base, completions, rewards


def enumerated(toy, kl):
    """log π and KL at each token of every completion, with their graph."""
    model, base, completions, _ = toy
    plain = step(1)
    plain.kl = kl
    forced = torch.tensor([c + [END] * (3 - len(c)) for c in completions])
    _, log_probs, kls = plain.rollout(model, base, PROMPT, 6, len(forced), END, forced)
    assert log_probs.sum(1).exp().sum().item() == pytest.approx(1, abs=1e-12)
    return log_probs, kls


@pytest.mark.parametrize("number", [1, 4])
def test_samples_follow_the_model(toy, number):
    from scipy.stats import chisquare

    model, base, completions, _ = toy
    log_probs, _ = enumerated(toy, step(1).kl)
    expected = log_probs.sum(1).exp().detach() * 20_000
    torch.manual_seed(3)
    with torch.no_grad():
        output_ids, _, _ = step(number).rollout(model, base, PROMPT, 6, 20_000, END)
    index = {tuple(c + [END] * (3 - len(c))): i for i, c in enumerate(completions)}
    drawn = torch.tensor([index[tuple(row)] for row in output_ids[:, 3:].tolist()])
    counts = torch.bincount(drawn, minlength=len(completions)).double()
    rare = expected < 5
    if rare.any():
        counts = torch.cat([counts[~rare], counts[rare].sum()[None]])
        expected = torch.cat([expected[~rare], expected[rare].sum()[None]])
    assert chisquare(counts, expected * counts.sum() / expected.sum()).pvalue > 1e-3


@pytest.mark.parametrize("architecture", MODELS)
def test_the_cache_changes_no_draw(architecture):
    model = MODELS[architecture]()
    base = ladder_steps.moved(model)
    batches = []
    for number in (1, 4, 4):
        torch.manual_seed(5)
        batches.append(step(number).rollout(model, base, PROMPT, 23, 16, END))
    assert torch.equal(batches[0][0], batches[1][0])
    assert torch.equal(batches[1][0], batches[2][0])
    torch.testing.assert_close(batches[0][1], batches[1][1], rtol=1e-4, atol=1e-5)
    assert len({tuple(row) for row in batches[0][0].tolist()}) > 10


# ---------------------------------------------------------------------------- expected gradients


def gradient(toy, value):
    """∂value/∂θ as one vector."""
    parameters = [p for p in toy[0].parameters() if p.requires_grad]
    found = torch.autograd.grad(value, parameters, retain_graph=True)
    return torch.cat([g.flatten() for g in found])


def assert_same(found, expected):
    """Equal to rounding; transformers' GPT-Neo computes its attention in float32 in any case."""
    assert (found - expected).norm() < 1e-6 * expected.norm()


def expected_gradient(toy, module):
    """The exact mean of the gradient over all batches of two completions."""
    log_probs, kls = enumerated(toy, module.kl)
    p = log_probs.sum(1).exp().detach()
    rewards = toy[3]
    pairs = torch.cartesian_prod(torch.arange(len(p)), torch.arange(len(p)))
    value = torch.vmap(
        lambda pair: module.objective(log_probs[pair], kls[pair], rewards[pair], 6, KL_FACTOR)
    )(pairs)
    return gradient(toy, (p[pairs].prod(1) * value).sum())


KL_FACTOR = 30_000.0
C = KL_FACTOR / POST_VOCABULARY
REWARD_SHARE = {"reward": 1.0, "mean": 1 / 2, "leave_one_out": 1.0}  # mean: (B − 1) / B


@pytest.mark.parametrize("advantage", REWARD_SHARE)
def test_policy_to_base_has_the_gradient_of_the_enumerated_objective(toy, advantage):
    module = ladder_steps.plain(advantage, "policy_to_base")
    log_probs, kls = enumerated(toy, module.kl)
    p = log_probs.sum(1).exp()
    objective = (p * (-REWARD_SHARE[advantage] * toy[3] + C * kls.sum(1))).sum() / 6
    expected = gradient(toy, objective)
    assert_same(expected_gradient(toy, module), expected)


@pytest.mark.parametrize("advantage", REWARD_SHARE)
def test_base_to_policy_is_the_per_state_gradient_where_the_policy_goes(toy, advantage):
    """Biased by design: the states visited are held fixed, as docs/methods.md says."""
    module = ladder_steps.plain(advantage, "base_to_policy")
    log_probs, kls = enumerated(toy, module.kl)
    p = log_probs.sum(1).exp()
    reward_term = (-REWARD_SHARE[advantage] * p * toy[3]).sum() / 6
    found = expected_gradient(toy, module)
    held = gradient(toy, reward_term + C * (p.detach() * kls.sum(1)).sum() / 6)
    assert_same(found, held)
    # what is left out is the score-function term: Σ_t ∇log π(s_t|s_<t) Σ_{t'>t} KL_{t'}
    followed = gradient(toy, reward_term + C * (p * kls.sum(1)).sum() / 6)
    later = kls.flip(1).cumsum(1).flip(1) - kls
    score = gradient(toy, C * (p.detach() * (log_probs * later.detach()).sum(1)).sum() / 6)
    assert_same(followed - held, score)
    assert score.norm() > 0.01 * held.norm()


@pytest.mark.parametrize("number", [1, 2, 3])
def test_the_steps_are_these_combinations(toy, number):
    combination = {
        1: ("reward", "base_to_policy"),
        2: ("leave_one_out", "base_to_policy"),
        3: ("leave_one_out", "policy_to_base"),
    }[number]
    found = expected_gradient(toy, step(number))
    assert_same(found, expected_gradient(toy, ladder_steps.plain(*combination)))


def test_summed_over_states_kl_policy_to_base_is_that_of_whole_completions(toy):
    log_probs, kls = enumerated(toy, step(3).kl)
    p = log_probs.sum(1).exp()
    model, base, completions, rewards = toy
    other, _ = enumerated((base, model, completions, rewards), step(3).kl)
    whole = (p * (log_probs.sum(1) - other.sum(1))).sum()
    assert (p * kls.sum(1)).sum().item() == pytest.approx(whole.item(), rel=1e-12)


def test_what_the_estimators_k1_k2_k3_descend(toy):
    """docs/methods.md's table of sampled KL estimators used as a loss."""
    model, base, completions, rewards = toy
    log_probs, forward = enumerated(toy, step(1).kl)
    _, reverse = enumerated(toy, step(3).kl)
    with torch.no_grad():
        other, _ = enumerated((base, model, completions, rewards), step(1).kl)
    p = log_probs.sum(1).exp()
    weight = p.detach()
    d = log_probs - other
    size = gradient(toy, (p * reverse.sum(1)).sum())
    k1 = gradient(toy, (weight * d.sum(1)).sum())
    assert k1.norm() < 1e-6 * size.norm()
    k2_of_the_whole = gradient(toy, (weight * d.sum(1) ** 2 / 2).sum())
    assert_same(k2_of_the_whole, size)
    k2 = gradient(toy, (weight * (d**2).sum(1) / 2).sum())
    at_the_states = gradient(toy, (weight * reverse.sum(1)).sum())
    assert_same(k2, at_the_states)
    k3 = gradient(toy, (weight * ((-d).exp() - 1 + d).sum(1)).sum())
    the_posts = gradient(toy, (weight * forward.sum(1)).sum())
    assert_same(k3, the_posts)


# ---------------------------------------------------------------------------- the programs


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A tiny story model with a tokenizer of words."""
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    words = ["<|endoftext|>", "Once", "upon", "a", "time", "there", "was", "cat", "ran", "."]
    tokenizer = Tokenizer(models.WordLevel({w: i for i, w in enumerate(words)}, unk_token="."))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    path = tmp_path_factory.mktemp("model")
    PreTrainedTokenizerFast(tokenizer_object=tokenizer, eos_token=words[0]).save_pretrained(path)
    ladder_steps.gpt_neo(vocabulary=len(words)).save_pretrained(path)
    return path


@pytest.mark.parametrize(
    "file", sorted(ladder_steps.LADDER.glob("[0-9]_*.py")), ids=lambda f: f.stem
)
def test_each_step_runs_and_learns(file, folder, capsys, monkeypatch):
    # the encoder is the installed package's
    arguments = f"--model {folder} --steps 3 --batch 12 --lr 1e-2"
    monkeypatch.setattr(sys, "argv", [str(file), *arguments.split()])
    step(int(file.name[0])).main()
    lines = capsys.readouterr().out.splitlines()
    rewards = [float(line.split()[2]) for line in lines]
    nats = [float(line.split()[4]) for line in lines]
    assert len(lines) == 3
    assert all(-1 <= reward <= 1 for reward in rewards)
    assert abs(nats[0]) < 1e-6  # the policy begins as the base
    assert nats[2] > 1e-4  # and has left it


def test_the_readme_has_a_row_for_each_step():
    text = (ladder_steps.LADDER / "README.md").read_text(encoding="utf-8")
    for file in ladder_steps.LADDER.glob("[0-9]_*.py"):
        assert f"]({file.name})" in text


def test_the_readme_has_the_changed_lines_of_each_step():
    """If this fails: python tests/ladder_changes.py"""
    text = ladder_changes.README.read_text(encoding="utf-8")
    assert ladder_changes.page(text) == text


def test_a_step_runs_without_a_folder(capsys, monkeypatch):
    monkeypatch.setattr(sys, "argv", ["1_post.py", "--steps", "1", "--batch", "3"])
    step(1).main()
    assert re.match(r"1  reward 0\.\d{4}  KL 0\.0000 nats", capsys.readouterr().out)
