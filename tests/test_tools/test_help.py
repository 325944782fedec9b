"""Every option of every tool says what it is."""
import ast
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
TOOLS = sorted(
    path for path in (ROOT / 'tools').rglob('*.py')
    if 'add_argument(' in path.read_text())


@pytest.mark.parametrize('path', TOOLS, ids=lambda path: path.stem)
def test_has_help(path):
    silent = [
        ast.unparse(call.args[0]) for call in ast.walk(
            ast.parse(path.read_text()))
        if isinstance(call, ast.Call)
        and ast.unparse(call.func).endswith('.add_argument')
        and not any(word.arg == 'help' for word in call.keywords)
    ]
    assert not silent
