"""launch/gpu-check: its usage, how it reads logs, that it goes on after whatever a check does, and short checks on emulated GPUs."""

import contextlib
import io
import json
import os
import pathlib
import subprocess
import sys
import tempfile
import time
import unittest
import unittest.mock

TOOL = pathlib.Path(__file__).resolve().parents[2] / "launch/gpu-check"
sys.path.insert(0, str(TOOL.parent))
from gpu_check import checks, machine, main, readers, results  # noqa: E402
from gpu_check.results import Failed, Skipped  # noqa: E402

NOWHERE = pathlib.Path("nowhere")


def run(*arguments, **environment):
    return subprocess.run([sys.executable, TOOL, *arguments], capture_output=True, text=True, timeout=60,
                          env={**os.environ, **environment})


class Usage(unittest.TestCase):
    def test_help_and_list(self):
        self.assertIn("examples:", run("--help").stdout)
        listed = run("--list")
        self.assertEqual(listed.returncode, 0)
        self.assertEqual([line.split()[0] for line in listed.stdout.splitlines()], [check.name for check in checks.CHECKS])

    def test_refusals(self):
        for arguments, sentence in ((["--only", "bits,speed"], "there is no check 'speed'; expected some of bits, one-rank"),
                                    (["--limit", "0"], "'0' is no whole number of seconds above 0"),
                                    (["--limit", "soon"], "'soon' is no whole number"), (["--fast"], "unrecognized arguments: --fast")):
            answer = run(*arguments)
            self.assertEqual(answer.returncode, 2)
            self.assertIn(sentence, answer.stderr)

    def test_without_a_gpu(self):
        answer = run("--output", "/nowhere", PATH=str(pathlib.Path(sys.executable).parent / "nowhere"))
        self.assertEqual(answer.returncode, 1)
        self.assertEqual(answer.stderr, "gpu-check: nvidia-smi shows no GPU; --emulated does without\n")


class Readers(unittest.TestCase):
    def test_tests(self):
        (figure,) = readers.tests("[  PASSED  ] 12 tests.\n[  SKIPPED ] 2 tests, listed below:\n", NOWHERE)
        self.assertEqual(figure.what, "12 tests, 2 skipped")
        for log in ("", "[  PASSED  ] 0 tests.\n", "gpu_test.cpp: Skipped\nno GPU is visible\n[  PASSED  ] 1 test.\n"):
            self.assertRaises(Failed, readers.tests, log, NOWHERE)

    def test_sanitizers(self):
        for summary in ("ERROR SUMMARY: 0 errors", "RACECHECK SUMMARY: 0 hazards displayed (0 errors, 0 warnings)"):
            readers.sanitizer(f"[  PASSED  ] 2 tests.\n========= {summary}\n", NOWHERE)
        for log in ("[  PASSED  ] 2 tests.\n", "[  PASSED  ] 2 tests.\n========= ERROR SUMMARY: 1 error\n",
                    "[  PASSED  ] 2 tests.\n========= ERROR SUMMARY: 10 errors\n", "========= ERROR SUMMARY: 0 errors\n"):
            self.assertRaises(Failed, readers.sanitizer, log, NOWHERE)

    def test_benches(self):
        row = {"rule": "adamw", "precision": "fp32", "mparameters_per_second": 1e5, "fraction_of_bound": 0.9}
        log = "\n".join(map(json.dumps, (row, {**row, "precision": "bf16-compact"}, {**row, "fraction_of_bound": 0.93})))
        figures = readers.update("$ shardmix bench\n" + log, NOWHERE)
        self.assertEqual([figure.met for figure in figures], [False, True, True])
        self.assertEqual(figures[2].what, "adamw fp32, 100 Gparam/s, of the bound: 93.0 %")
        row = {"precision": "bf16", "seconds": 0.01, "collectives": "shared", "fraction_of_bound": 0.94}
        one, two = readers.steps(f"{json.dumps({**row, 'ranks': 1})}\n{json.dumps({**row, 'ranks': 2})}", NOWHERE)
        self.assertEqual((one.met, two.met), (False, None))
        self.assertRaises(Failed, readers.update, "", NOWHERE)

    def write_losses(self, folder, **losses):
        for name, values in losses.items():
            (folder / name).mkdir(exist_ok=True)
            (folder / name / "metrics.jsonl").write_text(
                "".join(json.dumps({"loss": x, "tokens_per_second": 1000.0}) + "\n" for x in values), encoding="utf-8")

    def test_training(self):
        with tempfile.TemporaryDirectory() as name:
            folder = pathlib.Path(name)
            falling = [5.5 - 0.03 * i for i in range(100)]
            self.write_losses(folder, host=falling, cuda=[1.0001 * x for x in falling])
            readers.losses("", folder)
            for other in ([1.01 * x for x in falling], falling[:90] + [2.8] * 10, falling[:-1] + [float("nan")]):
                self.write_losses(folder, cuda=other)
                self.assertRaises(Failed, readers.losses, "", folder)
            self.write_losses(folder, host=[5.5] * 20, cuda=[5.5] * 20)
            self.assertRaisesRegex(Failed, "the loss went", readers.losses, "", folder)
            self.write_losses(folder, adamw=[1.0] * 20, ademamix=[1.0] * 20)
            (figure,) = readers.rules(500)("", folder)
            self.assertEqual(figure.what, "step of ademamix 500.0 ms, of adamw 500.0 ms: 100.0 %")

    def test_counters(self):
        log = "    DRAM Throughput                 %        91.25\n    Duration   us  3\n"
        self.assertEqual(readers.counters(["adamw fp32"])(log, NOWHERE)[0].what, "adamw fp32, DRAM throughput: 91.25 %")
        self.assertRaises(Failed, readers.counters(["adamw fp32", "lion fp32"]), log, NOWHERE)

    def test_what_is_missing(self):
        self.assertRaises(Skipped, readers.refuse_missing, "shardmix: this LibTorch has no CUDA, so the trainer can't run")
        readers.refuse_missing("shardmix: something else")


