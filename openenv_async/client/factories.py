"""The ways to get a client, beside its constructor: servers and batches of its own."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Any, ClassVar, Generic, Self, TypeVar

from ..errors import LocalProtocolError
from ..providers import (
    DockerOptions,
    DockerProvider,
    Fleet,
    LocalProvider,
    OwnFleet,
    Placer,
    Provider,
)
from .payloads import Payloads
from .results import AutoresetMode

if TYPE_CHECKING:
    from .batch import EnvBatch

__all__ = ["Factories"]

ActT = TypeVar("ActT")
ObsT = TypeVar("ObsT")
StateT = TypeVar("StateT")


class Factories(Generic[ActT, ObsT, StateT]):
    """What `EnvClient` has on its class rather than on its instances."""

    environment: ClassVar[str | None] = None
    """Which of a server's environments; None takes the server's default."""
    payloads: ClassVar[Payloads | None] = None
    """Filled in from the type arguments."""

    @classmethod
    def _own_payloads(cls) -> Payloads:
        if cls.payloads is None:
            raise LocalProtocolError(
                f"expected a subclass like class {cls.__name__}(EnvClient[Action, "
                "Observation, State]), or GenericEnv for untyped use"
            )
        return cls.payloads

    if TYPE_CHECKING:
        # The subclass's, as far as it matters here.
        def __init__(
            self,
            url: str | None = None,
            *,
            provider: Provider | Placer | None = None,
            **options: Any,
        ) -> None: ...

    @classmethod
    def local(
        cls, *targets: str, environment: str | None = None, **options: Any
    ) -> Self:
        """Start a server of its own on this machine, as a subprocess.

        Args:
            targets: What to serve, as `openenv-async serve` takes it; by default the
                package that this class is defined in.
            environment: Which of several environments.
            options: As for the constructor.
        """
        return cls(provider=cls.provider(*targets), environment=environment, **options)

    @classmethod
    def provider(cls, *targets: str, **options: Any) -> LocalProvider:
        """A server on this machine for this class, not started yet.

        Args:
            targets: What to serve; by default the package that this class is in.
            options: As for `LocalProvider`.
        """
        package = cls.__module__.partition(".")[0]
        return LocalProvider(*(targets or (package,)), **options)

    @classmethod
    def from_docker_image(
        cls,
        image: str,
        *,
        container: DockerOptions | None = None,
        **options: Any,
    ) -> Self:
        """Start a container of its own, which goes when the client closes.

        Args:
            image: What to run, as `openenv-async build` makes it.
            container: Arguments for `DockerProvider`, such as `{"memory": "2g"}`.
            options: As for the constructor.
        """
        return cls(
            provider=DockerProvider(image, **(container or DockerOptions())), **options
        )

    @classmethod
    def batch(
        cls,
        url: str | None = None,
        *,
        size: int,
        provider: Provider | Placer | None = None,
        image: str | None = None,
        container: DockerOptions | None = None,
        replicas: int = 1,
        environment: str | None = None,
        autoreset: AutoresetMode | str = "Disabled",
        sockets: int | None = None,
        **options: Any,
    ) -> EnvBatch[ActT, ObsT, StateT]:
        """Many sessions as one object; see `EnvBatch`.

        Args:
            url: As for the constructor.
            size: How many sessions.
            provider: As for the constructor.
            image: Starts containers of this image instead.
            container: Arguments for `DockerProvider`.
            replicas: Servers to spread the sessions over, where `provider` or `image`
                starts them for this batch alone.
            environment: As for the constructor.
            autoreset: What happens to sessions whose episode is over.
            sockets: Connections to spread the sessions over; None chooses.
            options: As for the constructor.
        """
        if image is not None:
            if provider is not None:
                raise LocalProtocolError("expected a provider or an image, got both")
            provider = DockerProvider(image, **(container or DockerOptions()))
        elif container is not None:
            raise LocalProtocolError("expected an image for the container's arguments")
        provider = _spread(url, provider, replicas=replicas, size=size)
        module = sys.modules[f"{__package__}.batch"]
        batch: EnvBatch[ActT, ObsT, StateT] = module.EnvBatch(
            cls._own_payloads(),
            url,
            size=size,
            provider=provider,
            environment=environment or cls.environment,
            autoreset=autoreset,
            sockets=sockets,
            **options,
        )
        return batch


def _spread(
    url: str | None, provider: Provider | Placer | None, *, replicas: int, size: int
) -> Provider | Placer | None:
    """A fleet of so many servers where one is not enough."""
    if replicas == 1:
        return provider
    if replicas < 1 or replicas > size:
        raise LocalProtocolError(
            f"expected replicas from 1 to the size {size}, got {replicas}"
        )
    if url is not None or provider is None or isinstance(provider, Placer):
        raise LocalProtocolError(
            f"expected a provider or an image for {replicas} replicas, got "
            f"{url if provider is None else provider!r}"
        )
    each = -(-size // replicas)
    fleet = Fleet(provider, replicas=replicas, sessions_per_replica=each)
    return OwnFleet(fleet)
