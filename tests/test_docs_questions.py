"""Every command of docs/questions.md, run in order, prints what the page shows; … stands for anything."""

import contextlib
import io
import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest
from typer.testing import CliRunner

from pipelines.main import app

PAGE = (Path(__file__).parent.parent / "docs" / "questions.md").read_text()
BLOCKS = re.findall(r"```(\w+)\n(.*?)```\n", PAGE, re.DOTALL)


def expected(lines: list[str]) -> re.Pattern[str]:
    """A pattern of lines; one that is only … stands for any number of lines."""
    parts = ["(?:.*\n)*" if line == "…" else ".*".join(map(re.escape, line.split("…"))) + " *\n" for line in lines]
    return re.compile("".join(parts))


def printed(command: str, environment: dict[str, str]) -> str:
    if command.startswith("curate "):
        result = CliRunner().invoke(app, shlex.split(command)[1:], env={"COLUMNS": "120"})
        assert result.exit_code == 0, result.output
        return result.stdout
    done = subprocess.run(command, shell=True, capture_output=True, text=True, env=environment, check=True)
    return done.stdout


def python_printed(code: str, environment: dict[str, str]) -> str:
    if "datasets" in code:  # its cache is chosen when it is imported
        return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=environment, check=True).stdout
    with contextlib.redirect_stdout(io.StringIO()) as shown:
        exec(code, {})
    return shown.getvalue()


@pytest.fixture
def environment(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    return {**os.environ, "HF_HOME": str(tmp_path / "hf"), "PATH": path}


def test_every_output_on_the_page_is_what_its_command_prints(environment):
    shown = None
    for kind, block in BLOCKS:
        if kind == "python" and block.startswith("# make_example.py"):
            Path("make_example.py").write_text(block.partition("\n")[2])
        elif kind == "python":
            assert shown is None, "the page leaves out what the code before this prints"
            shown = python_printed(block, environment)
        elif kind == "text":
            assert expected(block.splitlines()).fullmatch(shown.strip("\n") + "\n"), f"{block}\nis not\n{shown}"
            shown = None
        else:
            assert kind == "console"
            for piece in re.split(r"^\$ ", block, flags=re.MULTILINE)[1:]:
                command, _, output = piece.partition("\n")
                found = printed(command, environment).strip("\n") + "\n"
                if output:
                    assert expected(output.splitlines()).fullmatch(found), f"{command} should print\n{output}\nbut prints\n{found}"
                else:
                    assert found == "\n", f"the page leaves out what {command} prints"
    assert shown is None


def test_a_wrong_output_is_noticed():
    assert expected(["a", "…", "b … c"]).fullmatch("a\nx\ny\nb 12 c\n")
    assert not expected(["a", "…", "b … c"]).fullmatch("a\nx\nb 12 d\n")


def test_nothing_on_the_page_escapes_the_comparison():
    assert PAGE.count("```") == 2 * len(BLOCKS)
    assert {kind for kind, _ in BLOCKS} == {"python", "text", "console"}
