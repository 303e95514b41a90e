"""Settings: defaults, and errors that name the variable."""

import os
from pathlib import Path

import pytest

from jobworker.domain.errors import ConfigurationError
from jobworker.settings import DEFAULT_REDIS_URL, Settings, mask_password


def test_default_settings_use_var_folder_and_loopback() -> None:
    settings = Settings.from_environment({})
    assert settings.home == Path("var").absolute()
    assert settings.database_url == f"sqlite:///{settings.home}/jobworker.db"
    assert (settings.bind, settings.redis_url) == ("127.0.0.1:8000", DEFAULT_REDIS_URL)


@pytest.mark.parametrize("place", ["", "below"])
def test_home_that_is_a_file_rejected(tmp_path: Path, place: str) -> None:
    (tmp_path / "file").touch()
    settings = Settings.from_environment({"JOBWORKER_HOME": str(tmp_path / "file" / place)})
    with pytest.raises(ConfigurationError, match="there is a file in its place"):
        settings.require_home()


def test_unwritable_home_rejected(tmp_path: Path) -> None:
    tmp_path.chmod(0o555)
    settings = Settings.from_environment({"JOBWORKER_HOME": str(tmp_path / "var")})
    user = os.geteuid()
    if user == 0:
        os.seteuid(65534)  # Root may write everywhere.
    try:
        with pytest.raises(ConfigurationError, match="this user may not write to"):
            settings.require_home()
    finally:
        os.seteuid(user)
        tmp_path.chmod(0o755)
    settings.require_home()


def test_database_in_home_detected() -> None:
    home = {"JOBWORKER_HOME": "/data"}
    assert Settings.from_environment(home).database_in_home
    for url in ("sqlite:////elsewhere/jobworker.db", "postgresql://host/name"):
        assert not Settings.from_environment({**home, "JOBWORKER_DATABASE_URL": url}).database_in_home


def test_default_database_is_in_home() -> None:
    assert Settings.from_environment({"JOBWORKER_HOME": "/srv/jw"}).database_url == "sqlite:////srv/jw/jobworker.db"


@pytest.mark.parametrize("scheme", ["postgres", "postgresql", "postgresql+psycopg"])
def test_postgresql_url_schemes_normalized(scheme: str) -> None:
    settings = Settings.from_environment({"JOBWORKER_DATABASE_URL": f"{scheme}://u:p@db/jobs"})
    assert settings.database_url == "postgresql+psycopg://u:p@db/jobs"


def test_empty_variable_means_default() -> None:
    assert Settings.from_environment({"JOBWORKER_FEED": ""}).feed == 1000


def test_list_settings_parsed() -> None:
    environment = {"JOBWORKER_SHELL": "/bin/a,/bin/b  /bin/c", "JOBWORKER_CONTAINER_ARGS": "--label 'a b' -v"}
    settings = Settings.from_environment(environment)
    assert settings.shell == ("/bin/a", "/bin/b", "/bin/c")
    assert settings.container_args == ("--label", "a b", "-v")


def test_heartbeat_interval_is_third_of_lease() -> None:
    assert Settings.from_environment({"JOBWORKER_WORKER_LEASE": "6"}).heartbeat_interval == 2


@pytest.mark.parametrize(
    ("variable", "value"),
    [
        ("JOBWORKER_WORKER_LEASE", "soon"),
        ("JOBWORKER_WORKER_LEASE", "0.5"),
        ("JOBWORKER_WORKER_LEASE", "nan"),
        ("JOBWORKER_WORKER_LEASE", "inf"),
        ("JOBWORKER_FEED", "inf"),
        ("JOBWORKER_FEED", "-1"),
        ("JOBWORKER_SHELL", "/bin/true, rm"),
        ("JOBWORKER_CONTAINER_ARGS", "--label 'open"),
        ("JOBWORKER_MAX_BODY", "12"),
        ("JOBWORKER_HOSTS", "https://jobs.example.com"),
        ("JOBWORKER_HOSTS", "jobs.example.com, *"),
        ("JOBWORKER_LOG_FORMAT", "xml"),
        ("JOBWORKER_LOG_LEVEL", "debug"),
        ("JOBWORKER_DATABASE_URL", "mysql://u:p@db/jobs"),
        ("JOBWORKER_DATABASE_URL", "jobs.db"),
    ],
)
def test_invalid_setting_rejected_with_variable_name(variable: str, value: str) -> None:
    with pytest.raises(ConfigurationError, match=f"{variable}=.* must"):
        Settings.from_environment({variable: value})


def test_rejected_url_hides_password() -> None:
    with pytest.raises(ConfigurationError) as caught:
        Settings.from_environment({"JOBWORKER_DATABASE_URL": "mysql://u:hush@db/jobs"})
    assert "hush" not in str(caught.value)


@pytest.mark.parametrize(
    ("url", "shown"),
    [
        ("redis://:hush@h:1/0", "redis://:***@h:1/0"),
        ("postgresql+psycopg://u:u@h/u", "postgresql+psycopg://u:***@h/u"),
        ("redis://h:1/0", "redis://h:1/0"),
        ("sqlite:////srv/jw.db", "sqlite:////srv/jw.db"),
    ],
)
def test_url_password_masked(url: str, shown: str) -> None:
    assert mask_password(url) == shown
