"""What goes over the wire: header names, content types and limits, for the server and its clients alike."""

from inference.tools.npy import NPY

__all__ = ["ATTESTED", "BODY_LIMIT", "JSON", "NPY", "RETRY_AFTER"]

JSON = "application/json"

RETRY_AFTER = "Retry-After"  # seconds, with a 503 that is worth asking again

# TorchServe's own default for requests and for responses, in bytes.
BODY_LIMIT = 6_553_500

# Every prediction says what computed it: field of the attestation → response header.
ATTESTED = {
    "model": "X-Model",
    "version": "X-Model-Version",
    "weights": "X-Weights-SHA256",
    "artifact": "X-Artifact-SHA256",
    "contract": "X-Contract-SHA256",
    "runtime": "X-Runtime",
    "provider": "X-Provider",
    "device": "X-Device",
    "precision": "X-Precision",
    "tf32": "X-TF32",
    "decoder": "X-Decoder",
    "batch_size": "X-Batch-Size",
}
