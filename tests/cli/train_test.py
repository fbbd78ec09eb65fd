"""Training a tiny model on different numbers of ranks."""

import math
import unittest

from support import LEAST, RULES, TrainCase

FIELDS = {"step", "loss", "lr", "alpha", "beta3", "gradient_norm", "clip_scale", "loss_scale", "skipped",
          "reason", "tokens_per_second"}


class Train(TrainCase):
    def test_metrics_say_what_each_step_did(self):
        self.train("run", "--steps", "12", "--eval-every", "5")
        lines = self.metrics("run")
        self.assertEqual([line["step"] for line in lines], list(range(1, 13)))
        for line in lines:
            self.assertEqual(set(line) - {"held_out_loss"}, FIELDS)
            self.assertFalse(line["skipped"])
            self.assertGreater(line["tokens_per_second"], 0)
        self.assertEqual([line["step"] for line in lines if "held_out_loss" in line], [5, 10, 12])
        self.assertAlmostEqual(lines[0]["loss"], math.log(256), delta=0.1)
        self.assertEqual(lines[-1]["alpha"], 8.0)

    def test_the_loss_falls(self):
        self.train("run", "--steps", "60", "--lr", "5e-3")
        losses = self.losses("run")
        self.assertLess(losses[-1], losses[0] - 1.5)
        self.assertLess(self.metrics("run")[-1]["held_out_loss"], losses[0] - 1.5)

    def test_any_number_of_ranks_takes_the_same_steps(self):
        self.train("1", "--steps", "10")
        alone = self.metrics("1")
        # Six sequences: three ranks have two each, four ranks one or two, seven ranks one or none.
        for ranks, micro_batch in ((2, 2), (3, 1), (4, 1), (7, 0)):
            out = f"{ranks}-{micro_batch}"
            self.train(out, "--steps", "10", "--micro-batch", micro_batch, ranks=ranks)
            for one, many in zip(alone, self.metrics(out), strict=True):
                self.assertAlmostEqual(one["loss"], many["loss"], delta=1e-3)
                self.assertAlmostEqual(one["gradient_norm"], many["gradient_norm"], delta=1e-3)
            self.assertAlmostEqual(alone[-1]["held_out_loss"], self.metrics(out)[-1]["held_out_loss"], delta=1e-3)

    def test_one_two_and_four_ranks_give_the_same_bits(self):
        # A batch that four doesn't divide.
        for name, more in (("full", []), ("least", LEAST)):
            for ranks in (1, 2, 4):
                self.train(f"{name}-{ranks}", "--steps", "10", "--batch", "6", "--threads", "1", *more, ranks=ranks)
            one = self.metrics(f"{name}-1")
            for ranks in (2, 4):
                for alone, many in zip(one, self.metrics(f"{name}-{ranks}"), strict=True):
                    self.assertEqual(alone["gradient_norm"], many["gradient_norm"])
                    self.assertEqual(alone["loss"], many["loss"])

    def test_two_runs_are_equal_to_the_last_bit(self):
        for out in ("a", "b"):
            self.train(out, "--steps", "8", ranks=2)
        self.assertEqual(self.losses("a"), self.losses("b"))

    def test_both_masters_of_bf16_give_the_same_bits(self):
        for master in ("remainder", "full"):
            self.train(master, "--steps", "8", "--dtype", "bf16", "--master", master, ranks=2)
        self.assertEqual(self.losses("remainder"), self.losses("full"))
        self.assertGreater(self.inspect("full")["memory"][0]["master"],
                           self.inspect("remainder")["memory"][0]["master"])

    def test_every_rule_learns_in_full_and_compact_state(self):
        for rule in RULES:
            for state in ("full", "compact"):
                out = f"{rule}-{state}"
                said = self.train(out, "--steps", "40", "--optimizer", rule, "--state", state).stderr
                self.assertIn(f"rule {rule}, lr ", said)
                losses = self.losses(out)
                self.assertLess(losses[-1], losses[0] - 0.3, out)
            self.assertAlmostEqual(losses[-1], self.losses(f"{rule}-full")[-1], delta=0.1)
            full, compact = (self.inspect(f"{rule}-{state}")["memory"][0] for state in ("full", "compact"))
            self.assertLess(compact["m1"] + compact["m2"] + compact["v"], 0.51 * (full["m1"] + full["m2"] + full["v"]))

    def test_every_schedule_runs(self):
        for number, more in enumerate((["--lr-schedule", "linear"],
                                       ["--lr-schedule", "wsd"], ["--lr-schedule", "wsd-sqrt"],
                                       ["--lr-schedule", "inverse-sqrt"],
                                       ["--lr-schedule", "constant", "--beta1", "0"],
                                       ["--lr-schedule", "constant", "--beta3", "0.9999"],
                                       ["--beta3", "0.9999", "--alpha-steps", "0"])):
            said = self.train(str(number), "--steps", "3", *more).stderr
            self.assertEqual(said.count("remembers 10000 steps"), int("0.9999" in more), said)

    def test_configuration_file_and_arguments(self):
        config = self.directory / "run.ini"
        config.write_text(f"text = {self.text}\nsteps = 2\nseed = 3\nout = {self.directory / 'wrong'}\n")
        self.train("run", "--config", config, "--steps", "4")
        self.assertEqual(len(self.metrics("run")), 4)
        self.assertIn('"seed":3', self.inspect("run")["trainer_state"])

    def test_a_preset_fills_in_what_is_not_given(self):
        config = self.directory / "run.ini"
        config.write_text("preset = switch-1.3b\nalpha = 3\n")
        said = self.train("run", "--steps", "3", "--config", config, "--weight-decay", "0").stderr
        for part in ("rule ademamix, lr 0.0005 to 1e-05 (cosine), beta1 0.9, beta2 0.999, beta3 0.9999, alpha 3, ",
                     "weight decay 0, alpha steps 0, beta3 steps 0, clip 0.1\n", "warning: beta3 = 0.9999 remembers"):
            self.assertIn(part, said)
        self.assertEqual(self.metrics("run")[0]["alpha"], 3.0)

    def test_start_says_what_will_run(self):
        said = self.train("run", "--steps", "2", ranks=2).stderr
        for part in ("model nano: width 32", "parameters in fp32", "ranks 2", "rule ademamix, lr ",
                     "ranks 0-1", "step 2/2", "held-out loss"):
            self.assertIn(part, said)
        self.assertEqual(said.count("rule ademamix"), 1)


if __name__ == "__main__":
    unittest.main()
