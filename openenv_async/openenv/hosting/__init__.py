"""Environments that were written for OpenEnv, on our server, as they are.

`openenv-async serve openenv:some_env.server.app:app` is all that a user writes. Nothing
here imports OpenEnv: what it needs of it comes with the environment. It needs pydantic.
"""

from .finding import Hosted, find_hosted
from .specs import host

__all__ = ["Hosted", "find_hosted", "host"]
