"""What the checks run on: GPUs, tools, the programs' build and the environment that they need."""

from __future__ import annotations

import dataclasses
import json
import os
import pathlib
import shlex
import shutil
import subprocess

ROOT = pathlib.Path(__file__).resolve().parents[2]

# Any user, more ranks than cores; tests without colours.
ENVIRONMENT = {"OMPI_ALLOW_RUN_AS_ROOT": "1", "OMPI_ALLOW_RUN_AS_ROOT_CONFIRM": "1", "OMPI_MCA_rmaps_base_oversubscribe": "1",
               "OMPI_MCA_mpi_yield_when_idle": "1", "OMPI_MCA_hwloc_base_binding_policy": "none",
               "OMPI_MCA_btl_base_warn_component_unused": "0", "OMP_WAIT_POLICY": "passive",
               "GTEST_COLOR": "no", "TEST_DEVICE": "cuda"}

TARGETS = {"shardmix": "shardmix_program"}  # where they aren't the programs' names
EMULATED_TARGETS = {"shardmix": "shardmix_emulated_program"}

# Prints where a torch with CUDA has its CMake files and libraries, and where its NCCL is.
ASK_TORCH = """
import importlib.util, json, pathlib, torch
found = importlib.util.find_spec("nvidia.nccl") if importlib.util.find_spec("nvidia") else None
nccl = found.submodule_search_locations[0] if found else None
if torch.version.cuda:
    print(json.dumps({"cmake": torch.utils.cmake_prefix_path, "libraries": str(pathlib.Path(torch.__file__).parent / "lib"), "nccl": nccl}))
"""


@dataclasses.dataclass(frozen=True)
class Machine:
    build: pathlib.Path
    gpus: tuple[str, ...]
    memory: int  # bytes of the first
    emulated: bool

    @property
    def name(self) -> str:
        return ", ".join(self.gpus)

    @property
    def preset(self) -> str:
        return "dev" if self.emulated else "release"

    def program(self, name: str) -> str:
        return str(self.build / "bin" / (f"{name}_emulated" if self.emulated else name))

    def target(self, name: str) -> str:
        return EMULATED_TARGETS.get(name, f"{name}_emulated") if self.emulated else TARGETS.get(name, name)

    def build_commands(self, programs: list[str]) -> list[list[str]]:
        """With what GPU_CMAKE_ARGS adds to the first."""
        more = shlex.split(os.environ.get("GPU_CMAKE_ARGS", ""))
        return [["cmake", "--preset", self.preset, "-B", str(self.build), *more],
                ["cmake", "--build", str(self.build), "--parallel", str(os.cpu_count()),
                 "--target", *(self.target(p) for p in programs)]]

    def environment(self) -> dict[str, str]:
        variables = {**ENVIRONMENT, **os.environ}
        if self.emulated:
            return variables
        return with_torch(variables, torch_of_python())


def torch_of_python() -> dict[str, str | None]:
    """The torch with CUDA of the python3 on the PATH; empty where there is none."""
    try:
        answer = subprocess.run(["python3", "-c", ASK_TORCH], cwd="/", capture_output=True, text=True, timeout=120)
        return json.loads(answer.stdout)
    except (OSError, ValueError, subprocess.TimeoutExpired):
        return {}


def with_torch(variables: dict[str, str], torch: dict[str, str | None]) -> dict[str, str]:
    """CMake finds torch and its NCCL, and programs find their libraries."""
    result = dict(variables)

    def add(variable: str, *folders: str) -> None:
        result[variable] = ":".join([*folders, *filter(None, [result.get(variable)])])

    if torch.get("cmake"):
        add("CMAKE_PREFIX_PATH", torch["cmake"])
        add("LD_LIBRARY_PATH", torch["libraries"])
    if torch.get("nccl"):
        result.setdefault("NCCL_HOME", torch["nccl"])
        add("LD_LIBRARY_PATH", f"{torch['nccl']}/lib")
    return result


def gpus_and_memory() -> tuple[tuple[str, ...], int]:
    if shutil.which("nvidia-smi") is None:
        return (), 0
    answer = subprocess.run(["nvidia-smi", "--query-gpu=name,memory.total", "--format=csv,noheader,nounits"],
                            capture_output=True, text=True)
    if answer.returncode != 0 or not answer.stdout.strip():
        return (), 0
    lines = [line.rsplit(", ", 1) for line in answer.stdout.splitlines()]
    return tuple(name for name, _ in lines), int(lines[0][1]) << 20


def this_machine(build: pathlib.Path | None, emulated: bool) -> Machine:
    gpus, memory = (("emulated GPU",), 0) if emulated else gpus_and_memory()
    machine = Machine(pathlib.Path(), gpus, memory, emulated)
    return dataclasses.replace(machine, build=(build or ROOT / "build" / machine.preset).resolve())
