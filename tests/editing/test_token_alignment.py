"""Which target token takes which source token's map: closed forms with a tokenizer of single letters, and with the embedded model's own."""

import pytest
import torch
from tiny import MAX_TOKENS, tiny_tokenizer

from companion.weights.pipelines import load_pipeline
from smoothlib.editing.token_alignment import align_prompts, find_tokens, needleman_wunsch, split_words

TOKENIZER = tiny_tokenizer()  # a word of n letters has n tokens, but for "red", which has one


def matrix(*entries, size=MAX_TOKENS):
    """Ones at (row, column), or the value of (row, column, value)."""
    made = torch.zeros(size, size)
    for row, column, *value in entries:
        made[row, column] = value[0] if value else 1
    return made


def positions(mask):
    return mask.nonzero().flatten().tolist()


def test_words_are_split_by_the_tokenizer():
    assert [len(word) for word in split_words(TOKENIZER, " a red  xy, redd")] == [1, 1, 3, 3]
    assert split_words(TOKENIZER, "") == []
    assert split_words(TOKENIZER, "A Red") == split_words(TOKENIZER, "a red")


def test_equal_prompts_go_one_to_one():
    for kind in ("auto", "replace", "refine"):
        found = align_prompts(TOKENIZER, "a red xy", "a red xy", kind)
        assert torch.equal(found.matrix, torch.eye(MAX_TOKENS)) and found.shared.all()
        assert not found.changed_source.any() and not found.changed_target.any()
    assert align_prompts(TOKENIZER, "a red xy", "a red xy").kind == "replace" == align_prompts(TOKENIZER, "", "").kind


def test_several_changed_words_of_one_token():
    found = align_prompts(TOKENIZER, "a b c d", "a x c y")
    assert found.kind == "replace" and torch.equal(found.matrix, torch.eye(MAX_TOKENS))
    assert positions(found.changed_source) == positions(found.changed_target) == [2, 4]


def test_a_word_of_one_token_becomes_one_of_three():
    found = align_prompts(TOKENIZER, "a red b", "a xyz b")
    ends = [(5 + k - 1, 6 + k - 1) for k in range(11)]  # end and padding: 12 tokens in the source, 10 in the target
    words = [(0, 0), (1, 1), (2, 2, 1 / 3), (2, 3, 1 / 3), (2, 4, 1 / 3), (3, 5)]
    expected = matrix(*words, *ends, (14, 15), (15, 15))
    assert found.kind == "replace" and torch.equal(found.matrix, expected)
    assert positions(found.changed_source) == [2] and positions(found.changed_target) == [2, 3, 4]


def test_a_word_of_three_tokens_becomes_one():
    found = align_prompts(TOKENIZER, "a xyz b", "a red b")
    ends = [(6 + k, 4 + k) for k in range(9)]  # to (14, 12)
    expected = matrix((0, 0), (1, 1), (2, 2), (3, 2), (4, 2), (5, 3), *ends, (15, 13, 1 / 3), (15, 14, 1 / 3), (15, 15, 1 / 3))
    assert torch.equal(found.matrix, expected)


@pytest.mark.parametrize("prompts", [("a red b", "xyz q b"), ("abc d", "e fgh"), ("a", "b"), ("red", "abcdefghijklmn")])
def test_replacing_keeps_all_of_the_attention(prompts):
    for source, target in (prompts, prompts[::-1]):
        found = align_prompts(TOKENIZER, source, target, "replace")
        assert torch.allclose(found.matrix.sum(1), torch.ones(MAX_TOKENS), atol=1e-6) and found.shared.all()


def test_new_words_keep_their_own_maps():
    found = align_prompts(TOKENIZER, "a b", "a red b")
    assert found.kind == "refine" and positions(1 - found.shared) == [2]
    assert torch.equal(found.matrix, matrix((0, 0), (1, 1), (2, 3), *((3 + k, 4 + k) for k in range(12))))
    assert positions(found.changed_source) == [] and positions(found.changed_target) == [2]


def test_words_that_are_gone_leave_the_last_padding_its_own_map():
    found = align_prompts(TOKENIZER, "a red b", "a b")
    assert found.kind == "refine" and positions(1 - found.shared) == [15]
    assert torch.equal(found.matrix, matrix((0, 0), (1, 1), (3, 2), *((4 + k, 3 + k) for k in range(12))))
    assert positions(found.changed_source) == [2] and positions(found.changed_target) == []


def test_a_changed_word_among_new_ones():
    found = align_prompts(TOKENIZER, "a b on c", "a red d on c q")
    assert found.kind == "refine" and positions(found.changed_target) == [2, 3, 7] and positions(found.changed_source) == [2]
    assert [found.matrix[:, column].argmax().item() for column in (1, 4, 5, 6)] == [1, 3, 4, 5]


@pytest.mark.parametrize(
    ("source", "target", "kind"),
    [
        ("a b c", "a d c", "replace"),
        ("a b c", "x y z", "replace"),
        ("a b c", "b c d", "refine"),  # as many words, but shifted by one
        ("a b", "a b c", "refine"),
        ("", "a b", "refine"),
        ("a b", "", "refine"),
    ],
)
def test_the_kind_follows_from_the_prompts(source, target, kind):
    assert align_prompts(TOKENIZER, source, target).kind == kind


def test_needleman_wunsch_finds_the_most_partners():
    assert needleman_wunsch("abcd", "xacda") == [None, 0, 2, 3, None]
    assert needleman_wunsch("a", "aa") == [0, None]  # the earliest
    assert needleman_wunsch("", "ab") == [None, None] and needleman_wunsch("ab", "") == []
    assert needleman_wunsch("abc", "cab") == [None, 0, 1]


def test_words_are_found_where_they_stand():
    assert find_tokens(TOKENIZER, "a red xy red", "red") == [2, 5]
    assert find_tokens(TOKENIZER, "a red xy red", "xy red") == [3, 4, 5]
    assert find_tokens(TOKENIZER, "redd redder", "red") == [] == find_tokens(TOKENIZER, "a", "")


def test_the_embedded_models_tokenizer():
    """It splits words that its captions lack."""
    tokenizer = load_pipeline("mini").tokenizer
    source, target = "a photo of a sofa at night", "a photo of a tiger at night"
    (tokens,) = [len(word) for word in split_words(tokenizer, "tiger")]
    found = align_prompts(tokenizer, source, target)
    assert tokens > 1 and found.kind == "replace"
    assert found.matrix[5, 5 : 5 + tokens].tolist() == pytest.approx([1 / tokens] * tokens)
    assert found.matrix[6, 5 + tokens] == found.matrix[7, 6 + tokens] == 1  # "at", "night"
    assert positions(found.changed_target) == list(range(5, 5 + tokens)) == find_tokens(tokenizer, target, "tiger")


def test_what_cannot_be_aligned_is_refused():
    with pytest.raises(ValueError, match=r"^kind is 'replace', but must be 'refine' or 'auto' for 'a b' of 2 words and 'a' of 1$"):
        align_prompts(TOKENIZER, "a b", "a", "replace")
    with pytest.raises(ValueError, match=r"^a prompt has 17 tokens with start and end, but must have at most 16$"):
        align_prompts(TOKENIZER, "a", "abcdefghijklmno")

    class Glued:
        model_max_length = 16

        def __call__(self, text, **arguments):
            return type("Encoding", (), {"input_ids": [ord(letter) for letter in text]})

    with pytest.raises(ValueError, match=r"^tokenizer is Glued, but must be one that reads each word of 'a b' by itself$"):
        align_prompts(Glued(), "a b", "a b")
