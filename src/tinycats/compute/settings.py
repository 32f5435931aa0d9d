"""Machine settings: the device and the number of CPU threads."""

from __future__ import annotations

from dataclasses import dataclass

from tinycats.settings import setting


@dataclass(frozen=True, kw_only=True)
class MachineSettings:
    """Where a program computes."""

    device: str = setting(
        "auto",
        "where to compute; auto: a free GPU if there is one, else the CPU",
        pattern=r"[a-z]+(:[0-9]+)?",
        spelled="auto, or a device of torch such as cpu or cuda:1",
    )
    threads: int = setting(
        0, "CPU threads of torch; 0 for all that the process may use", minimum=0, maximum=4096
    )
