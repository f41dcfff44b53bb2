"""Folders of photographs: which files are which split, and their pixels, decoded once into a file mapped to memory.

An epoch reads decoded pixels at the speed of memory, so a fast GPU need not wait for JPEGs, and the number of workers
changes nothing.
"""

import hashlib
import json
import os
import warnings
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from rich.progress import track

from inference.base import BadInput
from inference.inputs.image import ImageInput
from inference.inputs.image import decode as inputs
from inference.tools.files import publish, publish_text, sha256
from models import Data, Split

SUFFIXES = (".jpg", ".jpeg", ".png", ".webp")
SPLITS = ("train",), ("val", "valid", "validation"), ("test", "held_out")


@dataclass(frozen=True)
class LabelledFiles:
    """Files, and for each the index of its label."""

    paths: tuple[Path, ...]
    labels: tuple[int, ...]

    def part(self, rows: Sequence[int]) -> "LabelledFiles":
        return LabelledFiles(tuple(self.paths[row] for row in rows), tuple(self.labels[row] for row in rows))

    def without(self, share: float) -> tuple["LabelledFiles", "LabelledFiles"]:
        """The files without `share` of them, and that share, stratified; the choice is always the same."""
        from sklearn.model_selection import train_test_split

        rows = range(len(self.paths))
        try:
            rest, taken = train_test_split(rows, test_size=share, stratify=self.labels, random_state=0)
        except ValueError as error:
            raise ValueError(f"The photos can't be split by label ({error}). Put more into the folder.") from None
        return self.part(sorted(rest)), self.part(sorted(taken))


def folder_splits(root: Path) -> tuple[tuple[str, ...], dict[str, LabelledFiles]]:
    """The labels of a folder, and its three splits by the names of `Data`.

    `root`/label/…, or `root`/train, val and test with label/… in each. What is missing is taken from the rest: a tenth
    for validation, and where there is neither a test nor a val folder, a fifth that is held out. Raises ValueError.
    """
    folders = ([root / name for name in names if (root / name).is_dir()] for names in SPLITS)
    train, validation, test = (found[0] if found else None for found in folders)
    labels, rest = find_files(train or root)
    if train is None:
        rest, held_out = rest.without(1 / 5)
    elif kept := test or validation:
        held_out = find_files(kept, labels)[1]
    else:
        raise ValueError(f"{root} has a train folder and no test or val folder. Add one, or give {train} as the data.")
    if train and validation and test:
        return labels, {"train": rest, "validation": find_files(validation, labels)[1], "held_out": held_out}
    rest, tenth = rest.without(1 / 10)
    return labels, {"train": rest, "validation": tenth, "held_out": held_out}


def find_files(root: Path, labels: tuple[str, ...] = ()) -> tuple[tuple[str, ...], LabelledFiles]:
    """The labels, which are the names of the folders in `root`, and all image files in them. Raises ValueError."""
    found = tuple(sorted(path.name for path in root.iterdir() if path.is_dir() and not path.name.startswith(".")))
    if len(found) < 2:
        raise ValueError(f"{root} needs a folder of photos for each label, and at least two; it has {len(found)}.")
    if labels and found != labels:
        raise ValueError(f"{root} has other folders than its train folder: {sorted({*found} ^ {*labels})[:5]}.")
    files: list[tuple[Path, int]] = []
    for index, label in enumerate(found):
        images = [path for path in (root / label).rglob("*") if path.suffix.lower() in SUFFIXES and path.is_file()]
        if not images:
            raise ValueError(f"{root / label} holds no {', '.join(SUFFIXES)} file. Add some, or remove the folder.")
        files += [(path, index) for path in sorted(images)]
    return found, LabelledFiles(*zip(*files, strict=True))


def decoded(
    source: str, labels: tuple[str, ...], splits: dict[str, LabelledFiles], specs: dict[str, ImageInput], cache: Path
) -> Data:
    """All splits as their specs say; unreadable files are listed and left out. ValueError if a label has no others."""
    made, unreadable = {}, []
    for name, files in splits.items():
        images, errors = _cached(files.paths, specs[name], cache, name)
        good = files.part([row for row, path in enumerate(files.paths) if str(path) not in errors])
        if lost := {*files.labels} - {*good.labels}:
            path, error = next(iter(errors.items()))
            raise ValueError(f"No {name} photo of {labels[min(lost)]} can be read, such as {path}: {error}")
        made[name] = Split(images, np.array(good.labels, dtype=np.int64), labels, good.paths)
        unreadable += [f"{path}: {error}" for path, error in errors.items()]
    return Data(source, **made, unreadable=tuple(unreadable))


def _cached(paths: tuple[Path, ...], spec: ImageInput, cache: Path, name: str) -> tuple[np.ndarray, dict[str, str]]:
    """uint8 [readable files, *spec.shape], kept by all that decides it, and why the others can't be read."""
    digest = hashlib.sha256(f"{spec.model_dump_json()} {sha256(Path(inputs.__file__))}\n".encode())
    for path in paths:
        found = path.stat()
        digest.update(f"{path} {found.st_size} {found.st_mtime_ns}\n".encode())
    pixels = cache / f"{digest.hexdigest()[:32]}.npy"
    errors = pixels.with_suffix(".json")
    if not (pixels.is_file() and errors.is_file()):
        unreadable = _decode_all(paths, spec, pixels, f"Decoding {name.replace('_', ' ')}")
        publish_text(errors, json.dumps(unreadable, indent=2))
    return np.load(pixels, mmap_mode="c"), json.loads(errors.read_bytes())  # "c": a tensor of it may be written to


def _decode_all(paths: tuple[Path, ...], spec: ImageInput, target: Path, title: str) -> dict[str, str]:
    """Writes the pixels of the readable files in order; returns the others, each with its error."""
    errors: dict[str, str] = {}
    with publish(target) as draft:
        rows = np.lib.format.open_memmap(draft, "w+", np.uint8, (len(paths), *spec.shape))

        def decode_one(row: int) -> None:
            try:
                rows[row] = spec.decode(paths[row].read_bytes())[0]
            except (BadInput, OSError) as error:
                errors[str(paths[row])] = str(error)

        # Decoders release the interpreter's lock. They set the filters of all threads' warnings; here those are kept
        with warnings.catch_warnings(), ThreadPoolExecutor(os.cpu_count()) as pool:
            list(track(pool.map(decode_one, range(len(paths))), title, total=len(paths)))
        if errors:
            np.save(draft, rows[[row for row, path in enumerate(paths) if str(path) not in errors]])
    return dict(sorted(errors.items()))
