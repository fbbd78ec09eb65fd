"""What is exported: parameters with their weights, moments and steps, and the two files that hold them."""

from __future__ import annotations

import json
import math
import os
import pathlib
import struct
import zlib
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from .refused import Refused

# torch's names of the dtypes that weights and moments may have, in safetensors and in shardmix.
DTYPES = {"torch.float32": ("F32", "fp32"), "torch.bfloat16": ("BF16", "bf16"), "torch.float16": ("F16", "fp16")}
MOMENTS = ("m1", "m2", "v")
MOST_HEADER = 100_000_000  # what readers of safetensors accept
CHUNK = 1 << 24


@dataclass(frozen=True)
class Value:
    """A tensor that is read when it is written: all of them at once may not fit into memory."""

    shape: tuple[int, ...]
    dtype: str  # as safetensors calls it
    read: Callable[[], Any]

    @property
    def bytes(self) -> int:
        return math.prod(self.shape) * (4 if self.dtype == "F32" else 2)


def value_of(tensor: Any, what: str) -> Value:
    """A torch tensor that is there already."""
    return lazy(tensor.shape, tensor.dtype, lambda: tensor, what)


def lazy(shape: Any, dtype: Any, read: Callable[[], Any], what: str) -> Value:
    if str(dtype) not in DTYPES:
        raise Refused(f"{what} has the dtype {dtype}, but weights and moments must be float32, bfloat16 or float16")
    return Value(tuple(int(extent) for extent in shape), DTYPES[str(dtype)][0], read)


@dataclass
class Parameter:
    name: str | None  # None: only its place among the others is known
    dtype: str  # fp32, bf16 or fp16
    tensors: dict[str, Value]  # of "weight", "master" and MOMENTS
    trainable: bool = True
    group: int = 0
    step: int | None = None


@dataclass
class States:
    source: str  # for people
    rule: str
    groups: list[dict[str, Any]]  # hyper-parameters by shardmix's names
    parameters: list[Parameter]
    warnings: list[str] = field(default_factory=list)


def step_of(value: Any, what: str) -> int:
    """A step in any of its forms: an int, a float, or a tensor of one element."""
    if hasattr(value, "numel"):
        if value.numel() != 1:
            raise Refused(f"the step of {what} has {value.numel()} elements instead of one")
        value = value.item()
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not value >= 0 or value != math.floor(value):
        raise Refused(f"the step of {what} is {value!r}, but must be a whole number of 0 or more")
    return int(value)


def number_of(value: Any, what: str) -> float:
    """A hyper-parameter: a number, or a tensor of one element."""
    if hasattr(value, "numel") and value.numel() == 1:
        value = value.item()
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not math.isfinite(value):
        raise Refused(f"{what} is {value!r}, but must be a number")
    return value


def tensor_names(parameters: list[Parameter]) -> list[dict[str, str]]:
    """For each parameter the names of its tensors: NAME and NAME.m1, as shardmix's own exports have them. Where that
    would be the name of another one it gets a ~, for the sidecar says what is what."""
    taken = {parameter.name for parameter in parameters}
    names = []
    for number, parameter in enumerate(parameters):
        base = str(number) if parameter.name is None else parameter.name
        if any("\ud800" <= c <= "\udfff" for c in base):
            raise Refused(f"the parameter {base!r} has half of a character in its name, which no other program reads")
        own = {}
        for kind in parameter.tensors:
            name = base if kind == "weight" else f"{base}.{kind}"
            while kind != "weight" and name in taken:
                name += "~"
            taken.add(name)
            own[kind] = name
        names.append(own)
    return names


class Output:
    """A file that appears under its name when it is complete and on the disk."""

    def __init__(self, path: pathlib.Path, force: bool) -> None:
        if path.exists() and not force:
            raise Refused(f"'{path}' is there already; --force replaces it")
        self.path, self.temporary = path, path.with_name(f".{path.name}.tmp-{os.getpid()}")
        self.crc32, self.bytes = 0, 0

    def __enter__(self) -> Output:
        self.file = open(self.temporary, "wb")
        return self

    def write(self, data: Any) -> None:
        self.file.write(data)
        self.crc32 = zlib.crc32(data, self.crc32)
        self.bytes += len(data)

    def __exit__(self, kind: Any, *_: Any) -> None:
        if kind is None:
            self.file.flush()
            os.fsync(self.file.fileno())
        self.file.close()
        if kind is None:
            os.replace(self.temporary, self.path)
        else:
            os.unlink(self.temporary)


def raw_bytes(tensor: Any, value: Value, name: str) -> memoryview:
    """The tensor's elements in row-major order."""
    import torch

    tensor = tensor.detach().cpu()
    if tuple(tensor.shape) != value.shape or DTYPES.get(str(tensor.dtype), ("",))[0] != value.dtype:
        raise Refused(f"the tensor '{name}' is {tensor.dtype} of shape {tuple(tensor.shape)}, but was announced as "
                      f"{value.dtype} of shape {value.shape}")
    return memoryview(tensor.contiguous().reshape(-1).view(torch.uint8).numpy())


def write_safetensors(output: Output, tensors: list[tuple[str, Value]], metadata: dict[str, str]) -> None:
    header: dict[str, Any] = {"__metadata__": metadata}
    end = 0
    for name, value in tensors:
        if name in header:
            raise Refused(f"two tensors would have the name '{name}'")
        header[name] = {"dtype": value.dtype, "shape": value.shape, "data_offsets": [end, end + value.bytes]}
        end += value.bytes
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)  # the values are aligned
    if len(text) > MOST_HEADER:
        raise Refused(f"the header of '{output.path}' would have {len(text)} bytes, but readers accept {MOST_HEADER}")
    output.write(struct.pack("<Q", len(text)) + text)
    for name, value in tensors:
        if value.bytes == 0:
            continue
        data = raw_bytes(value.read(), value, name)
        for begin in range(0, len(data), CHUNK):
            output.write(data[begin:begin + CHUNK])


def sidecar_of(states: States, names: list[dict[str, str]], file: Output) -> dict[str, Any]:
    parameters = []
    for parameter, own in zip(states.parameters, names):
        entry: dict[str, Any] = {} if parameter.name is None else {"name": parameter.name}
        entry |= {"dtype": parameter.dtype, "trainable": parameter.trainable, "group": parameter.group, **own}
        if parameter.step is not None:
            entry["step"] = parameter.step
        parameters.append(entry)
    return {"format": "shardmix states", "format_version": 1, "source": states.source, "rule": states.rule,
            "files": [{"name": file.path.name, "bytes": file.bytes, "crc32": f"{file.crc32:08x}"}],
            "groups": states.groups, "parameters": parameters}


def write_states(states: States, stem: pathlib.Path, force: bool) -> tuple[pathlib.Path, pathlib.Path]:
    """Writes STEM.safetensors, then STEM.json. Returns both paths."""
    if not states.parameters:
        raise Refused("there is no parameter to export")
    sidecar = pathlib.Path(f"{stem}.json")
    if sidecar.exists() and not force:
        raise Refused(f"'{sidecar}' is there already; --force replaces it")
    names = tensor_names(states.parameters)
    tensors = [(own[kind], parameter.tensors[kind]) for parameter, own in zip(states.parameters, names) for kind in own]
    with Output(pathlib.Path(f"{stem}.safetensors"), force) as file:
        write_safetensors(file, tensors, {"format": "pt", "writer": "shardmix-export"})
    with Output(sidecar, force) as output:
        output.write(json.dumps(sidecar_of(states, names, file), indent=1, allow_nan=False).encode())
    return file.path, sidecar
