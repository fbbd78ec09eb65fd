"""The command line: says what kind of checkpoint it sees, and hands it over to the reader of that kind."""

from __future__ import annotations

import argparse
import pathlib
import sys
from collections.abc import Callable
from typing import Any

from . import dcp, deepspeed, torch_states, universal
from .loading import load
from .refused import Refused
from .states import States, write_states
from .to_torch import TARGETS, to_torch
from .torch_states import Choices, find, is_model, is_optimizer

EPILOG = """examples:
  shardmix-export checkpoint.pt states                         torch.save of a model and its AdamW
  shardmix-export optimizer.pt states --model model.pt         the two in files of their own
  shardmix-export run/global_step1000 states                   DeepSpeed, ZeRO-1 or -2
  shardmix-export checkpoint/ states                           torch.distributed.checkpoint (FSDP2, Megatron-core)
  shardmix import states.json --output run                     and then, with shardmix
  shardmix-export --to torch-adamw run back.pt                 the other way round

Nothing that a source holds is run. docs/importing.md tells of each kind, and what is refused.
"""


def parser() -> argparse.ArgumentParser:
    made = argparse.ArgumentParser(prog="shardmix-export", description="Writes the weights and moments of a run of PyTorch, "
                                   "DeepSpeed or Megatron into OUT.safetensors and OUT.json, for `shardmix import`; or, with "
                                   "--to, a checkpoint of shardmix as a file of torch.save.",
                                   epilog=EPILOG, formatter_class=argparse.RawDescriptionHelpFormatter)
    made.add_argument("source", type=pathlib.Path, help="a file or directory")
    made.add_argument("out", type=pathlib.Path, help="what the files to write begin with; with --to, the file")
    made.add_argument("--kind", choices=[*torch_states.KINDS, *DIRECTORIES], help="in place of what it looks like")
    made.add_argument("--model", type=pathlib.Path, metavar="FILE", help="the model's state_dict, if it isn't in the source")
    made.add_argument("--model-key", metavar="KEY", help="where in the file the model is, with dots")
    made.add_argument("--optimizer-key", metavar="KEY", help="where the optimizer is")
    made.add_argument("--names", type=pathlib.Path, metavar="FILE",
                      help="the names of the optimizer's parameters, one a line, in its order")
    made.add_argument("--frozen", action="store_true",
                      help="take the model's tensors that the optimizer hasn't as frozen parameters")
    made.add_argument("--decoupled-weight-decay", action="store_true",
                      help="the run was AdamW's, where the source doesn't tell it from Adam")
    made.add_argument("--tag", help="which of DeepSpeed's checkpoints; default: the latest")
    made.add_argument("--to", choices=TARGETS, metavar="|".join(TARGETS), help="write a file of torch.save instead")
    made.add_argument("--like", type=pathlib.Path, metavar="FILE",
                      help="with --to: an optimizer's state_dict with names, whose groups and order are taken")
    made.add_argument("--force", action="store_true", help="replace what is there")
    return made


def lines_of(path: pathlib.Path) -> list[str]:
    names = path.read_text(encoding="utf-8").splitlines()
    if not names or not all(names):
        raise Refused(f"'{path}' has an empty line, or none: expected a name on each")
    return names


def from_file(source: pathlib.Path, arguments: argparse.Namespace, choices: Choices) -> States:
    loaded = load(source)
    optimizer = find(loaded, is_optimizer, choices.optimizer_key, f"optimizer (state and param_groups) in '{source}'",
                     "--optimizer-key")
    model = None
    holder = load(arguments.model) if arguments.model else loaded
    where = arguments.model or source
    if arguments.model or any(is_model(value) for _, value in torch_states.inside(loaded)):
        model = find(holder, is_model, choices.model_key, f"model's state_dict in '{where}'", "--model-key")
    return torch_states.states_of(optimizer, model, choices)


DIRECTORIES: dict[str, Callable[[pathlib.Path, Choices], States]] = {
    "deepspeed-zero": deepspeed.zero_states, "deepspeed-universal": universal.universal_states, "dcp": dcp.dcp_states}


def directory_kind(folder: pathlib.Path) -> str:
    if (folder / ".metadata").is_file():
        return "dcp"
    if universal.is_universal(folder):
        return "deepspeed-universal"
    if deepspeed.is_zero(folder):
        return "deepspeed-zero"
    raise Refused(f"'{folder}' is no checkpoint that is known: expected a .metadata (torch.distributed.checkpoint), a folder "
                  "zero (DeepSpeed's universal one), or files *zero_pp_rank_*_optim_states.pt (ZeRO)")


def read_states(arguments: argparse.Namespace, choices: Choices) -> States:
    source: pathlib.Path = arguments.source
    if not source.exists():
        raise Refused(f"there is no '{source}'")
    if not source.is_dir():
        return from_file(source, arguments, choices)
    folder = deepspeed.folder_of(source, choices.tag)
    if not folder.is_dir():
        raise Refused(f"there is no directory '{folder}'")
    return DIRECTORIES[arguments.kind or directory_kind(folder)](folder, choices)


def export(arguments: argparse.Namespace) -> list[str]:
    choices = Choices(kind=arguments.kind if arguments.kind in torch_states.KINDS else None,
                      names=lines_of(arguments.names) if arguments.names else None,
                      model_key=arguments.model_key, optimizer_key=arguments.optimizer_key,
                      decoupled=arguments.decoupled_weight_decay, frozen=arguments.frozen, tag=arguments.tag)
    states = read_states(arguments, choices)
    paths = write_states(states, arguments.out, arguments.force)
    steps = sorted({parameter.step for parameter in states.parameters if parameter.step is not None})
    return [f"{states.source}: {len(states.parameters)} parameters in {len(states.groups)} groups, step "
            f"{', '.join(map(str, steps)) or 'unknown'}",
            *(f"warning: {warning}" for warning in states.warnings),
            *(f"wrote {path}" for path in paths)]


def printable(text: str) -> str:
    """A name in a source may hold what a terminal obeys."""
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)


def complain(sentence: str) -> int:
    print(f"shardmix-export: {printable(sentence)}", file=sys.stderr)
    return 1


def main() -> int:
    arguments = parser().parse_args()
    try:
        if arguments.to:
            lines: Any = to_torch(arguments.source, arguments.out, arguments.to, arguments.like, arguments.force)
        else:
            lines = export(arguments)
    except (Refused, OSError) as error:
        return complain(str(error))
    except Exception as error:  # a source that was made to end the reading elsewhere
        return complain(f"'{arguments.source}' can't be used ({type(error).__name__}: {str(error)[:200]})")
    print("\n".join(map(printable, lines)))
    return 0
