"""Checkpoints of DeepSpeed, ZeRO-1 and ZeRO-2: flat fp32 partitions of each rank.

A rank's partition of a group holds pieces of parameters. param_slice_mappings says where in it each piece begins and
how long it is; a parameter is its pieces in the order of the ranks. So padding, and the order in which DeepSpeed laid
parameters out, don't matter.
"""

from __future__ import annotations

import math
import pathlib
import re
from typing import Any

from .loading import load, torch
from .refused import Refused
from .states import DTYPES, Parameter, States, Value, lazy, step_of, value_of
from .torch_states import Choices, adamw_group, is_model

OPTIM_FILE = re.compile(r"(?:bf16_|fp16_)?zero_pp_rank_(\d+)_mp_rank_(\d+)_optim_states\.pt")
MODEL_FILE = re.compile(r"mp_rank_(\d+)(?:_\d+)?_model_states\.pt")
OURS = {"fp32": "master", "exp_avg": "m1", "exp_avg_sq": "v"}


def folder_of(path: pathlib.Path, tag: str | None) -> pathlib.Path:
    """The checkpoint's own folder: that of --tag, or that of the file `latest`."""
    for pointer in ("latest_universal", "latest"):
        if tag is None and (path / pointer).is_file():
            tag = (path / pointer).read_text(errors="replace").strip()[:1000]
    if tag is None:
        return path
    if tag in ("", ".", "..") or "/" in tag or "\0" in tag:
        raise Refused(f"'{path}' points to '{tag}', which isn't a folder in it")
    return path / tag


def is_zero(folder: pathlib.Path) -> bool:
    return any(OPTIM_FILE.fullmatch(entry.name) for entry in folder.iterdir())


def model_states(folder: pathlib.Path) -> dict[str, Any]:
    files = [entry for entry in sorted(folder.iterdir()) if MODEL_FILE.fullmatch(entry.name)]
    if len(files) != 1:
        raise Refused(f"'{folder}' has {len(files)} files mp_rank_*_model_states.pt instead of one. A model cut by tensor or "
                      "pipeline parallelism has several: DeepSpeed's ds_to_universal joins them")
    loaded = load(files[0])
    if not isinstance(loaded, dict) or not is_model(loaded.get("module")):
        raise Refused(f"'{files[0]}' has no model under 'module'")
    return loaded


def partitions(folder: pathlib.Path) -> list[dict[str, Any]]:
    """What each rank stored of the optimizer, in the order of ranks."""
    files: dict[int, pathlib.Path] = {}
    for entry in folder.iterdir():
        if found := OPTIM_FILE.fullmatch(entry.name):
            if int(found[2]) != 0:
                raise Refused(f"'{entry}' is of a model cut by tensor parallelism: DeepSpeed's ds_to_universal joins it")
            if files.setdefault(int(found[1]), entry) != entry:
                raise Refused(f"'{folder}' has two files of rank {int(found[1])}: '{entry.name}' and "
                              f"'{files[int(found[1])].name}'")
    states = []
    for rank in sorted(files):
        loaded = load(files[rank])
        state = loaded.get("optimizer_state_dict") if isinstance(loaded, dict) else None
        if not isinstance(state, dict):
            raise Refused(f"'{files[rank]}' has no optimizer_state_dict")
        if "fp32_flat_groups" in state or getattr(state.get("zero_stage"), "arguments", (0,))[0] == 3:
            raise Refused(f"'{folder}' is of ZeRO-3: convert it by DeepSpeed's ds_to_universal first")
        if "param_slice_mappings" not in state or "base_optimizer_state" not in state:
            raise Refused(f"'{files[rank]}' has no param_slice_mappings: it was written by DeepSpeed before 0.7")
        states.append(state)
    count = states[0].get("partition_count")
    count = max(count) if isinstance(count, (list, tuple)) and count else count
    if sorted(files) != list(range(len(files))) or count != len(files):
        raise Refused(f"'{folder}' has files of the ranks {', '.join(map(str, sorted(files)))}, but was written by {count}: "
                      "some are missing or left over")
    return states


