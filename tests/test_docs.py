"""The pages: every page is linked, every code block runs or says why not, quoted errors are those that are raised."""

import ast
import importlib.util
import os
import re
import shlex
import subprocess
import sys
import textwrap
from dataclasses import dataclass
from pathlib import Path

import pytest
import typer

ROOT = Path(__file__).parent.parent
PAGES = {path.name: path for path in (ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").glob("*.md")))}
BLOCK = re.compile(
    r"(?:^ *<!-- (?P<mark>run|file: \S+|not run:[^\n]*) -->\n\n?)?"
    r"^(?P<indent> *)```(?P<language>[^\n]*)\n(?P<code>.*?)^(?P=indent)```$",
    re.M | re.S,
)
LINK = re.compile(r"\[[^\]]*\]\(([^)\s#:]+)(?:#[^)\s]*)?\)")
NEEDED = ("DSENV_DATA_DIR", "DSENV_MODEL_DIR")


@dataclass(frozen=True)
class Block:
    """A fenced block of a page, and what the comment before it says: ``run``, ``file: NAME`` or ``not run: REASON``."""

    page: str
    language: str
    code: str
    mark: str

    @property
    def python(self) -> bool:
        return self.language == "python"

    @property
    def shell(self) -> bool:
        return self.language in ("", "bash", "console")

    @property
    def runs(self) -> bool:
        return self.mark == "run" or (self.python and not self.mark)

    def script(self) -> str:
        """Return what does the block's work as lines of a Python script."""
        if self.mark.startswith("file:"):
            return f"__import__('pathlib').Path({self.mark.split()[1]!r}).write_text({self.code!r})"
        if self.shell:
            return f"__import__('subprocess').run(['bash', '-ec', {self.code!r}], check=True)"
        return self.code


def blocks(page: str) -> list[Block]:
    found = BLOCK.finditer(PAGES[page].read_text(encoding="utf-8"))
    return [Block(page, m["language"].strip(), textwrap.dedent(m["code"]), m["mark"] or "") for m in found]


def commands(code: str) -> list[list[str]]:
    """Return the words of a shell block's commands that are ours: ``dsenv ...`` and ``python -m ...``."""
    lines = re.sub(r"\\\n\s*", "", code).splitlines()
    words = [shlex.split(line.strip().removeprefix("$ "), comments=True) for line in lines]
    return [line for line in words if line[:1] == ["dsenv"] or line[:2] == ["python", "-m"]]


def check_command(words: list[str]) -> None:
    if words[0] == "python":
        module = words[2]
        known = module.partition("<")[0].rstrip(".")  # agents.<name> stands for any of them
        assert importlib.util.find_spec(known), f"no module {module}"
        return
    from dsenv.cli import app

    command, words = typer.main.get_command(app), words[1:]
    while hasattr(command, "commands"):
        assert words[0] in command.commands, f"no command {words[0]}"
        command, words = command.commands[words[0]], words[1:]
    command.make_context(command.name, list(words))  # raises for what it does not take


def test_every_page_is_in_the_toctree():
    index = PAGES["index.md"].read_text()
    listed = [line for tree in re.findall(r"```{toctree}\n(.*?)```", index, flags=re.S) for line in tree.split("\n")]
    listed = [line.partition("<")[2].rstrip(">") or line for line in listed if line and not line.startswith(":")]
    assert sorted(listed) == sorted(path.stem for path in (ROOT / "docs").glob("*.md") if path.stem != "index")
    assert set(LINK.findall(index)) == {f"{page}.md" for page in listed}


@pytest.mark.parametrize("page", PAGES)
def test_links_lead_to_files(page):
    for target in LINK.findall(BLOCK.sub("", PAGES[page].read_text())):
        assert (PAGES[page].parent / target).exists(), target


@pytest.mark.parametrize("page", PAGES)
def test_blocks_are_code_that_dsenv_takes(page):
    for block in blocks(page):
        if block.mark.startswith("not run:"):
            assert len(block.mark.removeprefix("not run:").split()) > 2, f"no reason: {block.code}"
        if block.python:
            ast.parse(block.code)
        elif block.shell:
            for words in commands(block.code):
                check_command(words)
    for module in re.findall(r"`python -m ([\w.]+)", PAGES[page].read_text()):
        check_command(["python", "-m", module])


@pytest.mark.slow
@pytest.mark.parametrize("page", [page for page in PAGES if any(block.runs for block in blocks(page))])
def test_code_in_the_pages_runs(page, tmp_path):
    """The blocks of a page share a folder and a namespace, in order, as somebody who follows the page would have it."""
    used = [block for block in blocks(page) if block.runs or block.mark.startswith("file:")]
    for name in NEEDED:
        if name not in os.environ and any(name in block.code for block in used):
            pytest.skip(f"{name} is not set: {page} needs it")
    (tmp_path / "page.py").write_text("\n\n".join(block.script() for block in used), encoding="utf-8")
    path = os.pathsep.join([str(Path(sys.executable).parent), os.environ.get("PATH", "")])
    env = {**os.environ, "PATH": path, "DSENV_CACHE_DIR": str(tmp_path / "cache")}
    command = [sys.executable, "-W", "error", "page.py"]
    done = subprocess.run(command, cwd=tmp_path, env=env, capture_output=True, text=True, check=False, timeout=900)
    assert done.returncode == 0, done.stderr[-3000:]


def test_quoted_errors_are_raised():
    """The page of errors quotes them as the code has them; … stands for what is filled in."""
    texts = set()
    for path in (ROOT / "dsenv").rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.JoinedStr):
                texts.add("".join(part.value if isinstance(part, ast.Constant) else "…" for part in node.values))
            elif isinstance(node, ast.Constant) and isinstance(node.value, str):
                texts.add(node.value)
    quoted = re.findall(r"\*\*`([^`]+)`\*\*", PAGES["faq.md"].read_text())
    assert len(quoted) >= 15
    for message in quoted:
        assert any(message in text for text in texts), message


def test_pages_made_from_the_package_name_everything():
    spec = importlib.util.spec_from_file_location("docs_conf", ROOT / "docs" / "conf.py")
    conf = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(conf)
    import dsenv
    from dsenv.registration import IDS, OWN_TASK_ID, RLVR_IDS
    from dsenv.task import bundled_tasks

    made = {name: make() for name, make in conf.GENERATED.items()}
    for table, names in (("ids", [*IDS, OWN_TASK_ID]), ("rlvr ids", RLVR_IDS), ("composition", bundled_tasks())):
        assert all(name in made[table] for name in names)
    assert all(f"dsenv.{name}\n" in made["api"] for name in dsenv.__all__[1:])
    text = "".join(path.read_text() for path in PAGES.values())
    assert all(text.count(f"<!-- generated: {name} -->") == 1 for name in made)
    assert conf.linked("[x](../README.md) [y](../benchmarks/results/target) [z](rlvr.md#a)", "docs") == (
        "[x](overview.md) y (`benchmarks/results/target`) [z](rlvr.md#a)"
    )
