"""The package's names: importable, typed, and documented."""

import ast
import inspect
import pathlib
import re

import pytest

import gpt2rt
from gpt2rt import errors

ROOT = pathlib.Path(__file__).parents[1]


def typed_names():
    """Return the names that `__init__.py` imports for type checkers."""
    tree = ast.parse((ROOT / "gpt2rt" / "__init__.py").read_text(encoding="utf-8"))
    (block,) = (node for node in tree.body if isinstance(node, ast.If))
    imports = [node for node in block.body if isinstance(node, ast.ImportFrom)]
    return {alias.name: node.module for node in imports for alias in node.names}


@pytest.mark.parametrize("name", gpt2rt.__all__)
def test_a_name_matches_its_type_checking_import(name):
    value = getattr(gpt2rt, name)
    assert value.__name__ == name
    assert value.__module__ == typed_names()[name]
    assert name in dir(gpt2rt)


def test_names_are_listed_once_and_in_order():
    assert sorted(typed_names()) == gpt2rt.__all__ == sorted(set(gpt2rt.__all__))


def test_every_exception_is_a_public_name():
    found = {name for name, kind in vars(errors).items() if inspect.isclass(kind)}
    assert found <= set(gpt2rt.__all__)
    assert all(issubclass(getattr(gpt2rt, name), gpt2rt.Gpt2rtError) for name in found)


@pytest.mark.parametrize("name", [name for name in gpt2rt.__all__ if not hasattr(errors, name)])
def test_a_name_is_documented(name):
    page = (ROOT / "docs" / "api.md").read_text(encoding="utf-8")
    assert re.search(rf"^::: gpt2rt\.{name}$", page, re.MULTILINE)
    assert "::: gpt2rt.errors" in page


@pytest.mark.parametrize("kind", [gpt2rt.Sequence, gpt2rt.Engine, gpt2rt.Event, gpt2rt.Trace])
def test_a_compiled_class_and_its_stub_have_the_same_members(kind):
    tree = ast.parse((ROOT / "gpt2rt" / "_engine.pyi").read_text(encoding="utf-8"))
    (stub,) = (node for node in tree.body if isinstance(node, ast.ClassDef) and node.name == kind.__name__)
    typed = {
        node.target.id if isinstance(node, ast.AnnAssign) else node.name
        for node in stub.body
        if isinstance(node, (ast.AnnAssign, ast.FunctionDef))
    }
    assert {name for name in typed if not name.startswith("_")} == {name for name in dir(kind) if name[0] != "_"}


def test_an_unknown_name_is_an_attribute_error():
    with pytest.raises(AttributeError, match="module 'gpt2rt' has no attribute 'Session'"):
        _ = gpt2rt.Session
