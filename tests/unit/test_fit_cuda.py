"""Scaling by matrix products, to the very bits of `inputs.fit`."""

import numpy as np
import pytest
import torch

from inference.inputs.image.decode import fit
from inference.inputs.image.fit_cuda import COARSE, FLOAT32_BITS, KEPT_SIDE, Line, line
from inference.inputs.image.fit_cuda import fit as fit_all
from models.photos import INPUT

SIZES = [(8, 8), (10, 100), (224, 224), (256, 256), (257, 300), (375, 500), (500, 375), (1024, 1500), (2250, 3000)]
CPU = torch.device("cpu")
needs_gpu = pytest.mark.skipif(not torch.cuda.is_available(), reason="this machine has no CUDA device")
DEVICES = ["cpu", pytest.param("cuda", marks=needs_gpu)]


def check(pixels: np.ndarray, device: str) -> None:
    """[N, height, width, 3]"""
    found = fit_all([*torch.from_numpy(pixels).permute(0, 3, 1, 2).to(device)], INPUT)
    assert found.device.type == device
    np.testing.assert_array_equal(found.cpu().numpy(), [fit(one, INPUT) for one in pixels])


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize(("height", "width"), SIZES)
def test_two_matrix_products_scale_and_crop_to_the_very_bits(height: int, width: int, device: str) -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (3, height, width, 3), np.uint8)
    pixels[1] = np.where(pixels[1] > 127, 255, 0)
    pixels[2] = 255
    check(pixels, device)


@pytest.mark.parametrize("device", DEVICES)
def test_scaling_is_exact_for_any_size(device: str) -> None:
    dice = np.random.default_rng(1)
    for height, width in dice.integers(100, 1600, (25, 2)).tolist():
        check(dice.integers(0, 256, (1, height, width, 3), np.uint8), device)


@pytest.mark.parametrize("size", [8, 224, 500, 1_000, 1_024, 1_025, 4_000, 20_000])
def test_sums_in_float32_are_exact_in_whatever_order(size: int) -> None:
    """Whole numbers below 2 ** 24 are: those of each part, and of both with the half, over the largest pixels."""
    found = line(size, 256, 16, 224, CPU)
    coarse, fine = (255 * part.double().sum(1) for part in (found.coarse, found.fine))
    assert max(found.coarse.max(), found.fine.max()) < COARSE
    assert (COARSE * coarse + fine).max() + 2 ** (found.bits - 1) < 256 * 2**found.bits  # rounds to 255
    if found.bits <= FLOAT32_BITS:
        assert max(coarse.max(), fine.max()) < 2**24
        assert 256 * 2**found.bits <= 2**24
    assert all(torch.equal(part, part.floor()) and part.min() >= 0 for part in (found.coarse, found.fine))


def test_lines_are_kept_when_they_are_short() -> None:
    def made(size: int) -> Line:
        return line(size, 341, 58, 224, CPU)

    assert made(500) is made(500)
    assert made(KEPT_SIDE + 1) is not made(KEPT_SIDE + 1)
