"""Is the program the same before and after tools/move_modules.py? Compares every definition; says every one that is not.

    python tools/prove_move.py REVISION              REVISION: the commit before the move; after it: the working tree
    python tools/prove_move.py REVISION --records    and, if they are the same, the new names and hashes in data/results

A definition is the syntax tree of a top-level function, class, assignment or other statement, without docstrings and imports. Each name in
it is resolved by its scope: a local one stays, another becomes the dotted path of what it stands for, through imports, packages that hand
names on, and the table. So an import that now means another function is a difference, and an import that is only written otherwise is
none. What the table's `edits` touch is compared with the edited text and named. Circular imports show only when the modules are imported.
"""

import argparse
import ast
import importlib.util
import io
import json
import re
import subprocess
import sys
import tarfile
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

ROOT = Path(__file__).resolve().parents[1]
PACKAGES = ("smoothlib", "companion")
PLACES = (*PACKAGES, "tests", "tools", "benchmarks", "notebooks", "conftest.py", "book/_ext")
NOT_COMPARED = ("tools/move_modules.py", "tools/moving.py", "tools/prove_move.py", "tools/moved/", "tests/test_move.py")
SHOWN = 40  # differences that are printed
MAGIC = re.compile(r"^(\s*)[!%].*$", re.MULTILINE)
FUNCTIONS = (ast.FunctionDef, ast.AsyncFunctionDef)
COMPREHENSIONS = (ast.ListComp, ast.SetComp, ast.DictComp, ast.GeneratorExp)


# Where names lead -----------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Table:
    """Old names -> new names."""

    moves: Mapping[str, str] = field(default_factory=dict)
    commands: Mapping[str, str] = field(default_factory=dict)

    def name(self, old: str) -> str:
        parts = old.split(".")
        for k in range(len(parts), 0, -1):
            if (new := self.moves.get(".".join(parts[:k]))) is not None:
                return ".".join([new, *parts[k:]])
        return old

    def text(self, text: str) -> str:
        """A string of the program: module names, `python -m`, files, imports of scripts."""

        def lines(found: re.Match) -> str:
            places = {name: self.name(f"smoothlib.{name}").rpartition(".") for name in found[2].split(", ")}
            texts = [f"from {start} import {end}" + f" as {name}" * (end != name) for name, (start, _, end) in places.items()]
            return "\n".join(found[1] + text for text in texts)

        def file(found: re.Match) -> str:
            new = self.moves.get(found[1].replace("/", "."))
            return found[0] if new is None else f"{new.replace('.', '/')}.py"

        text = re.sub(r"(?<=\n)([ ]*)from smoothlib import (\w+(?:, \w+)*)(?=\n)", lines, text)
        text = re.sub(r"(?<=-m )smoothlib[\w.]+\w", lambda found: self.commands.get(found[0], self.name(found[0])), text)
        text = re.sub(r"\b(smoothlib/[\w/]+)\.py\b", file, text)
        return re.sub(r"(?<![\w./-])smoothlib(\.[A-Za-z_]\w*)+", lambda found: self.name(found[0]), text)


def import_origin(node: ast.ImportFrom, module: str, package: bool) -> str:
    parts = module.split(".")
    base = parts[: len(parts) - node.level + package] if node.level else []
    return ".".join([*base, *([node.module] if node.module else [])])


def bindings(node: ast.Import | ast.ImportFrom, module: str, package: bool) -> dict[str, str]:
    """Local name -> "module:name" of one import; a module alone is "module:"."""
    if isinstance(node, ast.ImportFrom):
        start = import_origin(node, module, package)
        return {alias.asname or alias.name: f"{start}:{alias.name}" for alias in node.names}
    firsts = {alias: alias.name.partition(".")[0] for alias in node.names}
    return {alias.asname or first: f"{alias.name if alias.asname else first}:" for alias, first in firsts.items()}


def own_statements(node: ast.AST) -> Iterator[ast.AST]:
    """Nodes of a scope, without those of scopes inside it."""
    for child in ast.iter_child_nodes(node):
        yield child
        if not isinstance(child, (*FUNCTIONS, ast.ClassDef, ast.Lambda)):
            yield from own_statements(child)