class Piece:
    """A part of a parameter in a rank's partition."""

    def __init__(self, partition: Any, start: int, count: int, what: str) -> None:
        if not (isinstance(start, int) and isinstance(count, int) and 0 <= start and 0 <= count
                and start + count <= partition.numel() and partition.dim() == 1):
            raise Refused(f"{what}: a piece [{start}, {start} + {count}) isn't in a partition of shape "
                          f"{tuple(partition.shape)}")
        self.values, self.count = partition.narrow(0, start, count), count


def assembled(pieces: list[Piece], shape: tuple[int, ...], what: str) -> Value:
    count = sum(piece.count for piece in pieces)
    if count != math.prod(shape):
        raise Refused(f"{what}: the ranks hold {count} elements together, but its shape {shape} has {math.prod(shape)}")
    module = torch()
    return lazy(shape, pieces[0].values.dtype, lambda: module.cat([piece.values for piece in pieces]).reshape(shape), what)


def group_arrays(state: dict[str, Any], group: int, rank: int) -> tuple[dict[str, Any], Any]:
    """A rank's flat arrays of a group, and its step."""
    where = f"group {group} of rank {rank}"
    try:
        base = state["base_optimizer_state"]
        flat = base["state"][group]
        arrays = {"fp32": state["single_partition_of_fp32_groups"][group], "exp_avg": flat["exp_avg"],
                  "exp_avg_sq": flat["exp_avg_sq"]}
        step = flat["step"] if "step" in flat else base["param_groups"][group]["step"]
    except (KeyError, IndexError, TypeError) as error:
        raise Refused(f"{where} has no {error}: the optimizer isn't Adam or AdamW, or took no step") from None
    if "max_exp_avg_sq" in flat:
        raise Refused(f"{where} has max_exp_avg_sq (amsgrad), which shardmix doesn't keep")
    for name, array in arrays.items():
        if not hasattr(array, "numel"):
            raise Refused(f"{where} has no tensor {name}")
    return arrays, step_of(step, where)


def shapes_of(model: dict[str, Any]) -> list[dict[str, Any]]:
    shapes = model.get("param_shapes")
    if not isinstance(shapes, (list, tuple)) or not all(isinstance(group, dict) for group in shapes):
        raise Refused("the file of the model has no param_shapes")
    return list(shapes)


def config_says_decoupled(config: Any) -> bool:
    """By DeepSpeed's own names. AdamW decouples; so does Adam, unless with adam_w_mode false or as torch's Adam."""
    optimizer = config.get("optimizer") if isinstance(config, dict) else None
    if not isinstance(optimizer, dict):
        return False
    parameters = optimizer.get("params") if isinstance(optimizer.get("params"), dict) else {}
    kind = str(optimizer.get("type", "")).lower()
    if kind == "adamw":
        return True
    if kind == "adam" and parameters.get("adam_w_mode") is False:
        raise Refused("DeepSpeed's configuration says adam_w_mode false: weight decay is in the gradient (L2), while shardmix "
                      "has it decoupled, and the run would not go on as it was")
    return kind == "adam" and not parameters.get("torch_adam")


def groups_of(param_groups: Any, configs: list[Any], choices: Choices) -> list[dict[str, Any]]:
    decoupled = choices.decoupled or any([config_says_decoupled(config) for config in configs])
    if not isinstance(param_groups, list) or not all(isinstance(group, dict) for group in param_groups):
        raise Refused("there is no list of param_groups")
    for number, group in enumerate(param_groups):
        if group.get("moe"):
            raise Refused(f"param_groups[{number}] is of experts (MoE): DeepSpeed's ds_to_universal joins them")
    return [adamw_group(group, f"param_groups[{number}]", decoupled) for number, group in enumerate(param_groups)]


def module_of(model: dict[str, Any]) -> dict[str, Any]:
    """The model's weights. Of a model cut by pipeline parallelism its file has none."""
    return model["module"] if is_model(model.get("module")) else {}


def weight_in(module: dict[str, Any], name: str) -> Any:
    return module.get(name, module.get(f"module.{name}"))


def dtype_in(module: dict[str, Any], name: str, config: Any) -> str:
    """What the model computed with: its weight's, or what the configuration says."""
    if (weight := weight_in(module, name)) is not None and str(weight.dtype) in DTYPES:
        return DTYPES[str(weight.dtype)][1]
    parts = {kind: config.get(kind) for kind in ("bf16", "fp16")} if isinstance(config, dict) else {}
    return next((kind for kind, part in parts.items() if isinstance(part, dict) and part.get("enabled") is True), "fp32")


