"""Settings: defaults, the environment, scoped overrides, and the page that lists them."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from coexec import settings
from coexec.errors import UsageError

ROOT = Path(__file__).resolve().parent.parent


def test_default_environment_and_override(monkeypatch):
    monkeypatch.delenv("COEXEC_DEBUG", raising=False)
    assert settings.get("debug") == 0
    monkeypatch.setenv("COEXEC_DEBUG", "2")
    assert settings.get("debug") == 2
    with settings.override(debug=5):
        assert settings.get("debug") == 5
        with settings.override(debug=1):
            assert settings.get("debug") == 1
        assert settings.get("debug") == 5
    assert settings.get("debug") == 2


def test_override_ends_with_an_error():
    before = settings.get("threads")
    with pytest.raises(KeyError), settings.override(threads=3):
        raise KeyError
    assert settings.get("threads") == before


@pytest.mark.parametrize("text, value", [("1", True), ("yes", True), ("ON", True), ("0", False), ("false", False), ("", False)])
def test_flags(monkeypatch, text, value):
    monkeypatch.setenv("COEXEC_CHECK", text)
    assert settings.get("check") is value


@pytest.mark.parametrize("name, text", [("debug", "-1"), ("debug", "loud"), ("check", "maybe"), ("threads", "1.5")])
def test_unreadable_values_name_the_variable(monkeypatch, name, text):
    variable = f"COEXEC_{name.upper()}"
    monkeypatch.setenv(variable, text)
    with pytest.raises(UsageError, match=f"{variable}.*{re.escape(text)}"):
        settings.get(name)


def test_unknown_names_get_a_near_one():
    with pytest.raises(UsageError, match="did you mean debug"):
        settings.get("debgu")
    with pytest.raises(UsageError, match="did you mean threads"), settings.override(thread=1):
        pass


def test_defining_twice_is_an_error():
    with pytest.raises(ValueError, match="debug"):
        settings.define("debug", 0, int, "again")


def test_cache_dir_follows_xdg(monkeypatch, tmp_path):
    monkeypatch.setattr(settings, "_overrides", {})
    monkeypatch.delenv("COEXEC_CACHE_DIR", raising=False)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert settings.get("cache_dir") == tmp_path / "coexec"
    monkeypatch.setenv("COEXEC_CACHE_DIR", str(tmp_path / "mine"))
    assert settings.get("cache_dir") == tmp_path / "mine"


def test_nothing_else_reads_coexec_variables():
    readers = [p.relative_to(ROOT).as_posix() for p in (ROOT / "coexec").rglob("*.py") if re.search(r"environ[^\n]*COEXEC_", p.read_text())]
    assert readers == []


def test_the_page_lists_every_setting():
    from tools.settings_page import page

    assert (ROOT / "docs/settings.md").read_text() == page(), "run: python tools/settings_page.py > docs/settings.md"
