"""Virtual hosts on one machine, for programs that run over MPI on several hosts.

    with Cluster(hosts=2, rate="1gbit") as cluster:
        cluster.mpirun(["build/dev/bin/comm_test"], ranks_per_host=2).wait()

A host is a process that holds a network, a host name, an IPC and a mount namespace with a /dev/shm of its own; files
and cores are the machine's. Its link leads to a bridge in one more such place, the switch, where mpirun runs. The
namespaces have no names outside, and all processes inside share a PID namespace whose first one reads a pipe from us:
however we end, nothing is left.
"""

from __future__ import annotations

import os
import pathlib
import re
import shlex
import subprocess
import sys
from collections.abc import Mapping, Sequence
from typing import Any

from namespaces import Unavailable, check_system, children_in, enter, failure

NETWORK = "10.77.0"
SWITCH = f"{NETWORK}.254"
MOST_HOSTS = 64

# As on one host (tests/CMakeLists.txt), then: ranks fill a host before the next, all talk in our network alone, session
# directories vanish with their host.
MPI_ENVIRONMENT = {
    "OMPI_ALLOW_RUN_AS_ROOT": "1",
    "OMPI_ALLOW_RUN_AS_ROOT_CONFIRM": "1",
    "OMPI_MCA_rmaps_base_oversubscribe": "1",
    "OMPI_MCA_mpi_yield_when_idle": "1",
    "OMPI_MCA_hwloc_base_binding_policy": "none",
    "OMPI_MCA_btl_base_warn_component_unused": "0",
    "OMP_WAIT_POLICY": "passive",
    "OMPI_MCA_rmaps_base_mapping_policy": "slot",
    "OMPI_MCA_btl": "tcp,vader,self",
    "OMPI_MCA_btl_tcp_if_include": f"{NETWORK}.0/24",
    "OMPI_MCA_oob_tcp_if_include": f"{NETWORK}.0/24",
    "OMPI_MCA_orte_tmpdir_base": "/dev/shm",
    "OMPI_MCA_plm_rsh_agent": "/dev/shm/agent",
    "OMPI_MCA_plm_rsh_no_tree_spawn": "1",
}

# Stands in for ssh in the switch: options, host, command.
AGENT = """#!/bin/sh
while [ "${1#-}" != "$1" ]; do shift; done
read -r pid <"/dev/shm/pid.$1" || exit 1
shift
exec nsenter --target "$pid" --net --uts --ipc --mount -- sh -c "$*"
"""

# The first process: takes orphans in, and when its input ends, so does everything.
SWITCH_SCRIPT = """set -e
mount -t proc proc /proc
mount -t tmpfs tmpfs /dev/shm
printf %s "$1" >/dev/shm/hosts
[ ! -e /etc/hosts ] || mount --bind /dev/shm/hosts /etc/hosts
printf %s "$2" >/dev/shm/agent
chmod +x /dev/shm/agent
hostname switch
ip link set lo up
ip link add name bridge type bridge
ip address add "$3/24" dev bridge
ip link set bridge up
echo ready
while read -r line; do :; done
"""

HOST_SCRIPT = """set -e
hostname "$1"
echo $$ >"/dev/shm/pid.$1"
agent=$(cat /dev/shm/agent)  # orted looks for it and doesn't use it.
mount -t tmpfs tmpfs /dev/shm
printf %s "$agent" >/dev/shm/agent
chmod +x /dev/shm/agent
ip link set lo up
echo ready
exec sleep infinity
"""

PIPED: dict[str, Any] = {"stdin": subprocess.DEVNULL, "stdout": subprocess.PIPE, "text": True}


def bits_per_second(rate: str) -> int:
    """Of "1gbit", "2.5gbit", "100mbit" and the like."""
    match = re.fullmatch(r"(\d+(?:\.\d+)?)([kmg]?)bit", rate.lower())
    bits = float(match[1]) * {"": 1, "k": 1e3, "m": 1e6, "g": 1e9}[match[2]] if match else 0
    if bits < 1:
        raise ValueError(f"the rate of a link is like 1gbit or 100mbit or none, and not '{rate}'")
    return int(bits)


