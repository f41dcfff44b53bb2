"""Folders of photographs: which files are which split, and their pixels, decoded once into a file mapped to memory.

An epoch reads decoded pixels at the speed of memory, so a fast GPU need not wait for JPEGs, and the number of workers
changes nothing.
"""

import hashlib
import json
import os
import warnings
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from rich.progress import track

from inference.base import BadInput
from inference.inputs.image import ImageInput
from inference.inputs.image import decode as inputs
from inference.tools.files import publish, sha256
from models import Data, Split

SUFFIXES = (".jpg", ".jpeg", ".png", ".webp")
TRAIN, VALIDATION, HELD_OUT = ("train",), ("val", "valid", "validation"), ("test", "held_out")


@dataclass(frozen=True)
class Photos:
    """Files with the index of each one's label."""

    paths: tuple[Path, ...]
    labels: tuple[int, ...]

    def part(self, rows: Sequence[int]) -> "Photos":
        return Photos(tuple(self.paths[row] for row in rows), tuple(self.labels[row] for row in rows))

    def without(self, share: float) -> tuple["Photos", "Photos"]:
        """The photos without `share` of them, and that share, stratified; the choice is always the same."""
        from sklearn.model_selection import train_test_split

        rows = range(len(self.paths))
        try:
            rest, taken = train_test_split(rows, test_size=share, stratify=self.labels, random_state=0)
        except ValueError as error:
            raise ValueError(f"The photos can't be split by label ({error}). Put more into the folder.") from None
        return self.part(sorted(rest)), self.part(sorted(taken))


def folder_splits(root: Path) -> tuple[tuple[str, ...], dict[str, Photos]]:
    """The labels of a folder, and its three splits by the names of `Data`.

    `root`/label/…, or `root`/train, val and test with label/… in each. What is missing is taken from the rest: a tenth
    for validation, and where there is neither a test nor a val folder, a fifth that is held out. Raises ValueError.
    """
    train, validation, held_out = (_subfolder(root, names) for names in (TRAIN, VALIDATION, HELD_OUT))
    if train is None:
        labels, photos = find_photos(root)
        rest, test = photos.without(1 / 5)
        return labels, _with_validation(rest, test)
    labels, photos = find_photos(train)
    if held_out is None and validation is None:
        raise ValueError(f"{root} has a train folder and no test or val folder. Add one, or give {train} as the data.")
    test = find_photos(held_out or validation, labels)[1]  # type: ignore[arg-type]
    if held_out is None or validation is None:
        return labels, _with_validation(photos, test)
    return labels, {"train": photos, "validation": find_photos(validation, labels)[1], "held_out": test}


def _with_validation(rest: Photos, held_out: Photos) -> dict[str, Photos]:
    train, validation = rest.without(1 / 10)
    return {"train": train, "validation": validation, "held_out": held_out}


def _subfolder(root: Path, names: tuple[str, ...]) -> Path | None:
    return next((root / name for name in names if (root / name).is_dir()), None)


def find_photos(root: Path, labels: tuple[str, ...] = ()) -> tuple[tuple[str, ...], Photos]:
    """The labels, which are the names of the folders in `root`, and all image files in them. Raises ValueError."""
    found = tuple(sorted(path.name for path in root.iterdir() if path.is_dir() and not path.name.startswith(".")))
    if len(found) < 2:
        raise ValueError(f"{root} needs a folder of photos for each label, and at least two; it has {len(found)}.")
    if labels and found != labels:
        raise ValueError(f"{root} has other folders than its train folder: {sorted({*found} ^ {*labels})[:5]}.")
    files = [(path, index) for index, label in enumerate(found) for path in _images(root / label)]
    missing = [label for index, label in enumerate(found) if index not in {label for _, label in files}]
    if missing:
        raise ValueError(f"{root / missing[0]} holds no {', '.join(SUFFIXES)} file. Add some, or remove the folder.")
    paths, indices = zip(*files, strict=True)
    return found, Photos(paths, indices)


def _images(folder: Path) -> list[Path]:
    return sorted(path for path in folder.rglob("*") if path.suffix.lower() in SUFFIXES and path.is_file())


def decoded(
    source: str, labels: tuple[str, ...], splits: dict[str, Photos], specs: dict[str, ImageInput], cache: Path
) -> Data:
    """All splits, each decoded by the input function as its spec says. Unreadable files are listed and left out.

    Raises ValueError when a split has nothing left of a label.
    """
    made, unreadable = {}, []
    for name, photos in splits.items():
        images, errors = _pixels(photos.paths, specs[name], cache, name)
        good = photos.part([row for row, path in enumerate(photos.paths) if str(path) not in errors])
        if lost := {*photos.labels} - {*good.labels}:
            path, error = next(iter(errors.items()))
            raise ValueError(f"No {name} photo of {labels[min(lost)]} can be read, such as {path}: {error}")
        made[name] = Split(images, np.array(good.labels, dtype=np.int64), labels, good.paths)
        unreadable += [f"{path}: {error}" for path, error in errors.items()]
    return Data(source, **made, unreadable=tuple(unreadable))


def _pixels(paths: tuple[Path, ...], spec: ImageInput, cache: Path, name: str) -> tuple[np.ndarray, dict[str, str]]:
    """uint8 [readable files, *spec.shape], mapped to memory, and why the others can't be read."""
    pixels = cache / f"{_fingerprint(paths, spec)}.npy"
    errors = pixels.with_suffix(".json")
    if not (pixels.is_file() and errors.is_file()):
        found = _decode_all(paths, spec, pixels, f"Decoding {name.replace('_', ' ')}")
        with publish(errors) as draft:
            draft.write_text(json.dumps(found, indent=2))
    return np.load(pixels, mmap_mode="c"), json.loads(errors.read_bytes())  # "c": a tensor of it may be written to


def _fingerprint(paths: tuple[Path, ...], spec: ImageInput) -> str:
    """Of the files' names, sizes and times, and of what decodes them."""
    digest = hashlib.sha256(f"{spec.model_dump_json()} {sha256(Path(inputs.__file__))}\n".encode())
    for path in paths:
        found = path.stat()
        digest.update(f"{path} {found.st_size} {found.st_mtime_ns}\n".encode())
    return digest.hexdigest()[:32]


def _decode_all(paths: tuple[Path, ...], spec: ImageInput, target: Path, said: str) -> dict[str, str]:
    """Writes the pixels of the readable files in order; returns the others, each with its error."""
    errors: dict[str, str] = {}
    with publish(target) as draft:
        rows = np.lib.format.open_memmap(draft, "w+", np.uint8, (len(paths), *spec.shape))

        def one(row: int) -> None:
            try:
                rows[row] = spec.decode(paths[row].read_bytes())[0]
            except (BadInput, OSError) as error:
                errors[str(paths[row])] = str(error)

        _each(one, len(paths), said)
        if errors:
            good = [row for row, path in enumerate(paths) if str(path) not in errors]
            np.save(draft, rows[good])
    return dict(sorted(errors.items()))


def _each(work: Callable[[int], None], count: int, said: str) -> None:
    """Calls `work` with 0 to `count` - 1 in a thread for each core; the decoders let go of the interpreter's lock."""
    with (
        warnings.catch_warnings(),
        ThreadPoolExecutor(os.cpu_count()) as pool,
    ):  # decode's own filter is no thread's own
        for _ in track(pool.map(work, range(count)), said, total=count):
            pass
