"""How the local app is started: which models it loads, what it refuses in one sentence, and that it ends when it is told to."""

import os
import re
import signal
import subprocess
import sys
import urllib.request

import pytest
import torch
from lora_files import entries, low_rank, peft_key, projections, write_adapter
from tiny import LATENT_SHAPE, assert_one_sentence, noise, tiny_pipeline

from companion.app.command import main, parser
from companion.app.models import load_models
from companion.base.config import ConfigurationError
from companion.base.paths import ROOT


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Any pipeline: a folder as diffusers saves one."""
    folder = tmp_path_factory.mktemp("pipelines") / "tiny"
    tiny_pipeline().save_pretrained(folder)
    return folder


def test_any_pipeline_folder_is_loaded_with_its_adapter(folder, tmp_path):
    unet = tiny_pipeline().unet
    adapter = write_adapter(tmp_path / "mine", entries(low_rank(unet, projections(unet)), peft_key))
    models = load_models(str(folder), str(adapter))
    base, smooth = (side.pipe for side in models.sides)
    assert models.size == 16 and base.vae is smooth.vae
    arguments = noise(1, *LATENT_SHAPE), 500, noise(1, 4, 16)
    with torch.no_grad():
        assert not torch.allclose(base.unet(*arguments).sample, smooth.unet(*arguments).sample)
        torch.testing.assert_close(base.unet(*arguments).sample, unet(*arguments).sample)


def test_an_adapter_of_another_model_is_refused(folder):
    with pytest.raises(ConfigurationError) as refused:
        load_models(str(folder), "smooth")
    assert_one_sentence(refused)


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["--model", "nothing"], "the model 'nothing' is not in"),
        (["--model", "owner/model"], "revision must be its commit of 40 hex digits"),
        (["--adapter", "nothing"], "there is no adapter 'nothing'"),
        (["--port", "99999"], "port is 99999, but must be from 0 to 65535"),
        (["--share"], "unrecognized arguments: --share"),
    ],
)
def test_the_command_refuses_in_one_sentence(arguments, sentence, capsys):
    with pytest.raises(SystemExit) as ended:
        main(arguments)
    said = capsys.readouterr().err
    assert sentence in said and ended.value.code == 2 and said.strip().count("\n") == 0


def test_it_cannot_be_shared():
    assert not {"share", "host"} & set(vars(parser().parse_args([])))


def test_it_serves_until_it_is_told_to_end_and_leaves_nothing(tmp_path):
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "TMPDIR": str(tmp_path)}
    command = [sys.executable, "-m", "companion.app", "--port", "0", "--device", "cpu"]
    with subprocess.Popen(command, cwd=tmp_path, env=environment, stdout=subprocess.PIPE, text=True) as running:
        try:
            lines = [running.stdout.readline() for _ in range(2)]
            (address,) = re.findall(r"http://127\.0\.0\.1:\d+/", lines[1])
            with urllib.request.urlopen(address, timeout=30) as page:
                assert b"Smooth Diffusion by hand" in page.read()
            running.send_signal(signal.SIGTERM)
            assert running.wait(30) == 0
        finally:
            running.kill()
    assert not list(tmp_path.iterdir())
