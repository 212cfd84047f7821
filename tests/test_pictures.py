"""Pictures: shown as they were meant, whatever file they come in; what cannot be shown is refused by its name."""

import io
import struct
import zlib

import numpy as np
import pytest
from PIL import Image, ImageOps

from companion.base import paths
from companion.data import pictures
from companion.data.pictures import PictureError, examine, grey_range, read_picture, square

SIDE = 48
RAMP = np.add.outer(np.arange(SIDE), np.arange(SIDE)) / (2 * SIDE - 2)  # 0 to 1
GREY8 = (RAMP * 255).round().astype(np.uint8)
COLOURS = np.stack([GREY8, 255 - GREY8, np.roll(GREY8, 9, axis=0)], axis=-1)


def saved(tmp_path, image, name="picture.png", **options):
    image.save(tmp_path / name, **options)
    return tmp_path / name


@pytest.mark.parametrize(
    ("name", "values"),
    [
        ("deep.png", (RAMP * 65535).round().astype(np.uint16)),
        ("deep.tif", (RAMP * 65535).round().astype(np.uint16)),
        ("big-endian.tif", (RAMP * 65535).round().astype(">u2")),
        ("whole.tif", (RAMP * 65535).round().astype(np.int32)),
        ("whole-of-8-bits.tif", GREY8.astype(np.int32)),
        ("float.tif", RAMP.astype(np.float32)),
        ("float-of-8-bits.tif", GREY8.astype(np.float32)),
    ],
)
def test_deep_grey_is_the_grey_that_it_shows(tmp_path, name, values):
    file = saved(tmp_path, Image.fromarray(values), name)
    found = read_picture(file, SIDE)
    assert np.abs(found.astype(int) - GREY8[..., None]).max() <= 1 and found.shape == (SIDE, SIDE, 3)


@pytest.mark.parametrize(
    ("mode", "low", "high"),
    [("F", -0.1, 1), ("F", 0, 1.02), ("F", 0, 300), ("F", float("nan"), float("nan")), ("I", -5, 9), ("I", 0, 2**31 - 1)],
)
def test_grey_without_a_known_range_is_refused(tmp_path, mode, low, high):
    with pytest.raises(PictureError, match=r"^has grey values from"):
        grey_range(mode, low, high)
    values = np.array([[low, high]] * 2)
    file = saved(tmp_path, Image.fromarray(values.astype(np.float32 if mode == "F" else np.int32)), "odd.tif")
    with pytest.raises(PictureError, match=r"odd\.tif has grey values from .*save it in 8 or 16 bits"):
        read_picture(file, SIDE)


@pytest.mark.parametrize("orientation", range(1, 9))
def test_orientation_is_applied(tmp_path, orientation):
    image = Image.fromarray(COLOURS)
    exif = image.getexif()
    exif[0x0112] = orientation
    file = saved(tmp_path, image, exif=exif)
    assert np.array_equal(read_picture(file, SIDE), np.array(ImageOps.exif_transpose(Image.open(file))))


