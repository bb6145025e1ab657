"""The two layers stand beside each other: what both need lies above them."""

import ast
from pathlib import Path

import pytest

_ROOT = Path(__file__).parents[2]


@pytest.mark.parametrize(
    ("layer", "other"),
    [("jepsen_like/real", "jepsen_like.sim"), ("jepsen_like/sim", "jepsen_like.real")],
)
def test_neither_layer_imports_the_other(layer, other):
    found = []
    for path in sorted((_ROOT / layer).rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text())):
            names = [node.module or ""] if isinstance(node, ast.ImportFrom) else []
            if isinstance(node, ast.Import):
                names = [alias.name for alias in node.names]
            found += [path.name for name in names if name == other or name.startswith(f"{other}.")]
    assert found == []
