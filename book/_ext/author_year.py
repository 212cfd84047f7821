"""The list of references under the names by which the text cites: "Guo et al., 2024" instead of "GXP+24", with venue and DOI."""

from collections import Counter

from pybtex.plugin import register_plugin
from pybtex.style.formatting.unsrt import Style as Unsorted
from pybtex.style.labels import BaseLabelStyle


def names(entry) -> str:
    """ "Guo et al.", "Ho and Salimans", "Efron": as in the text."""
    people = [" ".join(person.last_names) for person in entry.persons.get("author", [])]
    if len(people) > 2:
        return f"{people[0]} et al."
    return " and ".join(people) or entry.key


class AuthorYearLabels(BaseLabelStyle):
    """Names and year; a letter behind the year where two would be the same."""

    def format_labels(self, entries):
        labels = [f"{names(entry)}, {entry.fields.get('year', 'no year')}" for entry in entries]
        count, seen = Counter(labels), Counter()
        for label in labels:
            seen[label] += 1
            yield label + (chr(96 + seen[label]) if count[label] > 1 else "")


class AuthorYear(Unsorted):
    """Entries in the order of their labels."""

    default_sorting_style = "author_year_title"
    default_label_style = AuthorYearLabels


def setup(app) -> dict[str, bool]:
    register_plugin("pybtex.style.formatting", "author_year", AuthorYear)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
