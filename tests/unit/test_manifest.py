"""What a store holds: the newest archive of each name, and every one that it has taken the place of."""

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from inference.store import manifest
from inference.store.manifest import Archive, Manifest
from tests.unit.archives import ARCHIVE

ONNX = ARCHIVE
EAGER = ONNX.model_copy(update={"file": "digits-eager-1.0.mar", "runtime": "eager"})


def other(archive: Archive, **changes: str) -> Archive:
    return archive.model_copy(update=changes)


@pytest.fixture
def store(tmp_path: Path) -> Path:
    """Both runtimes, version 1.0."""
    assert manifest.add(tmp_path, "digits-onnx", ONNX) == {}
    assert manifest.add(tmp_path, "digits-eager", EAGER) == {}
    return tmp_path


def test_a_newer_version_is_the_newest_and_the_other_stays_beside_it(store: Path) -> None:
    second, third = other(ONNX, version="2.0"), other(ONNX, version="3.0")
    for newer in (second, third):
        assert manifest.add(store, "digits-onnx", newer) == {}
    known = Manifest.read(store)
    assert known.archives == {"digits-eager": EAGER, "digits-onnx": third}
    assert known.earlier == {"digits-onnx": (second, ONNX)}
    assert known.versions("digits-onnx") == [third, second, ONNX]
    assert known.versions("digits-eager") == [EAGER]
    assert known.versions("digits-aoti") == []


def test_of_exports_at_once_none_is_lost(store: Path) -> None:
    versions = [f"{number}.0" for number in range(2, 34)]
    with ThreadPoolExecutor(len(versions)) as threads:
        list(threads.map(lambda version: manifest.add(store, "digits-onnx", other(ONNX, version=version)), versions))
    known = Manifest.read(store).versions("digits-onnx")
    assert {archive.version for archive in known} == {"1.0", *versions}


def test_the_same_version_again_takes_the_place_of_the_one_before(store: Path) -> None:
    again = other(ONNX, sha256="2" * 64)
    assert manifest.add(store, "digits-onnx", again) == {}
    assert Manifest.read(store).versions("digits-onnx") == [again]


def test_an_earlier_version_that_is_exported_again_is_the_newest(store: Path) -> None:
    second, again = other(ONNX, version="2.0"), other(ONNX, sha256="2" * 64)
    for newer in (second, again):
        manifest.add(store, "digits-onnx", newer)
    assert Manifest.read(store).versions("digits-onnx") == [again, second]


@pytest.mark.parametrize("field", ["weights", "contract"])
def test_other_weights_leave_the_models_other_archives_as_earlier_ones(store: Path, field: str) -> None:
    photos = other(ONNX, model="photos", weights="b" * 64)
    assert manifest.add(store, "photos-onnx", photos) == {}
    newer = other(ONNX, version="2.0", **{field: "d" * 64})
    assert manifest.add(store, "digits-onnx", newer) == {"digits-eager": EAGER}
    known = Manifest.read(store)
    assert known.archives == {"digits-onnx": newer, "photos-onnx": photos}
    assert known.earlier == {"digits-eager": (EAGER,), "digits-onnx": (ONNX,)}
    assert known.find("digits-eager", "1.0") == EAGER


def test_an_archive_of_older_weights_that_is_exported_anew_is_new_again(store: Path) -> None:
    newer = other(EAGER, version="2.0", weights="d" * 64)
    manifest.add(store, "digits-onnx", other(ONNX, version="2.0", weights="d" * 64))
    assert manifest.add(store, "digits-eager", newer) == {}
    known = Manifest.read(store)
    assert known.versions("digits-eager") == [newer, EAGER]
    assert known.archives.keys() == {"digits-eager", "digits-onnx"}


def test_any_version_is_found_by_its_name(store: Path) -> None:
    second = other(ONNX, version="2.0")
    manifest.add(store, "digits-onnx", second)
    known = Manifest.read(store)
    assert known.find("digits-onnx", "1.0") == ONNX
    assert known.find("digits-onnx", "2.0") == second


def test_what_is_not_found_is_answered_with_what_there_is(store: Path) -> None:
    manifest.add(store, "digits-onnx", other(ONNX, version="2.0", weights="d" * 64))
    known = Manifest.read(store)
    with pytest.raises(ValueError, match=r"no model 'digits' in the store\. It has: digits-eager, digits-onnx\.$"):
        known.find("digits", "1.0")
    with pytest.raises(ValueError, match=r"no version '3\.0' of digits-onnx in the store\. It has: 2\.0, 1\.0\.$"):
        known.find("digits-onnx", "3.0")


def test_a_name_with_older_weights_only_is_not_chosen(store: Path) -> None:
    manifest.add(store, "digits-onnx", other(ONNX, version="2.0", weights="d" * 64))
    known = Manifest.read(store)
    assert known.choose([]).keys() == {"digits-onnx"}
    with pytest.raises(ValueError, match=r"digits-eager is in the store only with older weights\. Export it again"):
        known.choose(["digits-eager"])
    with pytest.raises(ValueError, match=r"no model 'digits-aoti' in the store\. It has: digits-onnx\.$"):
        known.choose(["digits-aoti"])


def test_a_manifest_from_before_there_were_versions_side_by_side_is_read(tmp_path: Path) -> None:
    (tmp_path / manifest.NAME).write_text(f'{{"edition": 2, "archives": {{"digits-onnx": {ONNX.model_dump_json()}}}}}')
    assert Manifest.read(tmp_path).versions("digits-onnx") == [ONNX]


def test_what_a_reduced_precision_costs_is_kept_with_its_archive(tmp_path: Path) -> None:
    reduced = ONNX.model_copy(update={"runtime": "onnx_int8", "accuracy": 0.97, "eager_accuracy": 0.98})
    manifest.add(tmp_path, "digits-onnx-int8", reduced)
    assert Manifest.read(tmp_path).archives == {"digits-onnx-int8": reduced}
    assert (ONNX.accuracy, ONNX.eager_accuracy) == (None, None)


def test_a_store_of_the_first_edition_is_refused_with_what_to_do_and_an_export_begins_anew(tmp_path: Path) -> None:
    path, kept = tmp_path / manifest.NAME, tmp_path / manifest.FIRST_NAME
    first = Manifest(archives={"digits-onnx": ONNX}).model_dump_json(exclude={"edition"})
    path.write_text(first)
    sentence = r"first edition\. Train and export again: python -m training digits and python -m export digits$"
    with pytest.raises(ValueError, match=sentence):
        Manifest.read(tmp_path)
    assert manifest.add(tmp_path, "digits-eager", EAGER) == {}
    assert Manifest.read(tmp_path) == Manifest(archives={"digits-eager": EAGER})
    assert kept.read_text() == first
