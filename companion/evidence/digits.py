"""Numbers with the digits that their interval allows."""

import math

SUPERSCRIPTS = str.maketrans("-0123456789", "⁻⁰¹²³⁴⁵⁶⁷⁸⁹")
WORDS = {"down": ("worse", "better"), "up": ("better", "worse"), "none": ("larger", "smaller")}  # of a positive, of a negative difference


def decimals_of(ends: tuple[float, float]) -> int:
    """Decimals at which half the width of an interval has two significant digits; those of its value where it has no width."""
    half = (ends[1] - ends[0]) / 2 or abs(ends[0]) / 100 or 1.0
    half = float(f"{half:.1e}")  # .0996 has the digits of .10
    return 1 - math.floor(math.log10(half))


def with_interval(mean: float, ends: tuple[float, float], *, sign: str = "+") -> str:
    """ "+8.6 [+3.2, +13.9]": two significant digits of half the interval's width; small numbers with a power of ten."""
    decimals = decimals_of(ends)
    exponent = 0 if decimals <= 4 else 1 - decimals
    scale, shown = 10.0**-exponent, max(decimals + exponent, 0)
    text = [f"{round(value * scale, shown if decimals >= 0 else decimals):{sign}.{shown}f}" for value in (mean, *ends)]
    return f"{text[0]} [{text[1]}, {text[2]}]" + (f" × 10{str(exponent).translate(SUPERSCRIPTS)}" if exponent else "")


def in_words(mean: float, ends: tuple[float, float], direction: str) -> str:
    """A difference as "8.6 worse [3.2, 13.9]": by how much the first is better or worse, `direction` saying which values are better.

    The interval counts in the direction of the word: one that includes zero has a negative end.
    """
    word = WORDS[direction][mean < 0]
    low, high = ends if mean >= 0 else (-ends[1], -ends[0])
    number, _, interval = with_interval(abs(mean), (low, high), sign="-").partition(" ")
    return f"{number} {word} {interval}"
