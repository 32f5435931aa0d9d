"""TRL's RLOOTrainer on the same work: model, prompt, batch, rewards, precision, a KL term.

Settings chosen for speed: no gradient checkpointing, no logging, no saving, one generation per update,
sampling from the full softmax.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from typing import Any

from common import KL_FACTOR, PROMPT, Stopwatch, reward_model


def run(args: argparse.Namespace, watch: Stopwatch) -> dict[str, Any]:
    """Train for ``--steps`` updates at learning rate 0; their times by stage."""
    import torch
    from datasets import Dataset
    from datasets.table import InMemoryTable
    from transformers import TrainerCallback
    from trl import RLOOConfig, RLOOTrainer

    from tinycats.models.folders import load_causal_lm

    model, tokenizer = load_causal_lm(args.model)
    tokenizer.pad_token = tokenizer.pad_token or tokenizer.eos_token
    model.name_or_path = model.config._name_or_path = str(
        args.model
    )  # TRL loads its reference model from here
    rewards = reward_model(args.encoder, args.device)

    def similarity(prompts: list[str], completions: list[str], **_: Any) -> list[float]:
        texts = [p + c for p, c in zip(prompts, completions, strict=True)]
        return [float(r) for r in rewards(texts)]

    seconds = args.seconds
    result: dict[str, Any] = {"seconds": [], "stages": [], "distinct": []}

    class Clock(TrainerCallback):
        def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
            self.began = self.last = watch.now()

        def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
            now = watch.now()
            result["seconds"].append(now - self.last)
            result["stages"].append(dict(watch.seconds))
            watch.seconds.clear()
            self.last = now
            if now - self.began > seconds:
                control.should_training_stop = True

    with tempfile.TemporaryDirectory() as scratch:
        config = RLOOConfig(
            output_dir=scratch,
            per_device_train_batch_size=args.batch,
            num_generations=args.batch,
            max_completion_length=args.new_tokens,
            max_steps=args.steps,
            learning_rate=0.0,
            weight_decay=0.01,
            lr_scheduler_type="constant",
            beta=KL_FACTOR / 50257,
            temperature=1.0,
            top_k=0,
            top_p=1.0,
            gradient_checkpointing=False,
            bf16=args.precision == "bf16",
            use_cpu=args.device == "cpu",
            dataloader_pin_memory=False,
            logging_strategy="no",
            save_strategy="no",
            report_to="none",
            disable_tqdm=True,
            seed=0,
        )
        trainer = RLOOTrainer(
            model=model,
            reward_funcs=similarity,
            args=config,
            train_dataset=Dataset(
                InMemoryTable.from_pydict({"prompt": [PROMPT] * 8}),
                fingerprint="prompt",  # else it pickles the table, which not every pyarrow can
            ),
            processing_class=tokenizer,
            callbacks=[Clock()],
        )
        generate = trainer._generate_single_turn

        def counted(*a: Any, **k: Any) -> Any:
            ids = generate(*a, **k)
            result["distinct"].append(len({tuple(row) for row in ids}))
            return ids

        trainer._generate_single_turn = watch.wrap("sample", counted)
        trainer._calculate_rewards = watch.wrap("reward", trainer._calculate_rewards)
        parameters = {p.dtype for m in (trainer.model, trainer.ref_model) for p in m.parameters()}
        if parameters != {torch.float32}:
            raise RuntimeError(f"parameters should be float32, are {parameters}")
        began = time.perf_counter()
        trainer.train()
        result["total_seconds"] = time.perf_counter() - began
    return result
