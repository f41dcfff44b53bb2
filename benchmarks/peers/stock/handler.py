"""What TorchServe's own image classifier does with a picture, by its steps and without its classes, which need captum.

Stock: Pillow decodes, torchvision's first transforms resize and crop, TorchScript runs on a stack of tensors, and a
softmax gives five labels. Not stock: scaling and normalisation are in the graph, as everywhere in this project; grey
pictures are made RGB; the answer has this project's form; logits can be asked for, to be compared.
"""

import io
import json
import os
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torchvision import transforms

NPY = "application/x-npy"


class Handler:
    def initialize(self, context: Any) -> None:
        folder = Path(context.system_properties["model_dir"])
        contract = json.loads((folder / "contract.json").read_bytes())
        torch.set_num_threads(int(os.environ["OMP_NUM_THREADS"]))
        self.model = torch.jit.load(folder / "model.pt").eval()  # type: ignore[no-untyped-call]
        [spec], [output] = contract["inputs"], contract["outputs"]
        self.labels = output["labels"]
        size = (spec["height"], spec["width"])
        resize = transforms.Resize(spec["short_side"])
        self.processing = transforms.Compose([resize, transforms.CenterCrop(size), transforms.PILToTensor()])

    @torch.inference_mode()
    def handle(self, data: list[dict[str, Any]], context: Any) -> list[Any]:
        pictures = [Image.open(io.BytesIO(row.get("data") or row.get("body") or b"")).convert("RGB") for row in data]
        batch = torch.stack([self.processing(picture) for picture in pictures])  # [B, 3, H, W]
        logits = self.model(batch.permute(0, 2, 3, 1).contiguous())
        return [self._answer(row, index, context) for index, row in enumerate(logits)]

    def _answer(self, logits: torch.Tensor, index: int, context: Any) -> bytes:
        if context.get_request_header(index, "Accept") == NPY:
            stream = io.BytesIO()
            np.save(stream, logits[None].numpy(), allow_pickle=False)
            return stream.getvalue()
        scores, best = logits.softmax(0).topk(min(5, len(self.labels)))
        top = [
            {"label": self.labels[i], "score": score} for i, score in zip(best.tolist(), scores.tolist(), strict=True)
        ]
        return json.dumps({**top[0], "top": top}).encode()