class Machine(unittest.TestCase):
    def test_torch_is_found_by_cmake_and_programs(self):
        torch = {"cmake": "/t/share/cmake", "libraries": "/t/lib", "nccl": "/n"}
        found = machine.with_torch({"LD_LIBRARY_PATH": "/own"}, torch)
        self.assertEqual(found, {"CMAKE_PREFIX_PATH": "/t/share/cmake", "LD_LIBRARY_PATH": "/n/lib:/t/lib:/own", "NCCL_HOME": "/n"})
        self.assertEqual(machine.with_torch({"NCCL_HOME": "/own"}, {**torch, "nccl": None})["NCCL_HOME"], "/own")
        self.assertEqual(machine.with_torch({"PATH": "/bin"}, {}), {"PATH": "/bin"})

    def test_gpus_and_the_arguments_for_cmake(self):
        with tempfile.TemporaryDirectory() as folder:
            smi = pathlib.Path(folder) / "nvidia-smi"
            smi.write_text("#!/bin/sh\necho 'NVIDIA H100, SXM, 81559'\necho 'NVIDIA H100, SXM, 81559'\n", encoding="utf-8")
            smi.chmod(0o755)
            with unittest.mock.patch.dict(os.environ, PATH=f"{folder}:{os.environ['PATH']}", GPU_CMAKE_ARGS="-DA=1 '-DB=2 3'"):
                found = machine.this_machine(None, False)
                self.assertEqual(found.gpus, ("NVIDIA H100, SXM",) * 2)
                self.assertEqual(found.memory, 81559 << 20)
                configure, build = found.build_commands(["device_gpu_test", "shardmix"])
        self.assertEqual(configure[-2:], ["-DA=1", "-DB=2 3"])
        self.assertEqual(build[-2:], ["device_gpu_test", "shardmix_program"])


