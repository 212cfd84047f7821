"""What tools/move_modules.py does to one text: imports, names, paths and commands of the old packages become those of the new ones."""

import ast
import io
import re
import tokenize
from collections.abc import Iterable, Iterator, Mapping
from functools import cached_property
from pathlib import Path

import yaml

DOTTED = re.compile(r"(?<![\w./-])smoothlib(?:\.[A-Za-z_]\w*)+")
FILE = re.compile(r"\bsmoothlib/((?:\w+/)*\w+)\.py\b")
FOLDER = re.compile(r"\bsmoothlib/((?:\w+/)*\w+)/(?!\w)")
COMMAND = re.compile(r"(-m[\"',\s]+)(smoothlib(?:\.\w+)+)")
EXAMPLE = re.compile(r"(?<=\n)([ ]*)(from smoothlib import \w+(?:, \w+)*)(?=\n)")
QUOTED = re.compile(r"`(\w+)\.(\w+)((?:\.\w+)*(?:\([^`]*\))?)`")
MAGIC = re.compile(r"^(\s*)[!%].*$", re.MULTILINE)


def top(name: str) -> str:
    return name.partition(".")[0]


def shown(names: Iterable[str]) -> str:
    return ", ".join(sorted(names))


class Project:
    """The tree before the move, and where each of its names goes."""

    def __init__(self, root: Path, table_file: Path) -> None:
        self.root = root
        table = yaml.safe_load(table_file.read_text(encoding="utf-8"))
        self.commands: dict[str, str] = table["commands"]
        self.new: dict[str, str] = table["new"]
        self.split_off: dict[str, str] = table["split_off"]
        self.renames: dict[str, str] = table.get("renames", {})
        self.edits: list[dict] = table["edits"]
        self.files = dict(self._modules())
        self.trees = {name: ast.parse(file.read_text(encoding="utf-8")) for name, file in self.files.items()}
        self.defined = {name: set(top_names(tree)) for name, tree in self.trees.items()}
        self.imports = {name: imported(tree, name, self.is_package(name)) for name, tree in self.trees.items()}
        self.moves, self.splits, self.absent = {}, {}, []
        for old, new in table["moves"].items():
            module, _, name = old.rpartition(".")
            if old in self.files:
                self.moves[old] = new
            elif module in self.files and not self.is_package(module) and name in self.defined[module]:
                self.splits[old] = new
            else:
                self.absent.append(old)
        for old, new in list(self.splits.items()):
            if new.rpartition(".")[0] in self.moves.values():  # a module is there already: what it left out stays where it is
                del self.splits[old]
                self.absent.append(old)

    def _modules(self) -> Iterator[tuple[str, Path]]:
        for file in sorted((self.root / "smoothlib").rglob("*.py")):
            parts = file.relative_to(self.root).with_suffix("").parts
            yield ".".join(parts[:-1] if parts[-1] == "__init__" else parts), file

    def is_package(self, name: str) -> bool:
        return self.files[name].name == "__init__.py"

    @cached_property
    def handed_on(self) -> dict[str, str]:
        """Name in a package's `__init__` -> the old name of what it stands for."""
        return {
            f"{package}.{local}": target
            for package, tree in self.trees.items()
            if self.is_package(package)
            for local, (target, _) in imported(tree, package, True).items()
        }

    def missing(self) -> list[str]:
        """Modules that the table does not know."""
        return [name for name in self.files if name != "smoothlib" and name not in self.moves]

    def place(self, old: str) -> str:
        """The new name of an old module, definition, or anything inside; names that are nowhere in the table stay."""
        owner = self.handed_on.get(old)
        if owner is not None and self.leaves(old):
            return self.place(owner)
        parts = old.split(".")
        for k in range(len(parts), 1, -1):
            start = ".".join(parts[:k])
            if (found := self.splits.get(start) or self.moves.get(start)) is not None:
                return ".".join([found, *parts[k:]])
        return old

    def owner(self, old: str) -> str:
        """Whom to import `old` from: its own module, where the old one has it only for itself (not in `__all__`)."""
        module, _, name = old.rpartition(".")
        if module not in self.files or self.is_package(module) or name in self.defined[module] or name not in self.imports[module]:
            return old
        return old if name in exported(self.trees[module]) else self.owner(self.imports[module][name][0])

    def leaves(self, name: str) -> bool:
        """Does what a package hands on go to the other package? Then whoever uses it asks the new owner."""
        package = name.rpartition(".")[0]
        return top(self.place(self.handed_on[name])) != top(self.moves.get(package, package))

    def new_file(self, old: str) -> Path:
        if old == "smoothlib":
            return self.files[old]
        folder = self.root.joinpath(*self.moves[old].split("."))
        return folder / "__init__.py" if self.is_package(old) else folder.with_suffix(".py")

    # Text ------------------------------------------------------------------------------------------------------------------------

    def text(self, text: str) -> str:
        """Dotted names, paths and commands in prose, strings and settings, and imports in scripts that are texts."""
        text = EXAMPLE.sub(self._example, text)
        text = COMMAND.sub(lambda found: found[1] + self.commands.get(found[2], self.place(found[2])), text)
        text = FILE.sub(lambda found: self._path(found[0]), text)
        text = FOLDER.sub(lambda found: self._folder(found[0], found[1]), text)
        return DOTTED.sub(lambda found: self.place(found[0]), text)

    def _example(self, found: re.Match) -> str:
        return found[1] + Source(self, found[2]).written().replace("\n", f"\n{found[1]}")

    def _path(self, path: str) -> str:
        old = path.removesuffix(".py").replace("/", ".")
        old = old.removesuffix(".__init__")
        return self.new_file(old).relative_to(self.root).as_posix() if old in self.moves else path

    def _folder(self, path: str, inner: str) -> str:
        old = "smoothlib." + inner.replace("/", ".")
        return self.moves[old].replace(".", "/") + "/" if old in self.moves and self.is_package(old) else path

    def prose(self, text: str) -> str:
        """The same, and `module.name` as code with the module's new name."""

        def renamed(found: re.Match) -> str:
            old = f"smoothlib.{found[1]}"
            if old not in self.moves or self.is_package(old) or found[2] not in self.defined[old] | set(self.imports[old]):
                return found[0]
            return f"`{'.'.join(self.place(f'{old}.{found[2]}').split('.')[-2:])}{found[3]}`"

        return QUOTED.sub(renamed, self.text(text))


