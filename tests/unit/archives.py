"""An archive's entry in the manifest, as a test needs it."""

from inference.store.manifest import Archive

ARCHIVE = Archive(
    file="digits-onnx-1.0.mar",
    sha256="0" * 64,
    bytes=1,
    model="digits",
    runtime="onnx",
    version="1.0",
    device="cpu",
    provider="CPUExecutionProvider",
    precision="float32",
    tf32=False,
    artifact="model.onnx",
    weights="a" * 64,
    contract="c" * 64,
    export_seconds=1,
    files={},
    versions={},
)
