"""Checks the directions of includes between the rooms of src/: usage: rooms.py SOURCE_DIR"""

import pathlib
import re
import sys

# What each room may include besides itself and the public headers.
BELOW = {
    "math": set(),
    "layout": {"math"},
    "device": {"math"},
    "comm": {"device"},
    "optimizer": {"math", "layout", "device", "comm"},
    "checkpoint": {"math", "layout", "device", "comm", "optimizer"},
    "bench": {"math", "device", "comm", "checkpoint"},
    "train": {"math", "comm"},
    "cli": {"train", "bench", "checkpoint", "comm"},
}
# Which libraries a room alone may know.
OWNERS = {
    "mpi.h": {"comm", "bench"},
    "nccl.h": {"comm"},
    "cuda_runtime.h": {"comm", "device"},
    "hdf5.h": {"checkpoint"},
    "boost/": {"cli"},
    "torch/": {"train"},
}


def main() -> int:
    source = pathlib.Path(sys.argv[1]) / "src"
    wrong = []
    rooms = [path.name for path in source.iterdir() if path.is_dir()]
    wrong += [f"src/{room} is no known room; add it to {sys.argv[0]}" for room in rooms if room not in BELOW]
    files = [path for path in source.rglob("*") if path.suffix in (".hpp", ".cpp", ".cu")]
    for path in files:
        room = path.relative_to(source).parts[0]
        for include in re.findall(r'^#include [<"]([^>"]+)[>"]', path.read_text(), re.M):
            first = include.split("/")[0]
            if first in BELOW and first != room and first not in BELOW.get(room, set()):
                wrong.append(f"{path.relative_to(source.parent)} includes {include}: {room} may not know {first}")
            for library, owners in OWNERS.items():
                if include.startswith(library) and room not in owners:
                    wrong.append(f"{path.relative_to(source.parent)} includes {include}: only {sorted(owners)} may")
    print("\n".join(wrong) or f"{len(files)} files in {len(rooms)} rooms: all includes point downwards")
    return 1 if wrong or not files else 0


sys.exit(main())
