"""Training a policy: the loop, its records, and a state that survives being killed.

Each step draws a batch from the policy, evenly over the prompts, rewards its distinct texts,
differentiates the objective over the prefix trees and takes one AdamW step, or several with PPO's
clipped ratio. Random numbers depend on (seed, step) alone, so a run that was killed and resumes from
its checkpoint equals the uninterrupted run, byte for byte on CPUs.
"""

from __future__ import annotations

import hashlib
import io
import json
import logging
import os
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from tinycats.files.atomic import whole
from tinycats.language_model.network import network_with_onednn
from tinycats.language_model.sampling import uniform_generator
from tinycats.language_model.text import (
    check_context,
    context_of,
    decode,
    encode_prompt,
    rewarded_texts,
)
from tinycats.policies import objective
from tinycats.policies.continuation import Continuation
from tinycats.policies.following import Follower, Terminated, stop_between_steps
from tinycats.policies.mixture import Batch, Mixture, halved
from tinycats.policies.prefix_tree import Rollout
from tinycats.policies.record import last_step
from tinycats.policies.settings import TrainingSettings
from tinycats.program import UserError
from tinycats.progress import progress
from tinycats.reward.model import RewardError

log = logging.getLogger(__name__)


class Trainer:
    """One policy in training.

    Args:
        policy, base: models on the same device. The policy is trained in place, and the linear layers
            of both are replaced (:func:`tinycats.language_model.network.network_with_onednn`).
        tokenizer: theirs.
        reward: rewards ``(texts,)`` of a list of texts.
        settings: the settings of the run.
        identity: hash of parameters, code and data; a state with another identity is not used.
        state_file: path of the checkpoint, which exists while the run is unfinished.
        machine: what the last bits of a step depend on besides the identity: threads, processor,
            torch. A run that resumes on another machine goes on, and ``computed_on`` has both.

    Raises:
        UserError: settings exclude each other, a prompt leaves no token to generate, or the
            model's context is too short.
    """

    def __init__(
        self,
        policy: Any,
        base: Any,
        tokenizer: Any,
        reward: Callable[[list[str]], Tensor],
        settings: TrainingSettings,
        identity: str,
        state_file: Path,
        machine: Mapping[str, Any] | None = None,
    ) -> None:
        self.policy, self.tokenizer, self.reward = policy, tokenizer, reward
        self.settings, self.identity, self.state_file = settings, identity, state_file
        settings.check_combination()
        self.prompt_ids = [encode_prompt(tokenizer, prompt) for prompt in settings.prompts]
        longest = max(settings.prompts, key=lambda prompt: len(encode_prompt(tokenizer, prompt)))
        new_tokens = settings.num_tokens - max(map(len, self.prompt_ids))
        if new_tokens < 1:
            raise UserError(
                f"training.num_tokens: {settings.num_tokens} leaves no token to generate, since the"
                f" prompt {longest!r} has {settings.num_tokens - new_tokens}; it must be larger"
            )
        check_context("training.num_tokens", settings.num_tokens, 0, context_of(policy))
        if settings.kl_tokens:
            check_context("kl_tokens", settings.kl_tokens, settings.num_tokens, context_of(policy))
        self.coefficient = objective.kl_coefficient_per_nat(settings.kl_factor)
        networks = (
            network_with_onednn(policy, settings.precision),
            network_with_onednn(base, settings.precision),
        )
        shape = new_tokens, tokenizer.eos_token_id
        self.mixture = Mixture(*networks, self.prompt_ids, *shape, settings.micro_batch)
        self.continuation: Continuation | None = None
        if settings.kl_tokens and settings.kl_factor:  # with one prompt alone
            self.continuation = Continuation(*networks, self.prompt_ids[0], *shape, settings)
        base.requires_grad_(False)
        self.optimizer = torch.optim.AdamW(
            policy.parameters(),
            lr=settings.learning_rate,
            weight_decay=settings.weight_decay,
            fused=True,
        )
        self.step = 0
        self.rows: list[dict[str, Any]] = []
        self.top: list[dict[str, Any]] = []
        self.seconds_before = 0.0
        #: the machine of each part of the run, with its first step
        self.computed_on: list[dict[str, Any]] = [{"first_step": 1, **(machine or {})}]

    # ------------------------------------------------------------------ one step

    def take_step(self) -> None:
        """Sample, reward, differentiate, update; appends to ``rows`` and ``top``."""
        started, s = time.perf_counter(), self.settings
        generator = uniform_generator(s.seed, self.step)
        batch = self.mixture.sample(s.batch_size, generator)
        distinct = self.rewards_of(batch)
        # of each prompt, its completions compared among themselves
        rewards, advantages, losses = [], [], []
        for rollout, own in zip(batch.rollouts, distinct, strict=True):
            rewards.append(own[rollout.index])
            drawn = objective.Drawn(rewards[-1], rollout.log_ratio, self.coefficient, s.n or 1)
            advantages.append(objective.advantages(drawn, s.advantage, s.kl))
            losses.append(
                objective.loss_value(
                    *(advantages[-1].double(), rollout.log_prob, objective.kl_sum(rollout, s.kl)),
                    *(self.coefficient, s.num_tokens),
                )
            )
        loss = float(torch.stack(losses).mean())
        stories = None
        if self.continuation:
            stories = self.continuation.draw(self.step)
            loss += self.coefficient * self.continuation.kl(stories) / s.num_tokens
        snr = float("nan")
        if s.snr_every and self.step % s.snr_every == 0:
            snr = self.signal_to_noise(batch, advantages)
        norm = self.update(batch, advantages, loss, None, stories)
        for _ in range(s.updates_per_batch - 1):
            self.update(self.mixture.again(batch), advantages, loss, batch)
        self.step += 1
        seconds = time.perf_counter() - started
        self.record(batch, distinct, torch.cat(rewards), loss, norm, snr, seconds)
        if s.target_kl is not None:
            kl = self.rows[-1]["kl_policy_to_base_nats"]
            self.coefficient = objective.adapted(
                self.coefficient, kl, s.target_kl, s.batch_size, s.horizon
            )

    def rewards_of(self, batch: Batch) -> list[Tensor]:
        """For each prompt, the rewards of its distinct completions."""
        texts = [
            text
            for prompt, rollout in zip(self.prompt_ids, batch.rollouts, strict=True)
            for text in rewarded_texts(self.tokenizer, prompt, rollout.token_ids)
        ]
        return list(self.reward(texts).split([len(r.token_ids) for r in batch.rollouts]))

    def update(
        self,
        batch: Batch,
        advantages: list[Tensor],
        loss: float,
        drawn: Batch | None,
        stories: Rollout | None = None,
    ) -> float:
        """One update from a batch, clipped against the batch as ``drawn``; the gradient's norm.

        ``stories`` are those of :class:`Continuation`, if the KL term covers tokens after.

        Raises:
            UserError: loss or gradient is not finite.
        """
        s = self.settings
        self.optimizer.zero_grad(set_to_none=True)
        self.mixture.backward(
            batch, advantages, self.coefficient, s.kl, s.num_tokens, drawn, s.clip
        )
        if self.continuation and stories:
            self.continuation.backward(stories, self.coefficient)
        gradients = [p.grad for p in self.policy.parameters() if p.grad is not None]
        norm = float(torch.nn.utils.get_total_norm(gradients))
        if not (np.isfinite(loss) and np.isfinite(norm)):
            kept = f"; the last good state is kept in {self.state_file}"
            raise UserError(
                f"training.learning_rate: {s.learning_rate} gave a loss of {loss} with a"
                f" gradient of norm {norm} at step {self.step + 1}; try a smaller rate"
                f"{kept if self.state_file.exists() else ''}"
            )
        self.optimizer.step()
        return norm

    def signal_to_noise(self, batch: Batch, advantages: list[Tensor]) -> float:
        """√max(0, g₁·g₂) / (|g₁ − g₂| / 2) of the gradients of the batch's two halves.

        g₁·g₂ is an unbiased estimate of the squared length of the true gradient, and half the
        difference of the halves estimates the noise of their mean.
        """
        s = self.settings
        parts = []
        for second in (False, True):
            self.optimizer.zero_grad(set_to_none=True)
            own = [advantage[halved(len(advantage), second)] for advantage in advantages]
            again = self.mixture.half(batch, second)
            self.mixture.backward(again, own, self.coefficient, s.kl, s.num_tokens)
            grads = [p.grad.flatten() for p in self.policy.parameters() if p.grad is not None]
            parts.append(torch.cat(grads).double())
        signal = torch.dot(parts[0], parts[1]).clamp(min=0).sqrt()
        return float(signal / ((parts[0] - parts[1]).norm() / 2))

    def record(
        self,
        batch: Batch,
        distinct_rewards: list[Tensor],
        rewards: Tensor,
        loss: float,
        norm: float,
        snr: float,
        seconds: float,
    ) -> None:
        """Append this step's row of training.csv and of top_completions.csv."""
        s = self.settings
        size = s.batch_size
        order = batch.frequent()
        top = [int(batch.rollouts[prompt].counts[i]) for prompt, i in order[:10]]
        self.rows.append(
            {
                "step": self.step,
                "loss": loss,
                "reward_mean": float(rewards.double().mean()),
                "reward_std": float(rewards.double().std(unbiased=False)),
                **batch.measured(s.num_tokens),
                "distinct_completions": len(order),
                "top_1_mass": top[0] / size,
                "top_10_mass": sum(top) / size,
                "gradient_norm": norm,
                "gradient_snr": snr,
                "seconds": seconds,
                "samples_per_second": size / seconds,
            }
        )
        for (prompt, i), count in zip(order, top, strict=False):  # the first ten
            ids = batch.rollouts[prompt].token_ids[i]
            self.top.append(
                {
                    "step": self.step,
                    "prompt": s.prompts[prompt],
                    "text": decode(self.tokenizer, ids, special_tokens=True),
                    "count": count,
                    "reward": float(distinct_rewards[prompt][i]),
                }
            )

    # ------------------------------------------------------------------ the run

    def run(self, checkpoint_seconds: float, followers: Sequence[Follower] = ()) -> None:
        """Train to the end, from the state file if it is this run's; ``followers`` get each row.

        Raises:
            Terminated: SIGTERM or Ctrl-C arrived; the state was written.
            UserError: loss or gradient stopped being finite, the reward failed (the state was
                written), or the state cannot be written.
        """
        self.load_state()
        for follower in followers:
            follower.restart(self.rows)
        started = saved = time.monotonic()
        already = self.seconds_before
        with stop_between_steps() as asked:
            todo, total = range(self.step, self.settings.steps), self.settings.steps
            for _ in progress(
                todo, total, "step", lambda: last_step(self.rows, self.top), todo.start
            ):
                if self.has_passed_kl():  # also where a state was written just then
                    break
                try:
                    self.take_step()
                except RewardError:
                    self.save_state()  # nothing of the step was taken
                    raise
                for follower in followers:
                    follower.add(self.rows[-1])
                self.seconds_before = already + time.monotonic() - started
                due = time.monotonic() - saved >= checkpoint_seconds
                if asked or (due and self.step < self.settings.steps):
                    self.save_state()
                    saved = time.monotonic()
                if asked:
                    log.warning("stopped as asked after step %d; run again to resume", self.step)
                    raise Terminated(128 + asked[0])

    def has_passed_kl(self) -> bool:
        """Whether the last batch had more KL(policy‖base) than ``stop_at_kl``."""
        stop = self.settings.stop_at_kl
        return bool(
            stop is not None and self.rows and self.rows[-1]["kl_policy_to_base_nats"] > stop
        )

    def save_state(self) -> None:
        """Write the checkpoint atomically."""
        state = {
            "identity": self.identity,
            "step": self.step,
            "coefficient": self.coefficient,
            "policy": self.policy.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "rows": json.dumps(self.rows),
            "top": json.dumps(self.top),
            "computed_on": json.dumps(self.computed_on),
            "seconds": self.seconds_before,
        }
        state["checksum"] = checksum(state)  # torch's file format does not detect a changed byte
        try:
            with whole(self.state_file) as temporary, open(temporary, "wb") as file:
                torch.save(state, file)
        except (OSError, RuntimeError) as error:  # torch reports a full disk as a RuntimeError
            raise UserError(
                f"{self.state_file}: the state cannot be written ({str(error).splitlines()[0]});"
                " the last good one is kept; make room and run again"
            ) from error

    def load_state(self) -> None:
        """Resume from the checkpoint; one that is damaged or of another run is set aside."""
        if not self.state_file.exists():
            return
        try:
            content = self.state_file.read_bytes()
        except OSError as error:  # a read error does not mean that the state is damaged
            raise UserError(
                f"{self.state_file}: the state cannot be read ({error}); nothing was changed; run"
                " again, or delete it to start over"
            ) from error
        try:
            state = torch.load(io.BytesIO(content), map_location="cpu", weights_only=True)
            if state.pop("checksum") != checksum(state):
                raise ValueError("it is damaged: its checksum is another")
            if state["identity"] != self.identity:
                raise ValueError("it was made from other parameters, code or data")
        except Exception as error:  # torch raises many kinds of errors for a damaged file
            aside = self.state_file.with_name(self.state_file.name + ".set-aside")
            os.replace(self.state_file, aside)
            reason = str(error).splitlines()[0] if str(error) else repr(error)
            log.warning("state set aside as %s, starting over: %s", aside, reason)
            return
        self.policy.load_state_dict(state["policy"])
        self.optimizer.load_state_dict(state["optimizer"])
        self.rows, self.top = json.loads(state["rows"]), json.loads(state["top"])
        self.step, self.coefficient = state["step"], state["coefficient"]
        self.seconds_before = state["seconds"]
        log.info("resuming after step %d of %d", self.step, self.settings.steps)
        self.note_machine(json.loads(state["computed_on"]))

    def note_machine(self, before: list[dict[str, Any]]) -> None:
        """Put the parts of the run ``before`` this one into ``computed_on``; log what differs."""
        now, last = {**self.computed_on[-1], "first_step": self.step + 1}, before[-1]
        changed = [key for key in now if key != "first_step" and last.get(key) != now[key]]
        self.computed_on = [*before, now] if changed else before
        if changed:
            log.warning(
                "from step %d on, %s; the last bits of the weights may depend on it",
                self.step + 1,
                ", ".join(
                    f"{key} is {now[key]!r}, before it was {last.get(key)!r}" for key in changed
                ),
            )


def checksum(state: Any) -> str:
    """sha256 of nested dictionaries and lists of tensors, numbers and texts, order included."""
    digest = hashlib.sha256()

    def add(value: Any) -> None:
        if isinstance(value, Tensor):
            add((str(value.dtype), list(value.shape)))
            digest.update(
                value.detach().cpu().contiguous().flatten().view(torch.uint8).numpy().data
            )
        elif isinstance(value, dict):
            for key, inner in value.items():
                add(key)
                add(inner)
        elif isinstance(value, list | tuple):
            digest.update(b"[%d]" % len(value))
            for inner in value:
                add(inner)
        else:
            digest.update(repr(value).encode() + b"\0")

    add(state)
    return digest.hexdigest()