def top_names(tree: ast.Module) -> Iterator[str]:
    """Names that a module defines itself."""
    for node in tree.body:
        if isinstance(node, ast.FunctionDef | ast.ClassDef):
            yield node.name
        elif isinstance(node, ast.Assign | ast.AnnAssign):
            for target in node.targets if isinstance(node, ast.Assign) else [node.target]:
                yield from (inner.id for inner in ast.walk(target) if isinstance(inner, ast.Name))


def exported(tree: ast.Module) -> list[str]:
    """`__all__` of a module."""
    values = [node.value for node in tree.body if isinstance(node, ast.Assign) and getattr(node.targets[0], "id", "") == "__all__"]
    return ast.literal_eval(values[0]) if values else []


def origin(node: ast.ImportFrom, module: str, package: bool) -> str:
    """The dotted name behind "from ... import"."""
    parts = module.split(".") if module else []
    base = parts[: len(parts) - node.level + package] if node.level else []
    return ".".join([*base, *(node.module.split(".") if node.module else [])])


def imported(tree: ast.AST, module: str, package: bool) -> dict[str, tuple[str, list[ast.stmt]]]:
    """Local name -> (old dotted name, the statements that bind it) for what comes from this project."""
    found: dict[str, tuple[str, list[ast.stmt]]] = {}
    for node in ast.walk(tree):
        pairs = []
        if isinstance(node, ast.ImportFrom) and top(base := origin(node, module, package)) == "smoothlib":
            pairs = [(alias.asname or alias.name, f"{base}.{alias.name}") for alias in node.names]
        elif isinstance(node, ast.Import):
            pairs = [(alias.asname, alias.name) for alias in node.names if alias.asname and top(alias.name) == "smoothlib"]
        for local, target in pairs:
            found.setdefault(local, (target, []))[1].append(node)
    return found


