"""What the documents say is so."""

import re
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
DOCUMENTS = sorted([*ROOT.glob("*.md"), *ROOT.glob("docs/*.md"), *ROOT.glob("fastdiff/**/*.md")])


@pytest.mark.parametrize("path", DOCUMENTS, ids=lambda path: path.name)
def test_links_and_named_files_exist(path):
    text = path.read_text()
    links = re.findall(r"\]\((?!https?://|#)([^)#]+)", text)
    named = re.findall(r"`((?:docs|csrc|fastdiff|tests|benchmarks|examples)/[\w./]+\.\w+)`", text)
    missing = [link for link in links if not (path.parent / link).exists()]
    missing += [name for name in named if not (ROOT / name).exists()]
    assert missing == []


def test_nobody_is_told_to_install_the_unrelated_package():
    """The name fastdiff on the package index belongs to a diff library."""
    listed = subprocess.run(
        ["git", "ls-files"], cwd=ROOT, capture_output=True, text=True, check=False
    )
    if listed.returncode:
        pytest.skip("not a git checkout, so there is no list of the project's files")
    wrong = re.compile(r"(?:pip|uv pip|uv|poetry) (?:install|add) ['\"]?fastdiff(?![-/\w])")
    for name in listed.stdout.split():
        path = ROOT / name
        if path.suffix in {".md", ".py", ".toml", ".txt", ".cpp", ".h", ""} and path.is_file():
            assert not wrong.search(path.read_text(errors="ignore")), name
