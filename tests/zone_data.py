"""Time zone data that differ from the shipped package, for other processes and for the test's own process."""

import contextlib
import importlib.resources
import shutil
import sys
import zoneinfo
from collections.abc import Iterator, Mapping
from pathlib import Path

import pytest
import tzdata

from jobworker.services.schedules import compiler, time_zone_updates

#: UTC times of a daily 06:00 on 2026-12-01, by IANA 2026f. With the data of Debian 12 (2025b) each differs by an hour.
EXPECTED_UTC_TIMES = {
    "America/Vancouver": "13:00",
    "America/Edmonton": "12:00",
    "America/Winnipeg": "11:00",
    "Africa/Casablanca": "06:00",
    "America/Havana": "10:00",
}


def create_tzpath(path: Path, zones: Mapping[str, str]) -> Path:
    """Create a folder for PYTHONTZPATH in which each of these zones has the data of another zone."""
    for name, like in zones.items():
        target = path / name
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_bytes(importlib.resources.files("tzdata.zoneinfo").joinpath(*like.split("/")).read_bytes())
    return path


def create_tzdata_package(path: Path, version: str, zones: Mapping[str, str]) -> Path:
    """Create a folder for PYTHONPATH with a package `tzdata` of this IANA version, with zones replaced like this."""
    shutil.copytree(Path(tzdata.__file__).parent, path / "tzdata")
    text = f'IANA_VERSION = "{version}"\n__version__ = "1"\n'
    (path / "tzdata" / "__init__.py").write_text(text)
    create_tzpath(path / "tzdata" / "zoneinfo", zones)
    return path


@contextlib.contextmanager
def use_tzdata(path: Path | None, version: str) -> Iterator[None]:
    """Use the package `tzdata` in this folder as if the process had started with it; None: the shipped package."""
    with pytest.MonkeyPatch.context() as patch:
        if path is not None:
            patch.syspath_prepend(str(path))
        patch.setattr(time_zone_updates, "DATA_VERSION", version)
        for name in [name for name in sys.modules if name.partition(".")[0] == "tzdata"]:
            patch.delitem(sys.modules, name)
        _clear_caches()
        try:
            yield
        finally:
            for name in [name for name in sys.modules if name.partition(".")[0] == "tzdata"]:
                del sys.modules[name]
            _clear_caches()


def _clear_caches() -> None:
    """Clear the caches that a process keeps only in memory."""
    zoneinfo.ZoneInfo.clear_cache()
    compiler._cache.clear()
    time_zone_updates._changed_zones_cache.clear()
