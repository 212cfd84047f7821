"""`make retrain`: nothing happens unasked, stages run in order, and an interruption goes on with the stage that it met."""

import runpy
import sys
from types import SimpleNamespace

import pytest

from companion.base import paths
from companion.training.settings import load_config


@pytest.fixture
def tool(tmp_path, monkeypatch):
    """tools/retrain.py with commands that are only noted; `breaks` makes one of them fail."""
    names = runpy.run_path(str(paths.ROOT / "tools" / "retrain.py"))
    scope, seen = (
        names["main"].__globals__,
        SimpleNamespace(commands=[], breaks=None, note=tmp_path / "retrain.json", stages=names["STAGES"]),
    )

    def run(command, cwd):
        seen.commands.append(" ".join(command[1:]))
        return SimpleNamespace(returncode=int(seen.breaks is not None and seen.breaks in seen.commands[-1]))

    scope["subprocess"] = SimpleNamespace(run=run)
    scope["NOTE"] = seen.note
    scope["missing"] = lambda stage: "left out: no GPU" if stage.needs_gpu else ""
    seen.main = lambda *arguments: (monkeypatch.setattr(sys, "argv", ["retrain", *arguments]), names["main"]())
    return seen


def test_without_yes_the_stages_are_printed_and_nothing_runs(tool, capsys):
    tool.main()
    said = capsys.readouterr().out
    assert tool.commands == [] and "say --yes" in said
    assert "decoder          about 45 min on two cores" in said and "base_gpu         left out: no GPU" in said


def test_stages_run_in_order_and_what_this_machine_cannot_do_is_left_out(tool):
    tool.main("--yes", "--without-scenes")
    trained = [command.partition("training/")[2].partition(".yaml")[0] or command for command in tool.commands]
    assert (
        trained[:5] == ["vae", "base", "base_continued", "decoder", "decoder_continued"]
        and trained[-1] == "tools/train_adapters.py --again"
    )
    assert all("--overwrite" in command for command in tool.commands if "--config" in command) and not tool.note.exists()


def test_an_interruption_goes_on_with_the_stage_that_it_met(tool):
    tool.breaks = "base_continued.yaml"
    with pytest.raises(SystemExit, match="The stage base_continued ended with exit status 1"):
        tool.main("--yes", "--from", "vae")
    assert len(tool.commands) == 3
    tool.breaks = None
    tool.commands.clear()
    tool.main("--yes", "--from", "vae")
    assert "base_continued.yaml" in tool.commands[0] and not tool.note.exists()


def test_every_training_stage_has_a_configuration_that_is_valid(tool):
    for stage in tool.stages:
        for command in stage.commands:
            if "--config" in command:
                load_config(command[command.index("--config") + 1])
