"""A chat model behind an OpenAI-compatible endpoint as a policy."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping
from types import TracebackType
from typing import TYPE_CHECKING, Any, Generic, TypeAlias, TypeVar, final

import anyio
import anyio.to_thread

from ...errors import LocalProtocolError
from ..policies import Decision, EpisodeContext
from ..seeding import derive_seed

if TYPE_CHECKING:
    from openai import AsyncOpenAI
    from openai.types.chat import ChatCompletion

__all__ = ["ChatPolicy"]

ActT = TypeVar("ActT")
ObsT = TypeVar("ObsT")

Content: TypeAlias = str | list[dict[str, Any]]
"""What a message says: text, or parts such as images."""


@final
class ChatPolicy(Generic[ObsT, ActT]):
    """Asks a chat model for every action, with the conversation so far.

    Each observation is a message of the user, each answer one of the assistant; the
    conversation is in `episode.memory["messages"]`. Recorded with each step are the
    text, why it ended, the numbers of tokens, and, where the server gives them,
    `logprobs`, `tokens`, `token_ids` and `prompt_token_ids`. Use it as an async context
    manager, or call `aclose`. Needs the extra `openai`.

    Args:
        model: What the server calls it.
        base_url: Where the server is, such as `http://localhost:8000/v1`.
        render: Turns an observation into what the user says.
        parse: Turns the answer into an action. What it raises fails the episode.
        api_key: Sent to the server; local ones take any.
        system: Begins the conversation.
        sampling: More arguments for the endpoint, such as `{"temperature": 0.8}` or
            `{"extra_body": {"return_token_ids": True}}`.
        logprobs: Whether to ask for log-probabilities.
        seeded: Whether to send a seed that derives from the episode's.
        client: An `openai.AsyncOpenAI` to use instead; it is not closed.
    """

    def __init__(
        self,
        model: str,
        *,
        base_url: str = "",
        render: Callable[[ObsT, EpisodeContext], Content],
        parse: Callable[[str, EpisodeContext], ActT],
        api_key: str = "none",
        system: str = "",
        sampling: Mapping[str, Any] | None = None,
        logprobs: bool = False,
        seeded: bool = True,
        client: AsyncOpenAI | None = None,
    ) -> None:
        if (client is None) is not bool(base_url):
            raise LocalProtocolError("expected a base_url or a client, and not both")
        self._model = model
        self._base_url = base_url
        self._api_key = api_key
        self._render = render
        self._parse = parse
        self._system = system
        self._sampling = dict(sampling or {})
        self._logprobs = logprobs
        self._seeded = seeded
        self._given = client
        self._client: AsyncOpenAI | None = client
        self._making = asyncio.Lock()

    async def __aenter__(self) -> ChatPolicy[ObsT, ActT]:
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        await self.aclose()

    async def aclose(self) -> None:
        """Close the connections to the server; idempotent."""
        client, self._client = self._client, self._given
        if client is not None and client is not self._given:
            with anyio.CancelScope(shield=True):
                await client.close()

    async def act(self, observation: ObsT, episode: EpisodeContext) -> Decision[ActT]:
        """Ask for the next action.

        Raises:
            openai.OpenAIError: The server refused, or did not answer, also when asked
                again.
        """
        messages: list[dict[str, Any]] = episode.memory.setdefault("messages", [])
        if not messages and self._system:
            messages.append({"role": "system", "content": self._system})
        messages.append({"role": "user", "content": self._render(observation, episode)})
        completion = await self._complete(messages, episode)
        text = completion.choices[0].message.content or ""
        messages.append({"role": "assistant", "content": text})
        return Decision(self._parse(text, episode), _extras(completion, text))

    async def _complete(
        self, messages: list[dict[str, Any]], episode: EpisodeContext
    ) -> ChatCompletion:
        client = self._client or await self._make()
        arguments: dict[str, Any] = {"model": self._model, "messages": messages}
        if self._seeded:
            step = len(episode.steps)
            arguments["seed"] = derive_seed(episode.policy_seed, "chat", step)
        if self._logprobs:
            arguments["logprobs"] = True
        # The arguments are the caller's: no overload can be chosen for them.
        create: Any = client.chat.completions.create
        completion: ChatCompletion = await create(**{**arguments, **self._sampling})
        if not completion.choices:
            raise LocalProtocolError(
                f"expected an answer of {self._model!r}, got none in {completion!r}"
            )
        return completion

    async def _make(self) -> AsyncOpenAI:
        async with self._making:
            if self._client is None:
                # Reads certificates, which would block the loop.
                self._client = await anyio.to_thread.run_sync(self._new_client)
            return self._client

    def _new_client(self) -> AsyncOpenAI:
        from openai import AsyncOpenAI  # noqa: PLC0415 (an optional extra)

        return AsyncOpenAI(base_url=self._base_url, api_key=self._api_key)


def _extras(completion: ChatCompletion, text: str) -> dict[str, object]:
    choice = completion.choices[0]
    extras: dict[str, object] = {"text": text, "finish_reason": choice.finish_reason}
    if completion.usage is not None:
        extras["prompt_tokens"] = completion.usage.prompt_tokens
        extras["completion_tokens"] = completion.usage.completion_tokens
    if choice.logprobs is not None and choice.logprobs.content is not None:
        extras["tokens"] = [item.token for item in choice.logprobs.content]
        extras["logprobs"] = [item.logprob for item in choice.logprobs.content]
    # What vLLM adds to the protocol.
    for name, holder in (("token_ids", choice), ("prompt_token_ids", completion)):
        given = (holder.model_extra or {}).get(name)
        if given is not None:
            extras[name] = given
    return extras
