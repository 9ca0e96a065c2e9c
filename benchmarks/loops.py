"""The event loop of measuring clients of the ceiling and of this SDK."""

from __future__ import annotations

import argparse
import asyncio

import uvloop

from benchmarks.worker import LoopFactory

__all__ = ["loop_from_arguments"]

_FACTORIES: dict[str, LoopFactory] = {
    "uvloop": uvloop.new_event_loop,
    "asyncio": asyncio.new_event_loop,
}


def loop_from_arguments() -> LoopFactory:
    """Read `--loop` from the command line."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--loop", choices=sorted(_FACTORIES), default="uvloop")
    return _FACTORIES[parser.parse_args().loop]
