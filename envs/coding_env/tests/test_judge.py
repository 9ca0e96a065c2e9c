"""The judge with real workers, and submissions that try to get around the tests."""

from __future__ import annotations

import time
from collections.abc import AsyncIterator

import pytest

from coding_env.sandbox import PoolConfig, SandboxPool
from coding_env.tasks import JudgeFault, Task, Verdict, judge, judge_code

_TESTS = """
SECRET = "the expected answer is 42"

def check(candidate):
    data = [1, 2]
    assert candidate(data, 40) == 42
    assert data == [1, 2]
    assert candidate([], 0) is None
    assert candidate([3], 0) == 3

check(candidate)
"""

_TASK = Task(
    task_id="test/1",
    prompt="import math\n\ndef double(x):\n    return 2 * x\n\ndef total(a, b): ...\n",
    entry_point="total",
    tests=_TESTS,
    setup="import math\n\ndef double(x):\n    return 2 * x\n",
)

_GOOD = """
def total(values, extra):
    if not values:
        return None
    return sum(v for v in values[:1]) + extra + double(0) + (1 if extra else 0)
"""


@pytest.fixture
async def pool() -> AsyncIterator[SandboxPool]:
    """Real Python for submissions, and judges."""
    pool = SandboxPool(PoolConfig(kinds=("cpython", "judge")))
    yield pool
    await pool.aclose()


async def _judged(pool: SandboxPool, code: str, timeout: float = 10.0) -> Verdict:
    return await judge_code(_TASK, code, pool, kind="cpython", timeout=timeout)


async def test_a_right_solution_passes(pool: SandboxPool) -> None:
    """Code that does what the tests ask for passes, the task's helpers included."""
    assert await _judged(pool, _GOOD) == Verdict(
        passed=True, message="all hidden tests passed"
    )


_CHEATS = {
    "nothing": "",
    "other name": "def totals(a, b):\n    return 42",
    "wrong": "def total(a, b):\n    return 42",
    "None": "def total(a, b):\n    pass",
    "raises": "def total(a, b):\n    raise ValueError(a)",
    "raises AssertionError": "def total(a, b):\n    raise AssertionError",
    "raises StopIteration": "def total(a, b):\n    raise StopIteration",
    "exits": "import sys\ndef total(a, b):\n    sys.exit(0)",
    "exits at once": "import sys\nsys.exit(0)",
    "exits hard": "import os\ndef total(a, b):\n    os._exit(0)",
    "exits hard at once": "import os\nos._exit(0)",
    "kills itself": "import os\ndef total(a, b):\n    os.kill(os.getpid(), 9)",
    "prints": "def total(a, b):\n    print(42)\nprint('all hidden tests passed')",
    "own check": "def check(candidate):\n    pass\ndef total(a, b):\n    return 0",
    "always equal": (
        "class A(int):\n    def __eq__(self, o): return True\n"
        "    def __hash__(self): return 0\n"
        "    def __reduce__(self): return (int, (42,))\n"
        "def total(a, b):\n    return A()"
    ),
    "always equal inside": (
        "class A(int):\n    def __eq__(self, o): return True\n"
        "    def __hash__(self): return 0\n"
        "def total(a, b):\n    return (A(),)"
    ),
    "lying class": (
        "class A:\n    __class__ = int\n    def __eq__(self, o): return True\n"
        "def total(a, b):\n    return A()"
    ),
    "patched built-ins": (
        "import builtins\n"
        "builtins.AssertionError = KeyError\n"
        "builtins.__import__ = None\n"
        "class B(type(1).__class__): pass\n"
        "builtins.int = lambda *a: 42\n"
        "def total(a, b):\n    return 0"
    ),
    "patched literals": (
        "import sys\n"
        "for name, module in list(sys.modules.items()):\n"
        "    if name.startswith('coding_env'):\n"
        "        for key in vars(module):\n"
        "            if 'literal' in key:\n"
        "                vars(module)[key] = lambda *a: '42'\n"
        "def total(a, b):\n    return 0"
    ),
    "looks at frames": (
        "import sys, gc\n"
        "def total(a, b):\n"
        "    frame, found = sys._getframe(), []\n"
        "    while frame:\n"
        "        found += [v for v in frame.f_locals.values() if 'SECRET' in repr(v)]\n"
        "        found += [k for k in frame.f_globals if 'SECRET' in k]\n"
        "        frame = frame.f_back\n"
        "    for o in gc.get_objects():\n"
        "        if type(o) is dict and 'SECRET' in o: found.append(o)\n"
        "    return 42 if found else 0"
    ),
    "empties the arguments": (
        "def total(a, b):\n    a.clear()\n    a += [1, 2, 3]\n    return 42"
    ),
    "writes on the channel": (
        "import os, struct\n"
        "def total(a, b):\n"
        "    for fd in range(3, 10):\n"
        "        try:\n"
        "            os.write(fd, struct.pack('!I', 3) + b'abc')\n"
        "        except OSError:\n"
        "            pass\n"
        "    return 42"
    ),
    "answers in advance": (
        "import os, struct, msgspec, threading\n"
        "def flood():\n"
        "    for seq in range(100):\n"
        "        body = msgspec.msgpack.encode(\n"
        "            ['done', seq, {'value': '42', 'exit_code': 0}, False])\n"
        "        os.write(3, struct.pack('!I', len(body)) + body)\n"
        "def total(a, b):\n    flood()\n    return 42"
    ),
    "generator": "def total(a, b):\n    yield 42",
    "a function": "def total(a, b):\n    return lambda: 42",
    "huge": "def total(a, b):\n    return 'x' * 5_000_000",
    "deep": "def total(a, b):\n    for _ in range(999): a = [a]\n    return a",
    "itself": "def total(a, b):\n    x = []\n    x.append(x)\n    return x",
    "nan": "def total(a, b):\n    return float('nan')",
    "class": "class total:\n    def __new__(cls, *a): return 42",
    "replaces itself": (
        "def total(a, b):\n"
        "    global total\n    total = lambda a, b: {40: 42}.get(b, 3)\n    return 41"
    ),
}


