"""Settings: three sources, one winner, and no name that is not known."""

from __future__ import annotations

from pathlib import Path

import pytest

from settings import Settings, SettingsError, load


def test_the_command_line_wins_over_the_environment_over_the_file(tmp_path: Path) -> None:
    file = tmp_path / "slowwave.toml"
    file.write_text("port = 1\nmax_batch = 2\nallowed_hosts = ['a', 'b']\n")
    loaded = load(
        {"port": 3, "model": None}, config=file, environment={"SLOWWAVE_PORT": "2", "SLOWWAVE_MAX_BATCH": "5"}
    )
    assert (loaded.settings.port, loaded.settings.max_batch, loaded.settings.allowed_hosts) == (3, 5, ("a", "b"))
    assert loaded.origins == {
        "port": "the command line",
        "max_batch": "the environment",
        "allowed_hosts": str(file),
    }


@pytest.mark.parametrize(
    ("options", "environment", "toml", "said"),
    [
        ({}, {"SLOWWAVE_PROT": "1"}, "", "Did you mean SLOWWAVE_PORT"),
        ({}, {}, "max_bach = 3", "Did you mean max_batch"),
        ({"nonsense": 1}, {}, "", "no setting nonsense"),
        ({}, {"SLOWWAVE_PORT": "many"}, "", "port = 'many' (from the environment)"),
        ({"port": 70000}, {}, "", "port = 70000 (from the command line)"),
        ({}, {}, "port = ", "cannot be read"),
        ({"device": "gpu"}, {}, "", "device = 'gpu'"),
    ],
)
def test_what_cannot_be_is_refused_with_its_origin(
    tmp_path: Path, options: dict[str, object], environment: dict[str, str], toml: str, said: str
) -> None:
    file = tmp_path / "slowwave.toml"
    file.write_text(toml)
    with pytest.raises(SettingsError) as refusal:
        load(options, config=file, environment=environment)
    assert said in str(refusal.value)


def test_keys_come_from_settings_and_from_a_file(tmp_path: Path) -> None:
    file = tmp_path / "keys"
    file.write_text("# ours\nthird-key\n\n")
    loaded = load({"api_key_file": file}, environment={"SLOWWAVE_API_KEYS": "first-key, second-key"})
    assert loaded.settings.keys() == ("first-key", "second-key", "third-key")
    with pytest.raises(SettingsError, match="api_key_file"):
        Settings(api_key_file=tmp_path / "missing").keys()


def test_a_missing_file_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match="cannot be read"):
        load({}, config=tmp_path / "none.toml", environment={})
