"""The captions that a reader can choose from: every class, its colours, every setting with the grounds that it may have."""

from dataclasses import dataclass

from companion.world.captions import partial_caption
from companion.world.vocabulary import CLASSES, COLOURS, GROUNDS_OF, RECOLOURABLE


@dataclass(frozen=True)
class Subject:
    """A class and its colour; None: the model's own colours."""

    word: str
    colour: str | None

    @property
    def file(self) -> str:
        return "captions/" + "-".join(f"{self.colour or ''} {self.word}".split()) + ".bin"


def subjects() -> list[Subject]:
    """Classes in alphabetical order, each without a colour first."""
    return [Subject(word, colour) for word in sorted(CLASSES) for colour in (None, *(COLOURS if word in RECOLOURABLE else ()))]


def places() -> list[tuple[str, str]]:
    """(setting, ground), in the order of the rows of a subject's file."""
    return [(setting, ground) for setting, grounds in GROUNDS_OF.items() for ground in grounds]


def captions(subject: Subject) -> list[str]:
    """The caption of a subject in every place."""
    same = {"style": "photo", "cls": subject.word, "colour": subject.colour, "extra": None}
    return [partial_caption(same | {"setting": setting, "ground": ground}) for setting, ground in places()]
