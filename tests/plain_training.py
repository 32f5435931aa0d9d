"""Training written plainly, as an oracle: whole batches through autograd, no tree, no cache, no chunks.

Nothing is shared with the trainer but its settings and torch's AdamW. Each step draws by inversion
from the same uniform numbers, so both see the same completions, and every column can be compared.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from contextlib import nullcontext
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from tinycats.policies.settings import TrainingSettings


class Part(NamedTuple):
    """The completions of one prompt; ``tokens`` and ``alive`` are ``(completions, new tokens)``."""

    prompt: list[int]
    tokens: Tensor  # what follows an end token has no meaning
    alive: Tensor  # whether a token is of the completion
    advantage: Tensor  # (completions,)


class PlainTraining:
    """The same arguments as the trainer's; ``rows`` and ``top`` are those of its two tables."""

    def __init__(
        self,
        policy: Any,
        base: Any,
        tokenizer: Any,
        reward: Callable[[list[str]], Tensor],
        settings: TrainingSettings,
    ) -> None:
        self.policy, self.base, self.tokenizer = policy, base, tokenizer
        self.reward, self.settings = reward, settings
        self.prompts = [
            tokenizer(prompt, add_special_tokens=False).input_ids for prompt in settings.prompts
        ]
        self.new_tokens = settings.num_tokens - max(map(len, self.prompts))
        self.end = tokenizer.eos_token_id
        self.optimizer = torch.optim.AdamW(
            policy.parameters(), lr=settings.learning_rate, weight_decay=settings.weight_decay
        )
        self.rows: list[dict[str, Any]] = []
        self.top: list[dict[str, Any]] = []

    def log_p(self, model: Any, prompt: list[int], tokens: Tensor) -> Tensor:
        """log p at the states of ``tokens`` (batch, t), ``(batch, t + 1, vocabulary)``."""
        ids = torch.cat([torch.tensor(prompt).expand(len(tokens), -1), tokens], 1)
        low = torch.autocast("cpu", torch.bfloat16)
        with low if self.settings.precision == "bf16" else nullcontext():
            hidden = model.base_model(ids, use_cache=False).last_hidden_state
        return model.lm_head(hidden[:, len(prompt) - 1 :].float()).log_softmax(-1)

    @torch.no_grad()
    def draw(self, step: int) -> list[Part]:
        """Of each prompt, its part of the batch; the advantage is not known yet."""
        s = self.settings
        word = int(np.random.SeedSequence([s.seed, step]).generate_state(1, np.uint64)[0])
        generator = torch.Generator().manual_seed(word // 2)
        parts, each = [], s.batch_size // len(self.prompts)
        for prompt in self.prompts:
            u = torch.rand(each, self.new_tokens, generator=generator, dtype=torch.float64)
            tokens = torch.zeros(each, 0, dtype=torch.long)
            for t in range(self.new_tokens):
                p = self.log_p(self.policy, prompt, tokens)[:, -1].double().exp()
                below = p.cumsum(1) / p.sum(1, keepdim=True) <= u[:, t : t + 1]
                tokens = torch.cat([tokens, below.sum(1, keepdim=True)], 1)
            ended = (tokens == self.end).cumsum(1) - (tokens == self.end).long() > 0
            parts.append(Part(prompt, tokens, ~ended, torch.zeros(each)))
        return parts

    def advantages(self, rewards: Tensor) -> Tensor:
        """What multiplies the log-probability of each completion, by the config's advantage."""
        total, size = rewards.sum(), len(rewards)
        baseline = {
            "reward": torch.zeros(size),
            "mean": (total / size).expand(size),
            "leave_one_out": (total - rewards) / max(1, size - 1),
        }[self.settings.advantage]
        return rewards - baseline

    def gradient(self, parts: list[Part]) -> dict[str, Tensor]:
        """Backward of the mean over prompts of the means over their completions; returns the
        completions' sums, and each prompt's loss, detached."""
        self.optimizer.zero_grad()
        each = [self.of_prompt(*part, 1 / len(parts)) for part in parts]
        return {name: torch.cat([own[name].view(-1) for own in each]) for name in each[0]}

    def of_prompt(
        self, prompt: list[int], tokens: Tensor, alive: Tensor, advantage: Tensor, share: float
    ) -> dict[str, Tensor]:
        s = self.settings
        log_p = self.log_p(self.policy, prompt, tokens)[:, :-1]
        with torch.no_grad():
            log_q = self.log_p(self.base, prompt, tokens)[:, :-1]
        taken = log_p.gather(2, tokens[:, :, None])[:, :, 0] * alive
        p_q = (log_p.exp() * (log_p - log_q)).sum(2) * alive
        q_p = (log_q.exp() * (log_q - log_p)).sum(2) * alive
        entropy = -(log_p.exp() * log_p).sum(2) * alive
        per_nat = s.kl_factor / 50257
        weight, kl = advantage[:, None].expand_as(taken), q_p
        if s.kl == "policy_to_base":  # a token also counts against the KL of the states after it
            after = torch.stack([p_q[:, t + 1 :].sum(1) for t in range(self.new_tokens)], 1)
            weight, kl = weight - per_nat * after.detach(), p_q
        value = (-weight * taken + per_nat * kl).sum(1).mean() / s.num_tokens
        (share * value).backward()
        loss = (-advantage * taken.sum(1) + per_nat * kl.sum(1)).mean() / s.num_tokens
        sums = {"p_q": p_q.sum(1), "q_p": q_p.sum(1), "entropy": entropy.sum(1), "loss": loss}
        return {name: values.detach() for name, values in sums.items()}

    def flat_gradient(self) -> Tensor:
        return torch.cat([p.grad.flatten() for p in self.policy.parameters()]).double()

    def signal_to_noise(self, parts: list[Part]) -> float:
        half = len(parts[0].tokens) // 2
        gradients = []
        for begin in (0, half):
            own = slice(begin, begin + half)
            self.gradient([Part(part[0], *(values[own] for values in part[1:])) for part in parts])
            gradients.append(self.flat_gradient())
        one, two = gradients
        return float(max(0.0, float(one @ two)) ** 0.5 / ((one - two).norm() / 2))

    def take_step(self) -> None:
        s, step = self.settings, len(self.rows)
        parts = self.draw(step)
        drawn = [  # (prompt's index, completion)
            (i, tuple(row[keep].tolist()))
            for i, part in enumerate(parts)
            for row, keep in zip(part.tokens, part.alive, strict=True)
        ]
        texts = [
            self.tokenizer.decode(
                self.prompts[i] + [token for token in ids if token != self.end],
                clean_up_tokenization_spaces=False,
            )
            for i, ids in drawn
        ]
        rewards = self.reward(texts)
        own = rewards.split([len(part.tokens) for part in parts])
        parts = [
            part._replace(advantage=self.advantages(r)) for part, r in zip(parts, own, strict=True)
        ]
        measured = s.snr_every and step % s.snr_every == 0
        snr = self.signal_to_noise(parts) if measured else float("nan")
        found = self.gradient(parts)
        norm = float(self.flat_gradient().norm())
        self.optimizer.step()
        counts = sorted(Counter(drawn).items(), key=lambda item: (-item[1], item[0]))
        first_ten = [count for _, count in counts[:10]]
        self.rows.append(
            {
                "step": step + 1,
                "loss": float(found["loss"].mean()),
                "reward_mean": float(np.mean(rewards.tolist())),
                "reward_std": float(np.std(rewards.tolist())),
                "kl_policy_to_base_nats": float(found["p_q"].mean()),
                "kl_base_to_policy_nats": float(found["q_p"].mean()),
                "kl_post_unit": float(found["q_p"].mean()) / 50257 / s.num_tokens,
                "entropy_nats": float(found["entropy"].mean()),
                "distinct_completions": len(counts),
                "top_1_mass": first_ten[0] / len(drawn),
                "top_10_mass": sum(first_ten) / len(drawn),
                "gradient_norm": norm,
                "gradient_snr": snr,
            }
        )
        reward_of = dict(zip(drawn, rewards.tolist(), strict=True))
        self.top += [
            {
                "step": step + 1,
                "prompt": s.prompts[i],
                "text": self.tokenizer.decode(list(ids), clean_up_tokenization_spaces=False),
                "count": count,
                "reward": reward_of[i, ids],
            }
            for (i, ids), count in counts[:10]
        ]

    def run(self) -> None:
        for _ in range(self.settings.steps):
            self.take_step()
