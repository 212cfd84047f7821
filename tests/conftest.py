"""What tests of several files share as fixtures; helpers that are called lie in modules of their own (`tiny`, `walking`)."""

import pytest
from tiny import tiny_pipeline


@pytest.fixture(scope="session")
def saved(tmp_path_factory):
    """A folder with the tiny pipeline, as diffusers saves it; for reading alone."""
    folder = tmp_path_factory.mktemp("saved") / "tiny"
    tiny_pipeline().save_pretrained(folder)
    return folder
