"""Reads files of torch.save and pickles without running what they hold.

Both readers know a list of names; each stands for numbers, or for a class of this tool that does nothing. Any other
name ends the reading with a sentence.
"""

from __future__ import annotations

import collections
import contextlib
import io
import pathlib
import pickle
import pickletools
import re
import warnings
from typing import Any

from .refused import Refused

MOST_PICKLE = 1 << 30  # bytes of a pickle that isn't torch's


class Inert:
    """Stands for an object of a library. Keeps what it was made of, and nothing more."""

    def __init__(self, *arguments: Any, **named: Any) -> None:
        self.arguments = arguments
        self.__dict__.update(named)

    def __setstate__(self, state: Any) -> None:
        if isinstance(state, dict):
            self.__dict__.update(state)
        else:
            self.state = state


# What checkpoints of DeepSpeed hold besides tensors and plain values.
DEEPSPEED = ("deepspeed.runtime.fp16.loss_scaler.LossScaler", "deepspeed.runtime.fp16.loss_scaler.DynamicLossScaler",
             "deepspeed.utils.tensor_fragment.fragment_address", "deepspeed.runtime.zero.config.ZeroStageEnum",
             "deepspeed.checkpoint.universal_checkpoint.SubparamShape")


def torch() -> Any:
    """The module, if it is one whose restricted reader can be trusted."""
    try:
        import torch
    except ImportError:
        raise Refused("this source needs PyTorch to be read: run shardmix-export with a Python that has it") from None
    version = tuple(int(part) for part in re.findall(r"\d+", torch.__version__)[:2])
    if version < (2, 6):
        raise Refused(f"PyTorch {torch.__version__} can be made to run code by files that it reads, even with "
                      "weights_only (CVE-2025-32434): use 2.6 or newer")
    return torch


def load(source: pathlib.Path | io.BytesIO, what: str | None = None, inert: re.Pattern[str] | None = None) -> Any:
    """A file of torch.save; tensors stay in the file until they are used. What has a name that fits `inert` becomes an
    object that does nothing, too."""
    module = torch()
    what = what or f"'{source}'"
    how = {"mmap": True} if isinstance(source, pathlib.Path) and zip_file(source) else {}
    try:
        asked = module.serialization.get_unsafe_globals_in_checkpoint(source) if inert else []
        harmless = [*DEEPSPEED, *(name for name in asked if inert and inert.fullmatch(name))]
        with module.serialization.safe_globals([(Inert, name) for name in harmless]), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            loaded = module.load(source, map_location="cpu", weights_only=True, **how)
    except Exception as error:  # A damaged file may end torch's reader in any way.
        raise Refused(f"{what} isn't read: {reason(error)}") from None
    require_plain(loaded, what)
    return loaded


def zip_file(path: pathlib.Path) -> bool:
    with open(path, "rb") as file:
        return file.read(4) == b"PK\x03\x04"


def reason(error: Exception) -> str:
    text = str(error)
    if found := re.search(r"GLOBAL (\S+)", text):
        return (f"it asks for {found[1]}, which a checkpoint of numbers doesn't need and which may run code; nothing of "
                "it was run")
    found = re.search(r"WeightsUnpickler error: (.*)", text)  # before it torch tells how to run it all the same
    lines = [found[1]] if found else text.splitlines() if "weights_only" not in text else []
    return f"it is damaged, or no file of torch.save ({': '.join([type(error).__name__, *filter(None, lines[:1])])[:200]})"


def require_plain(loaded: Any, what: str) -> None:
    """Nothing but containers, plain values, tensors in their simplest form and inert objects."""
    module = torch()
    plain = (str, bytes, int, float, complex, type(None), module.dtype, module.device, module.Size, module.layout,
             module.memory_format)
    seen, left = set(), [loaded]
    while left:
        item = left.pop()
        if isinstance(item, plain):
            continue
        if id(item) in seen:
            continue
        seen.add(id(item))
        if type(item) in (dict, collections.OrderedDict, collections.defaultdict):
            left += [*item.keys(), *item.values()]
        elif type(item) in (list, tuple, set):
            left += item
        elif type(item) is Inert:
            left += item.__dict__.values()
        elif type(item) in (module.Tensor, module.nn.Parameter):
            if item.layout != module.strided or item.is_quantized or item.is_complex() or item.device.type != "cpu":
                raise Refused(f"{what} holds a tensor that is sparse, quantized, complex or without values")
        else:
            raise Refused(f"{what} holds an object of {type(item).__module__}.{type(item).__qualname__}")


class Unpickler(pickle.Unpickler):
    """Of names in `allowed` each becomes what stands there; no other name is looked for."""

    def __init__(self, file: Any, allowed: dict[str, Any]) -> None:
        super().__init__(file)
        self.allowed = allowed

    def find_class(self, module: str, name: str) -> Any:
        full = f"{module}.{name}"
        if full not in self.allowed:
            raise Refused(f"it asks for {full}, which such a file doesn't need and which may run code; nothing of it was "
                          "run")
        return self.allowed[full]

    def persistent_load(self, _: Any) -> Any:
        raise Refused("it refers to objects outside of itself")


def require_bounded(data: bytes) -> None:
    """Python's reader takes memory for lengths and places that are only claimed."""
    for opcode, argument, _ in pickletools.genops(data):  # which itself looks whether lengths are there
        if opcode.name == "BYTEARRAY8" or "BUFFER" in opcode.name:
            raise Refused("it has memory of its own in it, which such a file doesn't need")
        if opcode.name.endswith("PUT") and argument is not None and argument > len(data):
            raise Refused("it is damaged: it counts more objects than it has bytes")


def unpickle(path: pathlib.Path, allowed: dict[str, Any]) -> Any:
    size = path.stat().st_size
    if size > MOST_PICKLE:
        raise Refused(f"'{path}' has {size} bytes, but at most {MOST_PICKLE} are read")
    data = path.read_bytes()
    with contextlib.closing(io.BytesIO(data)) as file:
        try:
            require_bounded(data)
            return Unpickler(file, allowed).load()
        except Refused as error:
            raise Refused(f"'{path}' isn't read: {error}") from None
        except Exception as error:  # as above
            raise Refused(f"'{path}' isn't read: it is damaged ({type(error).__name__}: {str(error)[:200]})") from None
