"""What a directory of torch.distributed.checkpoint holds: tensors in parts, and objects.

`.metadata` is a pickle that says which bytes of which file are which part of which tensor. It is read by an unpickler
that knows its few classes, as ones that do nothing; the parts are files of torch.save each, read by torch's restricted
reader.
"""

from __future__ import annotations

import collections
import io
import math
import pathlib
from dataclasses import dataclass
from typing import Any

from .loading import Inert, load, torch, unpickle
from .refused import Refused
from .states import DTYPES, Value, lazy

METADATA = "torch.distributed.checkpoint.metadata."
DTYPE_NAMES = ("float64", "float32", "float16", "bfloat16", "int64", "int32", "int16", "int8", "uint8", "bool",
               "float8_e4m3fn", "float8_e5m2", "complex64", "complex128", "uint16", "uint32", "uint64")


def size(*extents: Any) -> tuple[int, ...]:
    values = tuple(extents[0]) if extents else ()
    if not all(isinstance(extent, int) and not isinstance(extent, bool) and extent >= 0 for extent in values):
        raise Refused("a size isn't a list of whole numbers")
    return values


def inert(*_: Any) -> Inert:
    return Inert()


# All that a .metadata may name.
ALLOWED: dict[str, Any] = {
    **{METADATA + name: Inert for name in ("Metadata", "TensorStorageMetadata", "BytesStorageMetadata",
                                           "ChunkStorageMetadata", "MetadataIndex", "TensorProperties", "StorageMeta",
                                           "_MEM_FORMAT_ENCODING")},
    # Megatron-core keeps its plans of what each rank writes.
    **{f"torch.distributed.checkpoint.planner.{name}": Inert for name in ("SavePlan", "WriteItem", "WriteItemType",
                                                                          "TensorWriteData", "BytesIOWriteData")},
    "torch.distributed.checkpoint.filesystem._StorageInfo": Inert,
    "torch.distributed.checkpoint.filesystem._StoragePrefix": Inert,
    "torch.distributed.checkpoint.api.CheckpointException": Inert,
    "torch.distributed._shard.sharded_tensor.metadata.TensorProperties": Inert,
    "torch.distributed._shard.sharded_tensor.metadata.MEM_FORMAT_ENCODING": Inert,
    "torch.Size": size,
    "torch.serialization._get_layout": inert,
    "collections.OrderedDict": collections.OrderedDict,
    "pathlib.PosixPath": inert,
    "pathlib.Path": inert,
    "pathlib._local.PosixPath": inert,
    **{f"torch.{name}": f"torch.{name}" for name in DTYPE_NAMES},
}


@dataclass(frozen=True)
class Part:
    offsets: tuple[int, ...]
    sizes: tuple[int, ...]
    file: pathlib.Path
    begin: int
    length: int


@dataclass(frozen=True)
class Item:
    """A tensor in parts, or (without a shape) an object in one."""

    shape: tuple[int, ...] | None
    dtype: str
    parts: list[Part]


def attribute(thing: Any, name: str, kind: Any, what: str) -> Any:
    value = getattr(thing, name, None)
    if not isinstance(value, kind) or isinstance(value, bool):
        raise Refused(f"{what} has no {name}, or one of another kind")
    return value


def stored_at(folder: pathlib.Path, info: Any, what: str) -> tuple[pathlib.Path, int, int]:
    name = attribute(info, "relative_path", str, what)
    begin, length = (attribute(info, key, int, what) for key in ("offset", "length"))
    if getattr(info, "transform_descriptors", None):
        raise Refused(f"{what} is compressed or changed by an extension: save without one")
    if name in ("", ".", "..") or "/" in name or "\0" in name:
        raise Refused(f"{what} is in '{name}', which isn't a file of the directory")
    path = folder / name
    if not path.is_file():
        raise Refused(f"{what} is in '{path}', which is missing")
    if begin < 0 or length < 0 or begin + length > path.stat().st_size:
        raise Refused(f"{what} is at [{begin}, {begin} + {length}) of '{path}', which has {path.stat().st_size} bytes: it is "
                      "cut short")
    return path, begin, length


