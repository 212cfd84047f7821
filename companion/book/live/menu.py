"""The captions that a reader can choose from, and the words that the model reads.

A caption is a subject's beginning and a place's end, so that the page needs no grammar: every class, its colours, every setting with the
grounds that it may have.
"""

from typing import TYPE_CHECKING, Any

from companion.world.captions import partial_caption
from companion.world.mini import world_words
from companion.world.vocabulary import CLASSES, COLOURS, GROUNDS_OF, RECOLOURABLE

if TYPE_CHECKING:
    from transformers import CLIPTokenizer

_FIELDS = {"style": "photo", "cls": "", "colour": None, "setting": "", "ground": "", "extra": None}


def subjects() -> list[dict[str, Any]]:
    """{word, colour, begins}: classes in alphabetical order, each in its own colours (None) first."""
    pairs = [(word, colour) for word in sorted(CLASSES) for colour in (None, *(COLOURS if word in RECOLOURABLE else ()))]
    return [
        {"word": word, "colour": colour, "begins": _caption(cls=word, colour=colour, named=(True, True, False, False))}
        for word, colour in pairs
    ]


def places() -> list[dict[str, str]]:
    """{setting, ground, ends}."""
    whole = {(s, g): _caption(cls="dog", setting=s, ground=g, named=(True,) * 4) for s, grounds in GROUNDS_OF.items() for g in grounds}
    return [{"setting": s, "ground": g, "ends": text.removeprefix("a photo of a dog ")} for (s, g), text in whole.items()]


def words(tokenizer: "CLIPTokenizer") -> dict[str, Any]:
    """How the page makes token ids of a caption: each of the world's words is one token.

    Raises:
        ValueError: a word that the tokenizer splits.
    """
    ids = {}
    for word in world_words():
        start, *inner, end = tokenizer(word, padding=False).input_ids
        if len(inner) != 1:
            raise ValueError(f"tokenizer splits {word!r} into {len(inner)} tokens, but must know it as one")
        ids[word] = inner[0]
    return {"ids": ids, "start": start, "end": end, "length": tokenizer.model_max_length}


def _caption(named: tuple[bool, ...], **fields: str | None) -> str:
    return partial_caption(_FIELDS | fields, named)
