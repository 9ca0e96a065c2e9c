"""Makes `python -m openenv_async.cli` the same as `openenv-async`."""

from .main import main

__all__: list[str] = []

if __name__ == "__main__":
    main()
