"""Crashes, errors and losses of power at every operation of a save: what a loader finds must be the old checkpoint or the
new one, bit for bit.

    crash_test.py                   some of the operations
    crash_test.py --every 1         each one
    crash_test.py --only power      of kill, errors, limit, power, again, room

SAVE_PROGRAM is tests/faults/save_program.cpp. docs/internals/crash-safety.md tells what is assumed and what was seen.
"""

import argparse
import collections
import os
import pathlib
import random
import shutil
import signal
import subprocess
import sys
import tempfile

import disk

PROGRAM = os.environ["SAVE_PROGRAM"]
MPIEXEC = os.environ.get("MPIEXEC", "mpiexec")
WAYS = ("next", "next-background", "again", "next-shared", "again-background", "again-shared-background")
# Open MPI would end the others when one dies: it sees a shell in each rank's place, which lives until all are over.
SHELL = '''trap "" TERM; "$@"; : >"{place}/over.$OMPI_COMM_WORLD_RANK"; i=0
while [ "$(ls "{place}" | grep -c over)" -lt {ranks} ] && [ $((i += 1)) -lt 600 ]; do sleep 0.02; done'''


def ways(stride):
    """Three of them where not each operation is tried."""
    return WAYS if stride == 1 else ("next", "next-shared", "again-background")


class Table:
    """Cases and their outcomes, and what was wrong."""

    def __init__(self, title):
        self.title, self.rows, self.wrong = title, collections.defaultdict(collections.Counter), []

    def add(self, row, outcome, wrong=""):
        self.rows[row][outcome] += 1
        if wrong:
            self.wrong.append(f"{row}: {wrong}")

    def show(self):
        columns = sorted({c for counts in self.rows.values() for c in counts})
        width = max((len(row) for row in self.rows), default=0)
        print(f"\n{self.title}\n{'':{width}}  cases  " + "  ".join(columns))
        for row, counts in self.rows.items():
            print(f"{row:{width}} {sum(counts.values()):6}  " + "  ".join(f"{counts[c]:{len(c)}}" for c in columns))
        print(f"{sum(sum(c.values()) for c in self.rows.values())} cases, {len(self.wrong)} wrong")
        for wrong in list(dict.fromkeys(self.wrong))[:20]:
            print(f"  WRONG: {wrong}")


def run(ranks, words, place=None, check=True):
    """The lines that the program says. In a `place`, survivors of a rank that dies go on."""
    command = [PROGRAM, *map(str, words)]
    if place:
        command = ["sh", "-c", SHELL.format(place=place, ranks=ranks), "sh", *command]
    done = subprocess.run([MPIEXEC, "-n", str(ranks), *command], stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
                          stdin=subprocess.DEVNULL, text=True, errors="replace", timeout=3600, check=False)
    if check and done.returncode:
        raise RuntimeError(f"{words} on {ranks} ranks:\n{done.stdout}")
    return done.stdout.splitlines()


def values(lines):
    """Of lines such as "old 123"."""
    return {words[0]: words[1] for words in map(str.split, lines) if len(words) == 2}


def loaded(directories, ranks, scratch):
    """What each directory loads, and whether the next save was well and cleaned up; see Program::load."""
    listing = pathlib.Path(scratch) / "list"
    listing.write_text("".join(f"{d}\n" for d in directories))
    run(ranks, ["load", listing])
    answers = pathlib.Path(f"{listing}.out").read_text().splitlines()
    if len(answers) != len(directories):
        raise RuntimeError(f"{len(answers)} answers for {len(directories)} directories")
    return answers


def judge(answer, directory, names, allowed):
    """Which state it is, and what is wrong. `answer` is of a load and another save."""
    words = answer.split()
    found = names.get(words[0], "other")
    if answer.startswith("refused") or found not in allowed:
        return found, f"loads {answer}, not {' or '.join(allowed)}"
    if words[1:] != ["saved"]:
        return found, f"the next save: {answer}"
    left = sorted(os.listdir(f"{directory}/run"))
    if len(left) != 2 or left[0] != "latest" or not left[1].startswith("step_"):
        return found, f"the next save leaves {left}"
    return found, ""


