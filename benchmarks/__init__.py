"""The benchmark of `openenv_async`: run `python -m benchmarks`.

Four contenders take turns in one run: the bare ceiling of the libraries, this SDK,
OpenEnv 0.10.0, and Gymnasium's own vector environment. `docs` of each live in their
modules:

- `cases` lists what is measured, `meter` how, `worker` in which process;
- `ceiling_*`, `sdk_*`, `openenv_*`, `gymnasium_*` and `kernel` are the contenders;
- `processes` and `rounds` start them and make them take turns;
- `results`, `floors` and `report` say what came out.

`cases`, `meter`, `worker` and `openenv_*` import nothing beyond the standard library
(and OpenEnv itself), because OpenEnv's virtual environment runs them too.
"""

__all__: list[str] = []
