"""Optimizers that keep their state by parameter, in torch's state_dict: torch.optim.AdamW, the AdEMAMix of the paper's
authors, and AdamW and AdEMAMix of bitsandbytes."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from .packed import packed_moments, tensor
from .refused import Refused
from .states import DTYPES, Parameter, States, Value, number_of, step_of, value_of

QUANT = "__bnb_optimizer_quant_state__"  # under which bitsandbytes hides its state from FSDP
PACKED = {"state1", "state2", "step", "qmap1", "qmap2", "absmax1", "absmax2"}
KINDS = {"torch-adamw": {"exp_avg", "exp_avg_sq", "step"},
         "ademamix": {"exp_avg_fast", "exp_avg_slow", "exp_avg_sq", "step"},
         "bitsandbytes-adamw": PACKED, "bitsandbytes-ademamix": PACKED}
SOURCES = {"torch-adamw": "AdamW of PyTorch", "ademamix": "AdEMAMix with the names of the paper's reference code",
           "bitsandbytes-adamw": "AdamW of bitsandbytes", "bitsandbytes-ademamix": "AdEMAMix of bitsandbytes"}


@dataclass(frozen=True)
class Choices:
    """What the command line says."""

    kind: str | None = None
    names: list[str] | None = None  # of all parameters of the optimizer, in its order
    model_key: str | None = None
    optimizer_key: str | None = None
    decoupled: bool = False
    frozen: bool = False  # take what the optimizer hasn't as frozen parameters
    tag: str | None = None


def is_optimizer(candidate: Any) -> bool:
    return isinstance(candidate, dict) and isinstance(candidate.get("state"), dict) and "param_groups" in candidate


def is_model(candidate: Any) -> bool:
    return (isinstance(candidate, dict) and len(candidate) > 0 and not is_optimizer(candidate)
            and all(isinstance(key, str) for key in candidate)
            and any(hasattr(value, "numel") for value in candidate.values())
            and not any(isinstance(value, dict) and key != "_extra_state" for key, value in candidate.items()))


def inside(loaded: Any, path: str = "") -> Iterator[tuple[str, Any]]:
    """A checkpoint and the dictionaries in it, two deep, by the path to them."""
    yield path, loaded
    if isinstance(loaded, dict) and path.count(".") < 2 and not is_optimizer(loaded):
        for key, value in loaded.items():
            if isinstance(key, str) and isinstance(value, dict):
                yield from inside(value, f"{path}.{key}" if path else key)


def find(loaded: Any, test: Any, key: str | None, what: str, option: str) -> dict[Any, Any]:
    """The one dictionary of its kind, or the one at `key`."""
    found = [(path, value) for path, value in inside(loaded) if test(value) and key in (None, path)]
    if len(found) == 1:
        return found[0][1]
    if not found:
        raise Refused(f"there is no {what}" + (f" at '{key}'" if key else ""))
    raise Refused(f"{what} may be any of {', '.join(repr(path) for path, _ in found)}: say {option}")


def common_state(optimizer: dict[str, Any]) -> set[str]:
    """The names of the states of all parameters together."""
    keys: set[str] = set()
    for state in optimizer["state"].values():
        if not isinstance(state, dict):
            raise Refused("the optimizer keeps something else than a dictionary for each parameter")
        keys |= set(flat(state))
    return keys


def flat(state: dict[str, Any]) -> dict[str, Any]:
    hidden = state.get(QUANT)
    return {**{key: value for key, value in state.items() if key != QUANT}, **(hidden if isinstance(hidden, dict) else {})}


def kind_of(optimizer: dict[str, Any]) -> str | None:
    """Nothing where the states are of none that is known."""
    keys = common_state(optimizer)
    for kind, needed in (("torch-adamw", {"exp_avg", "exp_avg_sq"}), ("ademamix", {"exp_avg_slow", "exp_avg_sq"})):
        if needed <= keys:
            return kind
    if {"state1", "state2"} <= keys:
        return "bitsandbytes-ademamix" if has_beta3(optimizer) else "bitsandbytes-adamw"
    if "max_exp_avg_sq" in keys:
        return "torch-adamw"  # which refuses it, and says why
    return None


def has_beta3(optimizer: dict[str, Any]) -> bool:
    groups = optimizer["param_groups"]
    first = groups[0] if isinstance(groups, (list, tuple)) and groups else None
    betas = first.get("betas") if isinstance(first, dict) else None
    return isinstance(betas, (list, tuple)) and len(betas) == 3


def require_known(kind: str, state: dict[str, Any], name: str) -> None:
    if "max_exp_avg_sq" in state:
        raise Refused(f"'{name}' has max_exp_avg_sq: amsgrad=True divides by the largest v so far, which shardmix doesn't "
                      "keep")
    if unknown := set(state) - KINDS[kind]:
        raise Refused(f"'{name}' has the state {', '.join(sorted(map(str, unknown)))}, which {SOURCES[kind]} doesn't have: "
                      "it is of another optimizer")


def betas_of(group: dict[str, Any], count: int, which: str) -> list[float]:
    betas = group.get("betas")
    if not isinstance(betas, (list, tuple)) or len(betas) != count:
        raise Refused(f"{which} has the betas {betas!r}; expected {count} numbers")
    return [number_of(beta, f"a beta of {which}") for beta in betas]


def require_decoupled(group: dict[str, Any], which: str, decoupled: bool) -> None:
    """Adam with weight decay in the gradient (L2) leaves states of the same names."""
    if number_of(group.get("weight_decay", 0), f"weight_decay of {which}") == 0:
        return
    if group.get("decoupled_weight_decay") is False:
        raise Refused(f"{which} has weight_decay {group['weight_decay']} in the gradient (Adam's L2 mode), which goes "
                      "through m1 and v; shardmix has it decoupled, as AdamW, and the run would not go on as it was. Go on "
                      "with weight_decay 0, or with AdamW, where the run began")
    if "decoupled_weight_decay" not in group and not decoupled:
        raise Refused(f"{which} doesn't tell Adam from AdamW: if weight decay was decoupled (AdamW), say "
                      "--decoupled-weight-decay")


def adamw_group(group: dict[str, Any], which: str, decoupled: bool) -> dict[str, Any]:
    for flag, why in (("amsgrad", "divides by the largest v so far, which shardmix doesn't keep"),
                      ("maximize", "goes uphill, which shardmix doesn't: turn the loss's sign")):
        if group.get(flag):
            raise Refused(f"{which} has {flag}=True: it {why}")
    for other in ("momentum_decay", "nesterov", "rho"):
        if other in group:
            raise Refused(f"{which} has {other}, which AdamW hasn't: it is of another optimizer")
    if "decoupled_weight_decay" in group and "amsgrad" not in group:
        raise Refused(f"{which} has decoupled_weight_decay, but no amsgrad: it is RAdam's, whose updates are others")
    if group.get("bias_correction", True) is not True and not group["bias_correction"]:
        raise Refused(f"{which} has bias_correction=False, but shardmix corrects m1 and v always")
    require_decoupled(group, which, decoupled)
    beta1, beta2 = betas_of(group, 2, which)
    return {"lr": number_of(group.get("lr"), f"lr of {which}"), "beta1": beta1, "beta2": beta2,
            "eps": number_of(group.get("eps"), f"eps of {which}"),
            "weight_decay": number_of(group.get("weight_decay", 0), f"weight_decay of {which}")}


def packed_adamw_group(group: dict[str, Any], which: str, _: bool) -> dict[str, Any]:
    """In bitsandbytes Adam decouples weight decay too: it and AdamW are one kernel."""
    return adamw_group(group, which, True)


def ademamix_group(group: dict[str, Any], which: str, _: bool) -> dict[str, Any]:
    beta1, beta2, beta3 = betas_of(group, 3, which)
    entry = {"lr": number_of(group.get("lr"), f"lr of {which}"), "beta1": beta1, "beta2": beta2, "beta3": beta3,
             "alpha": number_of(group.get("alpha"), f"alpha of {which}"),
             "eps": number_of(group.get("eps"), f"eps of {which}"),
             "weight_decay": number_of(group.get("weight_decay", 0), f"weight_decay of {which}")}
    # The reference code's names, then those of bitsandbytes. None: no schedule, which is 0 in shardmix.
    for ours, theirs in (("alpha_steps", ("alpha_warmup", "t_alpha")), ("beta3_steps", ("beta3_warmup", "t_beta3"))):
        steps = next((group[name] for name in theirs if group.get(name) is not None), 0)
        entry[ours] = step_of(steps, f"{ours} of {which}")
    return entry


GROUPS = {"torch-adamw": ("adamw", adamw_group), "ademamix": ("ademamix", ademamix_group),
          "bitsandbytes-adamw": ("adamw", packed_adamw_group), "bitsandbytes-ademamix": ("ademamix", ademamix_group)}


def moments_of(kind: str, state: dict[str, Any], name: str, beta1: float) -> dict[str, Value]:
    if kind.startswith("bitsandbytes"):
        found = packed_moments(state, name, kind == "bitsandbytes-ademamix")
    else:
        keys = {"torch-adamw": {"m1": "exp_avg", "v": "exp_avg_sq"},
                "ademamix": {"m1": "exp_avg_fast", "m2": "exp_avg_slow", "v": "exp_avg_sq"}}[kind]
        if kind == "ademamix" and beta1 == 0 and "exp_avg_fast" not in state:
            del keys["m1"]  # it is the gradient
        found = {ours: value_of(tensor(state, theirs, name), f"{theirs} of '{name}'") for ours, theirs in keys.items()}
    if "m2" in found and beta1 == 0:
        found.pop("m1", None)
    return found


@dataclass
class Slot:
    """A parameter as the optimizer knows it."""

    key: Any  # in optimizer["state"]
    group: int
    name: str | None
    state: dict[str, Any]


def slots_of(optimizer: dict[str, Any]) -> list[Slot]:
    slots = []
    if not isinstance(optimizer["param_groups"], (list, tuple)) or not optimizer["param_groups"]:
        raise Refused("the optimizer has no list of param_groups")
    for number, group in enumerate(optimizer["param_groups"]):
        if not isinstance(group, dict) or not isinstance(group.get("params"), (list, tuple)):
            raise Refused(f"param_groups[{number}] of the optimizer has no list of params")
        names = group.get("param_names", [None] * len(group["params"]))
        if len(names) != len(group["params"]):
            raise Refused(f"param_groups[{number}] has {len(names)} param_names for {len(group['params'])} params")
        for key, name in zip(group["params"], names):
            name = key if name is None and isinstance(key, str) else name
            slots.append(Slot(key, number, name, flat(optimizer["state"].get(key, {}))))
    if unknown := set(optimizer["state"]) - {slot.key for slot in slots}:
        raise Refused(f"the optimizer has a state for {unknown.pop()!r}, which is in none of its groups")
    if len({slot.key for slot in slots}) != len(slots):
        raise Refused("a parameter is in the optimizer's groups twice")
    return slots


def storage(value: Any) -> tuple[Any, ...]:
    return value.data_ptr(), value.storage_offset(), tuple(value.shape), value.dtype


def distinct(model: dict[str, Any]) -> dict[str, Any]:
    """The tensors that may be parameters, tied ones once."""
    found, seen = {}, set()
    for name, value in model.items():
        if not hasattr(value, "numel") or str(value.dtype) not in DTYPES:
            continue
        if value.numel() == 0 or storage(value) not in seen:
            seen.add(storage(value))
            found[name] = value
    return found


def name_slots(slots: list[Slot], model: dict[str, Any] | None, choices: Choices) -> None:
    """By --names, the optimizer's own names, or the order of the model's parameters if that can't mean two things."""
    if choices.names is not None:
        if len(choices.names) != len(slots):
            raise Refused(f"--names has {len(choices.names)} names, but the optimizer has {len(slots)} parameters")
        for slot, name in zip(slots, choices.names):
            if slot.name is not None and slot.name != name:
                raise Refused(f"--names has '{name}' where the optimizer itself has '{slot.name}'")
            slot.name = name
        return
    unnamed = [slot for slot in slots if slot.name is None]
    if not unnamed:
        return
    if len(unnamed) < len(slots):
        raise Refused("the optimizer has names for some of its parameters only: say --names")
    if model is None:
        raise Refused("the optimizer has numbers for its parameters, and there is no model to take names from: say "
                      "--model FILE or --names FILE")
    candidates = distinct(model)
    if len({slot.group for slot in slots}) > 1:
        raise Refused("the optimizer has numbers for its parameters, in several groups: their order isn't the model's. Say "
                      "--names FILE, one a line, in the order of the groups; or save with an optimizer that was made of "
                      "named_parameters() (PyTorch 2.6)")
    if len(candidates) != len(slots):
        raise Refused(f"the optimizer has {len(slots)} parameters without names, but the model's state_dict has "
                      f"{len(candidates)} that they could be (buffers are among them): say --names FILE")
    for slot, name in zip(slots, candidates):
        slot.name = name