def local_names(node: ast.AST, module: str, package: bool) -> dict[str, str | None]:
    """What a function or class binds itself: name -> target of an import, None for everything else."""
    found: dict[str, str | None] = {}
    if arguments := getattr(node, "args", None):
        every = [*arguments.posonlyargs, *arguments.args, *arguments.kwonlyargs, arguments.vararg, arguments.kwarg]
        found |= {one.arg: None for one in every if one}
    outside, inside = set(), set()  # names of another scope; targets of comprehensions
    for inner in own_statements(node):
        if isinstance(inner, ast.comprehension):
            inside |= set(map(id, ast.walk(inner.target)))
        if isinstance(inner, ast.Global | ast.Nonlocal):
            outside |= set(inner.names)
        elif isinstance(inner, ast.Import | ast.ImportFrom):
            found |= bindings(inner, module, package)
        elif isinstance(inner, ast.Name) and not isinstance(inner.ctx, ast.Load) and id(inner) not in inside:
            found[inner.id] = None
        elif isinstance(inner, (*FUNCTIONS, ast.ClassDef, ast.ExceptHandler, ast.MatchAs, ast.MatchStar)) and inner.name:
            found[inner.name] = None
    return {name: target for name, target in found.items() if name not in outside}


@dataclass
class Tree:
    """The sources of one state: file -> text, as modules."""

    texts: Mapping[str, str]

    def __post_init__(self) -> None:
        self.files = {file: ast.parse(text) for file, text in self.texts.items()}
        self.names = {file: module_name(file) for file in self.files}
        self.modules = set(self.names.values())
        self.own = {name: set() for name in self.modules}  # what a module defines
        self.imports: dict[str, dict[str, str]] = {name: {} for name in self.modules}
        for file, tree in self.files.items():
            name = self.names[file]
            for local, target in local_names(tree, name, file.endswith("__init__.py")).items():
                if target is None:
                    self.own[name].add(local)
                else:
                    self.imports[name][local] = target

    def canonical(self, target: str) -> str:
        """The definition or module that "module:name.attribute" leads to, through every module that hands it on, as a dotted path."""
        module, _, rest = target.partition(":")
        parts = [part for part in rest.split(".") if part]
        while parts and module in self.modules and parts[0] not in self.own[module]:
            handed = self.imports[module].get(parts[0])
            if handed not in (None, f"{module}:{parts[0]}"):  # before a module of the same name
                return self.canonical(".".join([handed, *parts[1:]]))
            if f"{module}.{parts[0]}" not in self.modules:
                break
            module, parts = f"{module}.{parts[0]}", parts[1:]
        return ".".join([module, *parts])


def prefixes(name: str) -> Iterator[str]:
    parts = name.split(".")
    return (".".join(parts[:k]) for k in range(len(parts), 0, -1))


def module_name(file: str) -> str:
    parts = file.rpartition(".")[0].split("/")
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


# Definitions ----------------------------------------------------------------------------------------------------------------------


