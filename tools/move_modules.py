"""Make two packages of one, `smoothlib` and `companion`, as tools/moves.yaml says.

    python tools/move_modules.py        then: python tools/prove_move.py HEAD --records

Moves the files, then rewrites what names them: imports, strings, commands, notebooks' sources, the book, settings. Outputs of notebooks and
recorded results are left alone. It needs a checkout without uncommitted changes and commits nothing; `git reset --hard` takes it back.
"""

import argparse
import ast
import json
import re
import shutil
import subprocess
import sys
from collections.abc import Iterable
from pathlib import Path

from moving import Project, Source, identifiers, imported, shown, top

TOOLS = Path(__file__).resolve().parent
OWN = {"tools/moves.yaml", "tools/move_modules.py", "tools/moving.py", "tools/prove_move.py", "tests/test_move.py"}
PROSE = {".md", ".yaml", ".yml", ".toml", ".cff", ".txt", ".js", ".css", ".j2", ".cfg", ".html", ""}
INCLUDE = re.compile(r"^```\{literalinclude\} \.\./(smoothlib/\S+\.py)\n.*?^```", re.MULTILINE | re.DOTALL)
ARROW = re.compile(r'    \("([\w.]+)", "([\w.]+)"\): ')
FROZEN = re.compile(r"^WITHOUT_INFLUENCE = frozenset\(.*?^\)", re.MULTILINE | re.DOTALL)
WIDTH = 140


class MoveError(Exception):
    """One sentence: why the move cannot be made."""


def git(root: Path, *arguments: str) -> str:
    return subprocess.run(["git", "-C", str(root), *arguments], check=True, capture_output=True, text=True).stdout


def move(root: Path, table: Path) -> list[str]:
    """Make the move in the checkout `root`; the notes are what a person should look at. Raises MoveError before anything is written."""
    if (root / "companion").exists():
        raise MoveError(f"{root.name} has a folder companion already: the move has been made.")
    if git(root, "status", "--porcelain", "--untracked-files=no"):
        raise MoveError("Tracked files have changes that are not committed: commit them first, so that the move can be taken back.")
    project = Project(root, table)
    if missing := project.missing():
        raise MoveError(f"tools/moves.yaml has no line for {shown(missing)}: say where they go.")
    places = list(project.moves.values())
    if twice := {new for new in places if places.count(new) > 1}:
        raise MoveError(f"tools/moves.yaml moves more than one module to {shown(twice)}: give them places of their own.")
    notes = [f"not in this tree: {shown(project.absent)}"]
    edited, unfit = edits(project)  # all must fit before the first is written
    notes += unfit
    for file, text in edited.items():
        file.write_text(text, encoding="utf-8")
    project = Project(root, table)
    written = python_files(project) | others(project)
    for old, file in project.files.items():
        target = project.new_file(old)
        if target != file:
            target.parent.mkdir(parents=True, exist_ok=True)
            git(root, "mv", str(file), str(target))
    renamed = {root / old: root / new for old, new in project.renames.items() if (root / old).is_file()}
    for file, target in renamed.items():
        git(root, "mv", str(file), str(target))
    for file, text in written.items():
        file = renamed.get(file, file)
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(text, encoding="utf-8")
    for file in (table.parent / "moved").glob("*.py"):
        target = root / "tests" / file.name
        git(root, "mv", str(file), str(target))
        target.write_text(known_arrows(project, target.read_text(encoding="utf-8")), encoding="utf-8")
    for folder in sorted((root / "smoothlib").rglob("*"), reverse=True):
        if folder.is_dir() and not any(child.name != "__pycache__" for child in folder.iterdir()):
            shutil.rmtree(folder)
    git(root, "add", "--all", "smoothlib", "companion")
    return notes


def known_arrows(project: Project, text: str) -> str:
    """The test of the arrows without exceptions for modules that this tree does not have."""
    there = {*project.moves.values(), "smoothlib"}
    kept = [line for line in text.splitlines() if not (arrow := ARROW.match(line)) or {arrow[1], arrow[2]} <= there]
    return "\n".join(kept) + "\n"


# What changes the program ---------------------------------------------------------------------------------------------------------


