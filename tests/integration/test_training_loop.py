"""The loop, on a small model that it has never heard of: it trains anything that offers what `Model` lists."""

import os
import re
import subprocess
import sys
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from torch import Tensor, nn

from inference.contract import Contract
from inference.inputs.image import ImageInput
from inference.tools.versions import git_commit
from models import Data, Model, Recipe, Split
from tests.contracts import classifier
from tests.workspace import ROOT
from training import loop
from training.loop import pick_device, train
from training.report import publish_all
from training.state import Job, State, average, epoch_seed, schedule

CPU = torch.device("cpu")
RECIPE = Recipe(epochs=4, batch_size=16, learning_rate=0.05, threads=1)


def stripes(count: int, seed: int) -> Split:
    """Noise in colour, [N, 6, 5, 3], that is brighter in its left or its right half."""
    rng = np.random.default_rng(seed)
    labels = np.arange(count) % 2
    images = rng.integers(0, 200, size=(count, 6, 5, 3))
    images[labels == 0, :, :2] += 55
    images[labels == 1, :, 3:] += 55
    return Split(images.astype(np.uint8), labels)


class Stripes:
    """A model of two classes of RGB images."""

    def __init__(self) -> None:
        self.RECIPES = {"noise": RECIPE}
        self.SAMPLE_NAMES: tuple[str, ...] = ("left", "right")
        self.OPTIONS: tuple[str, ...] = ()
        self.SERVED_BATCH = {"cpu": 1}

    def data(self, source: str, directory: Path) -> Data:  # noqa: ARG002
        return Data(source, stripes(100, 1), stripes(40, 2), stripes(50, 3))

    def contract(self, train: Split) -> Contract:  # noqa: ARG002
        shape = ImageInput(height=6, width=5, channels=3)
        return classifier("stripes", shape, ("left", "right"), (0.5,) * 3, (0.5,) * 3)

    def network(self, contract: Contract) -> nn.Module:  # noqa: ARG002
        return Flat()

    def augment(self, images: Tensor) -> Tensor:
        shade = 0.8 + 0.2 * torch.rand(len(images), 1, 1, 1, device=images.device)
        return (images.float() * shade).to(torch.uint8)


