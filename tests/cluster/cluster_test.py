"""The virtual hosts themselves. Exits with 77 where the system refuses them."""

import json
import os
import pathlib
import signal
import subprocess
import sys
import tempfile
import time
import unittest
from unittest import mock

from cluster import Cluster, bits_per_second, milliseconds
from namespaces import Unavailable, failure

HERE = pathlib.Path(__file__).parent
COMMAND = [sys.executable, HERE / "cluster"]
QUIET = {"stdin": subprocess.DEVNULL, "stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
RANK = "$OMPI_COMM_WORLD_RANK"


def call(*arguments, **how):
    return subprocess.run([*COMMAND, *arguments], capture_output=True, text=True, timeout=120, **how)


def pid_namespace(process):
    return os.readlink(f"/proc/{process}/ns/pid")


def processes(predicate):
    found = []
    for entry in pathlib.Path("/proc").iterdir():
        try:
            if entry.name.isdigit() and predicate(entry):
                found.append(int(entry.name))
        except OSError:
            pass  # It has ended.
    return found


def with_argument(argument):
    return processes(lambda entry: argument.encode() in (entry / "cmdline").read_bytes().split(b"\0"))


def inside(namespace):
    return processes(lambda entry: os.readlink(entry / "ns/pid") == namespace)


class Case(unittest.TestCase):
    def until(self, condition, seconds=60):
        deadline = time.monotonic() + seconds
        while not (value := condition()):
            self.assertLess(time.monotonic(), deadline)
            time.sleep(0.05)
        return value

    def command(self, *program):
        """The command at work; a test that fails doesn't leave it."""
        process = subprocess.Popen([*COMMAND, "--", *program], **QUIET)
        self.addCleanup(process.wait)
        self.addCleanup(process.kill)
        return process

    def traces(self):
        """What a cluster could leave outside."""
        links = {"bridge", "host1", "host2"} & set(os.listdir("/sys/class/net"))
        sessions = {path.name for path in pathlib.Path(tempfile.gettempdir()).glob("ompi.*")}
        shared = {name for name in os.listdir("/dev/shm") if "host" in name or name.startswith(("agent", "pid."))}
        mounts = pathlib.Path("/proc/self/mounts").read_text()
        return links, {name for name in sessions if "host" in name or "switch" in name}, shared, mounts


class Hosts(Case):
    def ranks(self, cluster, script, **how):
        """What each rank prints, in the order of the ranks."""
        process = cluster.mpirun(["bash", "-c", f'echo "{RANK} $({script})"'], stdout=subprocess.PIPE, text=True, **how)
        said, _ = process.communicate(timeout=60)
        self.assertEqual(process.returncode, 0, said)
        return [line.split(" ", 1)[1] for line in sorted(said.splitlines(), key=lambda line: int(line.split()[0]))]

    def test_ranks_fill_one_host_after_the_other(self):
        with Cluster(hosts=2) as cluster:
            self.assertEqual(self.ranks(cluster, "hostname", ranks_per_host=2), ["host1", "host1", "host2", "host2"])
        with Cluster(hosts=3) as cluster:
            self.assertEqual(self.ranks(cluster, "hostname", ranks_per_host=1), ["host1", "host2", "host3"])

    def test_ranks_have_our_directory_and_environment(self):
        with Cluster() as cluster, tempfile.TemporaryDirectory() as directory, mock.patch.dict(os.environ, OURS="a b"):
            script = "pwd; echo $OURS$GIVEN"
            said = self.ranks(cluster, f"({script}) | tr '\\n' ' '", cwd=directory, env={"GIVEN": "c"})
            self.assertEqual(said, [f"{directory} a bc "] * 4)

    def test_each_host_has_its_own_shared_memory_and_the_files_of_all(self):
        with Cluster() as cluster, tempfile.TemporaryDirectory() as directory:
            self.ranks(cluster, f"touch /dev/shm/shared-{RANK} {directory}/file-{RANK}")
            for name, ranks in (("host1", "01"), ("host2", "23"), ("switch", "")):
                held = {entry for entry in cluster.run(name, ["ls", "/dev/shm"]).split() if "shared" in entry}
                self.assertEqual(held, {f"shared-{rank}" for rank in ranks})
            self.assertEqual(len(os.listdir(directory)), 4)
            self.assertFalse(any(entry.startswith("shared-") for entry in os.listdir("/dev/shm")))

    def test_names_and_addresses(self):
        with Cluster() as cluster:
            for name in ("host1", "host2", "switch"):
                self.assertIn(cluster.address(name), cluster.run("host1", ["getent", "hosts", name]))
            self.assertEqual(len({cluster.run(name, ["readlink", "/proc/self/ns/ipc"]) for name in cluster.names}), 2)


class Links(Case):
    def test_the_rate_is_as_asked_for(self):
        with Cluster(rate="200mbit") as cluster:
            for _ in range(3):  # Beside a busy neighbour a measurement may fail; the shaping doesn't.
                rates = cluster.tcp_rate(seconds=1)
                if all(140e6 <= rate <= 210e6 for rate in rates.values()):
                    return
            self.fail(f"{rates} on a link of 200 Mbit/s")

    def test_without_a_rate_it_is_faster(self):
        with Cluster(rate="none") as cluster:
            self.assertGreater(cluster.tcp_rate(seconds=0.5)["one_way"], 300e6)

    def reaches(self, cluster, name):
        script = "import socket, sys; socket.create_connection((sys.argv[1], int(sys.argv[2])), timeout=2)"
        try:
            cluster.run("host1", [sys.executable, "-c", script, name, str(self.port)])
        except RuntimeError:
            return False
        return True

    def test_cut_and_mend(self):
        server = ("import socket, time; s = socket.create_server(('', 0)); print(s.getsockname()[1], flush=True); "
                  "time.sleep(99)")
        with Cluster() as cluster:
            process = cluster.start("host2", [sys.executable, "-c", server], stdout=subprocess.PIPE, text=True)
            self.port = int(process.stdout.readline())
            self.assertTrue(self.reaches(cluster, "host2"))
            cluster.cut("host2")
            self.assertFalse(self.reaches(cluster, "host2"))
            cluster.mend("host2")
            self.assertTrue(self.until(lambda: self.reaches(cluster, "host2")))
            process.stdout.close()

    def test_values(self):
        self.assertEqual([bits_per_second(rate) for rate in ("1gbit", "2.5Gbit", "100mbit", "8bit")],
                         [10**9, 2_500_000_000, 10**8, 8])
        self.assertEqual([milliseconds(latency) for latency in ("200us", "5ms", "1s")], [0.2, 5, 1000])
        for wrong in ("1", "gbit", "0gbit", "-1gbit", "1 gbit"):
            self.assertRaises(ValueError, bits_per_second, wrong)
        self.assertRaises(ValueError, milliseconds, "5")


class Remains(Case):
    """However a cluster ends, nothing is left of it."""

    def setUp(self):
        self.before = self.traces()
        self.argument = f"6{os.getpid()}.{time.monotonic_ns() % 10**9}"  # Of sleep: seconds, and nobody else's.

    def started(self):
        """The PID namespace of four ranks of sleep that have begun."""
        ranks = self.until(lambda: len(found := self.sleeping()) == 4 and found)
        return pid_namespace(ranks[0])

    def sleeping(self):
        return processes(lambda entry: (entry / "cmdline").read_bytes() == f"sleep\0{self.argument}\0".encode())

    def left(self, namespace):
        self.until(lambda: not inside(namespace), seconds=30)
        self.assertEqual(with_argument(self.argument), [])
        self.assertEqual(self.traces(), self.before)

    def test_after_kill_of_mpirun(self):
        with Cluster() as cluster:
            process = cluster.mpirun(["sleep", self.argument], **QUIET)
            namespace = self.started()
            process.kill()
            self.assertEqual(process.wait(), -signal.SIGKILL)
        self.left(namespace)

    def test_after_an_exception_with_a_link_cut(self):
        with self.assertRaises(KeyError), Cluster() as cluster:
            cluster.mpirun(["sleep", self.argument], **QUIET)
            namespace = self.started()
            cluster.cut("host1")
            raise KeyError
        self.left(namespace)

    def test_after_signals_to_the_command(self):
        for number, status in ((signal.SIGTERM, None), (signal.SIGINT, None), (signal.SIGKILL, -signal.SIGKILL)):
            with self.subTest(number.name):
                process = self.command("sleep", self.argument)
                namespace = self.started()
                process.send_signal(number)
                ended = process.wait(timeout=60)
                self.assertNotEqual(ended, 0)
                if status is not None:
                    self.assertEqual(ended, status)
                self.left(namespace)

    def test_after_sigterm_while_it_is_made(self):
        for delay in (0.1, 0.2, 0.3):
            process = self.command("sleep", self.argument)
            time.sleep(delay)
            process.terminate()
            process.wait(timeout=60)
            self.until(lambda: not with_argument(self.argument), seconds=30)
            self.assertEqual(self.traces(), self.before)

    def test_two_at_once(self):
        with Cluster(rate="1gbit") as first, Cluster(rate="none") as second:
            runs = [cluster.mpirun(["bash", "-c", f"hostname; touch /dev/shm/{own}"], stdout=subprocess.PIPE, text=True)
                    for cluster, own in ((first, "first"), (second, "second"))]
            for run in runs:
                self.assertEqual(sorted(run.communicate(timeout=60)[0].split()), ["host1", "host1", "host2", "host2"])
            self.assertIn("first", first.run("host2", ["ls", "/dev/shm"]).split())
            self.assertNotIn("first", second.run("host2", ["ls", "/dev/shm"]).split())
            first.close()
            self.assertEqual(second.run("host2", ["hostname"]).strip(), "host2")

    def test_no_zombies_while_it_lasts(self):
        with Cluster() as cluster:
            cluster.mpirun(["true"]).wait(timeout=60)
            states = cluster.run("switch", ["sh", "-c", "cat /proc/[0-9]*/stat 2>/dev/null; true"])
            self.assertNotIn(") Z ", states)


class TheCommand(Case):
    def test_exit_status_and_input(self):
        self.assertEqual(call("--ranks", "1", "--", "sh", "-c", "exit 5").returncode, 5)
        self.assertEqual(call("--", "cat", input="for rank 0\n").stdout, "for rank 0\n")

    def test_signals_reach_all_ranks(self):
        with tempfile.TemporaryDirectory() as directory:
            script = (f"trap 'touch {directory}/told-{RANK}; exit 7' USR1; touch {directory}/{RANK}; "
                      "while :; do sleep 0.1; done")
            process = self.command("bash", "-c", script)
            self.until(lambda: len(os.listdir(directory)) == 4)
            process.send_signal(signal.SIGUSR1)
            self.assertEqual(process.wait(timeout=60), 7)
            self.assertTrue({"told-0", "told-3"} & set(os.listdir(directory)), os.listdir(directory))

    def test_options(self):
        script = "echo $SET; [ $OMPI_COMM_WORLD_SIZE = 3 ] && [ $OMPI_MCA_btl_tcp_eager_limit = 777 ]"
        # A value that is set by an argument of mpirun is in the ranks' environment.
        result = call("--hosts", "3", "--ranks", "1", "--rate", "10gbit", "--env", "SET=a=b", "--mpirun-args",
                      "--mca btl_tcp_eager_limit 777", "--", "sh", "-c", script)
        self.assertEqual((result.returncode, result.stdout), (0, "a=b\n" * 3), result.stderr)

    def test_rate(self):
        result = call("rate", "--rate", "100mbit", "--seconds", "0.3", "--json")
        self.assertEqual(result.returncode, 0, result.stderr)
        self.assertLessEqual({"one_way", "there", "back"}, set(json.loads(result.stdout)))

    def test_wrong_options(self):
        for wrong in (["--rate", "fast"], ["--hosts", "0"], ["--env", "X"]):
            self.assertEqual(call(*wrong, "--", "true").returncode, 2)
        self.assertEqual(call().returncode, 2)


class Refused(Case):
    def test_without_root(self):
        with mock.patch("os.geteuid", return_value=1000), self.assertRaisesRegex(Unavailable, "need root"):
            Cluster().__enter__()

    def test_without_a_tool(self):
        with mock.patch("shutil.which", return_value=None), self.assertRaisesRegex(Unavailable, "the command ip"):
            Cluster().__enter__()

    def test_without_the_right_to(self):
        for right in ("sys_admin", "net_admin"):
            result = subprocess.run(["setpriv", f"--bounding-set=-{right}", *COMMAND, "--", "true"],
                                    capture_output=True, text=True, timeout=60)
            self.assertEqual(result.returncode, 77, result.stderr)
            self.assertIn("not permitted", result.stderr)

    def test_our_own_mistakes_are_no_refusals(self):
        self.assertIsInstance(failure("ip", "RTNETLINK answers: File exists"), RuntimeError)
        self.assertIsInstance(failure("ip", "RTNETLINK answers: Operation not permitted"), Unavailable)


if __name__ == "__main__":
    try:
        with Cluster(hosts=1):
            pass
    except Unavailable as reason:
        print(f"skipped: {reason}")
        sys.exit(77)
    unittest.main()
