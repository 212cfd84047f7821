"""Folders of pictures with captions: a listing, a .txt beside each picture, or COCO of 2014 and 2017; links that lead out are refused."""

import json

import pytest
from PIL import Image
from tiny import assert_one_sentence

from companion.base import paths
from companion.data.captioned import captioned_folder
from companion.data.listings import ListingError
from companion.data.load import load_items
from companion.data.sources import layout_of
from companion.training.objectives.latents import FolderLatents, open_data

NAMES = ("a.png", "b.png", "deep/c.png")


@pytest.fixture
def folder(tmp_path, monkeypatch):
    monkeypatch.setattr(paths, "RUNS", tmp_path / "runs")
    photos = tmp_path / "photos"
    (photos / "deep").mkdir(parents=True)
    for number, name in enumerate(NAMES):
        Image.new("RGB", (16, 16), (60 * number, 0, 0)).save(photos / name)
    return photos


def caption_of(name):
    return f'a "{name}", seen'


def listed(folder, name, field):
    if name.endswith("jsonl"):
        lines = [json.dumps({"file_name": name, field: caption_of(name)}) for name in NAMES]
    else:
        quoted = [caption_of(name).replace('"', '""') for name in NAMES]
        lines = [f"more,{field},file_name", *(f'1,"{caption}",{name}' for name, caption in zip(NAMES, quoted, strict=True))]
    (folder / name).write_text("\ufeff" + "\n".join(lines))


def beside(folder):
    for name in NAMES:
        (folder / name).with_suffix(".txt").write_text(f" {caption_of(name)}\n")


@pytest.mark.parametrize("field", ["text", "caption"])
@pytest.mark.parametrize("name", ["metadata.jsonl", "captions.jsonl", "metadata.csv", "captions.csv", None])
def test_every_layout_gives_the_same_pairs(folder, name, field):
    listed(folder, name, field) if name else beside(folder)
    examples = open_data(str(folder), "train", None, 16, None, 1)
    assert examples.captions == [caption_of(name) for name in NAMES]
    assert [file.relative_to(folder).as_posix() for file in examples.files] == list(NAMES)


def test_text_files_that_are_missing_empty_or_no_text_are_named_or_left_out(folder):
    beside(folder)
    for text, sentence in (
        (None, r"b\.png has no caption: there is no b\.txt beside it"),
        (b" \n", r"b\.txt is empty, but must be the caption of b\.png"),
        ("é".encode("latin-1"), r"b\.txt is not UTF-8, but must be"),
    ):
        (folder / "b.txt").unlink(missing_ok=True)
        if text is not None:
            (folder / "b.txt").write_bytes(text)
        with pytest.raises(ValueError, match=rf"1 of 3 images of .* cannot be used: .*{sentence}.*bad_images=skip") as raised:
            FolderLatents(None, folder, 16)
        assert_one_sentence(raised)
        with pytest.warns(UserWarning, match="they are left out"):
            examples = FolderLatents(None, folder, 16, bad_images="skip")
        assert examples.skipped == 1 and len(examples) == 2


REFUSED = {
    "commas": (
        "captions.csv",
        "file_name,text\na.png,one, two",
        r"line 2 of .*captions\.csv has more fields than the header: put a caption",
    ),
    "no header": ("captions.csv", "a.png,one", r"captions\.csv must list at least one image, but is empty"),
    "other header": ("captions.csv", "image,text\na.png,one", r"line 2 of .*captions\.csv must give an existing image's file_name"),
    "a short row": ("captions.csv", "file_name,text\na.png", r"line 2 of .*captions\.csv must give an existing image's file_name"),
    "an open quote": ("captions.csv", 'file_name,text\na.png,"one', r"line \d of .*captions\.csv is not CSV: unexpected end of data"),
    "an empty caption": (
        "captions.csv",
        "file_name,text\na.png, ",
        r"line 2 of .*captions\.csv must give a\.png a caption, but its text is",
    ),
    "two captions": (
        "captions.jsonl",
        '{"file_name": "a.png", "text": "a", "caption": "b"}',
        r"line 1 of .* must give an existing image's",
    ),
    "upwards": (
        "captions.csv",
        "file_name,text\n../photos/a.png,one",
        r"has the file_name '\.\./photos/a\.png', but must name a picture inside",
    ),
    "absolute": ("captions.csv", "file_name,text\n/a.png,one", "has the file_name '/a.png', but must name a picture inside"),
    "utf-16": ("captions.csv", "file_name,text\na.png,one".encode("utf-16"), r"captions\.csv is UTF-16, but must be UTF-8"),
}


@pytest.mark.parametrize("kind", REFUSED)
def test_other_listings_are_refused_by_name(folder, kind):
    name, content, sentence = REFUSED[kind]
    (folder / name).write_bytes(content if isinstance(content, bytes) else content.encode())
    with pytest.raises(ListingError, match=sentence) as raised:
        captioned_folder(folder)
    assert_one_sentence(raised)