def weights_of(slot: Slot, model: dict[str, Any], what: str) -> Value:
    for name in (slot.name, f"module.{slot.name}", str(slot.name).removeprefix("module.")):
        if hasattr(model.get(name), "numel"):
            return value_of(model[name], what)
    raise Refused(f"the model has no weights for {what}")


def parameter_of(slot: Slot, kind: str, model: dict[str, Any] | None, beta1: float) -> Parameter:
    what = f"the parameter '{slot.name}'"
    if model is None:
        raise Refused("there are no weights: say --model FILE, with the model's state_dict")
    weight = weights_of(slot, model, what)
    parameter = Parameter(slot.name, next(ours for theirs, ours in DTYPES.values() if theirs == weight.dtype),
                          {"weight": weight}, group=slot.group)
    if slot.state:
        require_known(kind, slot.state, str(slot.name))
        parameter.tensors |= moments_of(kind, slot.state, str(slot.name), beta1)
        parameter.step = step_of(slot.state.get("step"), what)
    for state, value in parameter.tensors.items():
        if value.shape != weight.shape:
            raise Refused(f"{what} has weights of shape {weight.shape}, but {state} of shape {value.shape}: are the names "
                          "in the right order?")
    return parameter


def add_frozen(states: States, model: dict[str, Any], choices: Choices) -> None:
    """What the model has beside the optimizer's parameters: frozen ones, or buffers."""
    have = {parameter.name for parameter in states.parameters}
    used = {storage(model[name]) for name in have if hasattr(model.get(name), "numel")}
    rest = {name: value for name, value in distinct(model).items() if name not in have and storage(value) not in used}
    if not choices.frozen:
        if rest:
            states.warnings.append(f"left out, for the optimizer hasn't them: {', '.join(rest)}; --frozen takes them as "
                                   "frozen parameters")
        return
    for name, value in rest.items():
        states.parameters.append(Parameter(name, DTYPES[str(value.dtype)][1], {"weight": value_of(value, f"'{name}'")},
                                           trainable=False))


def states_of(optimizer: dict[str, Any], model: dict[str, Any] | None, choices: Choices) -> States:
    kind = choices.kind or kind_of(optimizer)
    if kind not in KINDS:
        raise Refused(f"the optimizer keeps {', '.join(sorted(map(str, common_state(optimizer)))) or 'nothing'}, which is "
                      f"none of {', '.join(KINDS)}")
    slots = slots_of(optimizer)
    if kind.startswith("bitsandbytes") and optimizer["state"]:
        for slot in slots:  # its first versions keep the step in the group
            if slot.state and "step" not in slot.state:
                slot.state["step"] = optimizer["param_groups"][slot.group].get("step")
    rule, group_of = GROUPS[kind]
    groups = [group_of(group, f"param_groups[{number}]", choices.decoupled)
              for number, group in enumerate(optimizer["param_groups"])]
    name_slots(slots, model, choices)
    states = States(SOURCES[kind], rule, groups,
                    [parameter_of(slot, kind, model, groups[slot.group]["beta1"]) for slot in slots])
    if model is not None:
        add_frozen(states, model, choices)
    return states
