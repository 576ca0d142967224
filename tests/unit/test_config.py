"""What the configuration file says about itself when it is wrong."""

from __future__ import annotations

from pathlib import Path

import pytest

from edgecam.config import AlertsConfig, load_config
from edgecam.errors import ConfigError


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("[motoin]\n", "motoin: unknown key; did you mean motion?"),
        ("[motion]\nburst = 2\n", "motion.burst: unknown key; did you mean burst_s?"),
        ("[cameras.url]\nurl = 'x'\nrotate = 90\n", "cameras.url.rotate: unknown key; did you mean rotate_deg?"),
        ("[[alerts.quiet_hours]]\nstart='22:00'\nend='06:00'\nlet_trough=[]\n", "did you mean let_through?"),
        ("[run]\nzzz = 1\n", "run.zzz: unknown key"),
    ],
)
def test_an_unknown_key_is_named_with_the_nearest(tmp_path: Path, text: str, told: str) -> None:
    path = tmp_path / "edgecam.toml"
    path.write_text(text)
    with pytest.raises(ConfigError) as failure:
        load_config(path)
    assert str(failure.value).startswith(f"{path} is not valid: ")
    assert str(failure.value).endswith(told)


def test_a_folder_is_no_configuration(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"cannot be read: Is a directory; --config wants the file itself$"):
        load_config(tmp_path)


def test_a_credential_goes_before_the_password_file_of_its_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    alerts = AlertsConfig(host="localhost", username="u", password_file=tmp_path / "broker-password")
    monkeypatch.delenv("CREDENTIALS_DIRECTORY", raising=False)
    assert alerts.secret_file() == alerts.password_file
    shown = tmp_path / "shown"
    shown.mkdir()
    monkeypatch.setenv("CREDENTIALS_DIRECTORY", str(shown))
    assert alerts.secret_file() == alerts.password_file
    (shown / "broker-password").write_text("x")
    assert alerts.secret_file() == shown / "broker-password"
    assert AlertsConfig().secret_file() is None