class Resolver(ast.NodeTransformer):
    """Writes every name as what it stands for, drops imports and docstrings, renames strings."""

    def __init__(self, tree: Tree, file: str, rename: Callable[[str], str], table: Table | None) -> None:
        self.tree, self.module, self.package = tree, tree.names[file], file.endswith("__init__.py")
        self.rename, self.table, self.scopes = rename, table, []
        self.classes: set[int] = set()

    def target(self, name: str) -> str | None:
        for depth, scope in enumerate(reversed(self.scopes)):
            if name in scope and (depth == 0 or id(scope) not in self.classes):  # methods do not see their class's names
                return scope[name]
        if name in self.tree.imports[self.module] and name not in self.tree.own[self.module]:
            return self.tree.imports[self.module][name]
        return f"{self.module}:{name}" if name in self.tree.own[self.module] else None

    def visit_Name(self, node: ast.Name) -> ast.AST:
        target = self.target(node.id)
        return node if target is None else ast.Name("@" + self.rename(self.tree.canonical(target)), node.ctx)

    def visit_Attribute(self, node: ast.Attribute) -> ast.AST:
        chain, inner = [node.attr], node.value
        while isinstance(inner, ast.Attribute):
            chain.append(inner.attr)
            inner = inner.value
        if isinstance(inner, ast.Name) and (target := self.target(inner.id)) is not None:
            return ast.Name("@" + self.rename(self.tree.canonical(".".join([target, *reversed(chain)]))), node.ctx)
        return self.generic_visit(node)

    def _function(self, node: Any) -> ast.AST:
        outer = [name for name in ("decorator_list", "returns", "type_params") if getattr(node, name, None)]
        for name in outer:  # these, defaults and annotations are evaluated outside
            value = getattr(node, name)
            setattr(node, name, [self.visit(one) for one in value] if isinstance(value, list) else self.visit(value))
        arguments = node.args
        arguments.defaults = [self.visit(one) for one in arguments.defaults]
        arguments.kw_defaults = [one and self.visit(one) for one in arguments.kw_defaults]
        for one in ast.walk(arguments):
            if isinstance(one, ast.arg) and one.annotation:
                one.annotation = self.visit(one.annotation)
        self.scopes.append(local_names(node, self.module, self.package))
        node.body = self._body(node.body) if isinstance(node.body, list) else self.visit(node.body)
        self.scopes.pop()
        return node

    visit_FunctionDef = visit_AsyncFunctionDef = visit_Lambda = _function

    def visit_ClassDef(self, node: ast.ClassDef) -> ast.AST:
        for name in ("decorator_list", "bases", "keywords"):
            setattr(node, name, [self.visit(one) for one in getattr(node, name)])
        self.scopes.append(local_names(node, self.module, self.package))
        self.classes.add(id(self.scopes[-1]))
        node.body = self._body(node.body)
        self.classes.discard(id(self.scopes.pop()))
        return node

    def _comprehension(self, node: Any) -> ast.AST:
        names = {inner.id for one in node.generators for inner in ast.walk(one.target) if isinstance(inner, ast.Name)}
        self.scopes.append(dict.fromkeys(names))
        node = self.generic_visit(node)
        self.scopes.pop()
        return node

    visit_ListComp = visit_SetComp = visit_DictComp = visit_GeneratorExp = _comprehension

    def _body(self, body: list[ast.stmt]) -> list[ast.stmt]:
        return [new for node in body if (new := self.visit(node)) is not None]

    def visit_Import(self, node: ast.AST) -> None:
        return None

    visit_ImportFrom = visit_Import

    def visit_Expr(self, node: ast.Expr) -> ast.AST | None:
        return None if isinstance(node.value, ast.Constant) and isinstance(node.value.value, str) else self.generic_visit(node)

    def visit_Constant(self, node: ast.Constant) -> ast.AST:
        return ast.Constant(self.table.text(node.value)) if self.table and isinstance(node.value, str) else node

    def visit_List(self, node: ast.List | ast.Tuple) -> ast.AST:
        """["-m", "module"]: a command."""
        for flag, name in zip(node.elts, node.elts[1:], strict=False):
            if self.table and getattr(flag, "value", "") == "-m" and isinstance(name, ast.Constant):
                name.value = self.table.commands.get(name.value, name.value)
        return self.generic_visit(node)

    visit_Tuple = visit_List

    def visit_Call(self, node: ast.Call) -> ast.AST:
        """Modules named by text: `code=["walks"]` of a record, `modules_behind("walks")`."""
        called = node.func.attr if isinstance(node.func, ast.Attribute) else getattr(node.func, "id", "")
        if called == "modules_behind":
            self._module_names(node.args)
        for keyword in node.keywords:
            if keyword.arg == "code":
                self._module_names(getattr(keyword.value, "elts", []))
        return self.generic_visit(node)

    def visit_Assign(self, node: ast.Assign) -> ast.AST:
        """`code = ("walks",)` of a study."""
        if getattr(node.targets[0], "id", "") == "code":
            self._module_names(getattr(node.value, "elts", []))
        return self.generic_visit(node)

    def _module_names(self, nodes: list[ast.AST]) -> None:
        for one in nodes:
            if self.table and isinstance(one, ast.Constant) and (old := f"smoothlib.{one.value}") in self.table.moves:
                one.value = self.table.moves[old]