def reference(ranks, way, scratch):
    """Of a save without faults: the digests, each rank's operations, and the log."""
    base = tempfile.mkdtemp(dir=scratch)
    log = f"{base}.log"
    lines = run(ranks, ["save", way, base, 0, 0, "none", log])
    digests = values(lines)
    operations = {int(line.split()[1]): int(line.split()[2]) for line in lines if line.startswith("ops ")}
    return base, {digests["old"]: "old", digests["new"]: "new", "0": "nothing"}, operations, disk.read_log(log)


def test_kill(scratch, stride, table):
    """kill -9 of one rank, whose fellows live on, or of all at once; before an operation or within a write."""
    for way in ways(stride):
        for ranks in (1, 2, 3):
            _, names, operations, _ = reference(ranks, way, scratch)
            cases = [(rank, at, action) for rank, count in operations.items() for at in range(1, count + 1)
                     for action in ("kill", "tear", "kill_all")
                     if not (ranks == 1 and action == "kill_all")]
            step = max(1, stride // 8) if ranks == 1 else stride  # one rank takes little time
            cases = cases[(7 * ranks + 11 * WAYS.index(way)) % step::step]
            bases = []
            for rank, at, action in cases:
                bases.append(tempfile.mkdtemp(dir=scratch))
                run(ranks, ["save", way, bases[-1], rank, at, action],
                    place=tempfile.mkdtemp(dir=scratch) if action != "kill_all" else None, check=False)
            dangling = [not os.path.exists(f"{base}/run/latest") for base in bases]
            answers = loaded(bases, ranks % 3 + 1, scratch)
            for (rank, at, action), base, answer, dangles in zip(cases, bases, answers, dangling):
                found, wrong = judge(answer, base, names, ("old", "new"))
                if dangles:
                    wrong = "'latest' points nowhere"
                table.add(f"{ranks} ranks, {way}", found,
                          wrong and f"rank {rank} of {ranks}, operation {at}, {action}: {wrong}")
                shutil.rmtree(base)


def test_errors(scratch, stride, table):
    """Operations that fail, on one rank or all; the program goes on, loads and saves again."""
    for way in ways(stride):
        for ranks in (1, 2, 3):
            base = tempfile.mkdtemp(dir=scratch)
            step = 1 if ranks == 1 else stride  # one rank takes little time
            first = 1 + (ranks + WAYS.index(way)) % step
            for line in run(ranks, ["errors", way, base, first, step]):
                words = line.split()
                if "WRONG" in line:
                    table.add(f"{words[1]}, {ranks} ranks", "WRONG", f"{way}, {line}")
                elif line.startswith("case "):
                    _, action, _, _, operation, outcome, found = words
                    must_fail = action in ("ENOSPC", "EIO", "broken") or (
                        action == "EINTR" and operation not in ("write", "fallocate"))
                    table.add(f"{action}, {ranks} ranks", f"{outcome}, {found}",
                              f"{way}, {line}: not reported" if must_fail and outcome == "success" else "")


def named(tree):
    """The directories of a tree that have a checkpoint's name."""
    return [content for name, content in tree.get("run", {}).items() if name.startswith("step_")]


def test_limit(scratch, stride, table):
    """A limit on the size of files, on one rank or all: the system itself refuses what is beyond it."""
    for way in ways(stride):
        if "shared" in way:
            continue  # what ranks share files by is memory that counts as a file of 4 MB
        for ranks in (1, 2, 3):
            base = tempfile.mkdtemp(dir=scratch)
            outcomes = collections.defaultdict(list)
            for line in run(ranks, ["limit", way, base, 0, 40000, 509 * stride]):
                if not line.startswith("case "):
                    continue
                _, rank, size, outcome = line.split(" ", 3)
                wrong = outcome not in ("error old", "success new")
                table.add(f"{'all' if rank == '-1' else 'one'} of {ranks} ranks" if ranks > 1 else "1 rank",
                          "WRONG" if wrong else outcome.replace(" ", ", "), f"{way}, {line}" if wrong else "")
                outcomes[rank].append(outcome)
            for rank, found in outcomes.items():
                if found != sorted(found) or len(set(found)) < 2:
                    table.wrong.append(f"{way}, rank {rank} of {ranks}: errors up to a size, then none: {found}")


def test_power(scratch, stride, table):
    """All prefixes of a save's log, and what may be left of each."""
    for way in ("next", "again"):
        for ranks in (1, 2, 3):
            base, names, _, log = reference(ranks, way, scratch)
            image = disk.Disk(base)
            allowed = ("nothing", "old")
            seen = {}  # trees
            whole = []  # directories of complete checkpoints
            cases = []  # (operation, what is allowed, number of the tree)
            draw = random.Random(f"{way} {ranks}")
            for number, operation in enumerate(log):
                if operation.name == "mark":
                    allowed = {"old": ("old", "new"), "new": ("new",)}[operation.path]
                    whole += named(image.after_loss(lambda change: "all"))
                else:
                    image.apply(operation)
                if number % stride and operation.name != "mark":
                    continue
                for choose in disk.choices(draw, 24 if stride == 1 else 6):
                    tree = image.after_loss(choose)
                    cases.append((number, allowed, seen.setdefault(repr(tree), (len(seen), tree))[0]))
            if image.after_loss(lambda change: "all") != disk.read_tree(base):
                raise RuntimeError("the log doesn't lead to what is on the disk: the shim misses operations")
            place = tempfile.mkdtemp(dir=scratch)
            directories = []
            trees = dict(seen.values())
            for index, tree in trees.items():
                directories.append(f"{place}/{index}")
                disk.write_tree(tree, directories[-1])
            answers = loaded(directories, ranks % 3 + 1, scratch)
            for number, may_be, index in cases:
                found, wrong = judge(answers[index], directories[index], names, may_be)
                run_directory = trees[index].get("run", {})
                if any(directory not in whole for directory in named(trees[index])):
                    wrong = "a directory has a checkpoint's name but isn't whole"
                if run_directory.get("latest") not in [None, *run_directory]:
                    wrong = "'latest' points nowhere"
                table.add(f"{ranks} ranks, {way}: {len(log)} operations, {len(seen)} states", found,
                          wrong and f"after operation {number}, {log[number].name} "
                                    f"{log[number].path.removeprefix(base + '/')}: {wrong}")
            shutil.rmtree(place)


class Losses:
    """Trees that losses of power leave, to be judged together."""

    def __init__(self, ranks, scratch, table, row):
        self.ranks, self.scratch, self.table, self.row = ranks, scratch, table, row
        self.seen, self.cases = {}, []

    def follow(self, what, base, log, begin, allowed, names, draw):
        """From operation `begin` of the log on; allowed: what may load after each mark's text, and at first after ""."""
        image = disk.Disk(base)
        whole = []  # directories of complete checkpoints
        cases = []
        may_be = allowed[""]
        for number, operation in enumerate(log):
            if operation.name == "mark" or number == begin:
                whole += named(image.after_loss(lambda change: "all"))
            if operation.name == "mark":
                may_be = allowed.get(operation.path, may_be)
            else:
                image.apply(operation)
            if number >= begin:
                after = f"{operation.name} {operation.path.removeprefix(f'{base}/')}"
                cases += [(after, may_be, image.after_loss(choose)) for choose in disk.choices(draw, 6)]
        for after, may_be, tree in cases:
            index = self.seen.setdefault(repr(tree), (len(self.seen), tree))[0]
            is_whole = all(directory in whole for directory in named(tree))
            self.cases.append((f"{what}, then a loss of power after {after}", index, may_be, names,
                               "" if is_whole else "a directory has a checkpoint's name but isn't whole"))

    def judge(self):
        place = tempfile.mkdtemp(dir=self.scratch)
        directories = [f"{place}/{index}" for index in range(len(self.seen))]
        for index, tree in self.seen.values():
            disk.write_tree(tree, directories[index])
        answers = loaded(directories, self.ranks % 3 + 1, self.scratch)
        for what, index, may_be, names, not_whole in self.cases:
            found, wrong = judge(answers[index], directories[index], names, may_be)
            self.table.add(self.row, found, (wrong or not_whole) and f"{what}: {wrong or not_whole}")
        shutil.rmtree(place)


def test_again(scratch, stride, table):
    """A loss of power in the save that follows on one that failed, or was killed and never brought to the disk what it did."""
    for way in ("next", "again"):
        draw = random.Random(way)
        for ranks in (1, 2):
            losses = Losses(ranks, scratch, table, f"an error, {ranks} ranks, {way}")
            base = tempfile.mkdtemp(dir=scratch)
            lines = run(ranks, ["mend", way, base, 1 + ranks % stride, stride])
            for case in (line.split() for line in lines if line.startswith("case ")):
                at, struck, outcome = case[1:]
                digests = values(lines)
                names = {digests["old"]: "old", digests["new"]: "new", digests["later"]: "later", "0": "nothing"}
                log = disk.read_log(f"{base}/{at}.log")
                failed = next(i for i, operation in enumerate(log) if operation.path == outcome)
                losses.follow(f"operation {at} fails: {struck}", f"{base}/{at}", log, failed,
                              {"": ("old", "new", "later"), "later": ("later",)}, names, draw)
            losses.judge()
        bases = []
        losses = Losses(1, scratch, table, f"kill -9, 1 rank, {way}")
        _, names, operations, _ = reference(1, way, scratch)
        cases = range(1 + stride // 2, operations[0] + 1, stride)
        for at in cases:
            bases.append(tempfile.mkdtemp(dir=scratch))
            run(1, ["save", way, bases[-1], 0, at, "kill", f"{bases[-1]}.log"], check=False)
        begins = [len(disk.read_log(f"{base}.log")) for base in bases]
        for at, base, begin, answer in zip(cases, bases, begins, loaded(bases, 1, scratch)):
            found, saved, digest = answer.split()
            if names.get(found) not in ("old", "new") or saved != "saved":
                raise RuntimeError(f"after a kill at operation {at}: {answer}")
            losses.follow(f"killed at operation {at}", base, disk.read_log(f"{base}.log"), begin,
                          {"": ("old", "new", "later"), "again": ("later",)}, {**names, digest: "later"}, draw)
        losses.judge()


def test_room(scratch, stride, table):
    """A file system of one MiB with less and less room. True if the system refuses one."""
    place = tempfile.mkdtemp(dir=scratch)
    for ranks in (1, 2):
        words = [PROGRAM, "room", "next", place, "8", "128", str(4 * stride)]
        script = f'mount -t tmpfs -o size=1m none "{place}" || exit 77; exec "$@"'
        done = subprocess.run(["unshare", "-m", "sh", "-c", script, "sh", MPIEXEC, "-n", str(ranks), *words],
                              stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, check=False, timeout=600)
        if done.returncode in (1, 77) and "case" not in done.stdout:
            print(f"room: skipped: {done.stdout.strip()}")
            return True
        if done.returncode:
            raise RuntimeError(done.stdout)
        for line in done.stdout.splitlines():
            if line.startswith("case "):
                outcome = line.split(" ", 2)[2]
                wrong = "WRONG" in outcome
                table.add(f"{ranks} ranks", "WRONG" if wrong else outcome, line if wrong else "")
        if len(table.rows[f"{ranks} ranks"]) < 2:
            table.wrong.append(f"{ranks} ranks: the sizes don't reach from too little to enough")
    return False


TESTS = {"kill": (test_kill, 96, "kill -9 within a save"), "errors": (test_errors, 13, "operations that fail"),
         "limit": (test_limit, 8, "a limit on the size of files"), "power": (test_power, 3, "losses of power"),
         "again": (test_again, 13, "losses of power after a save that failed"), "room": (test_room, 4, "a small file system")}


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--every", type=int, metavar="K", help="every K-th operation")
    parser.add_argument("--only", choices=TESTS, action="append")
    arguments = parser.parse_args()
    failed = False
    skipped = []
    for name in arguments.only or TESTS:
        test, stride, title = TESTS[name]
        table = Table(title)
        memory = "/dev/shm" if os.access("/dev/shm", os.W_OK) else None
        with tempfile.TemporaryDirectory(prefix="checkpoint-crash-", dir=memory) as scratch:
            skipped.append(test(scratch, arguments.every or stride, table))
        table.show()
        failed = failed or bool(table.wrong)
    if failed:
        return 1
    return 77 if all(skipped) else 0


if __name__ == "__main__":
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))
    sys.exit(main())
