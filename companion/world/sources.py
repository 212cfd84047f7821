"""The renderer's raw material: furniture models and light maps, fetched by package name and checked by hash.

Two public packages hold everything that is not procedural: Debian's `sweethome3d-furniture` (OBJ models, CC0 and CC BY 3.0) and npm's
`@pmndrs/assets` (HDR light maps, CC0). Nothing is installed: the archives are downloaded, verified and unpacked into a cache folder.
"""

import base64
import hashlib
import re
import subprocess
import tarfile
import zipfile
from dataclasses import dataclass
from pathlib import Path

from ..base import paths

CACHE = paths.RUNS / "scene_sources"
PACKS = ("BlendSwap-CC-0", "BlendSwap-CC-BY", "KatorLegaz", "Scopia")
PACK_LICENCES = {
    "BlendSwap-CC-0": "CC0 1.0",
    "BlendSwap-CC-BY": "CC BY 3.0",
    "KatorLegaz": "CC BY 3.0",
    "Scopia": "CC BY 3.0",
}


@dataclass(frozen=True)
class Archive:
    """A downloadable package: the command that fetches it, its file name and its sha256."""

    file: str
    sha256: str
    command: tuple[str, ...]


FURNITURE = Archive(
    "sweethome3d-furniture_1.8-1_all.deb",
    "3ccb90c63f9525e887a767b9cd5c8b6933b8b6b2973a615a5359ee68a2118668",
    ("apt-get", "download", "sweethome3d-furniture=1.8-1"),
)
LIGHTS = Archive(
    "pmndrs-assets-1.7.0.tgz",
    "152bd218a3390703f184f0c6ce16e73c8f0a87f32d38530d418a09d33d8208dc",
    ("npm", "pack", "--silent", "@pmndrs/assets@1.7.0"),
)


def fetch(archive: Archive, cache: Path = CACHE) -> Path:
    """Return the verified archive, downloading it with its package manager when the cache lacks it.

    Raises:
        RuntimeError: the download failed, or the file is not the one these scenes were rendered from.
    """
    cache.mkdir(parents=True, exist_ok=True)
    path = cache / archive.file
    if not path.exists():
        try:
            subprocess.run(archive.command, cwd=cache, check=True, capture_output=True)
        except (OSError, subprocess.CalledProcessError) as error:
            command = " ".join(archive.command)
            raise RuntimeError(
                f"could not fetch {archive.file} with `{command}` ({error}); download it by hand and put it in {cache}"
            ) from error
    digest = hashlib.sha256(path.read_bytes()).hexdigest()
    if digest != archive.sha256:
        raise RuntimeError(f"{path} has sha256 {digest}, but the scenes were rendered from {archive.sha256}: delete it and fetch it again")
    return path


def unpack_furniture(cache: Path = CACHE) -> Path:
    """Unpack the furniture packs (`data.tar` inside the .deb, zip files inside that) and return their folder."""
    target = cache / "furniture"
    if (target / ".complete").exists():
        return target
    deb = fetch(FURNITURE, cache)
    listing = cache / "deb"
    subprocess.run(["dpkg-deb", "-x", str(deb), str(listing)], check=True)
    for pack in PACKS:
        with zipfile.ZipFile(listing / "usr/share/sweethome3d/furniture" / f"{pack}.sh3f") as archive:
            archive.extractall(target / pack)
    (target / ".complete").touch()
    return target


def unpack_light(name: str, cache: Path = CACHE) -> Path:
    """Return the EXR file of light map `name` (stored base64 in a JavaScript module)."""
    path = cache / "lights" / f"{name}.exr"
    if not path.exists():
        with tarfile.open(fetch(LIGHTS, cache)) as archive:
            text = archive.extractfile(f"package/hdri/{name}.exr.js").read().decode()
        start = text.index("base64,") + len("base64,")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(base64.b64decode(re.split(r"['\"`]", text[start:], maxsplit=1)[0]))
    return path


def furniture_catalogue(cache: Path = CACHE) -> dict[str, dict[str, str]]:
    """Read every pack's properties file: `pack/model.obj` -> {name, creator, width, height, depth, modelRotation, ...}."""
    folder = unpack_furniture(cache)
    catalogue = {}
    for pack in PACKS:
        entries: dict[str, dict[str, str]] = {}
        for line in (folder / pack / "PluginFurnitureCatalog.properties").read_text(encoding="latin-1").splitlines():
            if match := re.match(r"(\w+)#(\d+)\s*=\s*(.*)", line.strip()):
                entries.setdefault(match[2], {})[match[1]] = match[3]
        for entry in entries.values():
            catalogue[pack + entry["model"]] = {**entry, "pack": pack, "path": str(folder / pack) + entry["model"]}
    return catalogue
