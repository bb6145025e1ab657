"""Commands under test see no group of the person who runs the tests."""

import pytest


@pytest.fixture(autouse=True)
def config_home(tmp_path_factory, monkeypatch):
    """An empty folder for what the user has configured."""
    for name in ("DLEDGER_SERVER", "DLEDGER_CONTEXT", "NO_COLOR", "FORCE_COLOR"):
        monkeypatch.delenv(name, raising=False)
    folder = tmp_path_factory.mktemp("config")
    monkeypatch.setenv("XDG_CONFIG_HOME", str(folder))
    return folder
