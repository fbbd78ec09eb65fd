"""Universal checkpoints of DeepSpeed, which its ds_to_universal writes: a folder for each parameter, with all of it in
fp32.pt, exp_avg.pt and exp_avg_sq.pt."""

from __future__ import annotations

import math
import pathlib
import re
from typing import Any

from .deepspeed import (MODEL_FILE, OURS, dtype_in, frozen_of, groups_of, module_of, require_rounded, shapes_of,
                        weight_in)
from .loading import load
from .refused import Refused
from .states import Parameter, States, Value, step_of, value_of
from .torch_states import Choices

# The first rank's: all have the same shapes.
ZERO3_MODEL_FILE = re.compile(r"zero_pp_rank_0_mp_rank_(\d+)_model_states\.pt")


def is_universal(folder: pathlib.Path) -> bool:
    return (folder / "zero").is_dir()


def universal_states(folder: pathlib.Path, choices: Choices) -> States:
    files, first_ranks = ([entry for entry in sorted(folder.iterdir()) if pattern.fullmatch(entry.name)]
                          for pattern in (MODEL_FILE, ZERO3_MODEL_FILE))
    models = [model for model in map(load, files or first_ranks) if isinstance(model, dict)]
    model = models[0] if models else {}
    modules = [module_of(each) for each in models]
    optimizer_file = folder / "zero" / "optimizer_state.pt"
    optimizer = load(optimizer_file) if optimizer_file.is_file() else {}
    if not isinstance(optimizer, dict) or "param_groups" not in optimizer:
        raise Refused(f"'{optimizer_file}' has no param_groups")
    groups = groups_of(optimizer["param_groups"], [model.get("ds_config"), optimizer.get("ds_config")], choices)
    group_of, shapes = {}, {}
    if len(groups) > 1 or len(models) == 1:
        for each in models:
            for number, of_group in enumerate(shapes_of(each)):
                group_of |= dict.fromkeys(of_group, number)
                shapes |= {name: tuple(shape) for name, shape in of_group.items()}
    states = States("universal checkpoint of DeepSpeed", "adamw", groups, [])
    common = common_step(optimizer)
    # Of frozen parameters and buffers there are weights alone; those come from the model's file.
    folders = {entry.name: entry for entry in sorted((folder / "zero").iterdir())
               if entry.is_dir() and (entry / "exp_avg.pt").is_file()}
    order = [name for name in group_of if name in folders]
    for name in [*order, *sorted(set(folders) - set(order))]:
        if len(groups) > 1 and name not in group_of:
            raise Refused(f"the parameter '{name}' is in no group of param_shapes")
        parameter = universal_parameter(name, folders[name], group_of.get(name, 0), shapes.get(name),
                                        dtype_in(module_of(model), name, model.get("ds_config")), common)
        if files:  # those of ZeRO-3's ranks have no weights, or some
            compare_with(modules, parameter)
        states.parameters.append(parameter)
    frozen = frozen_of(model, {str(parameter.name) for parameter in states.parameters})
    if len(files) != 1 and frozen:
        states.warnings.append("left out, for the converter doesn't join what is frozen: "
                               f"{', '.join(str(parameter.name) for parameter in frozen)}")
    else:
        states.parameters += frozen
    if not any(modules):  # pipeline parallelism keeps them in files that the converter leaves behind
        refuse_round_robin(model.get("ds_config"))
        states.warnings.append("what is frozen is left out, for the checkpoint hasn't the model's weights")
    return states


def compare_with(modules: list[dict[str, Any]], parameter: Parameter) -> None:
    """The converter believes DeepSpeed's map. Not compared: a padded vocabulary, and what each slice holds whole, which
    may be an average."""
    slices = [weight for each in modules if (weight := weight_in(each, str(parameter.name))) is not None]
    master = parameter.tensors["master"].read()
    if slices and sum(weight.numel() for weight in slices) == master.numel():
        require_rounded(f"the parameter '{parameter.name}'", master, slices)


def refuse_round_robin(config: Any) -> None:
    zero = config.get("zero_optimization") if isinstance(config, dict) else None
    if isinstance(zero, dict) and zero.get("round_robin_gradients"):
        raise Refused("the run had round_robin_gradients, where DeepSpeed's map of its partitions is wrong (seen in 0.19.8); the "
                      "checkpoint hasn't the model's weights, which would tell")


def common_step(optimizer: dict[str, Any]) -> Any:
    """Of ZeRO-3 the converter keeps it in the first rank's states alone."""
    step = optimizer["param_groups"][0].get("step")
    of_rank = optimizer.get("optimizer_state_dict")
    states = of_rank.get("state") if isinstance(of_rank, dict) else None
    first = next(iter(states.values()), None) if isinstance(states, dict) else None
    return first.get("step") if step is None and isinstance(first, dict) else step


def universal_parameter(name: str, folder: pathlib.Path, group: int, shape: tuple[int, ...] | None, dtype: str,
                        common: Any) -> Parameter:
    what = f"the parameter '{name}'"
    tensors: dict[str, Value] = {}
    for key in OURS:
        loaded = load(folder / f"{key}.pt")
        value = loaded.get("param") if isinstance(loaded, dict) else loaded
        if not hasattr(value, "numel"):
            raise Refused(f"'{folder / key}.pt' holds no tensor")
        if shape is not None and math.prod(shape) == value.numel():
            value = value.reshape(shape)  # of ZeRO-3 they are flat
        elif shape is not None and value.dim() < len(shape):
            raise Refused(f"{what} has the shape {shape}, but {value.numel()} elements in '{folder / key}.pt'")
        tensors[OURS[key]] = value_of(value, f"{what}, {key}")
    if len({value.shape for value in tensors.values()}) > 1:
        raise Refused(f"{what} has weights and moments of different shapes")
    step_file = folder / "step.pt"
    step = load(step_file) if step_file.is_file() else common
    return Parameter(name, dtype, tensors, group=group, step=step_of(step, what))
