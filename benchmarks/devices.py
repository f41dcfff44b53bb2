"""How far each runtime is from eager on the CPU when it runs on another device: `python -m benchmarks.devices cuda:0`.

Prints what a row of `export/tolerances.toml` is made of.
"""

from pathlib import Path

import typer

from export import parity
from export.goldens import Goldens
from export.runtime import runtime_module, runtime_names

FOLDER = Path("artifacts/digits")
UNLIMITED = parity.Tolerance(float("inf"), 0, 0, "only measured")


def main(device: str) -> None:
    """Compare every exported runtime on DEVICE, such as cpu or cuda:0, with eager on the CPU."""
    goldens = Goldens.read(FOLDER / "goldens.npz")
    for name in runtime_names():
        module = runtime_module(name)
        if not (FOLDER / module.ARTIFACT).exists():
            print(f"{name:12} {module.ARTIFACT} was not exported")
            continue
        try:
            loaded = module.load(FOLDER / module.ARTIFACT, device, 1)
        except ValueError as error:
            print(f"{name:12} {error}")
            continue
        sizes = parity.batch_sizes(loaded.contract.max_batch)
        answers = [parity.run_goldens(loaded, goldens, size) for size in sizes]
        worst = parity.worst_of([parity.compare(answer, goldens, UNLIMITED) for answer in answers])
        tf32 = "on" if loaded.tf32 else "off"
        print(
            f"{name:12} {loaded.provider} on {loaded.device}, TF32 {tf32}: {worst.compared} answers, "
            f"largest difference {worst.max_abs:.2g}, error ratio {worst.error_ratio:.2g}, {len(worst.flips)} flips"
        )


if __name__ == "__main__":
    typer.run(main)
