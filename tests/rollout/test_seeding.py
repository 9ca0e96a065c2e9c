"""Seeds derive from names."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from openenv_async.rollout import derive_seed

_paths = st.lists(st.text(max_size=4) | st.integers(-5, 5), max_size=4)


def test_derive_seed_is_pinned() -> None:
    """A run can be repeated with any later version."""
    assert derive_seed(0, "task", "0") == 891429638
    assert derive_seed(2**100, "group", 1) == 2129801299


@given(st.integers(), _paths)
def test_derive_seed_fits_everywhere(root: int, path: list[str | int]) -> None:
    """It is a number that any random generator takes, and always the same."""
    seed = derive_seed(root, *path)
    assert 0 <= seed < 2**31
    assert derive_seed(root, *path) == seed


def test_derive_seed_tells_paths_apart() -> None:
    """Numbers from text, and one path from another that reads alike."""
    paths: list[tuple[str | int, ...]] = [
        ("a", 1),
        ("a", "1"),
        ("a1",),
        ("a", 1, ""),
        (),
    ]
    assert len({derive_seed(0, *path) for path in paths}) == len(paths)


def test_derive_seed_spreads() -> None:
    """Ten thousand neighbours collide about as often as chance has it."""
    seeds = {derive_seed(root, index) for root in range(100) for index in range(100)}
    assert len(seeds) > 9_990
