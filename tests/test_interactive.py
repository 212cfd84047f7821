"""Interactive figures as HTML: everything is on the page without scripts, the images are the given ones, nothing comes from outside.

What they do under the reader's hands is tested in a browser, in test_figure_pages.py.
"""

import base64
import io
import re
from html.parser import HTMLParser

import numpy as np
import pytest
import torch
from PIL import Image

from companion.book import COLOURS, before_after, walk_scrubber
from smoothlib.metrics import step_statistics

EVIL = """<script>alert("1")</script> & 'a' </option><img src=x onerror=alert(1)>"""


class Elements(HTMLParser):
    """All start tags with their attributes, and the text inside the elements of each tag."""

    def __init__(self, html):
        super().__init__()
        self.tags, self.text, self._open = [], {}, []
        self.feed(html)

    def handle_starttag(self, tag, attributes):
        self.tags.append((tag, dict(attributes)))
        if tag not in ("img", "input"):
            self._open.append(tag)
            self.text.setdefault(tag, []).append("")

    def handle_endtag(self, tag):
        assert self._open.pop() == tag, f"</{tag}> closes nothing"

    def handle_data(self, data):
        for tag in set(self._open):
            self.text[tag][-1] += data

    def all(self, tag, **attributes):
        return [found for name, found in self.tags if name == tag and attributes.items() <= found.items()]


def decoded(image):
    kind, content = image["src"].split(",", 1)
    assert kind == "data:image/webp;base64"
    return np.asarray(Image.open(io.BytesIO(base64.b64decode(content))).convert("RGB"))


def smooth_images(count, size=64, seed=0):
    """(count, 3, size, size) uint8 that compress as photographs do: a few coarse cells, softly joined."""
    coarse = torch.rand(count, 3, 5, 5, generator=torch.Generator().manual_seed(seed)) * 255
    return torch.nn.functional.interpolate(coarse, size=size, mode="bicubic").clamp(0, 255).to(torch.uint8).numpy()


def example_walks(prompts=2, frames=4, rows=("Base", "Smooth"), size=16):
    images = smooth_images(prompts * len(rows) * frames, size).reshape(prompts, len(rows), frames, 3, size, size)
    walks = [dict(zip(rows, prompt, strict=True)) for prompt in images]
    distances = [{row: np.arange(1.0, frames) + i + r for r, row in enumerate(rows)} for i in range(prompts)]
    return walks, distances


def scrubber(prompts=2, captions=None, **more):
    walks, distances = example_walks(prompts)
    return walk_scrubber(walks, distances, captions=captions or [f"caption {i}" for i in range(prompts)], alt="Two rows of walks", **more)


def example_pairs(count=2, size=16):
    images = smooth_images(2 * count, size)
    return [(images[2 * i], images[2 * i + 1]) for i in range(count)]


def wiper(count=2, labels=None, **more):
    return before_after(example_pairs(count), labels=labels or [f"label {i}" for i in range(count)], alt="Images and copies", **more)


def test_film_strips_hold_every_frame_pixel_for_pixel():
    walks, _ = example_walks()
    images = Elements(scrubber()._repr_html_()).all("img")
    given = [walk[row] for walk in walks for row in ("Base", "Smooth")]
    assert len(images) == len(given)
    for image, frames in zip(images, given, strict=True):
        np.testing.assert_array_equal(decoded(image), np.concatenate(list(frames.transpose(0, 2, 3, 1)), axis=1))
    assert [image["data-alt"] for image in images] == [f"{row}, caption {i}" for i in (0, 1) for row in ("Base", "Smooth")]
    assert all(image["alt"] == image["data-alt"] + ": 4 frames of the walk" and image["class"] == "dark-light" for image in images)


def test_pairs_are_kept_pixel_for_pixel():
    images = Elements(wiper().html).all("img")
    for image, given in zip(images, [image for pair in example_pairs() for image in pair], strict=True):
        np.testing.assert_array_equal(decoded(image), given.transpose(1, 2, 0))
    assert [image["alt"] for image in images] == [f"{side}: label {i}" for i in (0, 1) for side in ("Source", "Reconstruction")]


