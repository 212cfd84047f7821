"""Cards: what they record of a folder, and that a file is used only if its hash is the recorded one."""

import hashlib
import json

import pytest
from tiny import assert_one_sentence, ship_tiny_pipeline

from companion.weights.cards import file_hashes, read_card, read_checked, write_card
from companion.weights.pipelines import load_pipeline


@pytest.fixture
def mini(tmp_path, monkeypatch):
    return ship_tiny_pipeline(tmp_path / "models", monkeypatch)


@pytest.fixture
def folder(tmp_path):
    (tmp_path / "deep").mkdir()
    (tmp_path / "a.txt").write_bytes(b"one")
    (tmp_path / "deep/b.bin").write_bytes(b"two")
    return tmp_path


def test_a_card_records_every_file_and_keeps_earlier_facts(folder):
    write_card(folder, licence="CC0", steps=3)
    (folder / "a.txt").write_bytes(b"changed")
    card = write_card(folder, steps=4)
    hashes = {"a.txt": hashlib.sha256(b"changed").hexdigest(), "deep/b.bin": hashlib.sha256(b"two").hexdigest()}
    assert card == read_card(folder) == {"licence": "CC0", "steps": 4, "files": hashes} and file_hashes(folder) == hashes


def test_what_is_read_is_what_the_card_records(folder):
    with pytest.raises(FileNotFoundError, match=r"card\.json is missing, without it a\.txt cannot be checked"):
        read_checked(folder, "a.txt")
    write_card(folder)
    assert (read_checked(folder, "a.txt"), read_checked(folder, "deep/b.bin")) == (b"one", b"two")


@pytest.mark.parametrize(
    ("name", "content", "kind", "sentence"),
    [
        ("a.txt", b"onE", ValueError, rf"a\.txt is damaged or not the file .* its sha256 must be {hashlib.sha256(b'one').hexdigest()}\.$"),
        ("a.txt", b"", ValueError, r"a\.txt is damaged"),
        ("a.txt", None, FileNotFoundError, r"a\.txt is missing, but card\.json lists it"),
        ("new.txt", b"new", ValueError, r"new\.txt is not listed in card\.json: remove it or update the card"),
    ],
)
def test_other_content_is_refused_in_one_sentence(folder, name, content, kind, sentence):
    write_card(folder)
    (folder / name).unlink(missing_ok=True)
    if content is not None:
        (folder / name).write_bytes(content)
    with pytest.raises(kind, match=sentence) as raised:
        read_checked(folder, name)
    assert_one_sentence(raised)


@pytest.mark.parametrize("content", [b"", b"{", b"5", b"[]", b'{"files": null}', b'{"files": {"a.txt": 5}}', b"\xff\xff", b"[" * 100_000])
def test_a_damaged_card_is_named(folder, content):
    (folder / "card.json").write_bytes(content)
    with pytest.raises(ValueError, match=r"card\.json is damaged, restore it: it ") as raised:
        read_checked(folder, "a.txt")
    assert_one_sentence(raised)


def test_a_card_without_hashes_vouches_for_nothing(folder):
    (folder / "card.json").write_text(json.dumps({"licence": "CC0"}))
    with pytest.raises(ValueError, match=r"a\.txt is not listed in card\.json"):
        read_checked(folder, "a.txt")


# A pipeline's folder --------------------------------------------------------------------------------------------------------------


def test_a_changed_byte_is_found_and_the_file_named(mini):
    file = mini / "unet/diffusion_pytorch_model.safetensors"
    content = bytearray(file.read_bytes())
    content[-1] ^= 1
    file.write_bytes(content)
    with pytest.raises(
        ValueError, match=r"unet/diffusion_pytorch_model\.safetensors is damaged or not the file that card\.json records"
    ) as raised:
        load_pipeline()
    assert_one_sentence(raised)


def test_missing_and_unlisted_files_and_a_missing_card_are_found(mini):
    (mini / "vae/extra.safetensors").write_bytes(b"")
    with pytest.raises(ValueError, match=r"vae/extra\.safetensors is not listed in card\.json"):
        load_pipeline()
    (mini / "vae/extra.safetensors").unlink()
    (mini / "training.log").write_text("not read by anyone")
    load_pipeline()
    (mini / "vae/config.json").unlink()
    with pytest.raises(FileNotFoundError, match=r"vae/config\.json is missing, but card\.json lists it"):
        load_pipeline()
    (mini / "card.json").unlink()
    with pytest.raises(ValueError, match=r"mini has no card\.json"):
        load_pipeline()
