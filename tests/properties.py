"""What property tests share: few examples, the same in every run, and values that a JSON or YAML file may hold."""

from hypothesis import HealthCheck, settings
from hypothesis import strategies as st

SAID = 600  # letters of a sentence that one reads


def examples(count):
    """So many examples, drawn alike in every run."""
    health = [HealthCheck.function_scoped_fixture, HealthCheck.too_slow]
    return settings(max_examples=count, derandomize=True, deadline=None, database=None, suppress_health_check=health)


numbers = st.integers(-(2**70), 2**70) | st.floats(allow_nan=True, allow_infinity=True)
scalars = st.none() | st.booleans() | numbers | st.text(max_size=12)
anything = st.recursive(
    scalars,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=6), inner, max_size=3),
    max_leaves=6,
)


def is_sentence(message):
    """One line of a length that one reads."""
    return bool(message.strip()) and len(message.splitlines()) == 1 and len(message) < SAID
