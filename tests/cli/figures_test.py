"""The scripts in docs/figures, with a tiny model and a run of a few steps."""

import csv
import pathlib
import subprocess
import sys
import unittest
import xml.etree.ElementTree

from support import SHARDMIX, TINY, TrainCase

FIGURES = pathlib.Path(__file__).resolve().parents[2] / "docs" / "figures"


class Figures(TrainCase):
    def test_switch(self):
        out = self.directory / "figure"
        # After TINY's own: the last of two equal options wins.
        command = [sys.executable, FIGURES / "switch.py", "--text", self.text, "--program", SHARDMIX, "--out", out, "--steps", "40",
                   "--seeds", "2", "--from-m1", "--", *TINY, "--eval-every", "2", "--lr", "5e-3"]
        first, again = (subprocess.run([*map(str, command)], capture_output=True, text=True, timeout=300, check=False)
                        for _ in range(2))
        self.assertEqual(first.returncode, 0, first.stderr)
        self.assertEqual(again.stdout, first.stdout)
        with open(out / "switch.csv", encoding="utf-8") as file:
            rows = list(csv.DictReader(file))
        losses = {(row["seed"], row["switch_percent"], row["way"], int(row["step"])): row["held_out_loss"] for row in rows}
        self.assertEqual(len(losses), len(rows))
        switches = {(percent, way) for _, percent, way, _ in losses if way}
        self.assertEqual(len(switches), 8)
        for seed in ("1", "2"):
            self.assertEqual([step for s, _, way, step in losses if s == seed and not way], list(range(2, 41, 2)))
            for percent, way in switches:
                begin = 40 * int(percent) // 100
                self.assertEqual([step for *run, step in losses if run == [seed, percent, way]],
                                 list(range(begin + 2, 41, 2)))
            # Every way is another one, and so is every seed.
            ends = {losses[seed, percent, way, 40] for percent, way in switches} | {losses[seed, "", "", 40]}
            self.assertEqual(len(ends), 9)
        self.assertNotEqual(losses["1", "", "", 40], losses["2", "", "", 40])
        stay = sum(float(losses[seed, "", "", 40]) for seed in "12") / 2
        end = sum(float(losses[seed, "25", "schedules", 40]) for seed in "12") / 2
        self.assertIn(f"| switch at 25 %, schedules | {end:.4f} | {end - stay:+.4f} |", first.stdout)
        drawing = xml.etree.ElementTree.parse(out / "switch.svg").getroot()
        lines = drawing.findall(".//{http://www.w3.org/2000/svg}polyline")
        self.assertEqual(len(lines), 14)


if __name__ == "__main__":
    unittest.main()
