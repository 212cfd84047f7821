"""The live widgets in a real browser: a reader loads the model, moves sliders, and sees what PyTorch would have made."""

import pytest
import torch
from live_site import LOADING, PHONE, live_site, loaded, wait

from companion.book.live import export
from companion.weights.pipelines import load_pipeline
from smoothlib import decode_latents, encode_prompts, sample, step_statistics


@pytest.fixture(scope="module")
def site(tmp_path_factory):
    with live_site(tmp_path_factory.mktemp("site"), "walk") as site:
        yield site


@pytest.fixture(scope="module")
def ready(site):
    """The page on a phone's screen after the model was asked for and has answered once."""
    page = site.page(PHONE)
    asked = []
    page.on("request", lambda request: asked.append(request.url))
    site.open(page, "index.html")
    assert not [url for url in asked if "_static" in url], "something was loaded before anyone asked"
    loaded(page, "walk")
    wait(page, "document.querySelector('.live-walk, [data-first]')")
    print("seconds to the first picture:", page.get_attribute("[data-live=walk]", "data-first"))
    return page


def psnr(a, b):
    return float(-10 * torch.log10(((a - b) / 2).square().mean()))


def test_a_picture_equals_pytorchs_from_the_same_noise(ready):
    made = ready.evaluate("""async () => {
        const {live} = document.querySelector('[data-live=walk]'), {request} = live.frame(0.35, 20);
        const {images, seconds} = await live.picture(0.35, 20), few = await live.picture(0.35, 8);
        return {noise: [...request.latents[0]], caption: request.prompts, images: images.map(image => [...image]), seconds: [few.seconds, seconds]};
    }""")
    noise = torch.tensor(made["noise"]).reshape(1, 4, 16, 16)
    assert abs(float(noise.mean())) < 0.15 and 0.9 < float(noise.std()) < 1.1
    print("seconds a pair of pictures at 8 and 20 steps:", made["seconds"])
    for image, adapter in zip(made["images"], (None, export.ADAPTER), strict=True):
        pipe = load_pipeline(export.MODEL, adapter=adapter)
        words = encode_prompts(pipe, [made["caption"]])
        expected = decode_latents(pipe, sample(pipe, noise, words, guidance_scale=3.0, num_inference_steps=20))
        found = psnr(torch.tensor(image).reshape(1, 3, 64, 64), expected)
        print("PSNR", adapter, found)
        assert found >= 40
