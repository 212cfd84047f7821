"""`python -m companion.world.build`: what is wrong is said in one sentence, before anything is rendered."""

import pytest

from companion.world import build


@pytest.mark.parametrize(
    ("arguments", "renderer", "code", "sentence"),
    [
        (["train", "--workers", "0"], ("json",), 2, "--workers is 0, but must be at least 1; --help shows how."),
        (["train", "--workers", "two"], ("json",), 2, "argument --workers: invalid int value: 'two'; --help shows how."),
        (["trian"], ("json",), 2, "argument split: invalid choice: 'trian'"),
        (["card"], ("json", "no_such_renderer"), 1, "no_such_renderer is missing: pip install -c constraints.txt -e '.[render]'"),
    ],
)
def test_bad_commands_end_in_one_sentence(monkeypatch, capsys, arguments, renderer, code, sentence):
    monkeypatch.setattr(build, "RENDERER", renderer)
    monkeypatch.setattr("sys.argv", ["build", *arguments])
    for work in ("build_split", "write_data_card"):
        monkeypatch.setattr(build, work, None)
    with pytest.raises(SystemExit) as stopped:
        build.main()
    error = capsys.readouterr().err
    assert stopped.value.code == code and error.startswith(f"build: {sentence}") and error.count("\n") == 1
