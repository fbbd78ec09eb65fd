"""Faults at random moments of a run: a rank is killed, stopped, cut off, throws or hangs in MPI. All others have to end by
themselves, each with an error that names the rank at fault, and nothing may be left.

    faults_test.py                              a moment or two of each
    faults_test.py --moments 50 --only kill     fifty of each with such a fault, or place, or transport
    faults_test.py --gpus                       on emulated GPUs: FAULT_PROGRAM is fault_program_emulated, TEST_DEVICE is cuda

FAULT_PROGRAM is tests/comm/fault_program.cpp. Open MPI's mpirun would end the others itself: it sees a shell in each
rank's place, which lives until the moment is over. In the place called plain it sees the ranks.
"""

import argparse
import contextlib
import dataclasses
import os
import pathlib
import random
import re
import shutil
import signal
import statistics
import subprocess
import sys
import tempfile
import time

sys.path.append(str(pathlib.Path(__file__).parents[1] / "cluster"))
from cluster import Cluster  # noqa: E402
from namespaces import Unavailable  # noqa: E402

PROGRAM = os.environ["FAULT_PROGRAM"]
MPIEXEC = os.environ.get("MPIEXEC", "mpiexec")
DEADLINE = 1.5
# What the ranks take beyond the deadline to find out (src/comm/watch.cpp), and a busy machine's delay.
LIMIT = DEADLINE + 0.4 + 8

# However we end: it and the program go on for minutes alone.
SHELL = '''trap "" TERM; "$@" & wait $!; echo "0 $?" >"{place}/status.$OMPI_COMM_WORLD_RANK"
i=0; while [ ! -e "{place}/over" ] && [ $((i += 1)) -lt 1200 ]; do sleep 0.1; done'''
# Hosts and ranks of each, where it isn't this machine.
PLACES = {"node": None, "plain": None, "2x2": (2, 2), "3x1": (3, 1)}
CASES = [
    ("kill", "node", "shared"), ("kill", "node", "mpi"), ("kill", "2x2", "hierarchical"), ("kill", "2x2", "mpi"),
    ("kill", "3x1", "mpi"),
    ("stop", "node", "shared"), ("stop", "node", "mpi"), ("stop", "2x2", "hierarchical"),
    ("cut", "2x2", "hierarchical"), ("cut", "2x2", "mpi"),
    ("throw", "node", "shared"), ("throw", "node", "mpi"), ("throw", "2x2", "hierarchical"),
    ("hang", "node", "shared"), ("hang", "node", "mpi"),
    ("kill", "plain", "auto"), ("stop", "plain", "auto"), ("throw", "plain", "auto"),
]


# With --gpus, emulated ones (tests/emulation): a rank's device process ends with it.
GPU_CASES = [
    ("kill", "node", "shared"), ("kill", "node", "nccl"), ("kill", "2x2", "hierarchical"),
    ("stop", "node", "shared"), ("stop", "2x2", "hierarchical"),
    ("throw", "node", "nccl"), ("throw", "2x2", "hierarchical"),
]


def until(condition, seconds):
    end = time.monotonic() + seconds
    while not (value := condition()) and time.monotonic() < end:
        time.sleep(0.01)
    return value


