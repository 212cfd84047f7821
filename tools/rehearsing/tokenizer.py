"""A tokenizer in CLIP's format: a seeded vocabulary of byte pairs, since CLIP's own comes with its weights alone."""

import json
import random
from collections.abc import Iterable, Iterator
from pathlib import Path

from companion.base.files import atomic_write

START, END, WORD_END = "<|startoftext|>", "<|endoftext|>", "</w>"
LENGTH, LONGEST = 77, 12  # tokens of a prompt, as CLIP's; letters of a random token


def byte_letters() -> list[str]:
    """The letter that stands for each byte in byte-level BPE, in CLIP's order: printable ones for themselves, others from 256 on."""
    printable = [*range(33, 127), *range(161, 173), *range(174, 256)]
    others = [byte for byte in range(256) if byte not in printable]
    return [chr(byte) for byte in printable] + [chr(256 + place) for place in range(len(others))]


def merges(words: Iterable[str], count: int, seed: int) -> list[tuple[str, str]]:
    """`count` pairs that are merged: first those that spell `words` from their beginnings, then random pairs of tokens that exist."""
    letters = byte_letters()
    tokens, found = [*letters, *(letter + WORD_END for letter in letters)], []
    known, chance = set(tokens), random.Random(seed)
    for pair in _pairs(words, tokens, chance):
        if len(found) == count:
            break
        if (merged := "".join(pair)) not in known:
            known.add(merged)
            tokens.append(merged)
            found.append(pair)
    return found


def _pairs(words: Iterable[str], tokens: list[str], chance: random.Random) -> Iterator[tuple[str, str]]:
    """Those of the words, then random ones without end; `tokens` grows while they are asked for."""
    for word in words:
        parts = [*word[:-1], word[-1] + WORD_END]
        yield from (("".join(parts[:place]), parts[place]) for place in range(1, len(parts)))
    plain = "abcdefghijklmnopqrstuvwxyz"
    while True:
        first, second = chance.choice(tokens), chance.choice(tokens)
        merged = (first + second).removesuffix(WORD_END)
        if not first.endswith(WORD_END) and len(merged) <= LONGEST and set(merged) <= set(plain):
            yield first, second


def write_tokenizer(folder: Path, words: Iterable[str], size: int, seed: int = 0) -> int:
    """Write vocab.json, merges.txt and the two configurations, as CLIP's folder on the hub has them; returns the number of tokens, `size`.

    The last two tokens are the start's and the end's, as CLIP's.
    """
    letters = byte_letters()
    if size < 2 * len(letters) + 2:
        raise ValueError(f"size is {size}, but must be at least {2 * len(letters) + 2}: every byte is a token, alone and at a word's end")
    pairs = merges(words, size - 2 * len(letters) - 2, seed)
    tokens = [*letters, *(letter + WORD_END for letter in letters), *("".join(pair) for pair in pairs), START, END]
    special = {"bos_token": START, "eos_token": END, "pad_token": END, "unk_token": END}
    settings = {"tokenizer_class": "CLIPTokenizer", "model_max_length": LENGTH, "do_lower_case": True, "add_prefix_space": False}
    files = {
        "vocab.json": json.dumps({token: place for place, token in enumerate(tokens)}, ensure_ascii=False),
        "merges.txt": "\n".join(["#version: 0.2", *(" ".join(pair) for pair in pairs), ""]),
        "tokenizer_config.json": json.dumps(settings | special, indent=2),
        "special_tokens_map.json": json.dumps(special, indent=2),
    }
    for name, content in files.items():
        atomic_write(folder / name, content.encode())
    return len(tokens)
