"""Tests of data sets that are not prepared: one error sentence, no leftover files."""

import pytest

import keras_meta as km
from keras_meta.zoo import downloads
from keras_meta.zoo.recipes import sources


@pytest.fixture
def root(tmp_path, monkeypatch):
    """Sets TFDS_DATA_DIR to a missing folder and makes downloads fail."""
    root = tmp_path / "data"
    monkeypatch.setenv("TFDS_DATA_DIR", str(root))

    def from_tfds(name, split, preprocess):
        print("Downloading and preparing dataset Unknown size")
        partial = root / "downloads" / name / "second.zip.tmp.1a2b"
        partial.mkdir(parents=True)
        (partial / "part").write_text("half")
        (root / "downloads" / "extracted").mkdir()
        (root / name).mkdir(exist_ok=True)
        raise ValueError("a long sentence") from OSError("no route to host\nat all")

    monkeypatch.setattr(km.ClassPool, "from_tfds", from_tfds)
    return root


def download_error():
    with pytest.raises(ValueError) as error_info:
        sources.tfds("omniglot")(None, None)
    return str(error_info.value)


def test_a_failed_download_raises_one_sentence_and_leaves_no_folders(root, capfd):
    assert download_error() == (
        f"expected the TFDS data set omniglot in {root} (set TFDS_DATA_DIR to the "
        "folder that contains it) or a network to download it, got: no route to host"
    )
    assert not root.exists()
    assert tuple(capfd.readouterr()) == ("", "")


def test_existing_files_and_complete_archives_remain(root):
    stored = root / "omniglot" / "notes", root / "downloads" / "omniglot" / "first.zip"
    for path in stored:
        path.parent.mkdir(parents=True)
        path.write_text("kept")
    (root / "empty").mkdir()
    download_error()
    files = [path for path in root.rglob("*") if path.is_file()]
    assert sorted(files) == sorted(stored) and (root / "empty").is_dir()
    assert not (root / "downloads" / "extracted").exists()


def test_a_prepared_data_set_is_read_without_a_download(root):
    (root / "omniglot" / "3.0.0").mkdir(parents=True)
    assert not downloads.is_prepared("omniglot")
    (root / "omniglot" / "3.0.0" / "dataset_info.json").touch()
    assert downloads.is_prepared("omniglot")
    assert download_error() == "a long sentence"  # the library's own message
