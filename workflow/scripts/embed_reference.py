"""Compute the reference embedding: the unit vector of the concept, used by every reward."""

from __future__ import annotations

import argparse
from pathlib import Path

from tinycats import program


def main() -> None:
    parser = argparse.ArgumentParser(description=program.summary(__doc__))
    parser.add_argument(
        "--encoder", type=Path, required=True, help="folder of the sentence encoder"
    )
    parser.add_argument("--concept", required=True, help="word or words, such as cat")
    parser.add_argument("--out", type=Path, required=True, help="safetensors file to write")
    args = parser.parse_args()
    if not args.concept.strip():
        raise program.UserError("concept is empty; it should be a word or a few, such as cat")

    from tinycats.models.folders import folder_identity, verify_folder
    from tinycats.reward.similarity import RewardEncoder, save_reference

    verify_folder(args.encoder)
    vector = RewardEncoder(args.encoder).embed([args.concept])[0]
    save_reference(args.out, args.concept, vector, folder_identity(args.encoder))


if __name__ == "__main__":
    program.run(main)
