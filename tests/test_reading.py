"""The project's own text, JSON and YAML: whatever is wrong with a file, one sentence names it and says what to do."""

import json

import pytest
from tiny import assert_one_sentence

from companion.base.reading import LARGEST, UnreadableFile, read_json, read_text, read_yaml

WRONG = {
    "empty": (b"", read_json, "is not JSON"),
    "cut off": (b'{"a": [1,', read_json, r"is not JSON \(Expecting value in line 1, column 10\)"),
    "another page": (b"<html>404</html>", read_json, "is not JSON"),
    "not a number": (b'{"a": NaN}', read_json, r".*\(NaN is no number\)"),
    "infinity": (b'{"a": -Infinity}', read_json, r".*\(-Infinity is no number\)"),
    "twice": (b'{"steps": 1, "steps": 2}', read_json, r".*\(steps is there twice\)"),
    "deep": (b"[" * 200_000, read_json, "is not JSON"),
    "digits": (b'{"a": ' + b"1" * 10_000 + b"}", read_json, "is not JSON"),
    "a list": (b"[1]", read_json, r"holds \[1\], but must hold facts by name"),
    "latin-1": ("é".encode("latin-1"), read_json, r"has another encoding \(byte 0 is 0xe9\), but must be UTF-8"),
    "utf-16": ("{}".encode("utf-16"), read_json, "is UTF-16, but must be UTF-8"),
    "open bracket": (b"a: [1", read_yaml, "is not YAML: .* in line"),
    "a tab": (b"a:\n\t- 1", read_yaml, "is not YAML: found character"),
    "a control character": (b"a: \x00", read_yaml, "is not YAML"),
    "a key twice": (b"steps: 1\nseed: 2\nsteps: 3\n", read_yaml, "is not YAML: steps is there twice in line 1"),
    "a date that is none": (b"a: 2026-13-45", read_yaml, "is not YAML: month must be in 1..12"),
    "an object": (b"!!python/object/apply:os.system ['true']", read_yaml, "is not YAML: could not determine a constructor"),
    "nothing": (b"", read_yaml, "holds None, but must hold facts by name"),
}


@pytest.mark.parametrize("what", WRONG)
def test_what_is_wrong_is_told_in_one_sentence_that_names_the_file(tmp_path, what):
    content, read, said = WRONG[what]
    file = tmp_path / "facts.txt"
    file.write_bytes(content)
    with pytest.raises(UnreadableFile, match=rf"facts\.txt {said}.*\bask for it again$") as raised:
        read(file, remedy="ask for it again")
    assert_one_sentence(raised)
    assert what in ("a list", "nothing") or raised.value.__cause__ is not None, "the cause stays"


def test_size_is_looked_at_before_anything_is_read(tmp_path):
    file = tmp_path / "large.json"
    with open(file, "wb") as stream:
        stream.truncate(LARGEST + 1)  # without the bytes
    with pytest.raises(UnreadableFile, match=rf"large\.json has {LARGEST + 1} bytes, but must have at most {LARGEST}: restore it$"):
        read_json(file)
    with pytest.raises(FileNotFoundError, match="absent"):
        read_text(tmp_path / "absent")


def test_what_is_right_is_read(tmp_path):
    file = tmp_path / "facts"
    file.write_bytes(b"\xef\xbb\xbf" + json.dumps({"é": [1.5, None, "\u2028"]}).encode())
    assert read_json(file) == read_yaml(file) == {"é": [1.5, None, "\u2028"]}
    file.write_text("one: &x {a: 1}\ntwo: {<<: *x, a: 2}\n")
    assert read_yaml(file) == {"one": {"a": 1}, "two": {"a": 2}}
