"""Write the merged configuration of a study as YAML, beside its results."""

from __future__ import annotations

import argparse
from pathlib import Path

from tinycats import program
from tinycats.files import tables as files
from tinycats.settings import read_json


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument(
        "--config", type=read_json, required=True, help="JSON, or @FILE that holds it"
    )
    parser.add_argument("--out", type=Path, required=True, help="YAML file to write")
    args = parser.parse_args()

    import yaml

    text = yaml.safe_dump(args.config, sort_keys=False, allow_unicode=True, width=100)
    files.write_text(args.out, text)


if __name__ == "__main__":
    program.run(main)
