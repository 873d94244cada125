"""Clients that people use, unmodified, against a service in another process."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import openai
import pytest
from openai.types.chat import ChatCompletionMessageParam

from bench.server import Server

KEY = "a-key-for-tests"


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    folder = tmp_path_factory.mktemp("keyed")
    with Server(folder / "data", model="scripted", environment={"SLOWWAVE_API_KEYS": KEY}) as running:
        yield running


@pytest.fixture
def client(server: Server) -> Iterator[openai.OpenAI]:
    with openai.OpenAI(base_url=f"{server.url}/v1", api_key=KEY, max_retries=0) as made:
        yield made


def say(text: str) -> list[ChatCompletionMessageParam]:
    return [{"role": "user", "content": text}]


def test_openai_chats_and_lists(client: openai.OpenAI) -> None:
    assert [m.id for m in client.models.list()] == ["scripted"]
    assert client.models.retrieve("scripted").id == "scripted"
    reply = client.chat.completions.create(model="scripted", messages=say("hello"))
    assert reply.choices[0].message.content == "You said: hello"
    assert reply.usage is not None and reply.usage.prompt_tokens_details is not None


def test_openai_streams_with_usage(client: openai.OpenAI) -> None:
    stream = client.chat.completions.create(
        model="scripted", messages=say("héllo 🦙"), stream=True, stream_options={"include_usage": True}
    )
    chunks = list(stream)
    assert "".join(c.choices[0].delta.content or "" for c in chunks if c.choices) == "You said: héllo 🦙"
    assert chunks[-1].usage is not None and chunks[-1].usage.completion_tokens > 0


def test_openai_reads_log_probabilities(client: openai.OpenAI) -> None:
    reply = client.chat.completions.create(model="scripted", messages=say("é"), logprobs=True, top_logprobs=2)
    assert reply.choices[0].logprobs is not None
    content = reply.choices[0].logprobs.content or []
    assert b"".join(bytes(t.bytes or ()) for t in content) == "You said: é".encode()
    assert all(len(t.top_logprobs) == 2 and t.logprob <= 0 for t in content)


@pytest.mark.parametrize(
    ("error", "options"),
    [
        (openai.NotFoundError, {"model": "gpt-4"}),
        (openai.BadRequestError, {"messages": say("x" * 9000)}),
        (openai.BadRequestError, {"temperature": 5}),
        (openai.BadRequestError, {"extra_body": {"slowwave": {"nonsense": 1}}}),
        (openai.BadRequestError, {"messages": "not a list"}),
    ],
)
def test_openai_raises_its_own_exceptions(
    client: openai.OpenAI, error: type[openai.APIStatusError], options: dict[str, Any]
) -> None:
    with pytest.raises(error) as refusal:
        client.chat.completions.create(**{"model": "scripted", "messages": say("hi"), **options})
    assert refusal.value.message


def test_openai_raises_for_a_bad_key(server: Server) -> None:
    stranger = openai.OpenAI(base_url=f"{server.url}/v1", api_key="wrong-key", max_retries=0)
    with stranger, pytest.raises(openai.AuthenticationError):
        stranger.models.list()


def test_the_llm_tool_chats(server: Server, tmp_path: Path) -> None:
    model = {"model_id": "slow", "model_name": "scripted", "api_base": f"{server.url}/v1", "api_key_name": "slow"}
    (tmp_path / "extra-openai-models.yaml").write_text(json.dumps([model]))
    # No plugins: the model's package is one, and wants a runtime that slowwave does without.
    environment = {**os.environ, "LLM_USER_PATH": str(tmp_path), "LLM_LOAD_PLUGINS": ""}
    llm = shutil.which("llm") or str(Path(sys.executable).parent / "llm")
    for options in ([], ["--no-stream"]):
        command = [llm, "-m", "slow", "--key", KEY, *options, "hello from llm"]
        done = subprocess.run(command, capture_output=True, text=True, env=environment, timeout=120)
        assert done.returncode == 0, done.stderr
        assert done.stdout.strip() == "You said: hello from llm"
    done = subprocess.run(
        [llm, "-m", "slow", "--key", KEY, "-c", "and again"],
        capture_output=True,
        text=True,
        env=environment,
        timeout=120,
    )
    assert done.stdout.strip() == "You said: and again", done.stderr