def milliseconds(latency: str) -> float:
    """Of "5ms" and the like."""
    match = re.fullmatch(r"(\d+(?:\.\d+)?)(us|ms|s)", latency.lower())
    if not match:
        raise ValueError(f"the latency of a link is like 5ms or 200us, and not '{latency}'")
    return float(match[1]) * {"us": 1e-3, "ms": 1, "s": 1e3}[match[2]]


class Cluster:
    """hosts machines called host1, host2, ...; none sends or receives faster than rate ("none": as fast as it goes),
    and what is sent arrives latency later. Raises Unavailable where the system doesn't let us."""

    def __init__(self, hosts: int = 2, rate: str = "1gbit", latency: str = "0ms") -> None:
        if not 1 <= hosts <= MOST_HOSTS:
            raise ValueError(f"a cluster has 1 to {MOST_HOSTS} hosts, and not {hosts}")
        self.names = [f"host{i + 1}" for i in range(hosts)]
        self.rate = None if rate == "none" else bits_per_second(rate)
        self.latency = milliseconds(latency)
        self._holders: dict[str, subprocess.Popen[str]] = {}
        self._processes: list[subprocess.Popen[Any]] = []

    def __enter__(self) -> Cluster:
        check_system()
        try:
            self._open_switch()
            for name in self.names:
                self._open_host(name)
        except BaseException:
            self.close()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Ends every process inside; the namespaces, links and mounts go with them."""
        if "switch" in self._holders:
            self._holders["switch"].kill()
        # The first process is gone only after all others, and these are ours to wait for.
        for process in reversed(self._processes):
            process.wait()
        for holder in self._holders.values():
            for pipe in (holder.stdin, holder.stdout, holder.stderr):
                if pipe:
                    pipe.close()
        self._holders.clear()
        self._processes.clear()

    def address(self, name: str) -> str:
        return SWITCH if name == "switch" else f"{NETWORK}.{self.names.index(name) + 1}"

    def start(self, name: str, command: Sequence[str | os.PathLike[str]], **how: Any) -> subprocess.Popen[Any]:
        """A process on a host, or in the switch. how: subprocess.Popen's arguments."""
        holder = self._holders[name].pid
        directory = how.pop("cwd", None) or os.getcwd()  # Entering a mount namespace loses it.
        with children_in(holder):
            process = subprocess.Popen([*enter(holder), "env", "-C", directory, *command], **how)
        self._processes.append(process)
        return process

    def run(self, name: str, command: Sequence[str | os.PathLike[str]]) -> str:
        """What a command on a host or in the switch prints."""
        process = self.start(name, command, **PIPED, stderr=subprocess.PIPE)
        said, complaint = process.communicate()
        if process.returncode != 0:
            raise failure(f"{shlex.join(map(str, command))} on {name}", complaint)
        return said

    def mpirun(self, program: Sequence[str | os.PathLike[str]], ranks_per_host: int = 2,
               env: Mapping[str, str] | None = None, arguments: Sequence[str] = (),
               **how: Any) -> subprocess.Popen[Any]:
        """program on ranks_per_host ranks of each host, host by host. env is for mpirun and all ranks, beside our own
        environment; arguments are mpirun's. It ends with the cluster at the latest."""
        mpirun = os.environ.get("MPIEXEC", "mpirun")
        check_mpirun(mpirun)
        slots = ",".join(f"{name}:{ranks_per_host}" for name in self.names)
        ranks = str(ranks_per_host * len(self.names))
        return self.start("switch", [mpirun, "--host", slots, "-n", ranks, *arguments, *program],
                          env={**os.environ, **MPI_ENVIRONMENT, **(env or {})}, **how)

    def cut(self, name: str) -> None:
        """Takes a host's link away: what is on its way is lost, and nobody is told."""
        self.run("switch", ["ip", "link", "set", name, "down"])

    def mend(self, name: str) -> None:
        self.run("switch", ["ip", "link", "set", name, "up"])

    def tcp_rate(self, first: str = "host1", second: str = "host2", seconds: float = 2.0) -> dict[str, float]:
        """Bits a second of plain TCP between two hosts: a stream alone ("one_way"), then one each way at once ("there"
        and "back")."""
        (one_way,) = self._streams(first, second, seconds, both=False)
        there, back = self._streams(first, second, seconds, both=True)
        return {"one_way": one_way, "there": there, "back": back}

    def _streams(self, first: str, second: str, seconds: float, both: bool) -> list[float]:
        program = [sys.executable, pathlib.Path(__file__).with_name("tcp_stream.py")]
        arguments = [self.address(second), str(seconds), *["both"] * both]
        receiver = self.start(second, [*program, "listen", *arguments], **PIPED)
        port = receiver.stdout.readline().strip()
        sender = self.start(first, [*program, f"connect:{port}", *arguments], **PIPED)
        ends = [receiver, sender] if both else [receiver]
        rates = [end.communicate()[0] for end in ends]
        for end in (receiver, sender):
            if end.wait() != 0:
                raise RuntimeError(f"a TCP stream from {first} to {second} broke off")
            end.stdout.close()
        return [float(rate) for rate in rates]

    def _hold(self, name: str, command: Sequence[str], script: str, *arguments: str) -> None:
        """Starts the process that is a place of its own; script says ready once it is made up."""
        unshare = ["unshare", "--net", "--uts", "--ipc", "--mount", "--", "bash", "-c", script, "bash", *arguments]
        pipes = {pipe: subprocess.PIPE for pipe in ("stdin", "stdout", "stderr")}
        # In a session of its own: the terminal's ^C is not for it.
        holder = subprocess.Popen([*command, *unshare], **pipes, text=True, start_new_session=True)
        self._holders[name] = holder
        self._processes.append(holder)
        if holder.stdout.readline() != "ready\n":
            raise failure(f"making {name}", holder.stderr.read())

    def _open_switch(self) -> None:
        known = {"localhost": "127.0.0.1", "switch": SWITCH, **{name: self.address(name) for name in self.names}}
        hosts = "".join(f"{address} {name}\n" for name, address in known.items())
        with children_in(None):
            self._hold("switch", (), SWITCH_SCRIPT, hosts, AGENT, SWITCH)

    def _open_host(self, name: str) -> None:
        switch = self._holders["switch"].pid
        with children_in(switch):
            self._hold(name, enter(switch), HOST_SCRIPT, name)
        self._link("switch", f"ip link add name {name} type veth peer name eth0 netns $(cat /dev/shm/pid.{name})",
                   f"ip link set {name} master bridge up", *self._shape(name))
        self._link(name, f"ip address add {self.address(name)}/24 dev eth0", *self._shape("eth0", self.latency),
                   "ip link set eth0 up")

    def _shape(self, device: str, latency: float = 0) -> list[str]:
        """The commands that hold what device sends to the rate, after the latency."""
        commands, parent = [], "root"
        if latency:
            commands.append(f"tc qdisc add dev {device} root handle 1: netem delay {latency:g}ms limit 100000")
            parent = "parent 1:1"
        if self.rate:
            # A burst of a millisecond: hardly more than the rate in any measurement.
            limits = f"rate {self.rate}bit burst {max(16384, self.rate // 8000)} latency 50ms"
            commands.append(f"tc qdisc add dev {device} {parent} handle 2: tbf {limits}")
        return commands

    def _link(self, name: str, *commands: str) -> None:
        for command in commands:
            self.run(name, ["bash", "-c", command])


def check_mpirun(mpirun: str) -> None:
    try:
        version = subprocess.run([mpirun, "--version"], capture_output=True, text=True, check=True).stdout
    except (OSError, subprocess.CalledProcessError) as reason:
        raise Unavailable(f"virtual hosts need Open MPI's mpirun: {reason}") from reason
    if not re.search(r"\((Open MPI|OpenRTE)\) 4\.", version):  # The second is mpiexec's name for itself.
        raise Unavailable(f"virtual hosts know the options of Open MPI 4 alone, and not of {version.splitlines()[0]}")
