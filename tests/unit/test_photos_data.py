"""Photographs as files: folders, unreadable files, decoded pixels, the synthetic set, Stanford Dogs in miniature."""

import io
import tarfile
from pathlib import Path

import numpy as np
import pytest
from PIL import ExifTags, Image
from scipy.io import savemat  # type: ignore[import-untyped]

from inference.tools.files import sha256
from models import photos
from models.data import dogs, photo_files, synthetic
from tests.contracts import decode, labels_of
from training.__main__ import check_readable, sizes


def save(path: Path, shade: int, size: tuple[int, int] = (40, 30)) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", size, (shade, 255 - shade, 90)).save(path)
    return path


def opened(path: Path) -> Image.Image:
    with Image.open(path) as image:
        image.load()
    return image


def narrow() -> bytes:
    stream = io.BytesIO()
    Image.new("RGB", (1, 30)).save(stream, "PNG")
    return stream.getvalue()


def folder_of(root: Path, labels: tuple[str, ...] = ("cat", "dog"), count: int = 10) -> Path:
    for index, label in enumerate(labels):
        for number in range(count):
            save(root / label / f"{number}.jpg", 100 * index + 5 * number)
    return root


@pytest.fixture(scope="module")
def pictures(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small synthetic set."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(synthetic, "COUNTS", {"train": 5, "val": 1, "test": 2})
        return synthetic.write(tmp_path_factory.mktemp("pictures") / "set")


def test_a_folder_without_splits_is_split_by_label_and_always_alike(tmp_path: Path) -> None:
    labels, splits = photo_files.folder_splits(folder_of(tmp_path, count=20))
    assert labels == ("cat", "dog")
    assert {name: sorted(photos.labels) for name, photos in splits.items()} == {
        "train": [0] * 14 + [1] * 14,
        "validation": [0] * 2 + [1] * 2,
        "held_out": [0] * 4 + [1] * 4,
    }
    files = [path for photos in splits.values() for path in photos.paths]
    assert len(files) == len(set(files)) == 40
    assert photo_files.folder_splits(tmp_path)[1] == splits


def test_train_val_and_test_folders_are_taken_as_they_are(tmp_path: Path) -> None:
    for name, count in {"train": 3, "val": 2, "test": 1}.items():
        folder_of(tmp_path / name, count=count)
    splits = photo_files.folder_splits(tmp_path)[1]
    assert {name: len(photos.paths) for name, photos in splits.items()} == {"train": 6, "validation": 4, "held_out": 2}
    assert {path.parents[1].name for path in splits["held_out"].paths} == {"test"}


def test_with_train_and_val_alone_val_is_held_out(tmp_path: Path) -> None:
    folder_of(tmp_path / "train", count=10)
    folder_of(tmp_path / "val", count=2)
    splits = photo_files.folder_splits(tmp_path)[1]
    assert {name: len(photos.paths) for name, photos in splits.items()} == {"train": 18, "validation": 2, "held_out": 4}
    assert {path.parents[1].name for path in splits["held_out"].paths} == {"val"}


def test_folders_that_can_not_be_trained_on_are_refused_with_what_to_do(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="needs a folder of photos for each label, and at least two; it has 0"):
        photo_files.folder_splits(tmp_path)
    folder_of(tmp_path / "one", ("cat",))
    with pytest.raises(ValueError, match="it has 1"):
        photo_files.folder_splits(tmp_path / "one")
    (tmp_path / "one" / "dog").mkdir()
    with pytest.raises(ValueError, match=r"dog holds no \.jpg.* file\. Add some, or remove the folder"):
        photo_files.folder_splits(tmp_path / "one")
    folder_of(tmp_path / "few", count=1)
    with pytest.raises(ValueError, match=r"can't be split by label .* Put more into the folder"):
        photo_files.folder_splits(tmp_path / "few")
    folder_of(tmp_path / "other/train")
    folder_of(tmp_path / "other/test", ("cat", "cow"))
    with pytest.raises(ValueError, match=r"other folders than its train folder: \['cow', 'dog'\]"):
        photo_files.folder_splits(tmp_path / "other")


def test_an_unknown_source_is_refused_with_the_known_ones(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"no data source 'cars' for photos\. Choose one of: synthetic, stanford-dogs"):
        photos.data("cars", tmp_path)


def test_a_folder_is_a_source_by_its_path(tmp_path: Path) -> None:
    folder_of(tmp_path / "mine")
    data = photos.data(str(tmp_path / "mine"), tmp_path / "data")
    assert data.source == str(tmp_path / "mine")
    assert photos.data(data.source, tmp_path / "data").fingerprint == data.fingerprint
    assert data.train.inputs.shape == (14, 256, 256, 3)
    assert data.held_out.inputs.shape == (4, 224, 224, 3)
    assert data.train.names == labels_of(photos.contract(data.train, "resnet18")) == ("cat", "dog")


def test_every_held_out_image_is_its_file_as_the_server_decodes_it(pictures: Path, tmp_path: Path) -> None:
    data = photos.data(str(pictures), tmp_path)
    for split in (data.validation, data.held_out):
        for image, file in zip(split.inputs, split.files, strict=True):
            assert np.array_equal(image, decode(file.read_bytes(), photos.INPUT)[0])


def test_the_centre_of_a_training_canvas_is_what_the_server_decodes(pictures: Path, tmp_path: Path) -> None:
    train = photos.data(str(pictures), tmp_path).train
    assert len(train.files) == 50
    for canvas, file in zip(train.inputs, train.files, strict=True):
        assert np.array_equal(canvas[16:240, 16:240], decode(file.read_bytes(), photos.INPUT)[0])


def test_unreadable_files_are_listed_with_the_reason_and_left_out(tmp_path: Path) -> None:
    root = folder_of(tmp_path / "mine")
    whole = photos.data(str(root), tmp_path / "data")
    bad = whole.train.files[3]
    bad.write_bytes(bad.read_bytes()[:300])
    data = photos.data(str(root), tmp_path / "data")
    assert len(data.unreadable) == 1
    assert data.unreadable[0].startswith(f"{bad}: The image is damaged")
    assert data.train.files == tuple(file for file in whole.train.files if file != bad)
    assert np.array_equal(data.train.inputs, np.delete(whole.train.inputs, 3, axis=0))
    assert np.array_equal(data.train.targets, np.delete(whole.train.targets, 3))
    assert photos.data(str(root), tmp_path / "data").unreadable == data.unreadable  # remembered


def test_files_that_are_no_photographs_stop_a_training_unless_they_are_to_be_skipped(tmp_path: Path) -> None:
    root = folder_of(tmp_path / "mine")
    whole = (root / "cat/0.jpg").read_bytes()
    bad = {
        "cat/empty.jpg": (b"", "The body is empty."),
        "cat/text.jpg": (b"a cat", "The body is not a PNG, JPEG or WebP image."),
        "dog/cut off.jpg": (whole[:-20], "The image is damaged"),
        "dog/narrow.png": (narrow(), "The image is 1 × 30 pixels."),
    }
    for name, (body, _) in bad.items():
        (root / name).write_bytes(body)
    data = photos.data(str(root), tmp_path / "data")
    found = dict(line.split(": ", 1) for line in data.unreadable)
    assert found.keys() == {str(root / name) for name in bad}
    for name, (_, reason) in bad.items():
        assert found[str(root / name)].startswith(reason)
    assert sum(map(len, data.splits.values())) == 20
    assert sizes(data).endswith(", 4 unreadable and skipped")
    with pytest.raises(ValueError, match=r"^4 of the files can't be read: .*mine/.*train without them: --skip-bad$"):
        check_readable(data, skip_bad=False)
    check_readable(data, skip_bad=True)


@pytest.mark.parametrize("split", ["train", "val", "test"])
def test_a_label_of_which_nothing_can_be_read_stops_a_training(tmp_path: Path, split: str) -> None:
    for part, count in {"train": 3, "val": 1, "test": 2}.items():
        folder_of(tmp_path / "mine" / part, count=count)
    for path in (tmp_path / "mine" / split / "dog").iterdir():
        path.write_bytes(b"a dog")
    with pytest.raises(
        ValueError, match=r"^No \w+ photo of dog can be read, such as .*dog/0\.jpg: The body is not a PNG"
    ):
        photos.data(str(tmp_path / "mine"), tmp_path / "data")


def test_of_many_unreadable_files_the_first_few_are_named(tmp_path: Path) -> None:
    root = folder_of(tmp_path / "mine")
    for number in range(7):
        (root / f"cat/bad {number}.jpg").write_bytes(b"a cat")
    data = photos.data(str(root), tmp_path / "data")
    assert len(data.unreadable) == 7
    with pytest.raises(
        ValueError, match=r"^7 of the files can't be read: .*; and 2 more\. Repair or remove"
    ) as refusal:
        check_readable(data, skip_bad=False)
    assert str(refusal.value).count("cat/bad ") == 5


def test_a_photograph_under_a_wrong_name_is_read_by_its_content(tmp_path: Path) -> None:
    root = folder_of(tmp_path / "mine")
    misnamed = root / "cat/0.jpg"
    with Image.open(misnamed) as image:
        image.save(misnamed, "PNG")
    data = photos.data(str(root), tmp_path / "data")
    assert data.unreadable == ()
    assert misnamed in {file for split in data.splits.values() for file in split.files}


def test_files_are_decoded_once_and_again_when_one_has_changed(tmp_path: Path) -> None:
    root = folder_of(tmp_path / "mine")
    first = photos.data(str(root), tmp_path / "data")
    decoded = {path: path.stat().st_mtime_ns for path in (tmp_path / "data").rglob("*.npy")}
    assert photos.data(str(root), tmp_path / "data").fingerprint == first.fingerprint
    assert {path: path.stat().st_mtime_ns for path in (tmp_path / "data").rglob("*.npy")} == decoded
    save(first.held_out.files[0], 250, (50, 60))
    again = photos.data(str(root), tmp_path / "data")
    assert again.fingerprint != first.fingerprint
    assert np.array_equal(again.train.inputs, first.train.inputs)


def test_what_is_done_to_mapped_pixels_does_not_reach_the_file(tmp_path: Path) -> None:
    root = folder_of(tmp_path / "mine")
    data = photos.data(str(root), tmp_path / "data")
    data.train.inputs[:] = 0
    assert photos.data(str(root), tmp_path / "data").train.inputs.any()


def test_the_synthetic_set_differs_as_photographs_do(pictures: Path) -> None:
    images = [opened(path) for path in sorted(pictures.rglob("*.jpg"))]
    assert len(images) == 80
    assert {path.name for path in (pictures / "train").iterdir()} == set(synthetic.LABELS)
    sides = [side for image in images for side in image.size]
    assert min(sides) >= 200
    assert max(sides) in range(1000, 1501)
    assert {image.mode for image in images} == {"L", "RGB"}
    assert {image.width > image.height for image in images} == {True, False}
    turned = {image.getexif().get(ExifTags.Base.Orientation, 1) for image in images}
    assert turned == {1, *synthetic.TURNS}


def test_the_synthetic_set_is_always_the_same_and_drawn_once(
    pictures: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(synthetic, "COUNTS", {"train": 1})
    again = synthetic.write(tmp_path)
    for path in again.rglob("*.jpg"):
        assert path.read_bytes() == (pictures / path.relative_to(again)).read_bytes()
    (again / "train/dots/000.jpg").write_bytes(b"mine")
    assert (synthetic.write(tmp_path) / "train/dots/000.jpg").read_bytes() == b"mine"
    (again / "version.txt").write_text("older")
    assert (synthetic.write(tmp_path) / "train/dots/000.jpg").read_bytes() != b"mine"


@pytest.fixture
def kennel(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Stanford Dogs in miniature: two archives, as they are downloaded, and nothing unpacked."""
    breeds, made, directory = (
        ("n02085620-Chihuahua", "n02085782-Japanese_spaniel"),
        tmp_path / "made",
        tmp_path / "data",
    )
    directory.mkdir()
    folder_of(made / "Images", breeds, count=14)
    for name, numbers in {"train_list.mat": range(10), "test_list.mat": range(10, 14)}.items():
        files = [[f"{breed}/{number}.jpg"] for breed in breeds for number in numbers]
        savemat(made / name, {"file_list": np.array(files, dtype=object)})
    with tarfile.open(directory / "images.tar", "w") as archive:
        archive.add(made / "Images", "Images")
    with tarfile.open(directory / "lists.tar", "w") as archive:
        for path in sorted(made.glob("*.mat")):
            archive.add(path, path.name)
    monkeypatch.setattr(dogs, "DIGESTS", {name: sha256(directory / name) for name in dogs.DIGESTS})
    return directory


def test_stanford_dogs_are_split_as_their_lists_say(kennel: Path) -> None:
    labels, splits = dogs.splits(kennel)
    assert labels == ("Chihuahua", "Japanese_spaniel")
    assert {name: len(photos.paths) for name, photos in splits.items()} == {"train": 18, "validation": 2, "held_out": 8}
    assert {int(path.stem) for path in splits["held_out"].paths} == {10, 11, 12, 13}
    for part in splits.values():
        assert [labels[label] for label in part.labels] == [path.parent.name[10:] for path in part.paths]


def test_another_archive_of_dogs_than_the_published_one_is_not_unpacked(kennel: Path) -> None:
    with (kennel / "lists.tar").open("ab") as archive:
        archive.write(b"more")
    with pytest.raises(
        ValueError, match=r"lists\.tar is not the archive that was published\. Delete it and train again"
    ):
        dogs.splits(kennel)
    assert not (kennel / "train_list.mat").exists()


def test_a_photo_that_is_on_a_list_and_missing_is_a_sentence(kennel: Path) -> None:
    dogs.splits(kennel)
    (kennel / "Images/n02085620-Chihuahua/3.jpg").unlink()
    with pytest.raises(ValueError, match=r"3\.jpg is on a list and missing\. Delete .*Images and train again"):
        dogs.splits(kennel)


def test_dogs_that_can_not_be_downloaded_are_a_sentence(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(dogs, "URL", "http://127.0.0.1:9/")
    with pytest.raises(ValueError, match=r"images\.tar could not be downloaded .* or put the file to .*images\.tar"):
        dogs.splits(tmp_path)


def test_archives_of_dogs_that_are_missing_are_downloaded(
    kennel: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(dogs, "URL", f"{kennel.as_uri()}/")
    assert dogs.splits(tmp_path / "fresh")[0] == ("Chihuahua", "Japanese_spaniel")
    assert sha256(tmp_path / "fresh/images.tar") == dogs.DIGESTS["images.tar"]
