"""Notebook parameters: what is accepted, what one sentence says about the rest; the configuration hash."""

import dataclasses

import numpy as np
import pytest
from IPython.core.interactiveshell import InteractiveShell

from companion.base.config import Boolean, Choice, ConfigurationError, Integer, ListOf, Number, Text, config_hash, configuration, plain


def test_accepted_values_are_frozen_and_typed():
    config = configuration(
        {"num_images": 8, "guidance_scale": 3, "seed": None, "model": "mini", "progress": True, "methods": ["vae", "nti"]},
        num_images=Integer(2, 100),
        guidance_scale=Number(1, 30),
        seed=Integer(optional=True),
        model=Text(),
        progress=Boolean(),
        methods=ListOf(Choice("vae", "ddim", "nti"), minimum=1),
    )
    assert dataclasses.asdict(config) == {
        "num_images": 8,
        "guidance_scale": 3.0,
        "seed": None,
        "model": "mini",
        "progress": True,
        "methods": ("vae", "nti"),
    }
    assert isinstance(config.guidance_scale, float)
    with pytest.raises(dataclasses.FrozenInstanceError):
        config.num_images = 9


@pytest.mark.parametrize(
    ("field", "value", "sentence"),
    [
        (Integer(2, 100), 1, "Parameter x is 1, but must be a whole number of at least 2 and at most 100."),
        (Integer(2), 2.0, "Parameter x is 2.0, but must be a whole number of at least 2."),
        (Integer(), True, "Parameter x is True, but must be a whole number."),
        (Integer(0), 2**70, "Parameter x is 1180591620717411303424, but must be a whole number between -2**63 and 2**63."),
        (Integer(), "3", "Parameter x is '3', but must be a whole number."),
        (Number(maximum=30), 31, "Parameter x is 31, but must be a number of at most 30."),
        (Number(1, 30), float("nan"), "Parameter x is nan, but must be a number of at least 1 and at most 30."),
        (Number(), float("inf"), "Parameter x is inf, but must be a number."),
        (Boolean(), 1, "Parameter x is 1, but must be True or False."),
        (Text(), " ", "Parameter x is ' ', but must be a text that is not empty."),
        (Text(), None, "Parameter x is None, but must be a text that is not empty."),
        (Text(optional=True), 3, "Parameter x is 3, but must be a text that is not empty or None."),
        (Choice("a", "b"), "c", "Parameter x is 'c', but must be one of 'a', 'b'."),
        (Choice(1), True, "Parameter x is True, but must be one of 1."),
        (Choice(), "a", "Parameter x is 'a', but must be one of those available (there are none)."),
        (ListOf(Integer(1)), [1, 0], "Parameter x is [1, 0], but must be a list without repeats, each entry a whole number of at least 1."),
        (ListOf(Text()), ["a", "a"], "Parameter x is ['a', 'a'], but must be a list without repeats, each entry a text that is not empty."),
        (ListOf(Boolean(), minimum=1), [], "Parameter x is [], but must be a list of 1 or more without repeats, each entry True or False."),
        (ListOf(Text()), "ab", "Parameter x is 'ab', but must be a list without repeats, each entry a text that is not empty."),
    ],
)
def test_a_wrong_value_is_named_in_one_sentence(field, value, sentence):
    with pytest.raises(ConfigurationError) as error:
        configuration({"x": value}, x=field)
    assert str(error.value) == sentence


def test_an_empty_list_of_nothing_to_choose_from_is_allowed():
    assert configuration({"adapters": []}, adapters=ListOf(Choice())).adapters == ()


def test_missing_and_unknown_names():
    with pytest.raises(ConfigurationError, match=r"^Parameter seed is missing: it must be a whole number\.$"):
        configuration({}, seed=Integer())
    with pytest.raises(ConfigurationError, match=r"^Parameter num_image is unknown: did you mean num_images\?$"):
        configuration({"num_images": 3, "num_image": 4}, num_images=Integer())
    with pytest.raises(ConfigurationError, match=r"^Parameter zzz is unknown: the parameters are seed\.$"):
        configuration({"seed": 3, "zzz": 4}, seed=Integer())


CELL = "from companion.base.config import Integer, configuration\nconfig = configuration(globals(), num_images=Integer(2))"


@pytest.fixture
def shell():
    yield InteractiveShell()
    InteractiveShell.clear_instance()


def test_in_a_notebook_other_variables_are_ignored(shell):
    shell.run_cell("num_images = 64\nother = 3", store_history=True)
    assert shell.run_cell(CELL + "\nnum_images = config.num_images", store_history=True).success
    assert shell.user_ns["num_images"] == 64


def test_in_a_notebook_an_unknown_injected_name_is_an_error(shell, capsys):
    shell.run_cell("num_images = 64", store_history=True)
    shell.run_cell("# Parameters\nnum_image = 3\n", store_history=True)
    result = shell.run_cell(CELL, store_history=True)
    assert isinstance(result.error_in_exec, ConfigurationError)
    assert capsys.readouterr().out.strip() == "ConfigurationError: Parameter num_image is unknown: did you mean num_images?"


def test_hash_is_canonical():
    @dataclasses.dataclass
    class Config:
        b: float
        a: tuple

    same = [{"a": [1, "x"], "b": 0.1}, {"b": 0.1, "a": (1, "x")}, Config(0.1, (1, "x")), {"a": [np.int64(1), "x"], "b": np.float64(0.1)}]
    assert len({config_hash(config) for config in same}) == 1
    lists = ([1, "x"], ["x", 1], [True, "x"], [1.0, "x"])
    different = [{"a": entries, "b": 0.1} for entries in lists] + [{"a": [1, "x"], "b": 0.1 + 1e-16}, {}]
    assert len({config_hash(config) for config in different}) == 6
    # Pinned: a changed hash would orphan every stored result.
    assert config_hash({"num_images": 64, "guidance_scale": 7.5, "adapters": []}) == "b30d11e8abbdda89ed1a"


@pytest.mark.parametrize(
    ("config", "sentence"),
    [
        ({"a": [1.0, float("nan")]}, r"config\['a'\]\[1\] is nan, but must be finite\."),
        ({1: 2}, r"config has the key 1, but keys must be text\."),
        ({"a": {1, 2}}, r"config\['a'\] is a set, but must be"),
    ],
)
def test_hash_refuses_what_has_no_canonical_form(config, sentence):
    with pytest.raises(ValueError, match=sentence):
        config_hash(config)


def test_plain_converts_numpy():
    assert plain({"a": np.float64(0.5), "b": np.arange(2)}) == {"a": 0.5, "b": [0, 1]}
