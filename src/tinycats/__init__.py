"""tinycats: reinforcement learning on a small story model, reproducible to the byte."""

__version__ = "0.1.0"
