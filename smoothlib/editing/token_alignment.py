"""Which token of a target prompt takes the attention map of which token of the source prompt (Hertz et al. 2023, Prompt-to-Prompt, Sec. 4).

Two alignments were published. "replace" goes word by word through prompts of equally many words: a word that the tokenizer splits gives
its maps to all tokens of the word in its place. "refine" aligns the tokens of prompts of any length (Needleman and Wunsch 1970) and leaves
new tokens their own maps. Words are what spaces separate; tokens are those of the pipeline's own tokenizer.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor

Kind = Literal["replace", "refine"]


@dataclass(frozen=True)
class Alignment:
    """How a target's maps come from a source's: new = (source map @ matrix) * shared + target's own map * (1 - shared).

    L is the tokenizer's length, the start, the end and the padding included.
    """

    kind: Kind
    matrix: Tensor  # (L, L), row: source token, column: target token; columns of 0 where `shared` is 0
    shared: Tensor  # (L,), 1 where a target token takes the source's map, 0 where it keeps its own
    changed_source: Tensor  # (L,), 1 at tokens of source words that the target lacks
    changed_target: Tensor  # (L,), 1 at tokens of target words that the source lacks


def align_prompts(tokenizer: Any, source: str, target: str, kind: Literal["auto", "replace", "refine"] = "auto") -> Alignment:
    """The alignment of two prompts.

    "auto" takes "replace" where both prompts have equally many words and no shift of one against the other matches more of them than place
    by place; otherwise "refine".

    Raises:
        ValueError: more tokens than the tokenizer's length, words that the tokenizer does not keep apart, or "replace" with prompts of
            different numbers of words.

    Example:
        >>> from companion.weights.pipelines import load_pipeline
        >>> from smoothlib.editing.token_alignment import align_prompts
        >>> tokenizer = load_pipeline("mini").tokenizer
        >>> align_prompts(tokenizer, "a red sofa", "a green sofa").kind, align_prompts(tokenizer, "a sofa", "a red sofa").kind
        ('replace', 'refine')
        >>> align_prompts(tokenizer, "a sofa", "a red sofa").shared[:5]  # start, a, red, sofa, end
        tensor([1., 1., 0., 1., 1.])
    """
    a, b = split_words(tokenizer, source), split_words(tokenizer, target)
    if kind == "auto":
        by_place = sum(x == y for x, y in zip(a, b, strict=False))
        matched = sum(i is not None for i in needleman_wunsch(a, b))
        kind = "replace" if len(a) == len(b) and matched == by_place else "refine"
    elif kind == "replace" and len(a) != len(b):
        raise ValueError(f"kind is 'replace', but must be 'refine' or 'auto' for {source!r} of {len(a)} words and {target!r} of {len(b)}")
    length = tokenizer.model_max_length
    return (_replaced if kind == "replace" else _refined)(a, b, length)


def split_words(tokenizer: Any, prompt: str) -> list[tuple[int, ...]]:
    """The tokens of each word of a prompt, in order, without start and end."""
    ids = _ids(tokenizer, prompt)
    if len(ids) + 2 > tokenizer.model_max_length:
        raise ValueError(f"a prompt has {len(ids) + 2} tokens with start and end, but must have at most {tokenizer.model_max_length}")
    words = [tuple(_ids(tokenizer, word)) for word in prompt.split()]
    if [token for word in words for token in word] != ids:
        raise ValueError(f"tokenizer is {type(tokenizer).__name__}, but must be one that reads each word of {prompt!r} by itself")
    return words


def find_tokens(tokenizer: Any, prompt: str, words: str) -> list[int]:
    """Positions (start included) of the tokens of `words`, one word or several in a row, at each place where `prompt` has them."""
    ids, wanted = _ids(tokenizer, prompt), _ids(tokenizer, words)
    starts = [i for i in range(len(ids) - len(wanted) + 1) if wanted and ids[i : i + len(wanted)] == wanted]
    return sorted({start + 1 + offset for start in starts for offset in range(len(wanted))})


def needleman_wunsch(source: Sequence[Any], target: Sequence[Any]) -> list[int | None]:
    """For each element of `target` the index of its partner in `source`, or None (match 1, mismatch -1, gap 0, as published).

    A mismatch scores less than two gaps, so partners are equal, there are as many as possible, and they keep their order. Where there is
    a choice, the earliest in `target` is taken, as in the authors' code.

    Example:
        >>> from smoothlib.editing.token_alignment import needleman_wunsch
        >>> needleman_wunsch("abcd", "xacda")
        [None, 0, 2, 3, None]
    """
    best = [[0] * (len(target) + 1) for _ in range(len(source) + 1)]  # most matches of the first i and j elements
    for i, x in enumerate(source, start=1):
        for j, y in enumerate(target, start=1):
            best[i][j] = max(best[i - 1][j], best[i][j - 1], best[i - 1][j - 1] + (x == y))
    partners: list[int | None] = [None] * len(target)
    i, j = len(source), len(target)
    while i and j:
        if best[i][j] == best[i][j - 1]:
            j -= 1
        elif best[i][j] == best[i - 1][j]:
            i -= 1
        else:
            i, j = i - 1, j - 1
            partners[j] = i
    return partners


def _replaced(a: list[tuple[int, ...]], b: list[tuple[int, ...]], length: int) -> Alignment:
    """Word by word. Words of equally many tokens go token by token; otherwise each target token takes an equal part of the source's sum."""
    matrix, changed_source, changed_target = torch.zeros(length, length), torch.zeros(length), torch.zeros(length)
    matrix[0, 0] = 1  # start to start
    i = j = 1
    for x, y in zip(a, b, strict=True):
        rows, columns = slice(i, i + len(x)), slice(j, j + len(y))
        matrix[rows, columns] = torch.eye(len(x)) if len(x) == len(y) else 1 / len(y)
        if x != y:
            changed_source[rows] = changed_target[columns] = 1
        i, j = i + len(x), j + len(y)
    _pair_ends(matrix, i, j)
    return Alignment("replace", matrix, torch.ones(length), changed_source, changed_target)


