"""Whatever a setting is given, it is taken for what it is or refused by its name, in one sentence, before anything starts."""

import math
from dataclasses import asdict

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st
from properties import anything, examples, is_sentence, numbers

from companion.base import paths
from companion.base.config import Boolean, Choice, ConfigurationError, Integer, ListOf, Number, Text, config_hash, configuration
from companion.studies.interpolation.study import Prompt
from companion.training.settings import ALLOWED, TrainingConfig, load_config, parse_settings

COMMON = paths.CONFIGS / "training" / "smooth_lora.yaml"
GOOD = asdict(load_config(COMMON))


def finite(value):
    """Holds it no NaN and no infinity, however deep?"""
    inner = value.values() if isinstance(value, dict) else value if isinstance(value, list | tuple) else ()
    return all(map(finite, inner)) and not (isinstance(value, float) and not math.isfinite(value))


@pytest.mark.parametrize("name", ALLOWED)
def test_a_training_takes_a_setting_as_it_is_or_names_it(name):
    @examples(25)
    @given(anything | st.sampled_from([0, 1, -1, 0.5, "no", "adapters/mine", "../x", "a/b"]))
    def check(value):
        try:
            taken = getattr(TrainingConfig(**{**GOOD, name: value}), name)
        except ConfigurationError as error:
            assert name in str(error) and is_sentence(str(error)), str(error)
        else:
            assert taken == value or (name, value) == ("mixed_precision", False)
            assert finite(taken) or name == "objective_options"

    check()


@pytest.mark.parametrize("option", GOOD["objective_options"])
def test_an_objective_takes_an_option_of_its_kind_alone(option):
    good = GOOD["objective_options"][option]

    @examples(25)
    @given(anything)
    def check(value):
        try:
            TrainingConfig(**{**GOOD, "objective_options": {**GOOD["objective_options"], option: value}})
        except ConfigurationError as error:
            assert f"objective_options.{option}" in str(error) and is_sentence(str(error)), str(error)
        else:
            numeric = isinstance(good, float) and isinstance(value, int | float) and not isinstance(value, bool)
            assert value is None or type(value) is type(good) or numeric
            assert not isinstance(value, float) or math.isfinite(value)

    check()


@examples(150)
@given(st.sampled_from(["steps", "seed", "name", "objective_options.rank", "x", ""]), st.text(max_size=20))
def test_a_setting_on_the_command_line_is_yaml_or_refused(name, text):
    try:
        changed = load_config(COMMON, **parse_settings([f"{name}={text}"]))
    except ConfigurationError as error:
        assert is_sentence(str(error)), str(error)
    else:
        outer, _, inner = name.partition(".")
        value = getattr(changed, outer)
        assert (value[inner] if inner else value) == yaml.safe_load(text)


@examples(60)
@given(st.dictionaries(st.sampled_from(sorted(ALLOWED)), anything, min_size=1, max_size=4), st.text(max_size=40))
def test_a_file_of_settings_is_read_or_refused(tmp_path, settings, rest):
    file = tmp_path / "training.yaml"
    file.write_text(yaml.safe_dump(settings) + rest, encoding="utf-8", errors="replace")
    with pytest.raises(ConfigurationError) as raised:  # never all that is needed
        load_config(file)
    assert is_sentence(str(raised.value))


# Parameters of notebooks ----------------------------------------------------------------------------------------------------------


@examples(150)
@given(numbers | st.booleans() | st.text(max_size=3), st.integers(-5, 5), st.integers(-5, 5))
def test_numbers_lie_in_their_range(value, low, high):
    whole = isinstance(value, int) and not isinstance(value, bool)
    some = whole or (isinstance(value, float) and math.isfinite(value))
    assert Integer(low, high).accepts(value) == (whole and low <= value <= high)
    assert Number(low, high).accepts(value) == (some and low <= value <= high)


FIELDS = {"a": Integer(0, 9), "b": Number(0, 1, optional=True), "c": Boolean(), "d": Choice("x", "y"), "e": Text(), "f": ListOf(Integer())}
RIGHT = {"a": 1, "b": 0.5, "c": True, "d": "x", "e": "text", "f": [1, 2]}


@examples(150)
@given(st.sampled_from(sorted(FIELDS)), anything)
def test_a_notebooks_parameter_is_taken_or_named(name, value):
    try:
        taken = configuration({**RIGHT, name: value}, **FIELDS)
    except ConfigurationError as error:
        assert str(error).startswith(f"Parameter {name} is ") and is_sentence(str(error)), str(error)
    else:
        assert FIELDS[name].check(name, value) == getattr(taken, name)
        assert config_hash(taken) == config_hash(dict(reversed(asdict(taken).items()))), "order is no setting"


class Value(str):
    """A field of a record that may be shown as it is, and nothing else."""

    def __getattribute__(self, name):
        raise AssertionError(f"{name} was reached")

    def __format__(self, spec):
        assert spec == ""
        return "bed"


class Record(dict):
    def __missing__(self, name):
        return Value()


@examples(150)
@given(st.text("{}a.b_[]!:0 ", max_size=12))
def test_a_prompt_reaches_fields_of_a_record_and_nothing_of_them(prompt):
    if Prompt().accepts(prompt):
        assert len(prompt.format_map(Record())) <= 3 * len(prompt)


@pytest.mark.parametrize("prompt", ["{cls.__class__}", "{cls:>100000000}", "{cls!r}", "{cls[0]}", "{0}", "{}", "{", "}", "a {cls", " "])
def test_a_prompt_that_reaches_further_is_refused(prompt):
    with pytest.raises(ConfigurationError, match=r"^Parameter prompt is .* \{cls\} and the like name a field of the record"):
        Prompt().check("prompt", prompt)
    assert Prompt().accepts("a photo of a {cls}") and Prompt().accepts("{{braces}}") and Prompt().accepts("none")
