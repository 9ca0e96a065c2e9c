"""The benchmark of `openenv_async`: run `python -m benchmarks`.

Four contenders take turns in one run: the bare ceiling of the libraries, this SDK,
OpenEnv 0.10.0, and Gymnasium's own vector environment. `docs` of each live in their
modules:

- `cases` lists what is measured, `meter` how, `worker` in which process;
- `ceiling_*`, `sdk_*`, `openenv_*`, `gymnasium_*` and `kernel` are the contenders;
- `processes` and `rounds` start them and make them take turns;
- `results`, `floors` and `report` say what came out.

`python -m benchmarks.containers` does the same for containers, fleet and coding
environment, in modules `container_*`.

`cases`, `container_cases`, `meter`, `worker`, `openenv_*` and `container_openenv*`
import nothing beyond the standard library (and OpenEnv itself), because OpenEnv's
virtual environment, or its image, runs them too.
"""

__all__: list[str] = []