def test_floats_and_tensors_equal_bytes():
    walks, distances = example_walks()
    floats = [{row: torch.from_numpy(frames).float() / 127.5 - 1 for row, frames in walk.items()} for walk in walks]
    assert walk_scrubber(floats, distances, captions=["caption 0", "caption 1"], alt="Two rows of walks").html == scrubber().html


def test_one_slider_and_a_choice_where_there_are_several():
    page = Elements(scrubber().html)
    (slider,) = page.all("input")
    assert (slider["type"], slider["min"], slider["max"], slider["value"]) == ("range", "0", "3", "0")
    assert page.text["option"] == ["caption 0", "caption 1"] and [text.strip() for text in page.text["label"]][1] == "Frame"
    assert len(page.all("section")) == 2
    page = Elements(wiper().html)
    (slider,) = page.all("input")
    assert (slider["max"], slider["value"], slider["aria-label"]) == ("100", "50", "Source or Reconstruction")
    assert page.text["option"] == ["label 0", "label 1"]
    assert not Elements(scrubber(1).html).all("select") and not Elements(wiper(1).html).all("select")


def test_curves_have_a_point_a_step_and_differ_without_colour():
    page = Elements(scrubber().html)
    curves = [attributes for tag, attributes in page.tags if tag == "svg" and attributes.get("role") == "img"]
    assert len(curves) == 2 and curves[0]["aria-label"] == "Step distance over frames: Base with CV 0.408; Smooth with CV 0.272"
    points = [path for path in page.all("path") if "data-frame" in path]
    assert [point["data-frame"] for point in points] == ["1", "2", "3"] * 4  # rows and prompts
    assert {point["fill"] for point in points} == set(COLOURS[:2])
    assert len({point["d"] for point in points}) == 2  # the points' shapes
    lines = [path for path in page.all("path", fill="none")]
    assert len(lines) == 4 and len({line["stroke-dasharray"] for line in lines}) == 2
    heights = [float(re.search(r" ([\d.]+)\)", point["transform"]).group(1)) for point in points]
    values = [d + i + r for i in (0, 1) for r in (0, 1) for d in (1.0, 2.0, 3.0)]
    np.testing.assert_allclose(np.corrcoef(heights, values)[0, 1], -1, atol=1e-6)  # upwards, one axis for all prompts


def test_values_are_those_of_the_metric():
    walks, distances = example_walks()
    widget = walk_scrubber(walks, distances, captions=["first", "second"], alt="Two rows of walks")
    for i, prompt in enumerate(distances):
        for row, values in prompt.items():
            cv = f"CV {float(step_statistics(values)['cv']):.3f}"
            assert f"{row}: {cv}, mean step {values.mean():.3g}" in Elements(widget.html).text["section"][i]
            assert f"{row} {cv[3:]}" in widget.text.splitlines()[1 + i]
    steps = [span["data-steps"] for span in Elements(widget.html).all("span") if "data-steps" in span]
    assert steps == ["1 2 3", "2 3 4", "2 3 4", "3 4 5"]
    assert repr(widget) == widget.text and widget.text.startswith("Two rows of walks (4 frames under a slider")


@pytest.mark.parametrize("make", [lambda: scrubber(captions=[EVIL, "plain"]), lambda: wiper(labels=[EVIL, "plain"])])
def test_texts_are_never_markup(make):
    clean, page = Elements(make().html.replace(EVIL, "")), Elements(make().html)
    assert [tag for tag, _ in page.tags] == [tag for tag, _ in clean.tags]
    assert len(page.all("script")) == 1 and all(image["src"].startswith("data:") for image in page.all("img"))
    assert page.text["option"][0] == EVIL and any(EVIL in image["alt"] for image in page.all("img"))


@pytest.mark.parametrize("make", [scrubber, wiper])
def test_nothing_comes_from_outside_and_the_script_is_small(make):
    html = make().html
    without_images = re.sub(r"data:image/webp;base64,[A-Za-z0-9+/=]+", "", html)
    assert not re.search(r"https?:|//|url\(|@import|\bimport\b|fetch\(|eval|innerHTML|document\.write", without_images)
    page = Elements(html)
    assert not {tag for tag, _ in page.tags} & {"link", "iframe", "object", "embed", "video"} and len(page.all("style")) == 1
    assert len(page.text["script"][0]) < 3000
    assert not [attributes for _, attributes in page.tags if "id" in attributes or "for" in attributes]  # nothing to collide on a page
    assert make().html == html