def names_of(node: ast.stmt) -> str:
    """What a top-level statement defines; empty for one that defines nothing."""
    if isinstance(node, (*FUNCTIONS, ast.ClassDef)):
        return node.name
    targets = node.targets if isinstance(node, ast.Assign) else [node.target] if isinstance(node, ast.AnnAssign) else []
    return ",".join(inner.id for target in targets for inner in ast.walk(target) if isinstance(inner, ast.Name))


def definitions(tree: Tree, table: Table | None = None) -> dict[str, str]:
    """Definition by its new name -> what it is, as text. In order, so that two states can also be compared in that."""
    rename = table.name if table else lambda target: target
    found: dict[str, str] = {}
    for file in tree.files:
        module = tree.names[file]
        statements: Counter[str] = Counter()
        resolver = Resolver(tree, file, rename, table)
        for node in ast.parse(tree.texts[file]).body:
            name = names_of(node)
            if name == "__all__" or (isinstance(node, ast.If) and "TYPE_CHECKING" in ast.dump(node.test)):
                continue
            new = resolver.visit(node)
            if new is None:
                continue
            statements[name] += 1
            first = name.partition(",")[0]
            key = rename(f"{module}.{first}") + name[len(first) :] if name else f"{rename(module)}:"
            found[key + (f"#{statements[name]}" if not name or statements[name] > 1 else "")] = ast.dump(new)
    return found


# Two states -----------------------------------------------------------------------------------------------------------------------


def code_cells(text: str) -> str:
    cells = ["".join(cell["source"]) for cell in json.loads(text)["cells"] if cell["cell_type"] == "code"]
    return MAGIC.sub(lambda line: f"{line[1]}magic({line[0].strip()!r})", "\n".join(cells))


def compared(files: Mapping[str, str]) -> dict[str, str]:
    """What is compared of a state: Python files, and notebooks as one module of their code cells."""
    kept = {}
    for file, text in sorted(files.items()):
        if file.startswith(PLACES) and not file.startswith(NOT_COMPARED):
            if file.endswith(".py"):
                kept[file] = text
            elif file.endswith(".ipynb"):
                kept[file] = code_cells(text)
    return kept


def edited(files: Mapping[str, str], edits: list[dict]) -> dict[str, str]:
    """The old files with the texts that the table replaces."""
    found = dict(files)
    for edit in edits:
        for one in edit.get("any", [edit]):
            count = found.get(edit["file"], "").count(one["old"])
            if count == 1 or (count and edit.get("every")):
                found[edit["file"]] = found[edit["file"]].replace(one["old"], one["new"])
                break
    return found


@dataclass
class Proof:
    """What the comparison found; names are the new ones."""

    same: list[str]
    on_purpose: list[str]
    wrong: list[str]
    strings: int


def fitting(moves: Mapping[str, str], old: Mapping[str, str]) -> dict[str, str]:
    """The table without single definitions that would go into a module which the old tree has already: these stay."""
    modules = {module_name(file) for file in old}
    taken = {new for name, new in moves.items() if name in modules}
    return {name: new for name, new in moves.items() if name in modules or new.rpartition(".")[0] not in taken or name.count(".") == 1}


def prove(old: Mapping[str, str], new: Mapping[str, str], table: Mapping[str, Any]) -> Proof:
    """Compare two states, file -> text, by a table as tools/moves.yaml holds it."""
    files = {module_name(old_file): module_name(new_file) for old_file, new_file in table.get("renames", {}).items()}
    names = Table(fitting(table["moves"], old) | files, table.get("commands", {}))
    unchanged = definitions(Tree(compared(old)), names)
    before = definitions(Tree(compared(edited(old, table.get("edits", [])))), names)
    after = definitions(Tree(compared(new)))
    on_purpose = [name for name in before | unchanged if before.get(name) != unchanged.get(name)]
    added = set(definitions(Tree({f"{name.replace('.', '/')}.py": text for name, text in table.get("new", {}).items()})))
    computed = names.name("smoothlib.staleness.WITHOUT_INFLUENCE")  # a list of modules, which `influence` compares
    on_purpose += [computed] * (before.get(computed) != after.get(computed))
    wrong = [f"missing: {name}" for name in before if name not in after]
    wrong += [
        f"new: {name}" for name in after if name not in before and name not in added and not name.startswith("tests.test_architecture")
    ]
    wrong += [f"differs: {name}" for name in before if name in after and before[name] != after[name] and name != computed]
    wrong += [f"order: {name}" for name in moved_within(before, after)]
    literal = definitions(Tree(compared(edited(old, table.get("edits", [])))), OnlyNames(names.moves))
    strings = sum(literal[name] != before[name] for name in literal)
    same = [name for name in before if before[name] == after.get(name) and name not in on_purpose]
    return Proof(same, on_purpose, wrong, strings)