def edits(project: Project) -> tuple[dict[Path, str], list[str]]:
    """The files of the table's `edits` as they should be, and the optional edits that do not fit.

    Each edit replaces a text that must be there once, in one of its variants.
    """
    found: dict[Path, str] = {}
    unfit = []
    for edit in project.edits:
        file = project.root / edit["file"]
        if not file.is_file():
            continue
        text = found.get(file) or file.read_text(encoding="utf-8")
        variants = [one for one in edit.get("any", [edit]) if text.count(one["old"]) == 1 or (edit.get("every") and one["old"] in text)]
        if variants:
            found[file] = text.replace(variants[0]["old"], variants[0]["new"])
            continue
        first = edit.get("any", [edit])[0]["old"].strip().splitlines()[0]
        if not edit.get("optional"):
            raise MoveError(f"{edit['file']} does not have, once, the text of an edit in tools/moves.yaml that begins {first!r}.")
        unfit.append(f"not edited: {edit['file']} has no {first!r}")
    for file, text in without_influence(project).items():
        before = found.get(file) or file.read_text(encoding="utf-8")
        found[file], count = FROZEN.subn(text, before)
        if count != 1:
            raise MoveError("smoothlib/staleness.py must have WITHOUT_INFLUENCE = frozenset(...) once, its last bracket on a line alone.")
    return found, unfit


def without_influence(project: Project) -> dict[Path, str]:
    """`staleness.WITHOUT_INFLUENCE` by new names; a package whose modules are all in it stands for them."""
    for node in project.trees.get("smoothlib.staleness", ast.Module([], [])).body:
        if isinstance(node, ast.Assign) and getattr(node.targets[0], "id", "") == "WITHOUT_INFLUENCE":
            old = eval(compile(ast.Expression(node.value), "staleness", "eval"), {"__builtins__": {}, "frozenset": frozenset})
            return {project.files["smoothlib.staleness"]: named(covered(project, old))}
    return {}


def covered(project: Project, old: Iterable[str]) -> list[str]:
    inside = {new for module, new in project.moves.items() if module.split(".")[1] in old}
    places = [new for module, new in project.moves.items() if not project.is_package(module)]
    places += [new.rpartition(".")[0] for new in project.splits.values()]
    packages = {new.rsplit(".", 1)[0] for new in places if new.count(".") == 2}
    whole = {package for package in packages if all(new in inside for new in places if new.startswith(package + "."))}
    # a module that begins with the move holds definitions of one that counted; only files.atomic_write, which changes no value, joins base
    whole |= {p for p in packages if all(new in inside or new == "companion.base.files" for new in places if new.startswith(p + "."))}
    return sorted(whole | {new for new in inside if new not in whole and new.rsplit(".", 1)[0] not in whole})


def named(names: list[str]) -> str:
    return "WITHOUT_INFLUENCE = frozenset(\n    [\n" + "".join(f'        "{name}",\n' for name in names) + "    ]\n)"


# Texts ----------------------------------------------------------------------------------------------------------------------------


def python_files(project: Project) -> dict[Path, str]:
    """The modules at their new places, and the files that begin with the move."""
    found, taken = split(project)
    for old, file in project.files.items():
        source = taken.get(old, file.read_text(encoding="utf-8"))
        package = project.is_package(old)
        new = project.moves.get(old, old)
        text = Source(project, source, old, new, package).written()
        if not text.strip() and new in project.new:
            text = project.new[new]
        found[project.new_file(old)] = text
    packages = {".".join(name.split(".")[:k]) for name in [*project.moves.values(), *project.new] for k in range(1, name.count(".") + 1)}
    for name, text in project.new.items():
        place = project.root.joinpath(*name.split("."))
        found.setdefault(place / "__init__.py" if name in packages else place.with_suffix(".py"), text)
    return {file: wrapped(text) for file, text in found.items()}