def test_without_scripts_images_show_and_controls_hide():
    for html in (scrubber().html, wiper().html):
        assert ".smooth-widget:not(.smooth-on) .smooth-live{display:none!important}" in html
        assert not [attributes for _, attributes in Elements(html).tags if "hidden" in attributes]


def test_eight_prompts_of_two_rows_fit_and_the_quality_is_stated():
    images = torch.from_numpy(smooth_images(8 * 2 * 11)).float()
    grain = torch.randn(images.shape, generator=torch.Generator().manual_seed(1)) * 6
    frames = (images + grain).clamp(0, 255).to(torch.uint8).numpy().reshape(8, 2, 11, 3, 64, 64)
    walks = [{"Base": base, "Smooth": smooth} for base, smooth in frames]
    _, distances = example_walks(8, 11)
    widget = walk_scrubber(walks, distances, captions=["a red cube"] * 8, alt="walks")
    assert 100_000 < len(widget.html.encode()) <= 300_000
    quality, psnr = re.search(r"Images: 64 x 64 pixels; WebP, quality (\d+), PSNR (\d+) dB to the pixels\.", widget.html).groups()
    shown = np.stack([decoded(image) for image in Elements(widget.html).all("img")]).astype(float)
    given = np.stack([np.concatenate(list(walk.transpose(0, 2, 3, 1)), axis=1) for prompt in frames for walk in prompt])
    assert int(quality) >= 75 and 10 * np.log10(255**2 / ((shown - given) ** 2).mean()) == pytest.approx(int(psnr), abs=0.51)
    more = walk_scrubber(walks, distances, captions=["a red cube"] * 8, alt="walks", max_kb=2500)
    assert "Images: 64 x 64 pixels; WebP, lossless." in more.html
    with pytest.raises(
        ValueError, match=r"The images need \d+ kB even at WebP quality 75, but max_kb leaves \d+ kB: show fewer or smaller"
    ):
        walk_scrubber(walks, distances, captions=["a red cube"] * 8, alt="walks", max_kb=12)