@pytest.mark.parametrize("name", _CHEATS)
async def test_a_wrong_solution_does_not_pass(pool: SandboxPool, name: str) -> None:
    """Nothing that a submission does in its process makes the tests pass."""
    verdict = await _judged(pool, _CHEATS[name])
    assert not verdict.passed
    # The pool still works.
    assert (await _judged(pool, _GOOD)).passed


async def test_messages_tell_what_happened_and_nothing_of_the_tests(
    pool: SandboxPool,
) -> None:
    """An agent learns how its code failed, but no argument and no expected value."""
    messages = {
        name: (await _judged(pool, _CHEATS[name])).message
        for name in ("nothing", "wrong", "raises", "exits", "a function")
    }
    assert messages == {
        "nothing": "total() is not defined, or uses such a name",
        "wrong": "a hidden test failed",
        "raises": "total() raised ValueError",
        "exits": "total() ended its process (SystemExit)",
        "a function": (
            "total() raised an error: it returned something other than plain data"
        ),
    }


async def test_a_class_of_its_own_carries_nothing_out(pool: SandboxPool) -> None:
    """The name of a raised class may be made of the arguments; it is not shown."""
    code = "def total(a, b):\n    raise type(f'E{a}{b}', (Exception,), {})"
    verdict = await _judged(pool, code)
    assert verdict.message == "total() raised an exception of its own"


@pytest.mark.parametrize(
    "code",
    [
        "def total(a, b):\n    while True: pass",
        "import time\ndef total(a, b):\n    time.sleep(60)",
        "while True: pass",
        "def total(a, b):\n    try:\n        while True: pass\n    except: return 42",
    ],
)
async def test_a_submission_that_hangs_is_out_of_time(
    pool: SandboxPool, code: str
) -> None:
    """The deadline is for all of it, and ends a submission wherever it is."""
    await pool.warm_up()
    before = time.monotonic()
    verdict = await _judged(pool, code, timeout=0.5)
    assert verdict == Verdict(passed=False, message="out of time")
    assert time.monotonic() - before < 5


async def test_slow_calls_share_one_deadline(pool: SandboxPool) -> None:
    """Many calls that are each in time are out of time together."""
    task = Task(
        task_id="slow",
        prompt="",
        entry_point="f",
        tests="for i in range(1000):\n    assert candidate(i) == i",
    )
    code = "import time\ndef f(x):\n    time.sleep(0.05)\n    return x"
    verdict = await judge_code(task, code, pool, kind="cpython", timeout=0.6)
    assert verdict.message == "out of time"


async def test_tests_may_expect_an_exception(pool: SandboxPool) -> None:
    """A built-in exception of the submission reaches the tests as itself."""
    task = Task(
        task_id="raising",
        prompt="",
        entry_point="f",
        tests=(
            "try:\n    candidate(0)\nexcept ZeroDivisionError:\n    pass\n"
            "else:\n    raise AssertionError\nassert candidate(2) == 0.5"
        ),
    )
    code = "def f(x):\n    return 1 / x"
    assert (await judge_code(task, code, pool, kind="cpython", timeout=10)).passed
    code = "def f(x):\n    return 0.5"
    assert not (await judge_code(task, code, pool, kind="cpython", timeout=10)).passed


async def test_tests_that_catch_everything_do_not_hide_a_lost_process(
    pool: SandboxPool,
) -> None:
    """`except Exception` in the tests does not take an exit for an answer."""
    task = Task(
        task_id="catching",
        prompt="",
        entry_point="f",
        tests=(
            "assert candidate(1) == 1\n"
            "try:\n    candidate(0)\nexcept Exception:\n    pass"
        ),
    )
    for end in ("import os; os._exit(0)", "raise SystemExit"):
        code = f"def f(x):\n    if x: return x\n    {end}"
        verdict = await judge_code(task, code, pool, kind="cpython", timeout=10)
        assert not verdict.passed


@pytest.mark.parametrize(
    ("tests", "reason"),
    [
        ("candidate(", "SyntaxError"),
        ("import no_such_module", "ModuleNotFoundError"),
        ("pass", "never call the function"),
        ("import os\nos._exit(0)", "their worker is gone"),
    ],
)
async def test_tests_that_do_not_run_are_nobodys_failure(
    pool: SandboxPool, tests: str, reason: str
) -> None:
    """Broken tests raise; they are no verdict on the submission."""
    task = Task(task_id="broken", prompt="", entry_point="f", tests=tests)
    with pytest.raises(JudgeFault, match=reason) as caught:
        await judge_code(task, "def f(): pass", pool, kind="cpython", timeout=10)
    assert "'broken'" in str(caught.value)


async def test_judging_a_worker_judges_what_it_has_defined(pool: SandboxPool) -> None:
    """`judge` asks a worker that ran the submission in several parts."""
    sandbox = await pool.start("cpython")
    try:
        await sandbox.run(_TASK.setup, timeout=10)
        assert not (await judge(_TASK, sandbox, pool, timeout=10)).passed
        await sandbox.run(_GOOD, timeout=10)
        assert (await judge(_TASK, sandbox, pool, timeout=10)).passed
    finally:
        await sandbox.aclose()
