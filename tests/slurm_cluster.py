"""A Slurm cluster of one node on loopback, for tests and for trying the profile by hand.

    python tests/slurm_cluster.py start FOLDER
    python tests/slurm_cluster.py stop FOLDER

munged, slurmctld and slurmd run from one folder; the node has partitions ``cpu`` and ``gpu`` and one
GPU, which is /dev/null: Slurm hands it out as it would a real one, and programs find no CUDA device
and use the CPU. There is no accounting database. Outside the folder only the link
/etc/slurm/slurm.conf is made: Snakemake's job steps clear SLURM_CONF from the environment.
Needs Debian's packages munge, slurmctld, slurmd and slurm-client, and root or sudo for the link.
"""

from __future__ import annotations

import getpass
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

LINK = Path("/etc/slurm/slurm.conf")
PROGRAMS = ("munged", "slurmctld", "slurmd", "sbatch")
# CPUs and memory that the node only claims to have, so that nothing but the GPU makes jobs wait.
CONFIGURATION = """\
ClusterName=test
SlurmctldHost={host}(127.0.0.1)
SlurmctldPort={ports[0]}
CommunicationParameters=NoCtldInAddrAny,NoInAddrAny
SlurmUser={user}
SlurmdUser={user}
AuthType=auth/munge
AuthInfo=socket={folder}/munge.socket
CredType=cred/munge
StateSaveLocation={folder}/state
SlurmdSpoolDir={folder}/spool
SlurmctldPidFile={folder}/slurmctld.pid
SlurmdPidFile={folder}/slurmd.pid
SlurmctldLogFile={folder}/slurmctld.log
SlurmdLogFile={folder}/slurmd.log
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
MpiDefault=none
MailProg=/bin/true
SelectType=select/cons_tres
SelectTypeParameters=CR_CPU_Memory
SlurmdParameters=config_overrides
SchedulerParameters=bf_interval=1,sched_interval=1,batch_sched_delay=0,sched_min_interval=0
ReturnToService=2
MinJobAge=3600
KillWait=10
GresTypes=gpu
PropagateResourceLimits=NONE
NodeName=node NodeHostname={host} NodeAddr=127.0.0.1 Port={ports[1]} CPUs=64 RealMemory=500000 Gres=gpu:1
PartitionName=cpu Nodes=node Default=YES MaxTime=1-0 State=UP
PartitionName=gpu Nodes=node MaxTime=1-0 State=UP
"""


def why_not() -> str:
    """Why no cluster can be started on this machine; empty if one can."""
    missing = [name for name in PROGRAMS if _find(name) is None]
    if missing:
        return f"Slurm is not installed: no {', '.join(missing)}"
    if LINK.exists() and not LINK.is_symlink():
        return f"{LINK} is there: this machine belongs to a cluster"
    if os.getuid() and subprocess.run(["sudo", "-n", "true"], capture_output=True).returncode:
        return f"neither root nor sudo, to make {LINK}"
    return ""


def start(folder: Path) -> None:
    """Start the daemons in ``folder`` and wait until the node is idle.

    Raises:
        RuntimeError: another cluster is up, or this one does not come up within a minute.
    """
    if LINK.is_symlink():
        other = Path(os.readlink(LINK)).parent
        if _alive(other):
            raise RuntimeError(
                f"{LINK} leads to {other}: stop that cluster first, by slurm_cluster.py stop"
            )
        _as_root("rm", str(LINK))  # what a killed test left behind
    folder.mkdir(parents=True, exist_ok=True)
    folder.chmod(0o755)  # every user must reach munge's socket
    folder = folder.resolve()
    (folder / "spool").mkdir()
    for name in ("state", "munge"):
        (folder / name).mkdir(mode=0o700)
    key = folder / "munge" / "key"
    key.touch(mode=0o600)
    key.write_bytes(os.urandom(1024))
    values = {"host": socket.gethostname().split(".")[0], "user": getpass.getuser()}
    configuration = CONFIGURATION.format(folder=folder, ports=_free_ports(2), **values)
    (folder / "slurm.conf").write_text(configuration)
    (folder / "gres.conf").write_text("NodeName=node Name=gpu File=/dev/null\n")
    # nothing here uses cgroups, but slurmd wants to know which; it can be told none since 23.11
    version = subprocess.run(
        [_find("slurmd") or "slurmd", "-V"], capture_output=True, text=True
    ).stdout
    newer = [int(n) for n in version.split()[-1].split(".")[:2]] >= [23, 11]
    plugin = "disabled" if newer else "cgroup/v1"
    (folder / "cgroup.conf").write_text(f"CgroupPlugin={plugin}\n")
    _as_root("mkdir", "-p", str(LINK.parent))
    _as_root("ln", "-s", str(folder / "slurm.conf"), str(LINK))

    _daemon(
        folder,
        *("munged", "--foreground", f"--key-file={key}", f"--socket={folder}/munge.socket"),
        *(f"--seed-file={folder}/munge/seed", f"--log-file={folder}/munged.log"),
        f"--pid-file={folder}/munged.pid",
    )
    _wait(folder, (folder / "munge.socket").exists, "munged")
    file = str(folder / "slurm.conf")  # by its place: they look for gres.conf beside it
    _daemon(folder, "slurmctld", "-D", "-c", "-f", file)
    _daemon(folder, "slurmd", "-D", "-N", "node", "-f", file)
    _wait(folder, lambda: _ask("sinfo", "-h", "-o", "%T") == "idle", "the node")


