"""Text editing (Sec. 4.4): eight methods with one signature, and the inversions that they start from.

Every method is a module with a settings class and

    edit(pipe, images, source_prompts, target_prompts, *, inversion, settings, generator=None, progress=iter) -> Edited

Which inversion gives the starting noise is a choice apart from the method (`smoothlib.editing.inversions`), so that both can be crossed.
`METHODS[name]` is the module; it is imported when it is asked for, so that this table does not wait for PyTorch.
"""

from collections.abc import Iterator, Mapping
from importlib import import_module
from types import ModuleType

_SETTINGS = {  # module of this package -> its settings class
    "prompt_switch": "PromptSwitch",
    "sdedit": "SDEdit",
    "prompt_to_prompt": "PromptToPrompt",
    "plug_and_play": "PlugAndPlay",
    "pix2pix_zero": "Pix2PixZero",
    "cycle_diffusion": "CycleDiffusion",
    "disentangle": "Disentangle",
    "edict": "EDICT",
}


class _Methods(Mapping[str, ModuleType]):
    """Name -> module, imported at its first use."""

    def __getitem__(self, name: str) -> ModuleType:
        if name not in _SETTINGS:
            raise KeyError(name)
        return import_module(f"{__name__}.{name}")

    def __iter__(self) -> Iterator[str]:
        return iter(_SETTINGS)

    def __len__(self) -> int:
        return len(_SETTINGS)

    def __contains__(self, name: object) -> bool:
        return name in _SETTINGS  # Mapping's own would import the module


METHODS = _Methods()


def settings_class(name: str) -> type:
    """The settings class of the method `name`.

    Raises:
        ValueError: there is no such method.
    """
    if name not in METHODS:
        raise ValueError(f"method is {name!r}, but must be one of {', '.join(METHODS)}")
    return getattr(METHODS[name], _SETTINGS[name])