class Flat(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.Sequential(nn.Flatten(), nn.Linear(90, 8), nn.ReLU(), nn.Dropout(0.1), nn.Linear(8, 2))

    def forward(self, images: Tensor) -> Tensor:
        logits: Tensor = self.layers(images / 255 - 0.5)  # [B, 2]
        return logits


def job(model: Model | None = None, seed: int = 0, **recipe: Any) -> Job:
    model = model or Stripes()
    return Job(model, model.data("noise", Path()), replace(RECIPE, **recipe), seed, CPU)


def same_weights(one: State, other: State) -> bool:
    mine, theirs = one.judged.state_dict(), other.judged.state_dict()
    return all(torch.equal(mine[name], theirs[name]) for name in mine.keys() | theirs.keys())


class Stopped(Exception):
    """What a batch raises in place of a power cut."""


class Dying(Stripes):
    """Stops the training at its batch number `last`."""

    def __init__(self, last: int = 17) -> None:  # 7 batches are an epoch, so this is in the third
        super().__init__()
        self.last = last

    def augment(self, images: Tensor) -> Tensor:
        self.last -= 1
        if not self.last:
            raise Stopped
        return super().augment(images)


def test_a_model_of_another_form_is_trained(tmp_path: Path) -> None:
    assert train(job(epochs=20), tmp_path).best.accuracy > 0.9


def test_the_same_seed_gives_the_same_bits_and_another_seed_other_ones(tmp_path: Path) -> None:
    first = train(job(seed=3), tmp_path / "first")
    assert same_weights(first, train(job(seed=3), tmp_path / "again"))
    assert not same_weights(first, train(job(seed=4), tmp_path / "other"))


def test_epochs_and_seeds_draw_different_randomness() -> None:
    assert len({epoch_seed(seed, epoch) for seed in range(50) for epoch in range(50)}) == 2500


def test_training_leaves_the_process_as_it_was(tmp_path: Path) -> None:
    torch.manual_seed(5)
    torch.set_num_threads(2)
    numbers = torch.get_rng_state()
    train(job(), tmp_path)
    assert torch.equal(torch.get_rng_state(), numbers)
    assert torch.get_num_threads() == 2
    assert not torch.are_deterministic_algorithms_enabled()


def test_a_training_stopped_in_mid_epoch_is_resumed_to_the_same_bits(tmp_path: Path) -> None:
    with pytest.raises(Stopped):
        train(job(Dying()), tmp_path / "stopped")
    resumed = train(job(), tmp_path / "stopped", resume=True)
    undisturbed = train(job(), tmp_path / "undisturbed")
    assert same_weights(resumed, undisturbed)
    assert resumed.best.epoch == undisturbed.best.epoch


def test_a_cosine_and_an_average_of_the_weights_are_resumed_to_the_same_bits_too(tmp_path: Path) -> None:
    recipe: dict[str, Any] = {"schedule": "cosine", "ema": 0.9}
    with pytest.raises(Stopped):
        train(job(Dying(), **recipe), tmp_path / "stopped")
    resumed = train(job(**recipe), tmp_path / "stopped", resume=True)
    assert same_weights(resumed, train(job(**recipe), tmp_path / "undisturbed"))
    assert not same_weights(resumed, train(job(schedule="cosine"), tmp_path / "no average"))


def test_a_cosine_begins_with_a_warm_up_and_ends_at_zero() -> None:
    weight = torch.zeros(1, requires_grad=True)
    optimizer = torch.optim.AdamW([weight], 0.5)
    cosine = schedule(optimizer, replace(RECIPE, learning_rate=0.5, schedule="cosine"), 100)
    rates = []
    for _ in range(100):
        rates.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        cosine.step()
    assert rates[:10] == pytest.approx([0.05 * step for step in range(1, 11)])
    assert rates[55] == pytest.approx(0.25)
    assert rates[10:] == sorted(rates[10:], reverse=True)
    assert 0 < rates[-1] < 0.001


def test_an_average_follows_the_weights_as_its_decay_says() -> None:
    layer = nn.Linear(1, 1, bias=False)
    nn.init.constant_(layer.weight, 0.0)
    mean = average(layer, 0.75)
    for value in (8.0, 4.0, 0.0):
        nn.init.constant_(layer.weight, value)
        mean.update_parameters(layer)
    assert next(mean.module.parameters()).item() == 0.75 * (0.75 * 8 + 0.25 * 4)


def test_resuming_repeats_no_finished_epoch(tmp_path: Path) -> None:
    with pytest.raises(Stopped):
        train(job(Dying()), tmp_path)
    rest = Dying(last=2 * 7 + 1)  # two of four epochs are finished, so a fifteenth batch would be one too many
    train(job(rest), tmp_path, resume=True)
    assert rest.last == 1


def test_a_finished_training_can_be_resumed_to_publish_it_again(tmp_path: Path) -> None:
    assert same_weights(train(job(), tmp_path), train(job(), tmp_path, resume=True))


@pytest.mark.parametrize(
    ("change", "setting"),
    [
        ({"seed": 1}, "seed 0, not 1"),
        ({"epochs": 5}, "epochs 4, not 5"),
        ({"batch_size": 8}, "batch size 16, not 8"),
        ({"learning_rate": 0.01}, r"learning rate 0\.05, not 0\.01"),
    ],
)
def test_other_settings_are_not_resumed(tmp_path: Path, change: dict[str, Any], setting: str) -> None:
    train(job(), tmp_path)
    with pytest.raises(
        ValueError, match=rf"checkpoint\.pt was made with {setting}\. Resume with the same, or train anew"
    ):
        train(job(**change), tmp_path, resume=True)


def test_other_data_are_not_resumed(tmp_path: Path) -> None:
    first = job()
    train(first, tmp_path)
    data = Data("noise", stripes(100, 9), first.data.validation, first.data.held_out)
    with pytest.raises(ValueError, match="was made with fingerprint"):
        train(replace(first, data=data), tmp_path, resume=True)


def test_there_must_be_a_checkpoint_to_resume(tmp_path: Path) -> None:
    with pytest.raises(
        ValueError, match=r"There is no checkpoint .*checkpoint\.pt to resume\. Train without --resume\."
    ):
        train(job(), tmp_path, resume=True)


@pytest.mark.parametrize("left", [0, 100, -100])
def test_a_damaged_checkpoint_is_not_resumed(tmp_path: Path, left: int) -> None:
    train(job(), tmp_path)
    path = tmp_path / "checkpoint.pt"
    path.write_bytes(path.read_bytes()[:left])
    with pytest.raises(ValueError, match="is damaged"):
        train(job(), tmp_path, resume=True)


@pytest.mark.parametrize("content", [{}, [], {"settings": {}}, {"settings": [], "state": {}}, torch.zeros(2)])
def test_a_file_of_torchs_that_is_no_checkpoint_is_not_resumed(tmp_path: Path, content: Any) -> None:
    path = tmp_path / "checkpoint.pt"
    torch.save(content, path)
    with pytest.raises(ValueError, match=r"checkpoint\.pt is not a checkpoint of a training\. Train anew"):
        train(job(), tmp_path, resume=True)


def test_the_checkpoint_holds_plain_values_only(tmp_path: Path) -> None:
    train(job(), tmp_path)
    checkpoint = torch.load(tmp_path / "checkpoint.pt", weights_only=True)
    assert checkpoint["state"]["epoch"] == 4
    assert asdict(RECIPE).items() <= checkpoint["settings"].items()


def test_the_published_epoch_is_the_one_with_the_lowest_validation_loss(tmp_path: Path) -> None:
    trained = train(job(epochs=12, learning_rate=0.3), tmp_path)
    log = EventAccumulator(str(tmp_path / "tensorboard")).Reload()
    losses = {event.step: event.value for event in log.Scalars("loss/validation")}
    assert sorted(losses) == list(range(1, 13))
    assert trained.best.epoch == min(losses, key=losses.__getitem__)
    assert trained.best.epoch < 12  # so that "the last one" would be wrong here


def test_a_loss_that_is_not_finite_is_an_error_and_no_checkpoint(tmp_path: Path) -> None:
    with pytest.raises(
        ValueError, match=r"The loss of epoch 1 is (nan|inf)\. Train with a --learning-rate below 1e\+30\."
    ):
        train(job(learning_rate=1e30), tmp_path)
    assert not (tmp_path / "checkpoint.pt").exists()


def test_a_batch_that_is_too_much_for_the_gpu_is_an_error_that_says_what_to_do(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """No GPU is needed, so what raises it is not real."""

    def train_epoch(*_: object) -> float:
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.")

    monkeypatch.setattr(loop, "train_epoch", train_epoch)
    with pytest.raises(ValueError, match=rf"of memory\..* Train with a --batch-size below {RECIPE.batch_size}\."):
        train(job(), tmp_path)


def test_an_unknown_device_is_refused_with_the_known_ones() -> None:
    with pytest.raises(ValueError, match=r"no device 'tpu'\. Choose one of: auto, cpu, cuda\."):
        pick_device("tpu")


def test_cuda_without_a_device_is_an_error_and_no_fallback() -> None:
    """In a process of its own, from which any CUDA device of this machine is hidden."""
    code = "from training.loop import pick_device as pick; print(pick('auto'), flush=True); pick('cuda')"
    hidden = {**os.environ, "CUDA_VISIBLE_DEVICES": ""}
    command = [sys.executable, "-c", code]
    done = subprocess.run(command, cwd=ROOT, env=hidden, capture_output=True, text=True, check=False)
    assert done.stdout == "cpu\n"
    assert re.search(r"ValueError: .*finds no CUDA device\. .* --device cpu\.", done.stderr)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="this machine has no CUDA device")
def test_cuda_is_used_where_there_is_one(tmp_path: Path) -> None:
    assert pick_device("auto").type == "cuda"
    on_cuda = replace(job(epochs=20), device=torch.device("cuda"))
    first = train(on_cuda, tmp_path / "first")
    assert first.best.accuracy > 0.9
    assert {tensor.device.type for tensor in first.judged.state_dict().values()} == {"cuda"}
    assert same_weights(first, train(on_cuda, tmp_path / "again"))


def test_colour_images_and_other_labels_are_reported(tmp_path: Path) -> None:
    stripes_job = job(epochs=1)
    metrics = publish_all(tmp_path, stripes_job, train(stripes_job, tmp_path))
    assert list(metrics["classes"]) == ["left", "right"]
    assert {path.name for path in (tmp_path / "samples").iterdir()} == {"left.png", "right.png"}
    assert (tmp_path / "misclassified.png").stat().st_size > 1000


def test_the_commit_is_none_or_one_of_git() -> None:
    commit = git_commit()
    assert commit is None or len(commit.removesuffix("-dirty")) == 40
