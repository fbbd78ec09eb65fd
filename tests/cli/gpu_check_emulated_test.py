"""launch/gpu-check to its end on emulated GPUs: what the table has of each check."""

import json
import os
import pathlib
import subprocess
import sys
import tempfile
import unittest

TOOL = pathlib.Path(__file__).resolve().parents[2] / "launch/gpu-check"
SKIPPED = {"nccl-gpus": "there is one GPU alone", "losses": "LibTorch can't use emulated GPUs", "rules": "LibTorch can't use emulated GPUs",
           "counters": "ncu can't look into emulated GPUs",
           **{tool: "compute-sanitizer can't look into emulated GPUs" for tool in ("memcheck", "racecheck", "initcheck", "synccheck")}}
FIGURES = {"update": 8, "step": 3}


class Emulated(unittest.TestCase):
    def test_every_check_passes_or_says_why_not(self):
        with tempfile.TemporaryDirectory(prefix="gpu-check-test-") as name:
            answer = subprocess.run([sys.executable, TOOL, "--emulated", "--no-build", "--build", os.environ["SHARDMIX_BINARY_DIR"],
                                     "--output", name, "--limit", "3000"], capture_output=True, text=True, timeout=3600)
            folder = pathlib.Path(name)
            self.assertEqual(answer.returncode, 0, answer.stdout + answer.stderr)
            self.assertEqual(answer.stdout, (folder / "table.txt").read_text(encoding="utf-8"))
            results = json.loads((folder / "results.json").read_text(encoding="utf-8"))
            made = {check["name"] for check in results["checks"] if check["outcome"] == "passed"}
            logs = {path.stem for path in folder.glob("*.log")}
        lines = answer.stdout.splitlines()
        self.assertEqual(lines[0], "GPU: emulated GPU")
        listed = subprocess.run([sys.executable, TOOL, "--list"], capture_output=True, text=True, timeout=60).stdout
        names = [line.split()[0] for line in listed.splitlines()]
        self.assertEqual([line.split()[0] for line in lines[2:] if line[0] != " "], names)
        for check in results["checks"]:
            if reason := SKIPPED.get(check["name"]):
                self.assertEqual((check["outcome"], check["reason"]), ("skipped", reason))
            else:
                self.assertEqual(check["outcome"], "passed", check)
                self.assertEqual(len(check["figures"]), FIGURES.get(check["name"], 1), check)
        self.assertEqual(logs, made)


if __name__ == "__main__":
    unittest.main()
