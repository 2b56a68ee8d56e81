"""What keeps the code easy to find one's way in: names that occur once, files that are not long."""

import ast
import re
from collections import defaultdict
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
MODULES = sorted(ROOT.glob("fastdiff/**/*.py"))
MOST_LINES = 400


def test_no_two_public_classes_have_one_name():
    homes = defaultdict(set)
    for path in MODULES:
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.ClassDef) and not node.name.startswith("_"):
                homes[node.name].add(str(path.relative_to(ROOT)))
    assert {name: places for name, places in homes.items() if len(places) > 1} == {}


def test_nobody_imports_the_private_names_of_others():
    taken = []
    for path in MODULES:
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("fastdiff"):
                private = [a.name for a in node.names if re.match(r"_(?!_|native$|cuda$)", a.name)]
                taken += [f"{path.relative_to(ROOT)}: {node.module}.{name}" for name in private]
    assert taken == []


def test_no_file_is_long():
    sources = [
        path
        for folder in ("fastdiff", "csrc", "tests", "benchmarks", "examples")
        for path in ROOT.glob(f"{folder}/**/*")
        if path.suffix in {".py", ".pyi", ".h", ".cpp", ".cu", ".cuh", ".js"}
    ]
    lines = {str(p.relative_to(ROOT)): len(p.read_text().splitlines()) for p in sources}
    assert {name: count for name, count in lines.items() if count > MOST_LINES} == {}


def recipes():
    """Each (file, added lines) of the diffs in CONTRIBUTING.md; lines of a hunk stand together."""
    found = []
    for diff in re.findall(r"```diff\n(.*?)```", (ROOT / "CONTRIBUTING.md").read_text(), re.DOTALL):
        for part in diff.split("--- ")[1:]:
            name = re.search(r"\+\+\+ b/(\S+)", part)
            for hunk in part.split("@@\n")[1:]:
                added = [line[1:] for line in hunk.splitlines() if line.startswith("+")]
                found.append((name[1], "\n".join(added)))
    return found


@pytest.mark.parametrize(("name", "added"), recipes(), ids=lambda value: value.split("\n")[0][:60])
def test_recipes_are_what_the_code_says(name, added):
    assert added in (ROOT / name).read_text()
