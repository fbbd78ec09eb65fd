"""Directories of torch.distributed.checkpoint: what FSDP2 programs and Megatron-core (torch_dist) write.

`.metadata` is a pickle that says which bytes of which file are which part of which tensor. It is read by an unpickler
that knows its few classes, as ones that do nothing; the parts are files of torch.save each, read by torch's restricted
reader.
"""

from __future__ import annotations

import collections
import io
import math
import pathlib
import re
from dataclasses import dataclass
from typing import Any

from .loading import Inert, load, torch, unpickle
from .refused import Refused
from .states import DTYPES, MOMENTS, Parameter, States, Value, lazy, step_of
from .torch_states import Choices, adamw_group, ademamix_group

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


# How moments are named: (pattern, where the parameter's name is). By parameter, as torch's state dictionaries have it;
# by state, as Megatron-core has it.
BY_PARAMETER = re.compile(r"(?P<prefix>(?:.*?\.)?)state\.(?P<name>.+)\.(?P<key>exp_avg|exp_avg_sq|exp_avg_fast|exp_avg_slow"
                          r"|max_exp_avg_sq|step)")
BY_STATE = re.compile(r"(?P<prefix>(?:.*?\.)?optimizer\.)state\.(?P<key>exp_avg|exp_avg_sq|exp_avg_slow|fp32_param)\."
                      r"(?P<name>.+)")
OURS = {"exp_avg": "m1", "exp_avg_fast": "m1", "exp_avg_slow": "m2", "exp_avg_sq": "v", "fp32_param": "master"}


@dataclass
class Found:
    """What a directory holds of an optimizer."""

    prefix: str
    by_parameter: bool
    states: dict[str, dict[str, str]]  # of each parameter, where each state is


def optimizer_in(items: dict[str, Item]) -> Found:
    found: dict[tuple[str, bool], Found] = {}
    for name in items:
        for pattern, by_parameter in ((BY_STATE, False), (BY_PARAMETER, True)):
            if match := pattern.fullmatch(name):
                at = found.setdefault((match["prefix"], by_parameter), Found(match["prefix"], by_parameter, {}))
                at.states.setdefault(match["name"], {})[match["key"]] = name
                break
    if len(found) == 1:
        return next(iter(found.values()))
    if found:
        raise Refused(f"there are several optimizers: {', '.join(prefix + 'state' for prefix, _ in found)}")
    if any("optimizer" in name for name in items):
        raise Refused("the optimizer's state is in a form that isn't by parameter. Megatron-core: save with "
                      "--dist-ckpt-optim-fully-reshardable (or, before 0.14, fully_sharded_model_space)")
    raise Refused("there is no state of AdamW or AdEMAMix in it")


def weight_name(items: dict[str, Item], name: str, prefix: str) -> str:
    """The tensor of the parameter's name, under whatever name the model itself was saved."""
    candidates = [key for key in items if (key == name or key.endswith(f".{name}")) and items[key].shape is not None
                  and not key.startswith(f"{prefix}state.")]
    exact = [key for key in candidates if key in (name, f"model.{name}")]
    if len(candidates) == 1 or len(exact) == 1:
        return candidates[0] if len(candidates) == 1 else exact[0]
    if not candidates:
        return ""
    raise Refused(f"the weights of '{name}' may be any of {', '.join(candidates)}")


def hyper_parameters(items: dict[str, Item], found: Found) -> list[tuple[dict[str, Any], list[str]]]:
    """The groups, and the names of their parameters where they are told."""
    base = f"{found.prefix}param_groups"
    if base in items:
        groups = scalar_of(items, base)
        if not isinstance(groups, list) or not all(isinstance(group, dict) for group in groups):
            raise Refused(f"'{base}' isn't a list of groups")
        return [(group, [str(name) for name in group.get("params", [])]) for group in groups]
    if all(f"{base}.{name}.lr" in items for name in found.states):  # one for each parameter
        distinct: list[tuple[dict[str, Any], list[str]]] = []
        for name in found.states:
            head = f"{base}.{name}."
            group = {key.removeprefix(head): scalar_of(items, key) for key in items
                     if key.startswith(head) and "." not in key.removeprefix(head)}
            for known, names in distinct:
                if known == group:
                    names.append(name)
                    break
            else:
                distinct.append((group, [name]))
        return distinct
    flat: dict[int, dict[str, Any]] = {}
    for key in items:
        if match := re.fullmatch(re.escape(base) + r"\.(\d+)\.(\w+)", key):
            flat.setdefault(int(match[1]), {})[match[2]] = scalar_of(items, key)
    if flat:
        return [(flat[number], [str(name) for name in flat[number].get("params", [])]) for number in sorted(flat)]
    return []


# In common.pt Megatron-core keeps its options, and objects of its own.
MEGATRON = re.compile(r"megatron\.[\w.]+|argparse\.Namespace")