def test_transparency_shows_white(tmp_path):
    alpha = np.full((SIDE, SIDE), 255, np.uint8)
    alpha[: SIDE // 2] = 0
    alpha[SIDE // 2 : -8] = 128
    wanted = COLOURS * (alpha[..., None] / 255) + 255 * (1 - alpha[..., None] / 255)
    file = saved(tmp_path, Image.fromarray(np.dstack([COLOURS, alpha])))
    found = read_picture(file, SIDE)
    assert np.abs(found - wanted).max() <= 1 and np.array_equal(found[-8:], COLOURS[-8:])  # opaque pixels exactly
    file = saved(tmp_path, Image.fromarray(np.dstack([GREY8, alpha])), "grey.png")
    assert (read_picture(file, SIDE)[: SIDE // 2] == 255).all()
    keyed = Image.fromarray(np.where(GREY8 > 127, 1, 0).astype(np.uint8)).convert("P")
    keyed.putpalette([255, 0, 0, 0, 0, 255])
    found = read_picture(saved(tmp_path, keyed, "keyed.png", transparency=0), SIDE)
    assert found[0, 0].tolist() == [255, 255, 255] and found[-1, -1].tolist() == [0, 0, 255]


@pytest.mark.parametrize("mode", ["L", "1", "P", "RGBA", "LA", "CMYK", "YCbCr"])
def test_other_kinds_show_the_same_picture(tmp_path, mode):
    image = Image.fromarray(COLOURS)
    image = image.convert("L").convert("LA") if mode == "LA" else image.convert(mode)
    file = saved(tmp_path, image, "picture.tif" if mode in ("CMYK", "YCbCr", "LA") else "picture.png")
    assert np.array_equal(read_picture(file, SIDE), np.array(image.convert("RGB")))


@pytest.mark.parametrize("name", ["moving.gif", "moving.webp"])
def test_the_first_of_several_frames_counts_and_no_file_stays_open(tmp_path, name, recwarn):
    first, second = Image.new("RGB", (20, 20), (255, 0, 0)), Image.new("RGB", (20, 20), (0, 0, 255))
    file = saved(tmp_path, first, name, save_all=True, append_images=[second], lossless=True)
    assert read_picture(file, 16)[8, 8].tolist() in ([255, 0, 0], [254, 0, 0])
    assert not [warning for warning in recwarn if issubclass(warning.category, ResourceWarning)]


def test_the_largest_centred_square_is_resized(tmp_path):
    wide = np.zeros((40, 100, 3), np.uint8)
    wide[:, 30:70] = COLOURS[:40, :40]
    for turned in (wide, wide.transpose(1, 0, 2)):
        file = saved(tmp_path, Image.fromarray(turned))
        inner = COLOURS[:40, :40] if turned is wide else COLOURS[:40, :40].transpose(1, 0, 2)
        assert np.array_equal(read_picture(file, 40), inner)  # of the right size already: as it is
        assert np.array_equal(read_picture(file, 16), square(Image.fromarray(inner), 16))
    stripes = np.zeros((256, 256, 3), np.uint8)
    stripes[::2] = 255
    shrunk = square(Image.fromarray(stripes), 16)
    assert np.abs(shrunk.astype(int) - 127.5).max() < 4  # averaged, not sampled
    for size in ((1, 1), (3000, 1)):
        file = saved(tmp_path, Image.new("RGB", size, (9, 99, 199)))
        assert (read_picture(file, 8) == [9, 99, 199]).all()


def header(width, height):
    """A PNG that says it is so large, without its pixels."""
    chunks = [(b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)), (b"IDAT", zlib.compress(b"")), (b"IEND", b"")]
    coded = (struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data)) for kind, data in chunks)
    return b"\x89PNG\r\n\x1a\n" + b"".join(coded)


@pytest.mark.filterwarnings("ignore::PIL.Image.DecompressionBombWarning")
@pytest.mark.parametrize(
    ("content", "sentence"),
    [
        (header(65535, 1), "is 65535 x 1, but must be at most 10000 times as long as wide"),
        (header(1, 65535), "is 1 x 65535, but must be at most 10000 times as long as wide"),
        (header(13000, 13000), "is 13000 x 13000, but must have at most 89478485 pixels"),
        (header(20000, 20000), "cannot be read as a picture: .*400000000 pixels"),
        (header(30, 30), "cannot be read as a picture: ."),
        (b"", "is no picture of a format that Pillow knows"),
        (b"<html>404</html>", "is no picture of a format that Pillow knows"),
        (None, "cannot be read: No such file"),
    ],
    ids=["wide", "high", "large", "bomb", "no pixels", "empty", "page", "missing"],
)
def test_what_is_no_picture_is_refused_by_name(tmp_path, content, sentence):
    if content is not None:
        (tmp_path / "odd.png").write_bytes(content)
    with pytest.raises(PictureError, match=rf"odd\.png {sentence}") as raised:
        read_picture(tmp_path / "odd.png", SIDE)
    assert "\n" not in str(raised.value) and "BytesIO" not in str(raised.value)


@pytest.mark.parametrize("name", ["cut.jpg", "cut.png", "cut.webp", "cut.gif", "cut.tif"])
def test_a_picture_that_is_cut_off_is_refused_by_name(tmp_path, name):
    noise = np.random.default_rng(0).integers(0, 255, (64, 64, 3), dtype=np.uint8)
    file = saved(tmp_path, Image.fromarray(noise), name)
    file.write_bytes(file.read_bytes()[:-1500])
    with pytest.raises(PictureError, match=name.replace(".", r"\.")):
        read_picture(file, SIDE)


def test_a_folder_is_decoded_once_and_again_where_it_changes(tmp_path, monkeypatch):
    monkeypatch.setattr(paths, "RUNS", tmp_path / "runs")
    monkeypatch.setattr(pictures, "SETTLED", -1)  # files this young would be looked at again
    folder = tmp_path / "photos"
    folder.mkdir()
    for name, colour in (("a.bmp", "red"), ("b.bmp", "lime")):
        Image.new("RGB", (8, 8), colour).save(folder / name)
    (folder / "c.bmp").write_bytes(b"?")
    looked = []
    look = pictures._look
    monkeypatch.setattr(pictures, "_look", lambda file: looked.append(file.name) or look(file))
    names = ["a.bmp", "b.bmp", "c.bmp", "d.bmp", "a.bmp"]
    first = examine(folder, names)
    assert sorted(looked) == names[:4] and first["a.bmp"].problem is None and first["a.bmp"].sha256 != first["b.bmp"].sha256
    assert "c.bmp is no picture" in first["c.bmp"].problem and "No such file" in first["d.bmp"].problem
    looked.clear()
    assert examine(folder, names) == first and looked == ["d.bmp"]  # what is missing is looked for again
    Image.new("RGB", (8, 8), "blue").save(folder / "a.bmp")  # as many bytes
    looked.clear()
    assert examine(folder, names)["a.bmp"].sha256 != first["a.bmp"].sha256 and sorted(looked) == ["a.bmp", "d.bmp"]
    (kept,) = (tmp_path / "runs" / "pictures").iterdir()
    kept.write_text('{"a.bmp": 5}')
    looked.clear()
    assert examine(folder, names)["c.bmp"] == first["c.bmp"] and sorted(looked) == names[:4]


def test_a_young_file_is_looked_at_again(tmp_path, monkeypatch):
    """Two writes within one tick of the file system's clock have one time stamp."""
    monkeypatch.setattr(paths, "RUNS", tmp_path / "runs")
    image = io.BytesIO()
    Image.new("RGB", (8, 8)).save(image, "bmp")
    (tmp_path / "a.bmp").write_bytes(image.getvalue())
    examine(tmp_path, ["a.bmp"])
    monkeypatch.setattr(pictures, "_look", lambda file: "again")
    assert examine(tmp_path, ["a.bmp"]) == {"a.bmp": "again"}