class OnlyNames(Table):
    """Renames no strings: to count those that are."""

    def text(self, text: str) -> str:
        return text


def moved_within(before: Mapping[str, str], after: Mapping[str, str]) -> list[str]:
    """Definitions that stand in another order in their module than before."""
    orders = []
    for state, other in ((before, after), (after, before)):
        order: dict[str, list[str]] = {}
        for name in state:
            if name in other and ":" not in name:
                order.setdefault(name.rpartition(".")[0], []).append(name)
        orders.append(order)
    return [
        name for module, names in orders[0].items() for name, now in zip(names, orders[1].get(module, []), strict=False) if name != now
    ][:5]


# Records --------------------------------------------------------------------------------------------------------------------------


def excluded(text: str) -> set[str]:
    """`WITHOUT_INFLUENCE` of a staleness module."""
    for node in ast.parse(text).body:
        if names_of(node) == "WITHOUT_INFLUENCE":
            return set(eval(compile(ast.Expression(node.value), "staleness", "eval"), {"__builtins__": {}, "frozenset": frozenset}))
    return set()


def influence(old: Mapping[str, str], new: Mapping[str, str], names: Table) -> list[str]:
    """Modules that count towards a record's code now and did not, or the other way round."""
    place = names.name("smoothlib.staleness").replace(".", "/") + ".py"
    if "smoothlib/staleness.py" not in old or place not in new:
        return []
    before, after = excluded(old["smoothlib/staleness.py"]), excluded(new[place])
    modules = [module_name(file) for file in old if file.startswith("smoothlib/") and not file.endswith("__init__.py")]
    now = {module: any(start in after for start in prefixes(names.name(module))) for module in modules}
    return [module for module in modules if now[module] != (module.split(".")[1] in before)]


def renewed(
    modules: Mapping[str, Any], old: Mapping[str, str], new: Mapping[str, str], proof: Proof, names: Table, source_hash: Callable
) -> dict[str, Any]:
    """A record's modules by their new names: with the new hash where the old one was the code's and all of it is the same now.

    Any other keeps what was recorded, so that it goes on being older than the code.
    """
    home: dict[str, list[str]] = {}
    for definition in definitions(Tree(compared({f: t for f, t in old.items() if f.startswith("smoothlib/")})), Table()):
        name = re.split(r"[:#,]", definition)[0]
        if module := next((start for start in prefixes(name) if f"{start.replace('.', '/')}.py" in old), None):  # else a package's
            home.setdefault(module, []).append(name)
    ignored = excluded(new[names.name("smoothlib.staleness").replace(".", "/") + ".py"])
    touched = {re.split(r"[:#,]", name)[0] for name in proof.on_purpose}
    found: dict[str, Any] = {}
    for name, recorded in modules.items():
        module = f"smoothlib.{name}"
        file = f"{module.replace('.', '/')}.py"
        fresh = file in old and recorded == source_hash(old[file]) and not any(names.name(one) in touched for one in home.get(module, []))
        places = {names.name(module)} | {names.name(one).rpartition(".")[0] for one in home.get(module, []) if one != module}
        for place in sorted(places):
            code = new.get(f"{place.replace('.', '/')}.py")
            if code is None or any(start in ignored for start in prefixes(place)):
                if not fresh:
                    found[place] = recorded
            elif fresh:
                found.setdefault(place, source_hash(code))
            else:
                found[place] = recorded
    return dict(sorted(found.items()))


