"""Going on from a checkpoint: after a crash, on other ranks, with another rule."""

import subprocess
import time
import unittest

from support import LEAST, RULES, TrainCase, command, complaints, run


class Resume(TrainCase):
    def kill_after(self, out, step, *more, ranks=None):
        """Starts a run and kills all of it once a checkpoint of at least `step` is there."""
        with open(self.directory / "killed.log", "w", encoding="utf-8") as log:
            process = subprocess.Popen(command(self.arguments(out, *more), ranks), stdout=log, stderr=log)
            deadline = time.monotonic() + 60
            while not self.checkpoints(out) or self.checkpoints(out)[-1] < step:
                self.assertLess(time.monotonic(), deadline)
                self.assertIsNone(process.poll(), "the run ended before it could be killed")
                time.sleep(0.01)
            process.kill()
            process.wait()
        # mpiexec's ranks notice its death a moment later.
        time.sleep(0.5 if ranks else 0)

    def test_a_killed_run_goes_on_with_the_same_bits(self):
        for ranks, saves in ((None, "wait"), (2, "wait"), (2, "background")):
            plan = ["--steps", "400", "--checkpoint-every", "20", "--saves", saves]
            self.train(f"whole-{ranks}-{saves}", *plan, ranks=ranks)
            self.kill_after(f"killed-{ranks}-{saves}", 40, *plan, ranks=ranks)
            self.assertLess(self.checkpoints(f"killed-{ranks}-{saves}")[-1], 400)
            said = self.train(f"killed-{ranks}-{saves}", *plan, ranks=ranks).stderr
            self.assertIn("resumed after step", said)
            self.assertNotIn("warning", said)
            whole = self.metrics(f"whole-{ranks}-{saves}")
            killed = self.metrics(f"killed-{ranks}-{saves}")
            for line in whole + killed:
                del line["tokens_per_second"]
            self.assertEqual(whole, killed)

    def test_saves_in_the_background_are_the_same_files(self):
        for saves in ("wait", "background"):
            self.train(saves, "--steps", "10", "--checkpoint-every", "3", "--keep-last", "1", "--keep-every", "6",
                       "--saves", saves, ranks=2)
            self.assertEqual(self.checkpoints(saves), [6, 10])
        for step in (6, 10):
            for rank in (0, 1):
                name = f"step_{step:09}/shard-{rank:05}-of-00002.h5"
                self.assertEqual((self.directory / "wait" / name).read_bytes(),
                                 (self.directory / "background" / name).read_bytes())

    def test_stochastic_rounding_goes_on_with_the_same_bits(self):
        for rule in RULES:
            ranks = 2 if rule == "ademamix" else None
            plan = ["--steps", "12", "--checkpoint-every", "5", "--optimizer", rule, *LEAST]
            self.train(rule, *plan, ranks=ranks)
            said = self.train(f"{rule}-on", *plan, "--resume", self.directory / rule / "step_000000005",
                              ranks=ranks).stderr
            self.assertIn("resumed after step 5", said)
            self.assertNotIn("warning", said)
            self.assertEqual(self.losses(f"{rule}-on"), self.losses(rule)[5:])

    def test_another_precision_is_a_warning(self):
        self.train("run", "--steps", "2")
        said = self.train("run", "--steps", "4", "--dtype", "bf16", "--state", "compact").stderr
        self.assertIn("warning: weights and state were fp32, state full, and go on as bf16, master remainder, "
                      "state compact", said)

    def test_another_number_of_ranks_goes_on(self):
        self.train("run", "--steps", "20")
        for steps, ranks in ((6, 1), (11, 3), (16, 2), (20, 4)):
            self.train("moved", "--steps", "20", "--lr-schedule", "constant", "--warmup", "2", "--alpha-steps",
                       "20", "--beta3-steps", "20", "--beta3", "0.9", "--steps", steps, ranks=ranks)
        self.train("still", "--lr-schedule", "constant", "--warmup", "2", "--alpha-steps", "20", "--beta3-steps",
                   "20", "--beta3", "0.9", "--steps", "20", ranks=2)
        for moved, still in zip(self.losses("moved"), self.losses("still"), strict=True):
            self.assertAlmostEqual(moved, still, delta=1e-3)

    def test_a_finished_run_says_so(self):
        self.train("run", "--steps", "3")
        said = self.train("run", "--steps", "3").stderr
        self.assertIn("nothing to do: 3 of --steps 3", said)
        self.assertEqual(len(self.metrics("run")), 3)

    def test_a_run_of_adamw_is_taken_up_by_ademamix_and_back(self):
        self.train("adam", "--steps", "10", "--optimizer", "adamw", ranks=2)
        for name, more, starts, alpha in (
                ("at-once", ["--alpha", "2", "--alpha-steps", "0"], "m2 starts at zero", 2.0),
                ("schedules", ["--switch-at", "10", "--switch-m2", "from-m1"], "m2 starts from m1", 0.8)):
            said = self.train(name, "--steps", "20", "--resume", self.directory / "adam", *more, ranks=3).stderr
            self.assertIn("switched from adamw to ademamix at step 10: master, m1, v and the step are kept; "
                          f"{starts}, and the slow step at 0\n", said)
            lines = self.metrics(name)
            self.assertEqual([line["step"] for line in lines], list(range(11, 21)))
            self.assertAlmostEqual(lines[0]["alpha"], alpha)
            info = self.inspect(name)
            self.assertEqual((info["step"], info["updates"], info["slow_step"]), (20, 20, 10))
        said = self.train("back", "--steps", "30", "--resume", self.directory / "schedules", "--optimizer", "adamw").stderr
        self.assertIn("switched from ademamix to adamw at step 20: master, m1, v and the step are kept; dropped: m2\n", said)
        info = self.inspect("back")
        self.assertEqual((info["states"], info["slow_step"]), (["master", "m1", "v"], 0))

    def assert_same_wherever_it_was_left(self, name, plan, states):
        """Of a run that switches at step 6: resumed before, at and after it, elsewhere, it has the same bits."""
        plan = ["--steps", "12", "--switch-at", "6", "--checkpoint-every", "2", "--keep-last", "0", *plan]
        said = self.train(name, *plan, ranks=2).stderr
        self.assertEqual(said.count("switched from "), 1, said)
        self.assertIn(" at step 6: master, ", said)
        whole = self.directory / name
        for left, ranks in ((2, 1), (6, 4), (8, 1), (4, 4), (10, 2)):
            start = whole / f"step_{left:09}"
            if ranks != 2:
                moved = self.directory / f"{name}-as-{ranks}"
                run("checkpoint", "reshard", start, "--output", moved, "--ranks", ranks)
                start = moved / start.name
            self.assertEqual(len(list(start.glob("shard-*"))), ranks)
            out = f"{name}-{left}"
            said = self.train(out, *plan, "--resume", start, ranks=ranks).stderr
            self.assertNotIn("warning", said)
            # Left after the switch, it is past.
            self.assertEqual(said.count("switched from "), int(left <= 6), said)
            result = run("checkpoint", "diff", whole, self.directory / out)
            self.assertEqual(result.returncode, 0, result.stdout)
            self.assertEqual(self.losses(out), self.losses(name)[left:])
        self.assertEqual((self.inspect(name)["states"], self.inspect(f"{name}/step_000000006")["states"]), states)

    def test_a_switch_in_the_run_has_the_same_bits_wherever_it_was_left(self):
        adamw, ademamix = ["master", "m1", "v"], ["master", "m1", "m2", "v"]
        self.assert_same_wherever_it_was_left("whole", [], (ademamix, adamw))
        lines = self.metrics("whole")
        self.assertEqual([line.get("alpha", 0) > 0 for line in lines], [False] * 6 + [True] * 6)
        info = self.inspect("whole")
        self.assertEqual((info["rule"], info["step"], info["updates"], info["slow_step"]), ("ademamix", 12, 12, 6))
        self.assertEqual(self.inspect("whole/step_000000006")["rule"], "adamw")
        # The steps before are AdamW's.
        self.train("adamw", "--steps", "12", "--optimizer", "adamw", ranks=2)
        self.assertEqual(self.losses("adamw")[:6], self.losses("whole")[:6])
        at_once = ["--alpha", "2", "--alpha-steps", "0", "--beta3-steps", "0", "--switch-m2", "from-m1"]
        self.assert_same_wherever_it_was_left("from-m1", [*at_once, *LEAST], (ademamix, adamw))
        self.assertNotEqual(self.losses("from-m1")[7:], self.losses("whole")[7:])

    def test_the_way_back_has_the_same_bits_wherever_it_was_left(self):
        adamw, ademamix = ["master", "m1", "v"], ["master", "m1", "m2", "v"]
        plan = ["--switch-from", "ademamix", "--optimizer", "adamw"]
        self.assert_same_wherever_it_was_left("back", plan, (adamw, ademamix))
        self.assertEqual([line["alpha"] > 0 for line in self.metrics("back")], [True] * 6 + [False] * 6)

    def test_a_switch_that_makes_no_sense_is_refused(self):
        for more, says in ((["--switch-at", "20"], "below the 20"), (["--switch-at", "-1"], "but is -1"),
                           (["--switch-at", "5", "--optimizer", "adamw"], "from adamw to itself"),
                           (["--switch-at", "5", "--switch-from", "lion"], "ademamix needs v"),
                           (["--switch-at", "5", "--switch-from", "ademamix", "--beta1", "0"], "from ademamix to itself"),
                           (["--switch-at", "5", "--beta1", "0"], "adamw and ademamix each keep a state"),
                           (["--switch-at", "5", "--switch-from", "simplified-ademamix"], "--switch-at: ")):
            result = run(*self.arguments("no", "--steps", "20", *more))
            self.assertEqual((result.returncode, len(complaints(result))), (2, 1), result.stderr)
            self.assertIn(says, result.stderr)

    def test_another_text_seed_or_batch_is_a_warning(self):
        self.train("run", "--steps", "2")
        self.text.write_text(self.text.read_text() + "one more line\n")
        said = self.train("run", "--steps", "4", "--seed", "9", "--batch", "5").stderr
        for part in ("warning: the text", "warning: --seed is 9", "warning: --batch is 5", "warning: the rule was"):
            self.assertIn(part, said)

    def test_later_checkpoints_are_not_mixed_with(self):
        self.train("run", "--steps", "4", "--checkpoint-every", "2")
        first = self.directory / "run" / "step_000000002"
        for resume in ("none", first):
            result = run(*self.arguments("run", "--steps", "6", "--resume", resume))
            self.assertEqual((result.returncode, len(complaints(result))), (2, 1), result.stderr)
            self.assertIn("choose another --out", result.stderr)
        self.train("branch", "--steps", "6", "--resume", first)
        self.assertEqual(self.metrics("branch")[0]["step"], 3)

    def test_a_damaged_checkpoint_is_passed_over(self):
        self.train("run", "--steps", "4", "--checkpoint-every", "2")
        damaged = next((self.directory / "run" / "step_000000004").glob("shard-*.h5"))
        damaged.write_bytes(damaged.read_bytes()[:-100])
        said = self.train("run", "--steps", "5").stderr
        self.assertIn("passed over step_000000004", said)
        self.assertIn("resumed after step 2", said)
        self.assertEqual([line["step"] for line in self.metrics("run")], [1, 2, 3, 4, 5])


if __name__ == "__main__":
    unittest.main()