def require_fitting(item: Item, what: str) -> None:
    """Parts that lie in the tensor, have its number of elements together, and as many bytes as that takes."""
    assert item.shape is not None
    total = 0
    for part in item.parts:
        if not len(part.offsets) == len(part.sizes) == len(item.shape) or any(
                offset + extent > whole for offset, extent, whole in zip(part.offsets, part.sizes, item.shape)):
            raise Refused(f"{what}: a part lies outside of its shape {item.shape}")
        count = math.prod(part.sizes)
        if count > part.length:  # no element has less than a byte
            raise Refused(f"{what}: a part of {count} elements is said to lie in {part.length} bytes")
        total += count
    if total != math.prod(item.shape):
        raise Refused(f"{what}: its parts have {total} elements together, but its shape {item.shape} has "
                      f"{math.prod(item.shape)}")


def items_of(folder: pathlib.Path) -> dict[str, Item]:
    metadata = unpickle(folder / ".metadata", ALLOWED)
    where = f"'{folder / '.metadata'}'"
    described = attribute(metadata, "state_dict_metadata", dict, where)
    storage: dict[Any, Any] = {}
    for index, info in attribute(metadata, "storage_data", dict, where).items():
        key = attribute(index, "fqn", str, where), getattr(index, "offset", None)
        if storage.setdefault(key, info) is not info:
            raise Refused(f"{where} has a part of '{key[0]}' twice")
    items = {}
    for name, entry in described.items():
        what = f"'{name}'"
        if not isinstance(name, str):
            raise Refused(f"{where} has a name that is no text")
        chunks = getattr(entry, "chunks", None)
        if chunks is None:
            if (name, None) in storage:
                items[name] = Item(None, "", [Part((), (), *stored_at(folder, storage[name, None], what))])
            continue
        parts = []
        for chunk in chunks:
            offsets, sizes = (attribute(chunk, key, tuple, what) for key in ("offsets", "sizes"))
            info = storage.get((name, offsets), storage.get((name, None)) if len(chunks) == 1 else None)
            if info is None:
                raise Refused(f"{what}: its part at {offsets} is stored nowhere")
            parts.append(Part(offsets, sizes, *stored_at(folder, info, what)))
        properties = attribute(entry, "properties", Inert, what)
        dtype = getattr(properties, "state", (getattr(properties, "dtype", ""),))[0]
        item = Item(attribute(entry, "size", tuple, what), str(dtype), parts)
        require_fitting(item, what)
        items[name] = item
    return items


def part_object(part: Part, what: str) -> Any:
    with open(part.file, "rb") as file:
        file.seek(part.begin)
        return load(io.BytesIO(file.read(part.length)), f"{what} in '{part.file}'")


def tensor_of(item: Item, what: str) -> Any:
    module = torch()
    dtype = getattr(module, item.dtype.removeprefix("torch."))
    # Parts that overlap leave holes, since there are as many elements as in the whole.
    whole = module.full(item.shape, math.nan if dtype.is_floating_point else 0, dtype=dtype)
    for part in item.parts:
        loaded = part_object(part, what)
        if not hasattr(loaded, "numel") or tuple(loaded.shape) != part.sizes or loaded.dtype != dtype:
            raise Refused(f"{what}: its part at {part.offsets} isn't a tensor of shape {part.sizes} and {item.dtype}")
        whole[tuple(slice(begin, begin + extent) for begin, extent in zip(part.offsets, part.sizes))] = loaded
    if dtype.is_floating_point and whole.isnan().any():
        raise Refused(f"{what} has elements that aren't a number, or that no part holds")
    return whole


def value_in(item: Item, what: str) -> Value:
    if item.shape is None or item.dtype not in DTYPES:
        raise Refused(f"{what} is of {item.dtype or 'no tensor'}, but weights and moments must be float32, bfloat16 or "
                      "float16")
    return lazy(item.shape, item.dtype, lambda: tensor_of(item, what), what)


def scalar_of(items: dict[str, Item], name: str) -> Any:
    """A number, whether it was stored as an object or as a tensor."""
    item = items[name]
    return part_object(item.parts[0], f"'{name}'") if item.shape is None else tensor_of(item, f"'{name}'")
