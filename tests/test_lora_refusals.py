"""A LoRA file whose entries cannot all be applied is refused by their names, and nothing changes; `check_adapter` says so beforehand."""

import json

import pytest
import torch
from lora_files import all_layers, entries, kohya_key, low_rank, peft_key, projections, released_key, text_layers, write_adapter
from tiny import assert_one_sentence, tiny_pipeline

from companion.weights.pipelines import check_adapter, fingerprint, load_adapter

Q = "down_blocks.0.attentions.0.transformer_blocks.0.attn1.to_q"
KOHYA_Q = f"lora_unet_{Q.replace('.', '_')}"


@pytest.fixture(scope="module")
def base():
    return tiny_pipeline()


@pytest.fixture(scope="module")
def factors(base):
    return low_rank(base.unet, projections(base.unet))


def refused(pipe, folder, **file):
    """The sentence with which `check_adapter` and `load_adapter` refuse a file, without the file's name; the pipeline stays as it was."""
    write_adapter(folder / "lora", **file)
    before = fingerprint(pipe)
    with pytest.raises(ValueError) as raised:
        load_adapter(pipe, folder / "lora")
    assert_one_sentence(raised)
    assert fingerprint(pipe) == before
    with pytest.raises(ValueError) as checked:
        check_adapter(pipe, folder / "lora")
    assert str(checked.value) == str(raised.value)
    return str(raised.value).removeprefix(str(folder / "lora"))


def of(*shape):
    return torch.full(shape, 0.1)


def pair(name, key=peft_key, rank=2, size=16, **options):
    return {key(name, "A", **options): of(rank, size), key(name, "B", **options): of(size, rank)}


OTHER_ENTRIES = [
    ({"unet.conv_in.diff": of(16, 4, 3, 3)}, "its entry unet.conv_in.diff is not applied here: full differences"),
    ({f"{KOHYA_Q}.diff_b": of(16)}, "diff_b is not applied here: full differences"),
    (
        {f"{KOHYA_Q}.hada_w1_a": of(16, 2), f"{KOHYA_Q}.hada_w1_b": of(2, 16)},
        "2 of its entries .*_w1_b.* are not applied here: LoHa factors",
    ),
    ({f"{KOHYA_Q}.lokr_w1": of(4, 4)}, "lokr_w1 is not applied here: LoKr"),
    ({f"{KOHYA_Q}.lora_mid.weight": of(2, 2, 3, 3)}, "lora_mid.weight is not applied here: Tucker cores"),
    ({f"unet.{Q}.lora_B.bias": of(16)}, "lora_B.bias is not applied here: LoRA biases"),
    (
        {"bundle_emb.cat.string_to_param.*": of(1, 16), "bundle_emb.dog.clip_l": of(1, 16)},
        "2 of its entries .bundle_emb.cat.string_to_param",
    ),
    ({"bundle_emb.cat.string_to_param.*": of(1, 16)}, "is not applied here: embeddings of new tokens"),
    (pair("down_blocks.9.resnets.0.conv1"), "2 of its entries .unet.down_blocks.9.resnets.0.conv1.lora_A.weight, .* are of no layer that"),
    (pair("q_proj", component="text_encoder_2"), "text_encoder_2.*are of no layer that the unet or text_encoder has"),
    ({f"lora_te2_text_model_encoder_layers_{i}_mlp_fc1.alpha": of(1) for i in range(9)}, "9 of its entries .* and [67] more. are of no"),
    ({"transformer.x.lora_A.weight": of(2, 2)}, "its entry transformer.x.lora_A.weight is of no layer"),
    ({"diffusion_model.input_blocks.1.1.proj_in.lora_A.weight": of(2, 2)}, "diffusion_model.input_blocks.1.1.proj_in.* is of no layer"),
    ({"unet.conv_norm_out.lora_A.weight": of(2, 16)}, "its entry unet.conv_norm_out.lora_A.weight is of no layer"),
    ({f"unet.{Q}.scalar": of(1)}, "scalar is of no kind known here"),
    ({"something.weight": of(2)}, "its entry something.weight is of no kind known here"),
    ({f"unet.{Q}.lora.down.weight": of(2, 16)}, "2 of its entries .*to_q.lora.* are the same part of one layer"),
    ({"unet.conv_in.lora_A.weight": of(2, 4, 3, 3)}, "its entry unet.conv_in.lora_A.weight has no LoRA factor B beside it"),
    ({"unet.conv_in.alpha": of()}, "its entry unet.conv_in.alpha has no LoRA factor A or B beside it"),
    ({f"unet.{Q}.alpha": of(2)}, r"alpha has shape \(2,\), but must be one number"),
    ({f"{KOHYA_Q}.dora_scale": of(1, 16)}, r"dora_scale has shape \(1, 16\), but DoRA needs one magnitude for each of 16 outputs"),
    ({f"{KOHYA_Q}.dora_scale": of(16, 1)}, "it has DoRA magnitudes for 1 of its 32 unet layers"),
    ({f"unet.{Q}.lora_magnitude_vector": of(15)}, r"lora_magnitude_vector has shape \(15,\), but DoRA needs"),
    (pair("mid_block.resnets.0.conv1", size=32), r"conv1.lora_A.weight has shape \(2, 32\), but .* needs \(2, 32, 3, 3\) here"),
    (pair("mid_block.resnets.0.time_emb_proj", rank=0), "its rank being at least 1"),
]


@pytest.mark.parametrize(("more", "message"), OTHER_ENTRIES)
def test_entries_that_are_not_used_are_named(base, tmp_path, factors, more, message):
    refused(base, tmp_path, weights=entries(factors, peft_key) | more)
    with pytest.raises(ValueError, match=message):
        check_adapter(base, tmp_path / "lora")