def split(project: Project) -> tuple[dict[Path, str], dict[str, str]]:
    """Files of the definitions that leave their modules, and what is left of these (old name -> source)."""
    files: dict[Path, str] = {}
    left: dict[str, str] = {}
    for module in sorted({old.rpartition(".")[0] for old in project.splits}):
        targets = {
            old.rpartition(".")[2]: new.rpartition(".")[0] for old, new in project.splits.items() if old.rpartition(".")[0] == module
        }
        lines = project.files[module].read_text(encoding="utf-8").splitlines(keepends=True)
        tree, texts, gone, pieces = project.trees[module], {}, set(), {}
        for node in tree.body:
            names = [name for name in defined_by(node) if name in targets]
            if names:
                first = min([node.lineno, *(one.lineno for one in getattr(node, "decorator_list", []))])
                while lines[first - 2].startswith("#"):
                    first -= 1
                texts.setdefault(targets[names[0]], []).append("".join(lines[first - 1 : node.end_lineno]))
                pieces.setdefault(targets[names[0]], []).append(node)
                gone |= set(range(first, node.end_lineno + 1))
        rest = "".join(line for number, line in enumerate(lines, 1) if number not in gone)
        still = sorted(name for name in targets if name in identifiers(ast.parse(rest)))
        left[module] = with_imports(rest, [f"from {module} import {name}" for name in still])
        for target, parts in texts.items():
            if target in project.moves.values():
                raise MoveError(f"tools/moves.yaml moves definitions of {module} to {target}, which is a module of its own.")
            file = project.root.joinpath(*target.split(".")).with_suffix(".py")
            needed = imports_for(tree, module, pieces[target], targets)
            source = "\n".join([project.split_off[target], *needed, "\n", "\n\n".join(parts)])
            files[file] = Source(project, source, module, target).written()
    return files, left


def defined_by(node: ast.stmt) -> list[str]:
    if isinstance(node, ast.FunctionDef | ast.ClassDef):
        return [node.name]
    return [target.id for target in node.targets if isinstance(target, ast.Name)] if isinstance(node, ast.Assign) else []


def imports_for(tree: ast.Module, module: str, pieces: list[ast.stmt], targets: dict[str, str]) -> list[str]:
    """Import lines, in terms of the old module, for what moved definitions use."""
    used = set().union(*(identifiers(node) for node in pieces)) - {name for node in pieces for name in defined_by(node)}
    lines = []
    for node in tree.body:
        if isinstance(node, ast.Import | ast.ImportFrom):
            for alias in node.names:
                if (alias.asname or alias.name.split(".")[0]) in used:
                    lines.append(ast.unparse(type(node)(**{**vars(node), "names": [alias]})))
        else:
            lines += [f"from {module} import {name}" for name in defined_by(node) if name in used]
    return lines


def with_imports(source: str, lines: list[str]) -> str:
    """`lines` before the first import."""
    first = next((node.lineno for node in ast.parse(source).body if isinstance(node, ast.Import | ast.ImportFrom)), 1)
    rows = source.splitlines(keepends=True)
    return "".join([*rows[: first - 1], *(f"{line}\n" for line in lines), *rows[first - 1 :]])


def others(project: Project) -> dict[Path, str]:
    """Every other tracked text that names a module."""
    found = {}
    for name in git(project.root, "ls-files", "-z").split("\0"):
        file = project.root / name
        data = name.startswith("data/") and not name.startswith("data/paper/")
        if not name or name in OWN or name.startswith(("smoothlib/", "tools/moved/")) or data or "vendor/" in name or not file.is_file():
            continue
        if file.suffix == ".py":
            text = file.read_text(encoding="utf-8")
            found[file] = wrapped(Source(project, text).written())
        elif file.suffix == ".ipynb":
            found[file] = notebook(project, file)
        elif file.suffix in PROSE:
            text = file.read_text(encoding="utf-8")
            found[file] = project.prose(INCLUDE.sub(lambda block: included(project, block), text))
    return {file: text for file, text in found.items() if text != file.read_text(encoding="utf-8")}


def included(project: Project, block: re.Match) -> str:
    """A literalinclude whose definition has left its module shows it from where it is now."""
    module = block[1].removesuffix(".py").replace("/", ".")
    wanted = re.search(r"^:pyobject: (\w+)", block[0], re.MULTILINE)
    split = project.splits.get(f"{module}.{wanted[1]}") if wanted else None
    return block[0].replace(block[1], split.rpartition(".")[0].replace(".", "/") + ".py") if split else block[0]


