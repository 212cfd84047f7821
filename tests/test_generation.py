"""Images from captions: own noise for each prompt, equal to the pipeline's, and judged by classifiers that are tested on real images."""

import numpy as np
import pytest
import torch

from companion.data import load as datasets
from companion.judges import attributes
from companion.studies.smoothness import generation
from companion.weights import pipelines as models
from smoothlib.sampling import Sampling


@pytest.fixture(scope="module")
def pipe():
    return models.load_pipeline("mini")


def test_noise_belongs_to_the_prompt_whatever_the_batch(pipe):
    together = generation.initial_noise(pipe, [5, 6, 7])
    assert torch.equal(together[1:2], generation.initial_noise(pipe, [6]))
    assert together.shape == (3, 4, 16, 16) and not torch.equal(together[0], together[1])


def test_a_larger_choice_keeps_the_prompts_of_a_smaller_one():
    test = datasets.load_scenes("test")
    few, many = generation.prompts_from(test, 8, seed=1), generation.prompts_from(test, 20, seed=1)
    assert {p.id for p in few} <= {p.id for p in many}
    assert {p.id: p.noise_seed for p in few}.items() <= {p.id: p.noise_seed for p in many}.items()


def test_generation_equals_the_diffusers_pipeline(pipe):
    prompts = generation.prompts_from(datasets.load_scenes("test"), 3, seed=0)
    ours = generation.Generation(pipe, Sampling(3.0, 4))(prompts)
    noise = generation.initial_noise(pipe, [p.noise_seed for p in prompts])
    theirs = pipe([p.caption for p in prompts], latents=noise, guidance_scale=3.0, num_inference_steps=4, output_type="np").images
    assert all(r["seconds"] > 0 for r in ours)
    made = np.stack([r["image"] for r in ours]).transpose(0, 2, 3, 1).astype(float)
    assert np.abs(made - theirs * 255).max() <= 1  # rounding alone


def test_prompts_steer_the_image(pipe):
    noise_seeds = range(4)
    captions = ["a photo of a red sofa on snow in the forest", "a photo of a dog on grass in a sunny park"]
    made = [
        np.stack(
            [
                r["image"]
                for r in generation.Generation(pipe, Sampling(3.0, 8))([generation.Prompt(str(s), caption, s) for s in noise_seeds])
            ]
        )
        for caption in captions
    ]
    lower = [images[:, :, 48:].astype(float).mean(axis=(0, 2, 3)) for images in made]  # mean colour of the ground, (3,)
    assert lower[0].min() > lower[1].min() + 40  # snow is bright in every channel, grass is not
    assert lower[1].argmax() == 1  # and green


def test_classifiers_learn_a_separable_world_and_report_agreement():
    generator = torch.Generator().manual_seed(0)
    words = {"cls": ["cat", "dog"], "ground": ["snow", "sand"], "setting": ["park", "city"]}
    labels = {field: torch.randint(2, (200,), generator=generator) for field in words}
    features = 0.1 * torch.randn(200, 20, generator=generator)
    for k, field in enumerate(words):
        features[:, k] += labels[field]
    records = [{field: words[field][labels[field][i]] for field in words} for i in range(200)]
    classifier = attributes.train_classifier(features[:150], records[:150], weight_decay=0.01)
    agreement = classifier.agreement(features[150:], records[150:])
    assert all(values.shape == (50,) and values.mean() > 0.95 for values in agreement.values())
    swapped = [{**record, "cls": {"cat": "dog", "dog": "cat"}[record["cls"]]} for record in records[150:]]
    assert classifier.agreement(features[150:], swapped)["cls"].mean() < 0.05


def test_blurring_for_the_classifier_takes_contrast_and_nothing_else():
    stripes = np.zeros((3, 3, 16, 16), np.uint8)
    stripes[..., ::2] = 200
    found = attributes.blurred(stripes)
    assert found.shape == stripes.shape and found.dtype == torch.uint8
    contrast = found.float().std(dim=(1, 2, 3))
    assert (contrast < 0.9 * stripes[0].std()).all() and len(set(contrast.tolist())) == 3  # each image by its own width
    assert (found.float().mean(dim=(1, 2, 3)) - 100).abs().max() < 8
    assert torch.equal(found, attributes.blurred(stripes)) and not torch.equal(found, attributes.blurred(stripes, seed=1))