@pytest.mark.parametrize("value", [float("nan"), float("inf"), 1e39])
@pytest.mark.parametrize("part", ["A", "B", "alpha", "magnitude"])
@pytest.mark.parametrize("component", ["unet", "text_encoder"])
def test_what_is_not_finite_is_named_wherever_it_is(base, tmp_path, factors, component, part, value):
    """Also beyond the model's own type."""
    module = getattr(base, component)
    name = "mid_block.resnets.0.conv1" if component == "unet" else text_layers(module)[-1]
    added = low_rank(module, [name])
    weights = entries(factors, peft_key) | entries(added, peft_key, component=component)
    weights |= {peft_key(name, "alpha", component=component): of(), peft_key(name, "magnitude", component=component): of(32)}
    damaged = peft_key(name, part, component=component)
    weights[damaged] = weights[damaged].double()
    weights[damaged].view(-1)[-1] = value
    assert f"its entry {damaged} is not finite" in refused(base, tmp_path, weights=weights)


def test_a_product_beyond_the_numbers_is_refused(base, tmp_path, factors):
    large = factors | {Q: tuple(1e25 * w.sign() for w in factors[Q])}
    assert f"1 layers with weights that are not finite, e.g. {Q}" in refused(base, tmp_path, weights=entries(large, peft_key))


def test_every_layer_that_a_file_names_must_change(base, tmp_path):
    factors = low_rank(base.unet, all_layers(base.unet))
    name = "up_blocks.0.resnets.1.conv2"
    still = factors | {name: (factors[name][0], 0 * factors[name][1])}
    message = refused(base, tmp_path, weights=entries(still, peft_key))
    assert f"leaves 1 of the layers that it names unchanged, e.g. {name}" in message
    weights = entries(factors, peft_key) | {peft_key(name, "alpha"): torch.zeros(())}
    assert f"leaves 1 of the layers that it names unchanged, e.g. {name}" in refused(base, tmp_path, weights=weights)


def test_a_text_encoder_may_keep_some_layers_but_not_all(base, tmp_path, factors):
    """Trained on the layer before the last, a text encoder's last layer stays as it is, and files of it have zeros there."""
    text = low_rank(base.text_encoder, text_layers(base.text_encoder))
    last = {name: (a, 0 * b if ".1." in name else b) for name, (a, b) in text.items()}
    load_adapter(
        tiny_pipeline(), write_adapter(tmp_path / "last", entries(factors, peft_key) | entries(last, peft_key, component="text_encoder"))
    )
    none = {name: (a, 0 * b) for name, (a, b) in text.items()}
    weights = entries(factors, peft_key) | entries(none, peft_key, component="text_encoder")
    assert "leaves all 12 layers of the text encoder that it names unchanged" in refused(base, tmp_path, weights=weights)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"unet.r": 4}, "its settings give down_blocks.* rank 4, but its entries have rank 2"),
        ({"unet.r": 2, "unet.alpha_pattern": {"to_q": "high"}}, "its settings have lora_alpha 'high' for .*, but it must be a number"),
        ({"unet.r": 2, "unet.use_dora": True}, "its settings and its entries disagree on whether the unet has DoRA magnitudes"),
        ({"unet.r": 2, "unet.lora_bias": True}, "its settings for the unet have lora_bias True, and only False can be applied"),
        ({"unet.r": 2, "unet.use_new_kind": 1}, "its settings for the unet have use_new_kind 1, and only None can be applied"),
        ({"unet.r": 2, "unet.init_lora_weights": "pissa"}, "init_lora_weights 'pissa', which changes the base model's weights too"),
        ({"unet.peft_type": "LOHA"}, "peft_type 'LOHA', but must have 'LORA'"),
        ({"prior.r": 2}, r"its settings \(lora_adapter_metadata\) have prior.r, but do not say for which of unet"),
        ([2], r"its settings \(lora_adapter_metadata\) are no JSON object"),
    ],
)
def test_settings_that_cannot_be_kept_are_named(base, tmp_path, factors, settings, message):
    file = dict(weights=entries(factors, peft_key), metadata={"lora_adapter_metadata": json.dumps(settings)})
    refused(base, tmp_path, **file)
    with pytest.raises(ValueError, match=message):
        check_adapter(base, tmp_path / "lora")


def test_a_strength_given_twice_is_refused(base, tmp_path, factors):
    settings = {"lora_adapter_metadata": json.dumps({"unet.r": 2})}
    weights = entries(factors, peft_key) | {peft_key(Q, "alpha"): of()}
    message = refused(base, tmp_path, weights=weights, metadata=settings)
    assert f"its settings and its entry {peft_key(Q, 'alpha')} are both there" in message
    (tmp_path / "lora" / "adapter_config.json").write_text('{"r": 2}')
    message = refused(base, tmp_path, weights=entries(factors, peft_key), metadata=settings)
    assert "its settings are there twice, as lora_adapter_metadata in the file and as adapter_config.json beside it" in message


def test_a_text_encoder_half_needs_a_text_encoder(base, tmp_path, factors):
    """Of a UNet alone the check says that the other half has no place; of a UNet and its own half nothing."""
    text = low_rank(base.text_encoder, text_layers(base.text_encoder))
    weights = entries(factors, kohya_key) | entries(text, kohya_key, component="text_encoder")
    folder = write_adapter(tmp_path / "both", weights)
    check_adapter(base, folder)
    with pytest.raises(ValueError, match=r"24 of its entries .lora_te_text_model.* are of no layer that the unet has"):
        check_adapter(base.unet, folder)
    check_adapter(base.unet, write_adapter(tmp_path / "one", entries(factors, released_key)))
