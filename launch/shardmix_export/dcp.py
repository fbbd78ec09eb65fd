"""Optimizers in directories of torch.distributed.checkpoint, as FSDP2 programs and Megatron-core (torch_dist) write
them."""

from __future__ import annotations

import pathlib
import re
from dataclasses import dataclass
from typing import Any

from .dcp_items import Item, items_of, scalar_of, value_in
from .loading import load
from .refused import Refused
from .states import DTYPES, MOMENTS, Parameter, States, step_of
from .torch_states import Choices, adamw_group, ademamix_group

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
    """All of them in a tree of dictionaries. PyTorch's optimizers have the step in their states, which Megatron-core
    joins."""
    if not isinstance(thing, dict):
        return []
    own = [thing["param_groups"]] if isinstance(thing.get("param_groups"), list) else []
    state = thing.get("state")
    if isinstance(state, dict) and "common_step" in state:
        own = [[{"step": state["common_step"], **group} if isinstance(group, dict) else group for group in groups]
               for groups in own]
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
