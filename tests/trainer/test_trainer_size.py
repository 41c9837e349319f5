"""The trainer is read from top to bottom: about 1,300 lines of code, the loop under 350 lines in all (ADR 32)."""

import ast
from pathlib import Path

import imglish.trainer

FILES = sorted(Path(imglish.trainer.__file__).parent.glob("*.py"))


def code_lines(path: Path) -> int:
    """Lines that are neither blank nor comments nor docstrings."""
    source = path.read_text(encoding="utf-8")
    texts = [
        node
        for node in ast.walk(ast.parse(source))
        if isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant) and isinstance(node.value.value, str)
    ]
    told = {line for node in texts for line in range(node.lineno, (node.end_lineno or node.lineno) + 1)}
    numbered = enumerate(map(str.strip, source.splitlines()), 1)
    return sum(bool(line) and not line.startswith("#") and number not in told for number, line in numbered)


def test_the_room_and_its_loop_stay_small() -> None:
    assert sum(map(code_lines, FILES)) <= 1_350
    loop = next(path for path in FILES if path.name == "loop.py")
    assert len(loop.read_text(encoding="utf-8").splitlines()) < 350
