"""Stanford Dogs: photographs of 120 breeds, and the lists that say which are for training."""

import tarfile
import urllib.request
from pathlib import Path

from inference.tools.files import publish, sha256
from models.data.photo_files import LabelledFiles

URL = "http://vision.stanford.edu/aditya86/ImageNetDogs/"
UNPACKED = {"images.tar": "Images", "lists.tar": "train_list.mat"}  # what there is when an archive was unpacked
DIGESTS = {
    "images.tar": "a443fc2f9a851aa1a7b8e4fa4af94b8459fce2c9f5a2f4dd4669cf9673a4ec58",
    "lists.tar": "34b47cacd9a98b5d150e084f24d29391c084c55272295ec65c85651bc35f4d6c",
}  # SHA-256: those that TensorFlow Datasets holds its downloads to, for its own pages give none


def splits(directory: Path) -> tuple[tuple[str, ...], dict[str, LabelledFiles]]:
    """Labels and splits: the test list is held out, and a tenth of the other for validation. Raises ValueError."""
    from scipy.io import loadmat  # type: ignore[import-untyped]

    for archive, found in UNPACKED.items():
        if not (directory / found).exists():
            unpack(directory, archive)
    # MATLAB wraps each name in arrays of its own.
    lists = (loadmat(directory / name)["file_list"].ravel() for name in ("train_list.mat", "test_list.mat"))
    train, held_out = (tuple(directory / "Images" / str(row.item()) for row in rows) for rows in lists)
    folders = sorted({path.parent.name for path in train})
    if {path.parent.name for path in held_out} != set(folders):
        raise ValueError(f"The lists in {directory} name different breeds. Delete the folder and train again.")
    parts = []
    for paths in (train, held_out):
        if missing := [path for path in paths if not path.is_file()]:
            raise ValueError(f"{missing[0]} is on a list and missing. Delete {directory / 'Images'} and train again.")
        parts.append(LabelledFiles(paths, tuple(folders.index(path.parent.name) for path in paths)))
    rest, validation = parts[0].without(1 / 10)
    labels = tuple(folder.partition("-")[2] for folder in folders)  # n02085620-Chihuahua
    return labels, {"train": rest, "validation": validation, "held_out": parts[1]}


def unpack(directory: Path, name: str) -> None:
    """Unpacks an archive, downloaded when it is missing. Raises ValueError for another one than was published."""
    archive, url = directory / name, URL + name
    if not archive.is_file():
        try:
            with publish(archive) as draft:
                urllib.request.urlretrieve(url, draft)
        except OSError as error:  # ContentTooShortError is one too
            raise ValueError(
                f"{url} could not be downloaded ({error}). Connect to the internet, or put the file to {archive}."
            ) from None
    if sha256(archive) != DIGESTS[name]:
        raise ValueError(f"{archive} is not the archive that was published. Delete it and train again.")
    with tarfile.open(archive) as content:
        content.extractall(directory, filter="data")