def test_a_folder_has_one_listing(folder):
    listed(folder, "metadata.jsonl", "text")
    listed(folder, "captions.csv", "text")
    with pytest.raises(ListingError, match=r"has metadata\.jsonl and captions\.csv, but must have one listing"):
        captioned_folder(folder)


def coco(folder, year):
    """COCO as published: two captions an image, and images that have none."""
    split = f"val{year}"
    name = "COCO_val2014_{:012d}.jpg" if year == 2014 else "{:012d}.jpg"
    (folder / "annotations").mkdir(parents=True, exist_ok=True)
    (folder / split).mkdir()
    ids = (42, 73, 974)
    for number in ids:
        Image.new("RGB", (20, 16), (number % 256, 0, 0)).save(folder / split / name.format(number))
    images = [{"license": 3, "file_name": name.format(i), "coco_url": "", "height": 16, "width": 20, "id": i} for i in (*ids, 7)]
    captions = [{"image_id": i, "id": 2 * i + n, "caption": f"{'first' if n == 0 else 'other'} of {i}\n"} for n in (1, 0) for i in ids]
    content = {"info": {"year": year}, "images": images, "licenses": [], "type": "captions", "annotations": captions}
    (folder / "annotations" / f"captions_{split}.json").write_text(json.dumps(content))
    return split


@pytest.mark.parametrize("year", [2014, 2017])
def test_coco_as_published_is_trained_and_measured_on(tmp_path, monkeypatch, year):
    monkeypatch.setattr(paths, "RUNS", tmp_path / "runs")
    split = coco(tmp_path / "coco", year)
    examples = open_data(str(tmp_path / "coco"), split, None, 16, None, 1)
    assert examples.captions == ["first of 42", "first of 73", "first of 974"]
    items = load_items(str(tmp_path / "coco"), split, 3, size=16)
    assert [(item.id, item.caption) for item in items] == [("42", "first of 42"), ("73", "first of 73"), ("974", "first of 974")]
    assert all((item.image == examples.picture(place)).all() for place, item in enumerate(items))
    with pytest.raises(ListingError, match=rf"COCO is not in .*; there are annotations of {split}"):
        open_data(str(tmp_path / "coco"), "train", None, 16, None, 1)


def test_links_that_lead_out_of_the_folder_are_refused(tmp_path, folder):
    secret = tmp_path / "secret.png"
    Image.new("RGB", (16, 16)).save(secret)
    (folder / "inner.png").symlink_to(folder / "a.png")  # stays inside
    (folder / "captions.csv").write_text("file_name,text\ninner.png,one")
    assert len(FolderLatents(None, folder, 16)) == 1
    (folder / "out.png").symlink_to(secret)
    (folder / "way").symlink_to(tmp_path)
    for name in ("out.png", "way/secret.png"):
        (folder / "captions.csv").write_text(f"file_name,text\n{name},one")
        with pytest.raises(ListingError, match=f"line 2 of .* names '{name}', a link that leads out of the folder") as raised:
            captioned_folder(folder)
        assert_one_sentence(raised)
    (folder / "captions.csv").unlink()
    beside(folder)
    with pytest.raises(ListingError, match=r"names 'out\.png', a link that leads out of the folder"):
        captioned_folder(folder)
    (folder / "out.png").unlink()
    (folder / "b.txt").unlink()
    (tmp_path / "secret.txt").write_text("secret")
    (folder / "b.txt").symlink_to(tmp_path / "secret.txt")
    with pytest.raises(ListingError, match=r"names 'b\.txt', a link that leads out of the folder"):
        captioned_folder(folder)
    split = coco(tmp_path / "coco", 2017)
    linked = tmp_path / "coco" / split / "000000000042.jpg"
    linked.unlink()
    linked.symlink_to(secret)
    with pytest.raises(ListingError, match=r"captions_val2017\.json names '000000000042\.jpg', a link that leads out"):
        open_data(str(tmp_path / "coco"), split, None, 16, None, 1)
    with pytest.raises(ListingError, match=r"captions_val2017\.json names '000000000042\.jpg', a link that leads out"):
        load_items(str(tmp_path / "coco"), split, 1, size=16)


def test_what_a_folder_looks_like_decides_unless_it_is_said(folder):
    assert layout_of(str(folder)) == "folder" and layout_of("no/such/folder") == "folder"
    assert layout_of("laion/0*.tar") == layout_of("laion/00000.tar") == "shards"
    (folder / "00000.tar").write_bytes(b"")
    assert layout_of(str(folder)) == "shards" and layout_of(str(folder), "folder") == "folder"
    listed(folder, "metadata.jsonl", "text")
    with pytest.raises(ListingError, match="which looks like folder and shards: say which it is by the setting layout"):
        layout_of(str(folder))