def stop(folder: Path) -> None:
    """Cancel what runs, then stop the daemons of ``folder``; fine if it is not up."""
    if _is_ours(folder):
        _ask("scancel", "--user", getpass.getuser())
        deadline = time.monotonic() + 20
        while _ask("squeue", "-h", "-o", "%i") and time.monotonic() < deadline:
            time.sleep(0.2)
    pids = folder / "pids"
    for line in reversed(pids.read_text().splitlines() if pids.exists() else []):
        name, pid = line.split()
        for number, seconds in ((signal.SIGTERM, 10), (signal.SIGKILL, 5)):
            deadline = time.monotonic() + seconds
            if _runs(name, pid):
                os.kill(int(pid), number)
            while _runs(name, pid) and time.monotonic() < deadline:
                time.sleep(0.05)
    pids.unlink(missing_ok=True)
    if _is_ours(folder):
        _as_root("rm", str(LINK))


def _find(program: str) -> str | None:
    return shutil.which(program, path=f"{os.environ['PATH']}:/usr/sbin:/sbin")


def _is_ours(folder: Path) -> bool:
    return LINK.is_symlink() and Path(os.readlink(LINK)) == folder.resolve() / "slurm.conf"


def _as_root(*words: str) -> None:
    subprocess.run([*(["sudo", "-n"] if os.getuid() else []), *words], check=True)


def _free_ports(count: int) -> list[int]:
    sockets = [socket.create_server(("127.0.0.1", 0)) for _ in range(count)]
    ports = [s.getsockname()[1] for s in sockets]
    for s in sockets:
        s.close()
    return ports


def _daemon(folder: Path, program: str, *words: str) -> None:
    """Start a program in a session of its own and write down its process id."""
    with open(folder / f"{program}.out", "wb") as out:
        process = subprocess.Popen(
            [_find(program) or program, *words],
            stdin=subprocess.DEVNULL,
            stdout=out,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
    while process.poll() is None and not _runs(program, str(process.pid)):
        time.sleep(0.01)  # its name shows a moment after it was started
    with open(folder / "pids", "a") as pids:
        pids.write(f"{program} {process.pid}\n")


def _runs(name: str, pid: str) -> bool:
    """Whether the process is there and still that program (a zombie has no command line)."""
    try:
        return name in Path(f"/proc/{pid}/cmdline").read_bytes().split(b"\0")[0].decode()
    except OSError:
        return False


def _alive(folder: Path) -> bool:
    """Whether any daemon of the cluster in this folder runs."""
    pids = folder / "pids"
    return pids.exists() and any(_runs(*line.split()) for line in pids.read_text().splitlines())


def _ask(*words: str) -> str:
    """Output of one of Slurm's commands; empty if it fails or takes long."""
    try:
        return subprocess.run(words, capture_output=True, text=True, timeout=15).stdout.strip()
    except subprocess.TimeoutExpired:
        return ""


def _wait(folder: Path, ready, what: str) -> None:
    deadline = time.monotonic() + 60
    while not ready():
        lines = (folder / "pids").read_text().splitlines()
        dead = [name for name, pid in map(str.split, lines) if not _runs(name, pid)]
        if dead or time.monotonic() > deadline:
            logs = [*sorted(folder.glob("*.out")), *sorted(folder.glob("*.log"))]
            tails = "\n".join(f"== {p.name}\n{p.read_text()[-1500:]}" for p in logs)
            stop(folder)
            raise RuntimeError(f"{what} did not come up (stopped: {dead or 'none'})\n{tails}")
        time.sleep(0.1)


if __name__ == "__main__":
    if len(sys.argv) != 3 or sys.argv[1] not in ("start", "stop"):
        sys.exit(__doc__)
    if sys.argv[1] == "start" and why_not():
        sys.exit(why_not())
    {"start": start, "stop": stop}[sys.argv[1]](Path(sys.argv[2]))