def notebook(project: Project, file: Path) -> str:
    """A notebook with its cells rewritten; outputs stay as a run left them."""
    text = file.read_text(encoding="utf-8")
    content = json.loads(text)
    if json.dumps(content, indent=1, ensure_ascii=False) + "\n" != text:
        raise MoveError(f"notebooks/{file.name} is not laid out as nbformat writes it: open and save it.")
    code = {}
    for number, cell in enumerate(content["cells"]):
        source = "".join(cell["source"])
        if cell["cell_type"] == "code":
            code[number] = Source(project, source)
        else:
            cell["source"] = project.prose(source).splitlines(keepends=True)
    bound, used = {}, set()
    for source in code.values():
        used |= identifiers(source.tree)
        for local, (target, nodes) in imported(source.tree, "", False).items():
            bound.setdefault(local, (target, []))[1].extend(nodes)
    changed = [source for source in code.values()]
    for source in changed:  # attributes first: they add to the imports of other cells
        source._attributes(bound, used)
    more = {statement: lines for source in changed for statement, lines in source.more.items()}
    for number, source in code.items():
        source.changes, source.more = [], {k: list(v) for k, v in more.items()}
        content["cells"][number]["source"] = source.written(bound, used).splitlines(keepends=True)
    return json.dumps(content, indent=1, ensure_ascii=False) + "\n"


# Layout ---------------------------------------------------------------------------------------------------------------------------


def wrapped(source: str) -> str:
    """Comments and docstrings whose lines have become too long, broken once more."""
    lines = source.splitlines()
    if all(len(line) <= WIDTH for line in lines):
        return source
    texts = set()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef) and ast.get_docstring(node, clean=False) is not None:
            texts |= set(range(node.body[0].lineno, node.body[0].end_lineno + 1))
    result: list[str] = []
    rest = ""  # of the line before, to be set before the next one of the same paragraph
    for number, line in enumerate(lines, 1):
        indent = line[: len(line) - len(line.lstrip())]
        if (
            rest
            and number in texts
            and line.strip()
            and rest.startswith(indent)
            and rest[len(indent)] != " "
            and line.lstrip()[0].isalnum()
        ):
            line, rest = f"{rest} {line.lstrip()}", ""
        elif rest:
            result.append(rest)
            rest = ""
        comment = line.lstrip().startswith("#")
        while len(line) > WIDTH and (number in texts or comment) and (cut := line.rfind(" ", len(indent) + 3, WIDTH + 1)) > 0:
            result.append(line[:cut])
            line = indent + ("# " if comment else "") + line[cut + 1 :]
            rest = line
        if rest and comment:
            rest = ""
        if not rest:
            result.append(line)
    return "\n".join(result + [rest] * bool(rest)) + "\n"


def ruff(root: Path) -> list[str]:
    """Sort imports, drop those that a split left without use, format; then what is still wrong."""
    command = [sys.executable, "-m", "ruff"]
    subprocess.run([*command, "check", "--quiet", "--select", "I,F401", "--fix"], cwd=root)
    subprocess.run([*command, "format", "--quiet"], cwd=root, check=True)
    left = subprocess.run([*command, "check", "--output-format", "concise"], cwd=root, capture_output=True, text=True)
    return left.stdout.splitlines() if left.returncode else []


def left_over(root: Path, project: Project) -> list[str]:
    """Old names that are still somewhere, to be looked at."""
    pattern = "|".join(re.escape(old) for old, new in project.moves.items() if old != new and top(new) != "smoothlib")
    gone = "|".join(old.removeprefix("smoothlib.") for old, new in project.moves.items() if old != new and old.count(".") == 1)
    pattern += rf"|from smoothlib import .*\b({gone})"
    where = ["--", ":!tools/mov*", ":!tools/prove_move.py", ":!tests/test_move.py", ":!data/results", ":!notebooks"]
    listed = subprocess.run(["git", "-C", str(root), "grep", "-nIE", rf"({pattern})\b", *where], capture_output=True, text=True)
    return listed.stdout.splitlines()


def main() -> int:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--root", type=Path, default=TOOLS.parent, help="the checkout (default: this one)")
    options = parser.parse_args()
    root = options.root.resolve()
    table = root / "tools" / "moves.yaml"
    try:
        before = Project(root, table)
        notes = move(root, table)
    except MoveError as error:
        print(error, file=sys.stderr)
        return 1
    notes += [f"ruff: {line}" for line in ruff(root)] + [f"still there: {line[:200]}" for line in left_over(root, before)]
    git(root, "add", "--all", "smoothlib", "companion", "tests")
    print(f"{len(before.moves)} modules and {len(before.splits)} single definitions moved.", *notes, sep="\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
