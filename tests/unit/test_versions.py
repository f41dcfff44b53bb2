"""What is served after a start: what was promoted, whatever was exported since."""

import json
from pathlib import Path

import pytest

from inference.store.manifest import Archive, Manifest
from serve.versions import (
    NAME,
    Promoted,
    choose,
    forget_promoted,
    recall_promoted,
    remember_defaults,
    remember_promoted,
)
from tests.unit.archives import ARCHIVE

MODEL = "digits-onnx"


def archive(version: str, runtime: str = "onnx") -> Archive:
    changes = {"file": f"digits-{runtime}-{version}.mar", "sha256": version * 8, "runtime": runtime, "version": version}
    return ARCHIVE.model_copy(update=changes)


def promoted(version: str, previous: str = "") -> Promoted:
    return Promoted(version=version, sha256=archive(version).sha256, previous=previous)


MANIFEST = Manifest(
    archives={MODEL: archive("3.0"), "digits-eager": archive("1.0", "eager")},
    earlier={MODEL: (archive("2.0"), archive("1.0"))},
)


def chosen(names: list[str], state: Path, manifest: Manifest = MANIFEST) -> dict[str, list[str]]:
    return {name: [one.version for one in held] for name, held in choose(manifest, names, state).items()}


def test_the_newest_is_served_where_nothing_was_promoted(tmp_path: Path) -> None:
    assert chosen([], tmp_path) == {MODEL: ["3.0"], "digits-eager": ["1.0"]}
    assert chosen([MODEL], tmp_path) == {MODEL: ["3.0"]}


def test_a_model_of_the_zoo_stands_for_all_that_is_made_of_it_and_no_other(tmp_path: Path) -> None:
    photos = archive("1.0").model_copy(update={"model": "photos"})
    manifest = MANIFEST.model_copy(update={"archives": {**MANIFEST.archives, "photos-onnx": photos}})
    assert chosen(["digits"], tmp_path, manifest) == {"digits-eager": ["1.0"], MODEL: ["3.0"]}
    assert chosen(["photos", MODEL], tmp_path, manifest) == {"photos-onnx": ["1.0"], MODEL: ["3.0"]}
    remember_promoted(tmp_path, {MODEL: promoted("1.0")})
    assert chosen(["digits"], tmp_path, manifest)[MODEL] == ["1.0"]


def test_what_was_promoted_comes_first_and_what_is_kept_for_a_rollback_second(tmp_path: Path) -> None:
    remember_promoted(tmp_path, {MODEL: promoted("1.0", "2.0")})
    assert chosen([], tmp_path) == {MODEL: ["1.0", "2.0"], "digits-eager": ["1.0"]}


def test_what_was_kept_may_be_gone_from_the_store(tmp_path: Path) -> None:
    remember_promoted(tmp_path, {MODEL: promoted("1.0", "0.9")})
    assert chosen([MODEL], tmp_path) == {MODEL: ["1.0"]}


@pytest.mark.parametrize("names", [[], [MODEL]])
@pytest.mark.parametrize("model", [MODEL, "photos-onnx"])
def test_a_promoted_version_that_is_gone_is_named_with_what_to_do(tmp_path: Path, model: str, names: list[str]) -> None:
    remember_promoted(tmp_path, {model: promoted("0.9")})
    if names in ([], [model]):
        with pytest.raises(ValueError, match=rf"^Version 0\.9 of {model} .* serve forget {model}$"):
            choose(MANIFEST, names, tmp_path)
    else:
        assert chosen(names, tmp_path) == {MODEL: ["3.0"]}


def test_a_model_that_was_promoted_is_served_although_nothing_of_it_is_new(tmp_path: Path) -> None:
    manifest = Manifest(archives={MODEL: archive("2.0")}, earlier={"digits-eager": (archive("1.0", "eager"),)})
    assert chosen([], tmp_path, manifest) == {MODEL: ["2.0"]}
    remember_promoted(tmp_path, {"digits-eager": promoted("1.0")})
    assert chosen([], tmp_path, manifest) == {MODEL: ["2.0"], "digits-eager": ["1.0"]}


def test_a_model_that_there_is_not_is_a_sentence(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="There is no model 'photos'"):
        choose(MANIFEST, ["photos"], tmp_path)


def test_a_newer_export_does_not_change_what_the_next_start_serves(tmp_path: Path) -> None:
    remember_defaults(tmp_path, choose(MANIFEST, [], tmp_path))
    newer = Manifest(archives={MODEL: archive("4.0")}, earlier={MODEL: tuple(MANIFEST.versions(MODEL))})
    assert chosen([MODEL], tmp_path, newer) == {MODEL: ["3.0"]}
    assert json.loads((tmp_path / NAME).read_text())[MODEL] == {
        "version": "3.0",
        "sha256": archive("3.0").sha256,
        "previous": "",
    }


def test_a_promoted_version_that_was_exported_again_is_not_served_unasked(tmp_path: Path) -> None:
    remember_defaults(tmp_path, choose(MANIFEST, [], tmp_path))
    again = archive("3.0").model_copy(update={"sha256": "0" * 64})
    with pytest.raises(ValueError, match=rf"^Version 3\.0 of {MODEL} was exported again .* serve forget {MODEL}$"):
        choose(Manifest(archives={MODEL: again}), [MODEL], tmp_path)
    forget_promoted(tmp_path, MODEL)
    assert chosen([MODEL], tmp_path, Manifest(archives={MODEL: again})) == {MODEL: ["3.0"]}


def test_what_is_kept_is_remembered_over_starts(tmp_path: Path) -> None:
    both = {MODEL: promoted("2.0", "1.0")}
    remember_promoted(tmp_path, both)
    remember_defaults(tmp_path, choose(MANIFEST, [MODEL], tmp_path))
    assert recall_promoted(tmp_path) == both


def test_what_is_remembered_of_other_models_stays(tmp_path: Path) -> None:
    eager, onnx = promoted("1.0"), promoted("2.0", "1.0")
    remember_promoted(tmp_path, {"digits-eager": eager})
    remember_promoted(tmp_path, {MODEL: onnx})
    assert recall_promoted(tmp_path) == {"digits-eager": eager, MODEL: onnx}
    forget_promoted(tmp_path, MODEL)
    assert recall_promoted(tmp_path) == {"digits-eager": eager}
    with pytest.raises(ValueError, match=f"No promoted version of '{MODEL}'"):
        forget_promoted(tmp_path, MODEL)


@pytest.mark.parametrize("text", ["", "[]", '{"digits-onnx": "1.0"}', '{"digits-onnx": {"previous": "1.0"}}'])
def test_a_damaged_file_is_a_sentence_with_what_to_do(tmp_path: Path, text: str) -> None:
    (tmp_path / NAME).write_text(text)
    with pytest.raises(ValueError, match=r"promoted\.json is damaged\. Delete it"):
        choose(MANIFEST, [], tmp_path)
    assert (tmp_path / NAME).read_text() == text