def rewrite_records(root: Path, commit: str, old: Mapping[str, str], new: Mapping[str, str], proof: Proof, names: Table) -> list[str]:
    """New names and hashes in data/results; what was recorded stays beside them, under `moved`."""
    staleness = loaded(root / (names.name("smoothlib.staleness").replace(".", "/") + ".py"))
    said = []
    for file in sorted((root / "data" / "results").glob("*.json")):
        text = file.read_text(encoding="utf-8")
        record = json.loads(text)
        if json.dumps(record, indent=1, ensure_ascii=False) + "\n" != text:
            raise ValueError(f"data/results/{file.name} is not laid out as records are saved: its numbers would be written anew.")
        made = record["provenance"]
        if "modules" not in made or "moved" in made:
            said.append(f"{file.stem}: left as it is")
            continue
        made["moved"] = {"from": commit, "recorded_modules": made["modules"]}
        made["modules"] = renewed(made["modules"], old, new, proof, names, staleness.source_hash)
        older = staleness.stale(record)
        if "seal" in record:
            sys.path.insert(0, str(root))
            record["seal"] = importlib.import_module("companion.evidence.record_checks").seal(record)
        file.write_text(json.dumps(record, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
        said.append(f"{file.stem}: {'moved, same program' if not older else 'older than the code: ' + ', '.join(older)}")
    return said


def loaded(file: Path) -> Any:
    """A module from its file; it needs nothing outside the standard library."""
    spec = importlib.util.spec_from_file_location(file.stem, file)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


# Command line ---------------------------------------------------------------------------------------------------------------------


def commit(root: Path, revision: str) -> str:
    """The full hash of a commit; SystemExit with one sentence where there is none of this name."""
    found = subprocess.run(
        ["git", "-C", str(root), "rev-parse", "--verify", "--quiet", f"{revision}^{{commit}}"], capture_output=True, text=True
    )
    if found.returncode:
        raise SystemExit(f"revision is {revision!r}, but must be a commit of {root}")
    return found.stdout.strip()


def at_revision(root: Path, revision: str) -> dict[str, str]:
    """The sources at a commit: file -> text."""
    content = subprocess.run(["git", "-C", str(root), "archive", revision], check=True, capture_output=True).stdout
    with tarfile.open(fileobj=io.BytesIO(content)) as archive:
        members = [one for one in archive if one.isfile() and one.name.endswith((".py", ".ipynb"))]
        return {one.name: archive.extractfile(one).read().decode() for one in members}


def in_tree(root: Path) -> dict[str, str]:
    """The sources in the working tree."""
    listed = subprocess.run(["git", "-C", str(root), "ls-files", "-co", "--exclude-standard"], check=True, capture_output=True, text=True)
    files = [name for name in set(listed.stdout.splitlines()) if name.endswith((".py", ".ipynb")) and (root / name).is_file()]
    return {name: (root / name).read_text(encoding="utf-8") for name in sorted(files)}


def main() -> int:
    """Command line; 0 where the program is the same."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("revision", help="the commit before the move")
    parser.add_argument("--records", action="store_true", help="write new names and hashes into data/results")
    parser.add_argument("--root", type=Path, default=ROOT, help="the checkout (default: this one)")
    options = parser.parse_args()
    root = options.root.resolve()
    before = commit(root, options.revision)
    table = yaml.safe_load((root / "tools" / "moves.yaml").read_text(encoding="utf-8"))
    old, new = at_revision(root, before), in_tree(root)
    proof, names = prove(old, new, table), Table(fitting(table["moves"], old), table["commands"])
    kinds = Counter(name.partition(".")[0] for name in proof.same)
    print(f"{len(proof.same)} definitions are the same ({', '.join(f'{kind} {count}' for kind, count in sorted(kinds.items()))}),")
    print(f"{proof.strings} of them with module names in their texts; {len(proof.on_purpose)} changed as the table's edits say:")
    print(*(f"  {name}" for name in proof.on_purpose), sep="\n")
    if counted := influence(old, new, names):
        print(f"count towards a record's code and did not, or the other way round: {', '.join(counted)}")
    print(f"{len(proof.wrong)} are not the same.", *(f"  {line}" for line in proof.wrong[:SHOWN]), sep="\n")
    if proof.wrong:
        return 1
    if options.records:
        print(*rewrite_records(root, before, old, new, proof, names), sep="\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
