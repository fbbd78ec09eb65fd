"""Help, version, errors and exit codes of the program."""

import json
import re
import unittest

from support import TrainCase, complaints, run


class Help(unittest.TestCase):
    def test_help_of_the_program(self):
        for arguments in (["--help"], ["help"], ["-h"]):
            result = run(*arguments)
            self.assertEqual((result.returncode, result.stderr), (0, ""), arguments)
            self.assertIn("Usage: shardmix COMMAND", result.stdout)

    def test_help_of_commands(self):
        for arguments in (["train", "--help"], ["help", "train"], ["train", "--text", "--help"]):
            result = run(*arguments)
            self.assertEqual((result.returncode, result.stderr), (0, ""), arguments)
            for part in ("--text FILE", "The update rule:", "(default: 1000)", "\n  switch-1.3b  lr 0.0005 to 1e-05 (cosine), alpha 1, "
                         "beta3 0.9999 at once, clip 0.1\n", "Examples:", "Exit codes:"):
                self.assertIn(part, result.stdout)
        self.assertIn("inspect PATH", run("checkpoint", "--help").stdout)

    def test_help_comes_once_from_several_ranks(self):
        result = run("train", "--help", ranks=3)
        self.assertEqual(result.stdout.count("Usage: shardmix train"), 1)

    def test_version(self):
        result = run("--version")
        self.assertEqual(result.returncode, 0)
        self.assertRegex(result.stdout, r"^shardmix \d+\.\d+\.\d+ \(CUDA.*\), trainer (ON|OFF)\n$")

    def test_no_command_is_an_error_that_shows_the_help(self):
        result = run()
        self.assertEqual((result.returncode, result.stdout), (2, ""))
        self.assertIn("Usage:", result.stderr)


class Errors(TrainCase):
    def assert_complaint(self, arguments, pattern, ranks=None, code=2):
        result = run(*arguments, ranks=ranks)
        said = complaints(result)
        self.assertEqual(len(said), 1, result.stderr)
        self.assertRegex(said[0], pattern)
        self.assertEqual(result.returncode, code, result.stderr)

    def test_unknown_command(self):
        self.assert_complaint(["trian"], "no command 'trian'; did you mean train\\?")
        self.assert_complaint(["checkpoint", "inspekt", "x"], "did you mean inspect")
        self.assert_complaint(["checkpoint"], "inspect PATH")

    def test_impossible_values(self):
        for more, pattern in ((["--lr", "-1"], "lr"), (["--beta1", "1"], "beta1"), (["--batch", "0"], "--batch"),
                              (["--heads", "3"], "--heads"), (["--dtype", "fp16"], "--device cuda"),
                              (["--optimizer", "adam"], "ademamix, adamw"), (["--state", "small"], "full, compact"), (["--model", "gpt5"], "nano, 110m"),
                              (["--btch", "3"], "did you mean --batch"), (["--steps", "x"], "--steps is 'x'")):
            self.assert_complaint(self.arguments("run", *more), pattern)

    def test_one_sentence_from_several_ranks(self):
        self.assert_complaint(self.arguments("run", "--lr", "-1"), "^shardmix: lr", ranks=3)
        self.assert_complaint(["train"], "--text FILE", ranks=2)

    def test_configuration_file(self):
        config = self.directory / "run.ini"
        config.write_text("stepz = 3\n")
        self.assert_complaint(["train", "--config", config], f"{re.escape(str(config))}.*'stepz'.*steps")

    def test_no_checkpoint(self):
        missing = self.directory / "missing"
        self.assert_complaint(["checkpoint", "inspect", missing], "missing", code=1)
        self.assert_complaint(["checkpoint", "inspect"], "needs a checkpoint")
        self.assert_complaint(["checkpoint", "inspect", missing, "--jsn"], "did you mean --json")


@unittest.skipUnless("trainer ON" in run("--version").stdout, "this build has no trainer")
class TrainErrors(TrainCase):
    def complain(self, *arguments, ranks=None):
        result = run(*arguments, ranks=ranks)
        return result.returncode, complaints(result)

    def test_missing_text(self):
        for ranks in (None, 2):
            code, said = self.complain("train", "--text", self.directory / "none.txt", ranks=ranks)
            self.assertEqual((code, len(said)), (2, 1))
            self.assertIn("none.txt", said[0])

    def test_directory_that_cannot_be_made(self):
        code, said = self.complain("train", "--text", self.text, "--out", self.text / "run", ranks=2)
        self.assertEqual((code, len(said)), (2, 1))
        self.assertIn("--out", said[0])

    def test_checkpoint_of_another_model(self):
        self.train("run", "--steps", "1")
        code, said = self.complain(*self.arguments("run", "--steps", "2", "--width", "48"), ranks=2)
        self.assertEqual((code, len(said)), (1, 1))
        self.assertIn("embedding.weight", said[0])

    def test_inspect(self):
        self.train("run", "--steps", "2", ranks=2)
        info = self.inspect("run")
        self.assertEqual((info["step"], info["world_size"], info["rule"]), (2, 2, "ademamix"))
        self.assertEqual(json.loads(info["trainer_state"])["tokens"], 2 * 6 * 32)
        text = run("checkpoint", "inspect", self.directory / "run" / "step_000000002").stdout
        for part in ("step 2", "ranks 0-1", "shard-00001-of-00002.h5", "embedding.weight"):
            self.assertIn(part, text)


if __name__ == "__main__":
    unittest.main()
