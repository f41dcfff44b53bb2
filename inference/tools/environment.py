"""What a measurement was made on."""

import os
import platform
from typing import Any

from inference.tools.versions import git_commit, processor, versions

PACKAGES = ("torch", "onnxruntime-gpu", "torchserve", "numpy", "pillow")


def environment() -> dict[str, Any]:
    return {
        "cpu": processor(),
        "cores": len(os.sched_getaffinity(0)),
        "system": f"{platform.system()} {platform.machine()}",
        **versions(PACKAGES),
        "commit": git_commit(),
    }
