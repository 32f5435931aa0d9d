"""Train one policy by REINFORCE towards a reward: one KL factor, one seed.

By hand, with the settings of the post's reinforce.py, after `snakemake models`:

    PYTHONPATH=src python workflow/scripts/train_policy.py --base-model resources/models/nano \\
        --encoder resources/models/sentence-transformers--all-MiniLM-L6-v2 \\
        --reference results/default/reference/cat.safetensors --kl-factor 6000 --out my-policy
"""

from __future__ import annotations

import argparse
import json
import platform
import time
from pathlib import Path

from tinycats import __version__, layout, program
from tinycats.compute.settings import MachineSettings
from tinycats.files.atomic import check_writable, write_sealed
from tinycats.files.tables import GrowingTable, write_table
from tinycats.policies.columns import TOP_COMPLETIONS, TRAINING
from tinycats.policies.settings import CheckpointSettings, TrainingSettings
from tinycats.reward.settings import RewardFiles
from tinycats.settings import add_flags, as_mapping, read_flags


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add("--base-model", type=Path, required=True, help="folder of the model to start from")
    add("--out", type=Path, required=True, help="folder for model/, training.csv, run.json")
    add("--variant", default="blog", help="name of the variant, for run.json")
    add("--rewards", type=Path, help="folder of rewards shared between jobs")
    add_flags(parser, RewardFiles)
    add_flags(parser, TrainingSettings, whole=True)
    add_flags(parser, CheckpointSettings)
    add_flags(parser, MachineSettings)
    return parser.parse_args()


def main() -> None:
    args = parse()
    settings = read_flags(args, TrainingSettings)
    settings.check_combination()
    machine = read_flags(args, MachineSettings)
    checkpoints = read_flags(args, CheckpointSettings)
    check_writable(args.out)
    import torch
    import transformers

    from tinycats.compute.devices import arithmetic, choose_device, gpu_name, set_threads
    from tinycats.models.folders import folder_identity, load_causal_lm, save_policy, sha256_file
    from tinycats.policies.following import Events, Follower
    from tinycats.policies.objective import kl_coefficient_per_nat
    from tinycats.policies.record import commit, run_identity
    from tinycats.policies.training import Trainer
    from tinycats.reward.loading import load_reward
    from tinycats.reward.memo import load_memo, save_memo
    from tinycats.reward.model import RewardModel
    from tinycats.source_code import digest

    followers: list[Follower] = [GrowingTable(args.out / layout.TRAINING.name, TRAINING)]
    if checkpoints.tensorboard:
        followers.append(Events(args.out / layout.EVENTS.name))
    threads, device = set_threads(machine.threads), choose_device(machine.device)
    reward = RewardModel(load_reward(read_flags(args, RewardFiles), device))
    policy, tokenizer = load_causal_lm(args.base_model, device)
    base, _ = load_causal_lm(args.base_model, device)
    known = load_memo(reward, args.rewards) if args.rewards else 0
    data = {
        "base_model_sha256": sha256_file(args.base_model / "model.safetensors"),
        "base_model_identity": folder_identity(args.base_model),
        "tokenizer_sha256": sha256_file(args.base_model / "tokenizer.json"),
        **reward.reward.identity,
    }
    trainer = Trainer(
        *(policy, base, tokenizer, reward, settings),
        identity=run_identity(settings, data, digest(Path(__file__))),
        state_file=args.out / layout.STATE.name,
        machine={"threads": threads, **arithmetic(device)},
    )
    started = time.time()
    trainer.run(checkpoints.checkpoint_seconds, followers)

    if args.rewards:
        save_memo(reward, args.rewards, known)
    save_policy(policy, tokenizer, args.out / "model")
    write_table(args.out / "top_completions.csv", trainer.top, TOP_COMPLETIONS)
    run = {
        "variant": args.variant,
        "settings": as_mapping(settings),
        "kl_coefficient_per_nat": kl_coefficient_per_nat(settings.kl_factor),
        "last_kl_coefficient_per_nat": trainer.coefficient,
        "steps_taken": trainer.step,
        "new_tokens": trainer.mixture.new_tokens,
        "policy_sha256": sha256_file(args.out / "model" / "model.safetensors"),
        "policy_identity": folder_identity(args.out / "model"),
        **data,
        "device": (platform.processor() or "cpu") if device == "cpu" else gpu_name(device),
        "threads": threads,
        "computed_on": trainer.computed_on,
        "seconds": round(trainer.seconds_before, 3),
        "finished": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
        "started": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(started)),
        "commit": commit(),
        "versions": {
            "tinycats": __version__,
            "python": platform.python_version(),
            "torch": torch.__version__,
            "transformers": transformers.__version__,
        },
    }
    write_sealed(args.out / layout.RUN.name, json.dumps(run, indent=1, ensure_ascii=False) + "\n")
    write_table(args.out / "training.csv", trainer.rows, TRAINING)
    trainer.state_file.unlink(missing_ok=True)  # last: whatever it was for is on the disk now


if __name__ == "__main__":
    program.run(main)
