"""Snakemake, whose plugin for Slurm looks for ended jobs every two seconds.

By itself it waits ten seconds longer after each look at which no job had ended.
"""

import sys

from snakemake.cli import main
from snakemake_executor_plugin_slurm import Executor

if __name__ == "__main__":
    Executor.next_seconds_between_status_checks = property(lambda _: 2, lambda *_: None)
    sys.exit(main())