class Job:
    """Ranks of the program in a directory of their own, which their command lines name."""

    def __init__(self, ranks, options, cluster, plain):
        self.ranks = range(ranks)
        self.directory = pathlib.Path(tempfile.mkdtemp(prefix="shardmix-fault-"))
        program = [PROGRAM, "--directory", str(self.directory), "--deadline", str(int(DEADLINE * 1000)), *options]
        if not plain:
            program = ["sh", "-c", SHELL.format(place=self.directory), "sh", *program]
        with open(self.directory / "said", "w", encoding="utf-8") as said:
            how = {"stdin": subprocess.DEVNULL, "stdout": said, "stderr": said}
            if cluster:
                self.mpirun = cluster.mpirun(program, ranks_per_host=ranks // len(cluster.names), **how)
            else:
                # Open MPI's own files are in our directory.
                own = {"OMPI_MCA_btl_vader_backing_directory": str(self.directory),
                       "OMPI_MCA_orte_tmpdir_base": str(self.directory)}
                self.mpirun = subprocess.Popen([MPIEXEC, "-n", str(ranks), *program], env={**os.environ, **own}, **how)

    def __enter__(self):
        return self

    def __exit__(self, *_):
        (self.directory / "over").touch()
        for process in self.processes().values():
            with contextlib.suppress(ProcessLookupError):
                os.kill(process, signal.SIGKILL)
        with contextlib.suppress(subprocess.TimeoutExpired):
            self.mpirun.wait(timeout=5)
        self.mpirun.kill()
        self.mpirun.wait()
        if not until(lambda: not self.all_processes(), 10):
            raise RuntimeError(f"left running: {[(p / 'cmdline').read_bytes() for p in self.all_processes()]}")
        shutil.rmtree(self.directory)

    def all_processes(self):
        """Those whose command lines name the directory, mpirun and shells too."""
        found = []
        for entry in pathlib.Path("/proc").iterdir():
            with contextlib.suppress(OSError):
                if entry.name.isdigit() and str(self.directory).encode() in (entry / "cmdline").read_bytes():
                    found.append(entry)
        return found

    def processes(self):
        """The program's, by their ranks; of an emulated GPU's two that of the host, which is the older."""
        found = {}
        for entry in self.all_processes():
            with contextlib.suppress(OSError):
                if os.path.samefile(entry / "exe", PROGRAM):
                    if rank := re.search(rb"\0OMPI_COMM_WORLD_RANK=(\d+)\0", (entry / "environ").read_bytes()):
                        found[int(rank[1])] = min(int(entry.name), found.get(int(rank[1]), sys.maxsize))
        return found

    def read(self, what, rank):
        """When a rank reported, and what; None if it hasn't."""
        with contextlib.suppress(FileNotFoundError):
            when, text = (self.directory / f"{what}.{rank}").read_text().split(" ", 1)
            return float(when), text.strip()
        return None

    def have(self, what, ranks):
        return all((self.directory / f"{what}.{rank}").exists() for rank in ranks)

    def said(self):
        return (self.directory / "said").read_text(errors="replace")


@dataclasses.dataclass
class Outcome:
    seconds: float = 0.0  # from the fault to the last survivor's error
    ended_by_mpi: int = 0
    failures: list = dataclasses.field(default_factory=list)


def last_words(job, rank):
    """What ends a rank whose trainer waits for its GPU, and so for who is gone."""
    ended = re.search(rf"^rank {rank}: (.*); this process is ended, as its GPU waits for other ranks$", job.said(), re.M)
    return ended and ended[1]


def named(message):
    return {int(rank) for rank in re.findall(r"rank (\d+) \(host", message)}


def shared_memory():
    """What could outlive a process: named files, and System V's segments with the processes that made them."""
    segments = [line.split() for line in pathlib.Path("/proc/sysvipc/shm").read_text().splitlines()[1:]]
    return {name for name in os.listdir("/dev/shm") if "shardmix" in name}, {int(fields[4]) for fields in segments}


def inject(fault, victim, job, cluster):
    """Returns when."""
    if fault in ("throw", "hang"):
        until(lambda: job.have("thrown", [victim]), 30)
        return job.read("thrown", victim)[0]
    when = time.monotonic()
    if fault == "cut":
        cluster.cut("host2")
    else:
        os.kill(job.processes()[victim], {"kill": signal.SIGKILL, "stop": signal.SIGSTOP}[fault])
    return when


def judge(job, fault, victim, began, hosts, outcome):
    """Every survivor has to end with the right name. Open MPI 4 itself may end one, without a word, when its connection
    to a rank of another host breaks (docs/internals/architecture.md); it is to be named by nobody alone."""
    host = {rank: rank * hosts // len(job.ranks) for rank in job.ranks}
    survivors = [rank for rank in job.ranks if fault == "cut" or rank != victim]
    alive = lambda: job.processes().keys() & survivors
    until(lambda: not alive(), LIMIT)
    ended = time.monotonic()
    lost = {rank for rank in survivors if not job.have("error", [rank]) and not last_words(job, rank)}
    for rank in survivors:
        at_fault = {victim} if fault != "cut" else {r for r in job.ranks if host[r] != host[rank]}
        if fault == "cut" and host[rank] != 1:
            at_fault = {r for r in job.ranks if host[r] == 1}
        if rank in alive():
            outcome.failures.append(f"rank {rank} hangs where rank {victim} is at fault")
        elif rank in lost:
            until(lambda: job.have("status", [rank]), 5)
            status = int((job.read("status", rank) or (0, "255"))[1])
            if fault == "kill" and host[rank] != host[victim] and status < 128 and "Sanitizer" not in job.said():
                outcome.ended_by_mpi += 1
            else:
                outcome.failures.append(f"rank {rank} ended without a message, with status {status}, where rank "
                                        f"{victim} is at fault")
        else:
            when, message = job.read("error", rank) or (ended, last_words(job, rank))
            outcome.seconds = max(outcome.seconds, when - began)
            if not at_fault <= named(message) <= at_fault | lost:
                outcome.failures.append(f"rank {rank}, where {sorted(at_fault)} are at fault, says: {message}")
            elif fault == "kill" and hosts == 1 and "died" not in message:
                outcome.failures.append(f"rank {rank} had to wait to know what the node's system knows: {message}")
            elif fault == "throw" and "error of its own" not in message and "while others go on" not in message:
                outcome.failures.append(f"rank {rank} wasn't told: {message}")


def moment(fault, place, transport, draw, cluster=None):
    """One run with one fault."""
    hosts, per_host = PLACES[place] or (1, draw.choice((3, 4)))
    ranks = hosts * per_host
    victim = draw.randrange(ranks)
    options = ["--collectives", transport, "--seed", str(draw.randrange(1000)),
               "--outlives", str(draw.randrange(2 if fault == "throw" else 3)), "--queues", str(draw.randrange(2))]
    if fault in ("throw", "hang"):
        options += ["--throw-rank", str(victim), "--throw-at", str(draw.randrange(400)),
                    "--hangs", str(int(fault == "hang"))]
    outcome = Outcome()
    files, _ = shared_memory()
    with Job(ranks, options, cluster, place == "plain") as job:
        if not until(lambda: job.have("ready", job.ranks), 60):
            raise RuntimeError(f"the ranks didn't begin: {job.said()}")
        processes = set(job.processes().values())
        time.sleep(draw.uniform(0, 0.4))
        began = inject(fault, victim, job, cluster)
        if place == "plain":
            until(lambda: job.mpirun.poll() is not None, LIMIT)
            outcome.seconds = time.monotonic() - began
            if not job.mpirun.returncode:
                outcome.failures.append(f"mpirun ends with {job.mpirun.returncode}")
            speakers = [rank for rank in job.ranks if job.have("error", [rank])]
            if fault != "kill" and not speakers:
                outcome.failures.append("no rank said a word")
            for rank in speakers:
                if rank != victim and named(job.read("error", rank)[1]) != {victim}:
                    outcome.failures.append(f"rank {rank} says: {job.read('error', rank)[1]}")
        else:
            judge(job, fault, victim, began, hosts, outcome)
            if fault == "throw" and "on purpose" not in (job.read("error", victim) or (0, ""))[1]:
                outcome.failures.append(f"rank {victim} threw and says {job.read('error', victim)}")
            if fault == "hang" and not until(lambda: "come back" in job.said(), LIMIT):
                outcome.failures.append(f"rank {victim} hangs in MPI and doesn't say so")
            if fault == "stop":
                os.kill(job.processes()[victim], signal.SIGCONT)
        if not until(lambda: not job.processes(), LIMIT):
            outcome.failures.append(f"still there: ranks {sorted(job.processes())}")
        if outcome.failures:
            outcome.failures.append(f"rank {victim}: {fault}; options {options}; the run said:\n{job.said()}")
    files_after, makers = shared_memory()
    if files_after - files or makers & processes:
        outcome.failures.append(f"left in memory: {files_after - files}, segments of {makers & processes}")
    return outcome


@contextlib.contextmanager
def cluster_for(place):
    if PLACES[place]:
        with Cluster(hosts=PLACES[place][0], rate="1gbit") as cluster:
            yield cluster
    else:
        yield None


def run(case, moments, seed):
    """The outcomes of a case's moments."""
    outcomes = []
    for number in range(moments):
        with cluster_for(case[1]) as cluster:
            outcomes.append(moment(*case, random.Random(f"{case} {seed} {number}"), cluster))
        for failure in outcomes[-1].failures:
            print(f"{' '.join(case)}, moment {number}: {failure}", flush=True)
    return outcomes


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--moments", type=int, default=1)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--gpus", action="store_true", help="on emulated GPUs")
    parser.add_argument("--only", action="append", default=[], help="faults, places or transports")
    arguments = parser.parse_args()
    if arguments.gpus:  # what is queued is far behind the host when a rank ends
        os.environ.setdefault("EMULATION_DELAY_US", "1000")
    failed = False
    tried = 0
    print("fault place transport     moments right ended by MPI  median s  max s", flush=True)
    for case in GPU_CASES if arguments.gpus else CASES:
        if not all(set(only.split(",")) & set(case) for only in arguments.only):
            continue
        try:
            outcomes = run(case, arguments.moments, arguments.seed)
        except Unavailable as reason:
            print(f"{' '.join(case)}: skipped: {reason}")
            continue
        tried += 1
        right = sum(not o.failures for o in outcomes)
        seconds = [o.seconds for o in outcomes]
        by_mpi = sum(o.ended_by_mpi for o in outcomes)
        print(f"{case[0]:5} {case[1]:5} {case[2]:13} {len(outcomes):7} {right:5} {by_mpi:12} "
              f"{statistics.median(seconds):9.2f} {max(seconds):6.2f}", flush=True)
        failed = failed or right < len(outcomes)
    if not tried:
        return 77
    return 1 if failed else 0


if __name__ == "__main__":
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))
    sys.exit(main())
