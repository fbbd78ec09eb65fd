"""SIGTERM, SIGINT and SIGUSR1: a checkpoint, exit code 75, and a run that goes on."""

import signal
import subprocess
import time
import unittest

from support import TrainCase, command

STEPS = ["--steps", "100000", "--checkpoint-every", "0", "--lr-schedule", "constant", "--warmup", "0",
         "--beta3", "0.9", "--alpha-steps", "0", "--beta3-steps", "0"]


class Signals(TrainCase):
    def start(self, out, ranks=None):
        process = subprocess.Popen(command(self.arguments(out, *STEPS), ranks), stdout=subprocess.PIPE,
                                   stderr=subprocess.STDOUT, text=True)
        self.addCleanup(process.stdout.close)
        self.addCleanup(process.kill)
        metrics = self.directory / out / "metrics.jsonl"
        deadline = time.monotonic() + 60
        while not (metrics.exists() and metrics.stat().st_size > 0):
            self.assertLess(time.monotonic(), deadline)
            self.assertIsNone(process.poll())
            time.sleep(0.01)
        return process

    def stopped(self, process, out):
        said = process.communicate(timeout=60)[0]
        self.assertEqual(process.returncode, 75, said)
        self.assertIn("asked to stop", said)
        steps = len(self.metrics(out))
        self.assertEqual(self.checkpoints(out), [steps])
        return steps

    def test_each_signal_saves_and_asks_to_be_run_again(self):
        for number in (signal.SIGTERM, signal.SIGINT, signal.SIGUSR1):
            process = self.start(number.name)
            process.send_signal(number)
            steps = self.stopped(process, number.name)
            said = self.train(number.name, *STEPS, "--steps", steps + 2).stderr
            self.assertIn(f"resumed after step {steps}", said)
            self.assertEqual(len(self.metrics(number.name)), steps + 2)

    def test_many_signals_are_as_one(self):
        process = self.start("run")
        while process.poll() is None:
            process.send_signal(signal.SIGTERM)
            time.sleep(0.001)
        self.stopped(process, "run")

    def test_mpiexec_passes_sigusr1_on(self):
        process = self.start("run", ranks=2)
        process.send_signal(signal.SIGUSR1)
        self.stopped(process, "run")

    def test_one_rank_is_enough(self):
        process = self.start("run", ranks=3)
        children = subprocess.run(["ps", "-o", "pid=", "--ppid", str(process.pid)], capture_output=True, text=True,
                                  check=True).stdout.split()
        subprocess.run(["kill", "-TERM", children[-1]], check=True)
        self.stopped(process, "run")


if __name__ == "__main__":
    unittest.main()
