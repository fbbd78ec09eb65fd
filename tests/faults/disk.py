"""What a disk may hold after a loss of power, by the log of the operations before it (shim.h).

The file system that is assumed: rename and exchange are atomic; an operation on a directory is on the disk when that
directory is synced later, and a file's data and size when the file is. What isn't synced may be there or not, each piece
for itself, in any order, but for two operations on one name, which keep their order.
"""

import dataclasses
import os
import pathlib

SECTOR = 512


@dataclasses.dataclass
class Operation:
    name: str
    path: str
    other: str
    inode: int
    offset: int
    data: bytes


def read_log(path):
    text = pathlib.Path(path).read_bytes()
    operations = []
    at = 0
    while at < len(text):
        end = text.index(b"\n", at)
        name, file, other, inode, offset, size = text[at:end].decode().split("\t")
        at = end + 1 + int(size)
        operations.append(Operation(name, file, other, int(inode), int(offset), text[end + 1:at]))
    return operations


@dataclasses.dataclass
class Change:
    """Of a directory's entries, which happens whole or not, or of a file's content."""
    node: object  # that it belongs to: synced with it
    entries: dict = None  # name to node, or None
    size: int = None  # the file has at least so many bytes, or exactly where `cuts`
    cuts: bool = False
    offset: int = 0
    data: bytes = b""
    synced: bool = False


class Node:
    """A file, directory or link. One that is found again under its inode is the same."""

    def __init__(self, kind, target=""):
        self.kind, self.target = kind, target


class Disk:
    def __init__(self, base):
        self.base = str(base)
        self.root = Node("directory")
        self.tree = {self.root: {}}  # what processes see
        self.changes = []

    def find(self, path):
        node = self.root
        for part in pathlib.PurePath(path).relative_to(self.base).parts:
            node = self.tree[node][part]
        return node

    def change(self, node, **what):
        self.changes.append(Change(node, **what))

    def enter(self, directory, entries):
        self.change(directory, entries=entries)
        for name, node in entries.items():
            if node is None:
                del self.tree[directory][name]
            else:
                self.tree[directory][name] = node

    def apply(self, operation):
        name = operation.name
        parent, last = os.path.split(operation.path)
        if name in ("create", "mkdir", "symlink"):
            node = Node({"create": "file", "mkdir": "directory", "symlink": "link"}[name], operation.other)
            self.tree[node] = {}
            self.enter(self.find(parent), {last: node})
        elif name == "unlink":
            self.enter(self.find(parent), {last: None})
        elif name in ("rename", "exchange"):
            to, new = os.path.split(operation.other)
            if to != parent:
                raise ValueError("a rename between directories isn't known here")
            node = self.find(operation.path)
            other = self.find(operation.other) if name == "exchange" else None
            self.enter(self.find(parent), {new: node, last: other})
        elif name == "write":
            self.change(self.find(operation.path), offset=operation.offset, data=operation.data,
                        size=operation.offset + len(operation.data))
        elif name in ("extend", "truncate"):
            self.change(self.find(operation.path), size=operation.offset, cuts=name == "truncate")
        elif name == "fsync":
            node = self.find(operation.path)
            for change in self.changes:
                change.synced = change.synced or change.node is node
        else:
            raise ValueError(f"an operation '{name}'")

    def after_loss(self, choose):
        """The tree of files that is left. choose(change) is "all", "none", "size" (zeros for the data), or for writes a
        function from a sector's number to whether it is there."""
        entries = {}
        contents = {}
        for change in self.changes:
            kept = "all" if change.synced else choose(change)
            if kept == "none":
                continue
            if change.entries is not None:
                entries.setdefault(change.node, {}).update(change.entries)
                continue
            content = contents.setdefault(change.node, bytearray())
            if change.cuts:
                del content[change.size:]
            content.extend(bytes(max(0, change.size - len(content))))
            if kept == "all":
                content[change.offset:change.offset + len(change.data)] = change.data
            elif kept != "size":
                for sector in range(0, len(change.data), SECTOR):
                    if kept(sector // SECTOR):
                        piece = change.data[sector:sector + SECTOR]
                        content[change.offset + sector:change.offset + sector + len(piece)] = piece
        return self.tree_of(self.root, entries, contents)

    def tree_of(self, node, entries, contents):
        tree = {}
        for name, child in sorted(entries.get(node, {}).items()):
            if child is None:
                continue
            if child.kind == "directory":
                tree[name] = self.tree_of(child, entries, contents)
            else:
                tree[name] = child.target if child.kind == "link" else bytes(contents.get(child, b""))
        return tree


def write_tree(tree, path):
    os.mkdir(path)
    for name, content in tree.items():
        if isinstance(content, dict):
            write_tree(content, f"{path}/{name}")
        elif isinstance(content, str):
            os.symlink(content, f"{path}/{name}")
        else:
            with open(f"{path}/{name}", "wb") as file:
                file.write(content)


def read_tree(path):
    tree = {}
    for entry in sorted(os.scandir(path), key=lambda e: e.name):
        if entry.is_symlink():
            tree[entry.name] = os.readlink(entry.path)
        elif entry.is_dir():
            tree[entry.name] = read_tree(entry.path)
        else:
            tree[entry.name] = pathlib.Path(entry.path).read_bytes()
    return tree


def random_choice(draw):
    """Each change for itself; some draws tear no writes, or lean to keep, or to lose."""
    lean = draw.choice((0.1, 0.5, 0.9))
    tears = draw.random() < 0.5

    def choose(change):
        if change.entries is not None or not change.data:
            return "all" if draw.random() < lean else "none"
        if tears and draw.random() < 0.5:
            seed = draw.random()
            return lambda sector: hash((seed, sector)) % 100 < 100 * lean
        return draw.choice(("all", "none", "size"))

    return choose


def choices(draw, number):
    """All lost; all kept; names and sizes kept but not the data; data kept but not the names; `number` at random."""
    yield lambda change: "none"
    yield lambda change: "all"
    yield lambda change: "all" if change.entries is not None else "size"
    yield lambda change: "all" if change.entries is None else "none"
    for _ in range(number):
        yield random_choice(draw)