def photographs(count, side=512):
    """`count` natural photographs, (3, side, side) uint8: crops of those that come with scikit-image."""
    from skimage.data import astronaut, chelsea, coffee, rocket

    sources = [np.asarray(Image.fromarray(image()).resize((side + 96, side + 96))) for image in (astronaut, chelsea, coffee, rocket)]
    places = [(i % 4, 12 * (i // 4) % 96) for i in range(count)]
    return [np.ascontiguousarray(sources[k][at : at + side, at : at + side].transpose(2, 0, 1)) for k, at in places]


def test_photographs_of_512_pixels_fit_on_a_page():
    """Figure 4's five images by four rows and by seven, and Table 1's eight walks of two rows, on Stable Diffusion 1.5."""
    images = photographs(40)
    for rows in (4, 7):
        pairs = [(images[i], images[5 + i + r]) for i in range(5) for r in range(rows)]
        html = before_after(pairs, labels=[f"pair {k}" for k in range(5 * rows)], alt="images").html
        assert len(html.encode()) <= 300_000 and html.count("<section>") == 5 * rows
        shown = int(re.search(r"Images: 512 x 512 pixels, shrunk to (\d+); WebP, quality", html)[1])
        assert 128 <= shown < 384 and decoded(Elements(html).all("img")[0]).shape[0] == shown
    frames = np.stack([images[k % 40] for k in range(8 * 2 * 11)]).reshape(8, 2, 11, 3, 512, 512)
    walks, (_, distances) = [dict(zip(("Base", "Smooth"), prompt, strict=True)) for prompt in frames], example_walks(8, 11)
    widget = walk_scrubber(walks, distances, captions=[f"walk {k}" for k in range(8)], alt="walks")
    sections = widget.html.count("<section>")
    assert len(widget.html.encode()) <= 300_000 and 1 <= sections < 8 and "shrunk to 128" in widget.html
    assert f"The first {sections} of 8: the others would make the page too large." in widget.html
    assert widget.html.count("<option>") == (sections if sections > 1 else 0) and repr(widget).count("  walk") == sections


def test_large_images_are_shrunk_and_say_so():
    page = Elements(before_after(example_pairs(1, size=96), labels=["one"], alt="copies", max_size=48).html)
    assert decoded(page.all("img")[0]).shape == (48, 48, 3)
    np.testing.assert_allclose(  # averaged over areas, rounded along one side and then the other
        decoded(page.all("img")[0]), example_pairs(1, 96)[0][0].reshape(3, 48, 2, 48, 2).mean((2, 4)).transpose(1, 2, 0), atol=1.01
    )
    assert "Images: 96 x 96 pixels, shrunk to 48; WebP, lossless." in page.text["p"]


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        ({"alt": " "}, "alt is empty, but must say what the figure shows"),
        ({"captions": ["a"]}, "captions has 1 entries for 2 choices"),
        ({"captions": ["a", ""]}, "captions has an entry without text"),
        ({"walks": [], "distances": [], "captions": []}, "captions has 0 entries for 0 choices"),
        ({"walks": [{}, {}]}, "walks has 0 rows, but must have from 1 to 6"),
        ({"walks": [example_walks()[0][0], {"Base": np.zeros((4, 3, 16, 16), np.uint8)}]}, r"walks has the rows \['Base'\] for one prompt"),
        ({"walks": example_walks(frames=2)[0]}, r"walks has walks of \[2\] frames, but all must have the same number, at least 3"),
        ({"walks": [example_walks()[0][0], example_walks(frames=5)[0][0]]}, r"walks has walks of \[4, 5\] frames"),
        ({"walks": [example_walks()[0][0], example_walks(size=8)[0][0]]}, r"walks has images of 2 sizes, \(8, 8\) and \(16, 16\)"),
        ({"walks": [{"Base": np.zeros((4, 16, 16, 3)), "Smooth": np.zeros((4, 16, 16, 3))}] * 2}, r"An image has the shape \(16, 16, 3\)"),
        (
            {"distances": [{"Base": [1, 2, 3]}] * 2},
            r"distances is for 2 prompts, but must have the rows \['Base', 'Smooth'\] for each of 2",
        ),
        ({"distances": [{"Base": [1, 2], "Smooth": [1, 2, 3]}] * 2}, r"distances has the values \[1.0, 2.0\], but must have 3 a walk"),
        ({"distances": [{"Base": [1, 2, float("nan")], "Smooth": [1, 2, 3]}] * 2}, r"distances has the values \[1.0, 2.0, nan\]"),
        ({"distances": [{"Base": [1, 2, -1], "Smooth": [1, 2, 3]}] * 2}, "none negative"),
        ({"distances": [{"Base": [0, 0, 0], "Smooth": [1, 2, 3]}] * 2}, "not all 0"),
    ],
)
def test_bad_walks_are_named(change, sentence):
    walks, distances = example_walks()
    arguments = {"walks": walks, "distances": distances, "captions": ["a", "b"], "alt": "walks"} | change
    with pytest.raises(ValueError, match=sentence):
        walk_scrubber(**arguments)


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        ({"alt": ""}, "alt is empty"),
        ({"labels": ["a", "b", "c"]}, "labels has 3 entries for 2 choices"),
        ({"pairs": [], "labels": []}, "labels has 0 entries for 0 choices"),
        ({"sides": ("Source",)}, r"sides is \('Source',\), but must be two names"),
        ({"pairs": [(np.zeros((3, 8, 8)),) * 3] * 2}, r"pairs has an entry of 3 images, but each must be \(source, reconstruction\)"),
        ({"pairs": [(np.zeros((3, 8, 8)), np.zeros((3, 8, 9)))] * 2}, r"pairs has images of 2 sizes, \(8, 8\) and \(8, 9\)"),
        ({"pairs": [(np.zeros((3, 8, 8)), np.full((3, 8, 8), 2.0))] * 2}, r"An image has values from 2 to 2, but must lie in \[-1, 1\]"),
    ],
)
def test_bad_pairs_are_named(change, sentence):
    with pytest.raises(ValueError, match=sentence):
        before_after(**{"pairs": example_pairs(), "labels": ["a", "b"], "alt": "copies"} | change)
