"""The rooms' arrows point one way: scripts → capsule → deca → common, capsule → synthetic → deca.

`python tests/test_arrows.py` prints them. Read from the source with `ast`, imports inside functions too.
"""

import ast
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from scipy.sparse.csgraph import connected_components

ROOT = Path(__file__).resolve().parents[1]
MAY_IMPORT = {"scripts": {"capsule", "deca", "common"},
              "benchmarks": {"capsule", "synthetic", "deca", "common"},
              "capsule": {"deca", "synthetic", "common"}, "synthetic": {"deca", "common"}, "deca": {"common"},
              "common": set()}


def modules(root=ROOT):
    """{dotted name: path} of every module of the rooms and every script at the root."""
    paths = [*root.glob("*.py"), *(path for room in MAY_IMPORT for path in (root / room).rglob("*.py"))]
    parts = {path: path.relative_to(root).with_suffix("").parts for path in paths}
    return {".".join(names[:-1] if names[-1] == "__init__" else names): path for path, names in parts.items()}


def imports(name, path, known):
    """Set of the modules of `known` that the file of the module `name` imports, anywhere in it."""
    package, found = (name if path.name == "__init__.py" else name.rpartition(".")[0]).split("."), set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            above = package[:len(package) - node.level + 1] if node.level else []
            base = ".".join([*above, *([node.module] if node.module else [])])
            for alias in node.names:    # a module of the package, else something in it
                inner = f"{base}.{alias.name}"
                found.add(inner if inner in known else base)
    return (found & known.keys()) - {name}


def graph(root=ROOT):
    """{module: set of the modules that it imports}."""
    known = modules(root)
    return {name: imports(name, path, known) for name, path in known.items()}


def room(name):
    """The room of a module: its first folder, or "scripts"."""
    first = name.partition(".")[0]
    return first if first in MAY_IMPORT else "scripts"


def circles(edges):
    """Set of the groups of modules that import each other, as sorted tuples."""
    names = sorted(edges)
    table = np.array([[other in edges[name] for other in names] for name in names])
    _, group = connected_components(table, directed=True, connection="strong")
    groups = [tuple(np.array(names)[group == number].tolist()) for number in set(group.tolist())]
    return {members for members in groups if len(members) > 1}


@pytest.fixture(scope="module")
def edges():
    return graph()


@pytest.mark.parametrize("where", MAY_IMPORT)
def test_a_room_imports_what_it_may(edges, where):
    own = [name for name in edges if room(name) == where]
    crossing = {f"{name} imports {other}" for name in own for other in edges[name]
                if room(other) not in {where} | MAY_IMPORT[where]}
    assert own and not crossing


def test_every_folder_of_code_is_a_room():
    assert {path.parent.name for path in ROOT.glob("*/__init__.py")} == MAY_IMPORT.keys() - {"scripts"}


def test_scripts_do_not_import_each_other(edges):
    scripts = {name for name in edges if room(name) == "scripts"}
    assert len(scripts) > 5 and not any(edges[name] & scripts for name in scripts)


def test_no_circles(edges):
    assert circles(edges) == set()


def test_imports_are_found_wherever_they_stand(tmp_path):
    files = {"capsule/__init__.py": "", "deca/__init__.py": "",
             "capsule/a.py": "def f():\n    from capsule.b import x\n    import deca.c as d\n",
             "capsule/b.py": "from . import a\nfrom capsule import a as again\nimport numpy",
             "deca/c.py": "from capsule import something", "run.py": "if True:\n    from deca import c"}
    for name, text in files.items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(text)
    found = graph(tmp_path)
    assert found == {"capsule": set(), "capsule.a": {"capsule.b", "deca.c"}, "capsule.b": {"capsule.a"},
                     "deca": set(), "deca.c": {"capsule"}, "run": {"deca.c"}}
    assert circles(found) == {("capsule.a", "capsule.b")}


def main():
    """Print which room imports which, how often, and the circles."""
    edges = graph()
    count = Counter((room(name), room(other)) for name in edges for other in edges[name])
    print("imports of".ljust(12) + "".join(f"{name:>11}" for name in MAY_IMPORT))
    for name in MAY_IMPORT:
        cells = (str(count[name, other] or "") if name != other else "-" for other in MAY_IMPORT)
        print(f"{name:12}" + "".join(f"{cell:>11}" for cell in cells))
    for members in sorted(circles(edges)):
        print("circle: " + ", ".join(members))


if __name__ == "__main__":
    main()
