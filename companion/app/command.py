"""The command that `make app` runs: load the two models, say the address, serve until Ctrl+C."""

import asyncio
import signal
import webbrowser
from collections.abc import Sequence

from ..base.config import ConfigurationError, OneSentenceParser

PORT = 7860


def parser() -> OneSentenceParser:
    """The command line."""
    command = OneSentenceParser(
        prog="companion.app", description="Try Smooth Diffusion by hand: a page on this machine, http://127.0.0.1, asked by nobody else."
    )
    command.add_argument("--model", default="mini", help="mini, a folder with a diffusers pipeline, or a hub id (owner/model@commit)")
    command.add_argument("--adapter", default="smooth", help="the Smooth-LoRA: a name in data/models/adapters, or a folder")
    command.add_argument("--device", default="auto", choices=("auto", "cpu", "cuda"))
    command.add_argument("--port", type=int, default=PORT, help="0: any that is free")
    command.add_argument("--open", action="store_true", help="open the page in the browser")
    return command


def main(arguments: Sequence[str] | None = None) -> None:
    """Serve until Ctrl+C or SIGTERM; exits with code 2 and one sentence where a model cannot be loaded or the port is taken."""
    options = parser().parse_args(arguments)
    if not 0 <= options.port <= 65535:
        parser().error(f"port is {options.port}, but must be from 0 to 65535")
    try:
        asyncio.run(_serve(options))
    except ConfigurationError as error:
        parser().exit(2, f"companion.app: {error}\n")


async def _serve(options: "OneSentenceParser") -> None:
    from ..studies.setup import chosen_device
    from .models import load_models
    from .server import App

    print(f"Loading {options.model} and its adapter {options.adapter} ...", flush=True)
    app = App(load_models(options.model, options.adapter, chosen_device(options.device)))
    try:
        address = app.listen(options.port)
    except OSError as error:
        app.close()
        raise ConfigurationError(f"port {options.port} cannot be served ({error.strerror}): name another one with --port.") from error
    print(f"Open {address} in a browser on this machine. Ctrl+C ends it.", flush=True)
    if options.open:
        webbrowser.open(address)
    end = asyncio.Event()
    for name in (signal.SIGINT, signal.SIGTERM):
        asyncio.get_running_loop().add_signal_handler(name, end.set)
    try:
        await end.wait()
    finally:
        app.close()
