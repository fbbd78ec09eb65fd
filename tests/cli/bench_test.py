"""shardmix bench: what it prints, and what it refuses. No test here asserts a speed."""

import json
import unittest

from support import complaints, run

KEYS = ["rule", "precision", "device", "threads", "parameters", "bytes_per_parameter",
        "mparameters_per_second", "gigabytes_per_second", "bound_gigabytes_per_second",
        "fraction_of_bound"]
SMALL = ["--parameters", "100000", "--rounds", "1", "--threads", "2"]

# Bytes that one parameter moves: parameter and gradient, master, state.
BYTES = {("adamw", "fp32"): 28, ("ademamix", "fp32"): 36, ("lion", "fp32"): 20,
         ("ademamix", "bf16"): 34, ("adamw", "bf16"): 26, ("ademamix", "bf16-full"): 38,
         ("ademamix", "bf16-stochastic"): 30, ("simplified-ademamix", "fp16"): 30,
         ("ademamix", "bf16-compact"): 18 + 24 / 256, ("adamw", "bf16-compact"): 14 + 24 / 256}


def measure(*arguments):
    result = run("bench", "update", "--json", *SMALL, *arguments)
    assert result.returncode == 0, result.stderr
    return [json.loads(line) for line in result.stdout.splitlines()]


class Update(unittest.TestCase):
    def test_measures_every_rule_in_every_precision(self):
        rows = measure()
        self.assertTrue(all(list(row) == KEYS for row in rows))
        self.assertEqual(len(rows), len({(row["rule"], row["precision"]) for row in rows}))
        self.assertEqual({row["rule"] for row in rows}, {"ademamix", "adamw", "simplified-ademamix", "lion"})
        found = {(row["rule"], row["precision"]): row["bytes_per_parameter"] for row in rows}
        for key, expected in BYTES.items():
            self.assertAlmostEqual(found[key], expected, msg=str(key))

    def test_the_figures_belong_together(self):
        (row,) = measure("--rule", "adamw", "--precision", "fp32")
        self.assertEqual(row["parameters"], 99840)  # whole blocks
        self.assertEqual(row["threads"], 2)
        self.assertAlmostEqual(row["gigabytes_per_second"],
                               row["mparameters_per_second"] * row["bytes_per_parameter"] / 1000)
        self.assertAlmostEqual(row["fraction_of_bound"],
                               row["gigabytes_per_second"] / row["bound_gigabytes_per_second"])

    def test_lists_and_table(self):
        result = run("bench", "update", *SMALL, "--rule", "lion,adamw", "--precision", "fp32,bf16")
        self.assertEqual(len(result.stdout.splitlines()), 5)
        self.assertIn("Mparam/s", result.stdout)

    def test_refusals(self):
        for arguments, pattern in ((["update", "--rule", "sgd"], "no update rule 'sgd'; expected one of ademamix"),
                                   (["update", "--precision", "int4"], "no precision 'int4'; expected one of fp32"),
                                   (["update", "--parameters", "5"], "at least 256 parameters"),
                                   (["update", "--rounds", "0"], "1 round"),
                                   (["updte"], "did you mean update"), ([], "bench update"),
                                   (["update", "--threads", "x"], "--threads is 'x'")):
            result = run("bench", *arguments)
            self.assertEqual(result.returncode, 2)
            self.assertRegex(complaints(result)[0], pattern)

    def test_help(self):
        for what in ("update", "step", "collectives"):
            self.assertIn(what, run("bench", "--help").stdout)
            self.assertIn(what, run("help", "bench").stdout)
            self.assertIn("--rounds N", run("bench", what, "--help").stdout)
        self.assertIn("bf16-compact", run("bench", "update", "--help").stdout)


if __name__ == "__main__":
    unittest.main()