def frozen_of(model: dict[str, Any], trained: set[str]) -> list[Parameter]:
    """What the model has besides: neither buffers nor second names of tied weights."""
    others = {**module_of(model), **(model.get("frozen_param_fragments") or {})}
    left_out = {*trained, *(model.get("buffer_names") or ()), *(model.get("shared_params") or ())}
    return [Parameter(name, DTYPES[str(value.dtype)][1], {"weight": value_of(value, f"the frozen parameter '{name}'")},
                      trainable=False)
            for name, value in others.items()
            if name not in left_out and hasattr(value, "numel") and str(value.dtype) in DTYPES]


def zero_states(folder: pathlib.Path, choices: Choices) -> States:
    model, ranks = model_states(folder), partitions(folder)
    shapes = shapes_of(model)
    groups = groups_of(ranks[0]["base_optimizer_state"].get("param_groups"),
                       [model.get("ds_config"), ranks[0].get("ds_config")], choices)
    if len(groups) != len(shapes):
        raise Refused(f"the optimizer has {len(groups)} groups, but param_shapes {len(shapes)}")
    stage = getattr(ranks[0].get("zero_stage"), "arguments", None)
    name = f"ZeRO-{stage[0]}" if stage else "BF16_Optimizer"
    states = States(f"{name} of DeepSpeed {model.get('ds_version', '')}, {len(ranks)} ranks", "adamw", groups, [])
    for group, of_group in enumerate(shapes):
        arrays = [group_arrays(state, group, rank) for rank, state in enumerate(ranks)]
        for parameter, shape in of_group.items():
            states.parameters.append(zero_parameter(parameter, tuple(shape), group, arrays, ranks, model))
    states.parameters += frozen_of(model, {str(parameter.name) for parameter in states.parameters})
    return states


def zero_parameter(name: str, shape: tuple[int, ...], group: int, arrays: list[Any], ranks: list[dict[str, Any]],
                   model: dict[str, Any]) -> Parameter:
    what, module = f"the parameter '{name}'", model["module"]
    pieces: dict[str, list[Piece]] = {key: [] for key in OURS}
    steps = set()
    for (flat, step), state in zip(arrays, ranks):
        mappings = state["param_slice_mappings"]
        address = mappings[group].get(name) if group < len(mappings) else None
        if address is None:
            continue
        steps.add(step)
        for key, partition in flat.items():
            start, count = getattr(address, "start", None), getattr(address, "numel", None)
            pieces[key].append(Piece(partition.reshape(-1), start, count, f"{what}, {key}"))
    if not steps:
        raise Refused(f"{what} is in no rank's partition")
    if len(steps) > 1:
        raise Refused(f"{what} has the steps {', '.join(map(str, sorted(steps)))} on different ranks")
    tensors = {OURS[key]: assembled(those, shape, f"{what}, {key}") for key, those in pieces.items()}
    if (weight := weight_in(module, name)) is not None:
        require_rounded(what, torch().cat([piece.values for piece in pieces["fp32"]]), [weight])
    return Parameter(name, dtype_in(module, name, model.get("ds_config")), tensors, group=group, step=steps.pop())


def require_rounded(what: str, master: Any, slices: list[Any]) -> None:
    """The model's weights are the fp32 ones, rounded. Slices have them in an order that only the converter knows: then
    the sum of their bits must be the same."""
    module = torch()
    found = module.cat([each.reshape(-1) for each in slices])
    expected = master.reshape(-1).to(found.dtype)
    if not (module.equal(expected, found) or len(slices) > 1 and sum_of_bits(expected) == sum_of_bits(found)):
        raise Refused(f"{what}: its fp32 weights aren't those of the model, which are the same ones, rounded: DeepSpeed's map "
                      "of its partitions is wrong (seen with round_robin_gradients in 0.19.8)")


def sum_of_bits(values: Any) -> int:
    module = torch()
    return values.view(module.int16 if values.element_size() == 2 else module.int32).sum(dtype=module.int64).item()