class Source:
    """One Python text (a file, a cell) of the old tree, to be written for its new place."""

    def __init__(self, project: Project, source: str, old: str = "", new: str = "", package: bool = False) -> None:
        self.project, self.source, self.old, self.new, self.package = project, source, old, new, package
        # what only IPython understands becomes `pass` of the same length in bytes
        masked = MAGIC.sub(lambda line: line[1] + "pass".ljust(len(line[0].encode()) - len(line[1])), source) if not old else source
        self.tree = ast.parse(masked)
        self.masked, self.bytes = masked, source.encode()
        self.starts = [0]
        for line in self.bytes.splitlines(keepends=True):
            self.starts.append(self.starts[-1] + len(line))
        self.changes: list[tuple[int, int, str]] = []
        self.more: dict[ast.stmt, list[tuple[str, str]]] = {}

    def span(self, node: ast.AST) -> tuple[int, int]:
        return self.starts[node.lineno - 1] + node.col_offset, self.starts[node.end_lineno - 1] + node.end_col_offset

    def written(self, bound: Mapping[str, tuple[str, list[ast.stmt]]] | None = None, used: set[str] = frozenset()) -> str:
        """The new text. `bound`, `used`: what the other cells of a notebook import and name."""
        bound = imported(self.tree, self.old, self.package) if bound is None else bound
        self._attributes(bound, used | identifiers(self.tree))
        for node in ast.walk(self.tree):
            if isinstance(node, ast.Import | ast.ImportFrom):
                self._import(node)
            elif isinstance(node, ast.Call | ast.Assign):
                self._module_names(node)
        if self.package:
            self._exports()
        return self._joined()

    def _attributes(self, bound: Mapping[str, tuple[str, list[ast.stmt]]], used: set[str]) -> None:
        """`module.Name`, where the name has left the module, asks the module that has it now."""
        for node in ast.walk(self.tree):
            if not (isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name) and node.value.id in bound):
                continue
            module, statements = bound[node.value.id]
            full = f"{module}.{node.attr}"
            if full in self.project.splits or (full in self.project.handed_on and self.project.leaves(full)):
                owner = self.project.place(full).rpartition(".")[0]
                parent, _, base = owner.rpartition(".")
                local = base if base not in used else f"{parent.rpartition('.')[2]}_{base}"
                self.changes.append((*self.span(node.value), local))
                for statement in statements:
                    if (owner, local) not in self.more.setdefault(statement, []):
                        self.more[statement].append((owner, local))

    def _import(self, node: ast.Import | ast.ImportFrom) -> None:
        lines, own = [], False
        if isinstance(node, ast.ImportFrom):
            base = origin(node, self.old, self.package)
            if top(base) != "smoothlib":
                return
            for alias in node.names:
                full = self.project.owner(f"{base}.{alias.name}")
                if self.package and full in self.project.handed_on.values() and self._dropped(full):
                    continue
                lines.append(self._line(full, alias.asname or alias.name))
        else:
            for alias in node.names:
                if top(alias.name) != "smoothlib":
                    lines.append(f"import {alias.name}" + (f" as {alias.asname}" if alias.asname else ""))
                elif alias.asname:
                    own = True
                    lines.append(self._line(alias.name, alias.asname))
                else:
                    own = True
                    lines.append(f"import {self.project.place(alias.name)}")
            if not own:
                return
        lines += [self._from(owner, local) for owner, local in self.more.get(node, [])]
        start, stop = self.span(node)
        self.changes.append((start, stop if lines else stop + 1, f"\n{' ' * node.col_offset}".join(lines)))  # an empty one: the whole line

    def _dropped(self, full: str) -> bool:
        return top(self.project.place(full)) != top(self.new)

    def _line(self, full: str, local: str) -> str:
        """The import that binds `local` to what was called `full`."""
        return self._from(self.project.place(full), local)

    def _from(self, target: str, local: str) -> str:
        module, _, name = target.rpartition(".")
        if not module:
            return f"import {target}" + (f" as {local}" if local != target else "")
        return f"from {self._relative(module)} import {name}" + (f" as {local}" if local != name else "")

    def _relative(self, module: str) -> str:
        if not self.new or top(module) != top(self.new):
            return module
        here = self.new.split(".") if self.package else self.new.split(".")[:-1]
        there = module.split(".")
        common = 0
        while common < min(len(here), len(there)) and here[common] == there[common]:
            common += 1
        return "." * (len(here) - common + 1) + ".".join(there[common:])

    def _module_names(self, node: ast.Call | ast.Assign) -> None:
        """Modules named by text: `code = ("walks",)` of a study, `code=["walks"]` of a record, `modules_behind("walks")`."""
        values: list[ast.AST] = []
        if isinstance(node, ast.Call):
            called = node.func.attr if isinstance(node.func, ast.Attribute) else getattr(node.func, "id", "")
            values += node.args if called == "modules_behind" else []
            values += [one for keyword in node.keywords if keyword.arg == "code" for one in getattr(keyword.value, "elts", [])]
        elif getattr(node.targets[0], "id", "") == "code":
            values += getattr(node.value, "elts", [])
        for value in values:
            if isinstance(value, ast.Constant) and (old := f"smoothlib.{value.value}") in self.project.moves:
                self.changes.append((*self.span(value), f'"{self.project.moves[old]}"'))

    def _exports(self) -> None:
        """`__all__` of a package, without what it no longer hands on."""
        for node in self.tree.body:
            if isinstance(node, ast.Assign) and getattr(node.targets[0], "id", "") == "__all__":
                names = ast.literal_eval(node.value)
                gone = {n for n in names if f"{self.old}.{n}" in self.project.handed_on and self.project.leaves(f"{self.old}.{n}")}
                if gone:
                    kept = "".join(f"    {name!r},\n" for name in names if name not in gone).replace("'", '"')
                    self.changes.append((*self.span(node.value), f"[\n{kept}]"))

    def _joined(self) -> str:
        said = [(*span, self.project.prose(self.bytes[slice(*span)].decode())) for span in self._prose_spans()]
        parts, end = [], 0
        taken = sorted(self.changes)
        for start, stop, text in sorted([*taken, *(one for one in said if not overlaps(one, taken))]):
            parts += [self.project.text(self.bytes[end:start].decode()), text]
            end = stop
        return "".join([*parts, self.project.text(self.bytes[end:].decode())])

    def _prose_spans(self) -> Iterator[tuple[int, int]]:
        """Comments and docstrings."""
        for node in ast.walk(self.tree):
            if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef) and ast.get_docstring(node, clean=False) is not None:
                yield self.span(node.body[0].value)
        for found in tokenize.generate_tokens(io.StringIO(self.masked).readline):
            if found.type == tokenize.COMMENT:
                before = self.bytes[self.starts[found.start[0] - 1] : self.starts[found.start[0]]].decode()[: found.start[1]]
                start = self.starts[found.start[0] - 1] + len(before.encode())
                yield start, start + len(found.string.encode())


def overlaps(one: tuple[int, int, str], others: Iterable[tuple[int, int, str]]) -> bool:
    return any(one[0] < stop and start < one[1] for start, stop, _ in others)


def identifiers(tree: ast.AST) -> set[str]:
    """Every name that a text uses for anything, imports left out."""
    found = set()
    for node in ast.walk(tree):
        found |= {getattr(node, "id", None), getattr(node, "arg", None), getattr(node, "name", None)}
    return {name for name in found if isinstance(name, str)}