def _pair_ends(matrix: Tensor, i: int, j: int) -> None:
    """End and padding go one by one; what the shorter of the two tails lacks, its last token makes up for, so that no attention is lost."""
    rows, columns = len(matrix) - i, len(matrix) - j
    for offset in range(max(rows, columns)):
        row, column = min(offset, rows - 1), min(offset, columns - 1)
        matrix[i + row, j + column] = 1
    if columns > rows:
        matrix[-1] /= columns - rows + 1


def _refined(a: list[tuple[int, ...]], b: list[tuple[int, ...]], length: int) -> Alignment:
    """Token by token; the padding goes one by one, and where the source has less of it, the target keeps its own maps."""
    source, target = ([token for word in words for token in word] for words in (a, b))
    partners = needleman_wunsch(source, target)
    matrix, shared = torch.zeros(length, length), torch.zeros(length)
    pairs = [(0, 0)] + [(i + 1, j + 1) for j, i in enumerate(partners) if i is not None]
    tail = min(length - len(source), length - len(target)) - 1  # without the start
    pairs += [(len(source) + 1 + offset, len(target) + 1 + offset) for offset in range(tail)]
    for i, j in pairs:
        matrix[i, j] = shared[j] = 1
    changed_source, changed_target = torch.zeros(length), torch.zeros(length)
    matched = set(partners)
    changed_source[[i + 1 for i in range(len(source)) if i not in matched]] = 1
    changed_target[[j + 1 for j, i in enumerate(partners) if i is None]] = 1
    return Alignment("refine", matrix, shared, changed_source, changed_target)


def _ids(tokenizer: Any, text: str) -> list[int]:
    """Tokens without start and end."""
    return tokenizer(text, padding=False, truncation=False, add_special_tokens=False, verbose=False).input_ids
