"""The random requests of the false-alarm run: all kinds and forms, readable every one, the same from the same seed."""

import numpy as np
import pytest

from benchmarks.random_requests import FORMS, KINDS, LONGEST, RandomRequests
from client.payloads import payload
from inference.inputs.image import ImageInput
from models.digits import INPUT as DIGITS
from models.photos import INPUT as PHOTOS
from tests.contracts import decode


def requests(spec: ImageInput, seed: int = 0) -> RandomRequests:
    pictures = np.random.default_rng(1).integers(0, 256, (3, *spec.shape), np.uint8)
    return RandomRequests(pictures, spec, seed)


@pytest.mark.parametrize("spec", [DIGITS, PHOTOS], ids=["digits", "photos"])
def test_every_kind_comes_in_every_form_at_sizes_that_are_accepted(spec: ImageInput) -> None:
    drawn = [requests(spec, seed).draw() for seed in range(500)]
    seen = {
        (form, kind)
        for form in FORMS
        for kind in KINDS
        for name, _, _ in drawn
        if name.startswith(form)
        if kind in name
    }
    assert seen == {(form, kind) for form in FORMS for kind in KINDS}
    for _, body, pixels in drawn:
        sent = payload(body)
        assert (decode(sent.body, spec, sent.content_type) == pixels).all()


def test_sizes_are_many() -> None:
    source = requests(DIGITS)
    sizes = {source.draw()[0].split()[-2] for _ in range(200)}
    assert len(sizes) > 100
    assert all(8 <= int(side) <= LONGEST for size in sizes if "x" in size for side in size.split("x"))


def test_the_same_seed_draws_the_same_and_another_draws_others() -> None:
    first, same, other = (requests(DIGITS, seed) for seed in (3, 3, 4))
    bodies = [[source.draw()[1] for _ in range(20)] for source in (first, same, other)]
    assert bodies[0] == bodies[1] != bodies[2]