def param_groups_in(thing: Any) -> list[Any]:
    """All of them in a tree of dictionaries."""
    if not isinstance(thing, dict):
        return []
    own = [thing["param_groups"]] if isinstance(thing.get("param_groups"), list) else []
    return own + [groups for value in thing.values() for groups in param_groups_in(value)]


def megatron_groups(folder: pathlib.Path, states: States) -> list[tuple[dict[str, Any], list[str]]]:
    """The first group of common.pt: which parameter is in which isn't told by names."""
    path = folder / "common.pt"
    if not path.is_file():
        states.warnings.append("there is no common.pt: the step and the hyper-parameters aren't known; say the step to "
                               "shardmix import")
        return []
    try:
        common = load(path, inert=MEGATRON)
    except Refused as error:
        raise Refused(f"{error}. It holds the step and the hyper-parameters: without it, move it elsewhere and say the step "
                      "to shardmix import") from None
    found = [groups for groups in param_groups_in(common.get("optimizer") if isinstance(common, dict) else None) if groups]
    if not found or not isinstance(found[0][0], dict):
        raise Refused(f"'{path}' has no param_groups of an optimizer")
    if len(found) > 1 or len(found[0]) > 1:
        states.warnings.append("all parameters are in group 0, that of the first param_groups: Megatron-core doesn't tell "
                               "by names which parameter is in which of its groups")
    return [(found[0][0], [])]


def dcp_states(folder: pathlib.Path, choices: Choices) -> States:
    items = items_of(folder)
    found = optimizer_in(items)
    has_m2 = any("exp_avg_slow" in keys for keys in found.states.values())
    make_group = ademamix_group if has_m2 else adamw_group
    kind = "torch.distributed.checkpoint" if found.by_parameter else "torch_dist of Megatron-core"
    states = States(kind, "ademamix" if has_m2 else "adamw", [], [])
    told = hyper_parameters(items, found) if found.by_parameter else megatron_groups(folder, states)
    groups = [make_group(group, f"group {number}", choices.decoupled) for number, (group, _) in enumerate(told)]
    group_of = {name: number for number, (_, names) in enumerate(told) for name in names}
    common = next((group["step"] for group, _ in told if "step" in group), None)
    states.groups = groups
    for name, keys in found.states.items():
        states.parameters.append(dcp_parameter(items, name, keys, found, group_of, len(groups), common))
    add_rest(states, items, found, choices)
    return states


def dcp_parameter(items: dict[str, Item], name: str, keys: dict[str, str], found: Found, group_of: dict[str, int],
                  groups: int, common: Any) -> Parameter:
    what = f"the parameter '{name}'"
    if "max_exp_avg_sq" in keys:
        raise Refused(f"{what} has max_exp_avg_sq (amsgrad), which shardmix doesn't keep")
    tensors = {}
    at = weight_name(items, name, found.prefix)
    if at:
        tensors["weight"] = value_in(items[at], what)
    tensors |= {OURS[key]: value_in(items[where], f"{what}, {key}") for key, where in keys.items() if key in OURS}
    if "weight" not in tensors and "master" not in tensors:
        raise Refused(f"{what} has moments, but no weights")
    dtype = DTYPES[items[at].dtype][1] if at else "fp32"
    if dtype == "fp32" and "master" in tensors:
        tensors.pop("weight", None)
    shape = tensors["master" if "master" in tensors else "weight"].shape
    for state in MOMENTS:
        if state in tensors and tensors[state].shape != shape:
            raise Refused(f"{what} has weights of shape {shape}, but {state} of shape {tensors[state].shape}")
    if groups > 1 and name not in group_of:
        raise Refused(f"{what} is in none of the {groups} groups")
    step = scalar_of(items, keys["step"]) if "step" in keys else common
    if step is None and found.by_parameter:
        raise Refused(f"{what} has no step")
    return Parameter(name, dtype, tensors, group=group_of.get(name, 0),
                     step=None if step is None else step_of(step, what))


def add_rest(states: States, items: dict[str, Item], found: Found, choices: Choices) -> None:
    """What lies beside the weights and has no moments: frozen parameters, or buffers."""
    used = [weight_name(items, name, found.prefix) for name in found.states]
    prefixes = {at.removesuffix(name) for at, name in zip(used, found.states) if at}
    if len(prefixes) != 1:
        return
    prefix = prefixes.pop()
    rest = [at for at, item in items.items() if at.startswith(prefix) and not at.startswith(found.prefix)
            and at not in used and item.shape is not None and item.dtype in DTYPES]
    if rest and not choices.frozen:
        states.warnings.append(f"left out, for the optimizer hasn't them: {', '.join(rest)}; --frozen takes them as frozen "
                               "parameters")
    for at in rest if choices.frozen else ():
        states.parameters.append(Parameter(at.removeprefix(prefix), DTYPES[items[at].dtype][1],
                                           {"weight": value_in(items[at], f"'{at}'")}, trainable=False))
