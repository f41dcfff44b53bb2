"""What a measurement was made on."""

import os
import platform
from pathlib import Path
from typing import Any

from training.versions import git_commit, versions

PACKAGES = ("torch", "onnxruntime-gpu", "torchserve", "numpy", "pillow")


def environment() -> dict[str, Any]:
    return {
        "cpu": _cpu(),
        "cores": len(os.sched_getaffinity(0)),
        "system": f"{platform.system()} {platform.machine()}",
        **versions(PACKAGES),
        "commit": git_commit(),
    }


def _cpu() -> str:
    lines = Path("/proc/cpuinfo").read_text().splitlines()
    return next((line.partition(":")[2].strip() for line in lines if "model name" in line), platform.processor())
