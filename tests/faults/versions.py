"""Each part is right, and they don't belong together."""

import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np

from export.trained import load_trained
from inference.goldens import Goldens
from tests.faults.catalogue import fault, no_gpu
from tests.faults.scene import Scene
from tests.zips import rewrite

DEVICE, VERSIONS = "device", "versions"
STORE = "the store"


@fault(
    DEVICE,
    where=STORE,
    hop="http",
    says="attests provider 'CPUExecutionProvider' instead of 'CUDAExecutionProvider'",
    life="The container was started without its GPU, and ONNX Runtime takes the CPU without a word.",
)
def asked_for_cuda_and_ran_on_the_cpu(scene: Scene) -> None:
    scene.verifier.accept("digits-onnx", provider="CUDAExecutionProvider", device="cuda")


@fault(
    DEVICE,
    where="the artifact",
    hop="runtime",
    says="it can't be loaded: model.pt2 was compiled for cuda and can't run on cpu",
    served="digits-aoti",
    life="The model.pt2 for the machine with the GPU was put into the archive for the one without.",
)
def machine_code_for_another_device(scene: Scene) -> None:
    here, there = b'"AOTI_DEVICE_KEY": "cpu"', b'"AOTI_DEVICE_KEY": "cuda"'

    def moved(files: dict[str, bytes]) -> dict[str, bytes]:
        assert any(here in body for body in files.values())
        return {name: body.replace(here, there) for name, body in files.items()}

    scene.changed_artifact("digits-aoti", lambda path: rewrite(path, moved))


def with_a_determinant(path: Path) -> None:
    """Adds nought to the logits, by way of an operation that ONNX Runtime has for the CPU alone."""
    import onnx
    from onnx.helper import make_node

    model = onnx.load(path)
    graph = model.graph
    shapes = {"first": [0], "each": [-1, 1, 1], "row": [-1, 1]}
    graph.initializer.extend(onnx.numpy_helper.from_array(np.array(one), name) for name, one in shapes.items())
    for node in graph.node:
        node.output[:] = ["scores" if name == "logits" else name for name in node.output]
    graph.node.extend(
        [
            make_node("Gather", ["scores", "first"], ["scalar"], axis=1),
            make_node("Reshape", ["scalar", "each"], ["matrix"]),
            make_node("Det", ["matrix"], ["determinant"]),
            make_node("Reshape", ["determinant", "row"], ["same"]),
            make_node("Sub", ["same", "scalar"], ["nought"]),
            make_node("Add", ["scores", "nought"], ["logits"]),
        ]
    )
    onnx.save(model, path)


@fault(
    DEVICE,
    where="the artifact",
    hop="runtime",
    says="it can't be loaded: ONNX Runtime can't run model.onnx on cuda:0",
    life="The provider has no kernel for one operation, and ONNX Runtime would run it on the CPU without a word.",
    missing=no_gpu,
)
def one_node_on_the_cpu(scene: Scene) -> None:
    scene.exported_for_cuda("digits-onnx")
    scene.changed_artifact("digits-onnx", with_a_determinant)


@fault(
    VERSIONS,
    where="the artifact",
    hop="runtime",
    says="differ, worst",
    life="The best epoch was evaluated, and the last one exported.",
)
def weights_of_another_epoch(scene: Scene) -> None:
    scene.exported("digits-onnx", load_trained("digits", scene.other_epoch.folder / "artifacts").network)


@fault(
    VERSIONS,
    where="the server",
    hop="http",
    says="attests artifact",
    life="Trained and exported anew, and the server was not started again.",
)
def a_server_of_the_weights_before(scene: Scene) -> None:
    folder = scene.verifier.artifacts.parent
    shutil.copytree(scene.other_epoch.folder / "artifacts", folder / "artifacts", dirs_exist_ok=True)
    shutil.copytree(scene.other_epoch.store, folder / "model_store", dirs_exist_ok=True)


@fault(
    VERSIONS,
    where="the store",
    hop="http",
    says="attests runtime 'eager' instead of 'onnx'",
    life="cp digits-eager.mar digits-onnx.mar, to try something, last week.",
)
def another_models_archive_under_this_name(scene: Scene) -> None:
    store = scene.verifier.store
    shutil.copyfile(store / "digits-eager-1.0.mar", store / "digits-onnx-1.0.mar")
    scene.verifier.accept("digits-onnx")
    scene.serve("digits-onnx")


@fault(
    VERSIONS,
    where="the server",
    hop="http",
    says="attests version '1.0' instead of '2.0'",
    life="The new version is registered beside the old one, and nobody made it the default.",
)
def the_default_not_switched(scene: Scene) -> None:
    folder = scene.verifier.artifacts.parent
    replace(scene.raw.served, folder=folder).run("export", "digits", "--runtime", "onnx", "--version", "2.0")


@fault(
    VERSIONS,
    where="the goldens",
    hop="eager",
    says="differ, worst",
    served="digits-eager",
    life="The goldens were kept from the model before: it is now they that are wrong.",
)
def goldens_of_the_model_before(scene: Scene) -> None:
    before = Goldens.read(scene.other_epoch.artifacts / "goldens.npz")
    scene.goldens(lambda goldens: replace(goldens, outputs=before.outputs, oracle=before.oracle))


@fault(
    VERSIONS,
    where="the archive",
    hop="handler",
    says="The goldens were answered by other weights than this artifact's.",
    life="An archive was packed by hand, from the artifact of one training and the goldens of another.",
)
def an_archive_packed_of_two_trainings(scene: Scene) -> None:
    other = scene.other_epoch.artifacts / "goldens.npz"
    scene.verifier.change_file("digits-onnx", "goldens.npz", lambda _: other.read_bytes())
