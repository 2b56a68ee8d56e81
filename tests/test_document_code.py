"""The code of the documents runs, and the commands in them exist."""

import functools
import re
from pathlib import Path

import pytest
import torch
import typer
from documents import PAGES, ROOT, blocks, commands
from preambles import ADDRESS, PREAMBLES, QUICK

import fastdiff
from fastdiff.cli import app

PROGRAMS = [page for page in PAGES if any(True for _ in blocks(page, "python"))]
SHELLS = [page for page in PAGES if any(True for _ in commands(page))]
FILE = re.compile(r"[\w-]+\.\w+")
"""A word of a command that names a file; some commands want it to exist."""


@pytest.fixture
def quick(monkeypatch):
    """Have blocks compile without measuring, unless they say themselves what to choose.

    On one thread: the networks are so small that several would mostly wait for each other.
    """
    compile = fastdiff.compile

    @functools.wraps(compile)
    def compile_quickly(model, **choices):
        backend = "onnxruntime" if str(model).endswith(".onnx") else "eager"
        return compile(model, **({**QUICK, "backend": backend} | choices))

    monkeypatch.setattr(fastdiff, "compile", compile_quickly)
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")  # diffusers
@pytest.mark.parametrize("page", PROGRAMS, ids=lambda page: page.name)
def test_python_blocks_of_a_page_run_in_order(page, quick, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    with PREAMBLES[page.name]() as names:
        names["__name__"] = page.stem
        for block in blocks(page, "python"):
            text = block.text.replace(ADDRESS, names.get("address", ADDRESS))
            lines = "\n" * (block.line - 1) + text  # a traceback then shows the page's lines
            code = compile(lines, str(page), "exec")
            if block.reason is None:
                exec(code, names)  # noqa: S102 - our own text


def test_every_preamble_is_of_a_page_with_code():
    assert {page.name for page in PROGRAMS} == PREAMBLES.keys()


@pytest.mark.parametrize("page", SHELLS, ids=lambda page: page.name)
def test_commands_name_what_exists(page, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    for words in commands(page):
        for file in filter(FILE.fullmatch, words):
            Path(file).touch()
        if words[0] == "fastdiff":
            parse(typer.main.get_command(app), words)
        elif words[0] == "make":
            targets = re.findall(r"^([\w-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE)
            assert {word for word in words[1:] if "=" not in word} <= set(targets), words
        elif words[0] == "python" and words[1].endswith(".py"):
            script = (ROOT / words[1]).read_text()
            options = [word for word in words[2:] if word.startswith("--") and word != "--"]
            assert [option for option in options if f'"{option}"' not in script] == [], words


def parse(command, words):
    """Read a command line as typer does, with types and choices, and run nothing."""
    if hasattr(command, "commands"):
        context = typer.Context(command, info_name=words[0])
        name, subcommand, rest = command.resolve_command(context, words[1:])
        parse(subcommand, [name, *rest])
    else:
        command.make_context(words[0], words[1:])


@pytest.mark.parametrize(
    "line", ["fastdiff sell digits", "fastdiff sample digits --stepz 4", "fastdiff cache burn"]
)
def test_a_command_that_does_not_exist_is_found(line):
    with pytest.raises(Exception, match=r"No such (command|option)"):
        parse(typer.main.get_command(app), line.split())
