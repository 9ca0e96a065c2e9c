"""Packages are found in folders and wheels, and what is none is named."""

from __future__ import annotations

import zipfile
from pathlib import Path

import pytest

from openenv_async import ProviderError, version
from openenv_async.images.packages import find_sdk, find_source, read_wheel
from tests.sources import ROOT


def _write_wheel(path: Path, **files: str) -> Path:
    with zipfile.ZipFile(path, "w") as archive:
        for name, text in files.items():
            archive.writestr(f"thing-1.dist-info/{name}", text)
    return path


def test_a_folder_says_its_name_and_what_builds_it() -> None:
    """Both come from its pyproject.toml."""
    source = find_source(ROOT / "envs/echo_env")
    assert source.name == "openenv-async-echo-env"
    assert source.backend == ("hatchling",)
    assert source.can_build_here()


def test_a_folder_without_a_build_system_is_setuptools(tmp_path: Path) -> None:
    """As the packaging standards say."""
    (tmp_path / "pyproject.toml").write_text("")
    source = find_source(tmp_path)
    assert (source.name, source.backend) == ("", ("setuptools",))


def test_what_builds_it_may_be_missing(tmp_path: Path) -> None:
    """A backend that is not installed here is noticed."""
    (tmp_path / "pyproject.toml").write_text(
        "[build-system]\nrequires = [\"no-such-backend>=1 ; python_version > '3'\"]\n"
    )
    source = find_source(tmp_path)
    assert source.backend == ("no-such-backend",)
    assert not source.can_build_here()


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("nowhere", "'{path}': there is no such folder"),
        ("nowhere.whl", "'{path}': there is no such file"),
        ("empty", "'{path}' without a pyproject.toml"),
        ("broken", "expected a readable {path}/pyproject.toml: "),
    ],
)
def test_what_is_no_package_is_named(tmp_path: Path, name: str, said: str) -> None:
    """The error is the caller's, and names the path."""
    (tmp_path / "empty").mkdir()
    (tmp_path / "broken").mkdir()
    (tmp_path / "broken/pyproject.toml").write_text("[project")
    path = tmp_path / name
    with pytest.raises(ProviderError) as caught:
        find_source(path)
    assert said.format(path=path) in str(caught.value)
    assert caught.value.fault == "caller"


def test_this_sdk_is_found_in_its_checkout() -> None:
    """Tests run from a checkout, whose wheel goes into images."""
    sdk = find_sdk()
    assert sdk is not None
    assert (sdk.path, sdk.name) == (ROOT, "openenv-async")


def test_a_wheel_says_what_it_is(tmp_path: Path) -> None:
    """Name, version, summary, extras and environments come from its metadata."""
    wheel = _write_wheel(
        tmp_path / "thing-1-py3-none-any.whl",
        METADATA=(
            "Metadata-Version: 2.4\nName: thing\nVersion: 1\nSummary: A thing\n"
            "Provides-Extra: server\nProvides-Extra: tasks\n"
        ),
        **{
            "entry_points.txt": (
                "[openenv_async.environments]\none = thing:One\ntwo = thing:Two\n"
                "[console_scripts]\nthing = thing:main\n"
            )
        },
    )
    package = read_wheel(find_source(wheel).path)
    assert (package.name, package.version, package.summary) == ("thing", "1", "A thing")
    assert package.extras == {"server", "tasks"}
    assert package.environments == ("one", "two")


@pytest.mark.parametrize("content", [b"", b"no archive"])
def test_a_file_that_is_no_wheel_is_named(tmp_path: Path, content: bytes) -> None:
    """The error names the file."""
    path = tmp_path / "thing-1-py3-none-any.whl"
    path.write_bytes(content)
    with pytest.raises(ProviderError, match=f"expected a wheel at '{path}'"):
        read_wheel(path)


def test_an_archive_without_metadata_is_no_wheel(tmp_path: Path) -> None:
    """Being an archive is not enough."""
    wheel = _write_wheel(tmp_path / "thing-1-py3-none-any.whl", RECORD="")
    with pytest.raises(ProviderError, match="expected a wheel"):
        read_wheel(wheel)


def test_the_version_of_the_checkout_is_ours() -> None:
    """What `--version` says is what the SDK's wheel will be called."""
    assert f'version = "{version.VERSION}"' in (ROOT / "pyproject.toml").read_text()