class Run(unittest.TestCase):
    """A few checks that are commands of a shell."""

    def setUp(self):
        folder = tempfile.TemporaryDirectory(prefix="gpu-check-test-")
        self.addCleanup(folder.cleanup)
        self.folder = pathlib.Path(folder.name)

    def check(self, name, shell, read=lambda log, folder: [], **more):
        return checks.Check(name, "", "none", lambda *_: [["sh", "-c", shell]], read, **more)

    def main(self, *made, arguments=()):
        with unittest.mock.patch.object(main, "CHECKS", list(made)), \
                unittest.mock.patch.object(sys, "argv", ["gpu-check", "--emulated", "--no-build", "--output", str(self.folder), *arguments]), \
                contextlib.redirect_stdout(io.StringIO()) as out, contextlib.redirect_stderr(io.StringIO()):
            status = main.main()
        self.found = json.loads((self.folder / "results.json").read_text(encoding="utf-8"))["checks"]
        self.assertEqual(out.getvalue(), (self.folder / "table.txt").read_text(encoding="utf-8"))
        return status

    def test_a_failure_does_not_stop_the_rest(self):
        def strange(log, folder):
            raise KeyError("loss")
        status = self.main(self.check("bad", "echo told; exit 3"), self.check("strange", "true", strange),
                           self.check("missing", "echo this build has no trainer; exit 1"),
                           self.check("gone", "true", why_not=lambda _: "no reason"), self.check("good", "true"))
        self.assertEqual(status, 1)
        self.assertEqual([(c["outcome"], c["reason"]) for c in self.found],
                         [("failed", "exit status 3, see bad.log"), ("failed", "KeyError: 'loss'"),
                          ("skipped", "this build has no trainer: LibTorch was not found"), ("skipped", "no reason"), ("passed", "")])
        self.assertIn("told\n", (self.folder / "bad.log").read_text(encoding="utf-8"))

    def test_limits(self):
        begin = time.monotonic()
        status = self.main(self.check("slow", "sleep 60 & echo $! ; wait", usual=1), self.check("next", "true", usual=30),
                           arguments=["--limit", "2"])
        self.assertLess(time.monotonic() - begin, 30)
        self.assertEqual(status, 1)
        self.assertEqual([c["reason"] for c in self.found],
                         ["not done after 2 s", "no time: it takes about 30 s, and 0 s were left"])
        child = int((self.folder / "slow.log").read_text(encoding="utf-8").split()[-1])
        with self.assertRaises(ProcessLookupError):
            for _ in range(100):
                os.kill(child, 0)
                time.sleep(0.05)

    def test_only_and_pack(self):
        made = [self.check(name, "true") for name in ("first", "second", "third")]
        with unittest.mock.patch.object(main, "CHECKS", made):
            self.assertEqual(self.main(*made, arguments=["--only", "third,first", "--pack"]), 0)
        self.assertEqual([c["name"] for c in self.found], ["first", "third"])
        self.assertEqual(sorted(path.name for path in self.folder.iterdir()), ["logs.tar.gz", "results.json", "table.txt"])

    def test_targets_are_shown(self):
        figures = (results.Figure.at_least(0.9, 0.92, "adamw"), results.Figure("note"))
        text = results.table("H100", [results.Result("update", "passed", 1.25, "", figures)])
        self.assertIn("adamw: 90.0 %  >= 92 %, missed", text)
        self.assertTrue(text.startswith("GPU: H100\ncheck"))


class Emulated(unittest.TestCase):
    def test_the_kernels_and_benches(self):
        with tempfile.TemporaryDirectory(prefix="gpu-check-test-") as folder:
            answer = run("--emulated", "--no-build", "--build", os.environ["SHARDMIX_BINARY_DIR"], "--output", folder,
                         "--only", "bits,memcheck,update,step,step-shared")
        self.assertEqual(answer.returncode, 0, answer.stdout + answer.stderr)
        for line in (r"GPU: emulated GPU$", r"bits +passed +[\d.]+  \d+ tests", r"memcheck +skipped +0.0  compute-sanitizer can't look",
                     r"update +passed +[\d.]+  ademamix fp32, .* of the bound: [\d.]+ %$", r" +adamw bf16-compact, ",
                     r"step +passed +[\d.]+  fp32, [\d.]+ ms, \w+, of the bound: [\d.]+ %$", r"step-shared +passed +[\d.]+  bf16, .* shared, "):
            self.assertRegex(answer.stdout, f"(?m)^{line}")


if __name__ == "__main__":
    unittest.main()
