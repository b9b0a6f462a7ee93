"""Asks a running server with OpenAI's own Python package.

Arguments: the API's URL, its key, a model that chats, one that embeds. A check a line is
printed; the status is 1 if one failed.
"""
import enum
import json
import sys
import traceback

import openai
import pydantic

url, key, chat_model, embed_model = sys.argv[1:]
client = openai.OpenAI(base_url=url, api_key=key, max_retries=0, timeout=120)
hello = [{"role": "user", "content": "hello"}]
weather = {
    "type": "function",
    "function": {
        "name": "get_weather",
        "description": "the weather of a town",
        "strict": True,
        "parameters": {
            "type": "object",
            "properties": {"town": {"type": "string", "maxLength": 20}, "unit": {"enum": ["C", "F"]}, "days": {"type": "integer", "minimum": 1, "maximum": 9}},
            "required": ["town", "unit", "days"],
            "additionalProperties": False,
        },
    },
}
clock = {"type": "function", "function": {"name": "get_time", "parameters": {"type": "object", "properties": {}, "additionalProperties": False}}}


def create(**more):
    given = {"model": chat_model, "messages": hello, "max_completion_tokens": 12, "seed": 1}
    return client.chat.completions.create(**(given | more))


def refused(kind, code, call):
    try:
        call()
    except openai.APIStatusError as e:
        assert type(e) is kind and e.code == code, f"{type(e).__name__} of code {e.code}: {e}"
        assert e.request_id, "no request id"
        return e
    raise AssertionError("it was not refused")


def models():
    ids = [m.id for m in client.models.list()]
    assert ids == sorted([chat_model, embed_model]), ids
    m = client.models.retrieve(chat_model)
    assert m.id == chat_model and m.object == "model" and m.created > 1e9 and m.owned_by, m
    refused(openai.NotFoundError, "model_not_found", lambda: client.models.retrieve("none"))


def chat():
    r = create()
    c = r.choices[0]
    assert r.object == "chat.completion" and r.model == chat_model and r.id and r.created > 1e9, r
    assert c.message.role == "assistant" and c.message.content is not None and c.message.refusal is None and not c.message.tool_calls, c
    assert c.finish_reason == "length" and r.usage.completion_tokens == 12, r
    assert r.usage.total_tokens == r.usage.prompt_tokens + 12 and r.usage.prompt_tokens_details.cached_tokens >= 0, r.usage


def unused():
    r = create(service_tier="auto", prompt_cache_key="k", safety_identifier="s", store=False, metadata={"a": "b"}, modalities=["text"], user="u", parallel_tool_calls=True)
    assert r.choices[0].message.content == create().choices[0].message.content
    refused(openai.BadRequestError, "invalid_value", lambda: create(modalities=["text", "audio"]))
    refused(openai.BadRequestError, "unknown_parameter", lambda: create(extra_body={"temprature": 1}))


def choices():
    r = create(n=3, temperature=1.0)
    assert [c.index for c in r.choices] == [0, 1, 2], r
    assert len({c.message.content for c in r.choices}) > 1, "three choices are the same"


def streaming():
    whole = create()
    with create(stream=True, stream_options={"include_usage": True}) as stream:
        chunks = list(stream)
    text = "".join(c.delta.content or "" for k in chunks for c in k.choices)
    finish = [c.finish_reason for k in chunks for c in k.choices if c.finish_reason]
    assert text == whole.choices[0].message.content, (text, whole)
    assert finish == ["length"] and chunks[0].choices[0].delta.role == "assistant", chunks
    assert len({k.id for k in chunks}) == 1 and all(k.object == "chat.completion.chunk" for k in chunks)
    assert chunks[-1].choices == [] and chunks[-1].usage == whole.usage, chunks[-1]
    assert all(k.usage is None for k in chunks[:-1]), "usage before the end"
    with create(stream=True) as stream:
        assert all(k.usage is None and len(k.choices) == 1 for k in stream), "a chunk that was not asked for"


def streaming_helper():
    with client.chat.completions.stream(model=chat_model, messages=hello, max_completion_tokens=60, response_format=Answer, seed=2) as stream:
        kinds = [e.type for e in stream]
        final = stream.get_final_completion()
    assert "content.delta" in kinds and kinds[-1] in ("chunk", "content.done"), kinds
    assert isinstance(final.choices[0].message.parsed, Answer), final


def forced_tool():
    r = create(tools=[clock, weather], tool_choice={"type": "function", "function": {"name": "get_weather"}}, max_completion_tokens=90)
    c = r.choices[0]
    assert c.finish_reason in ("tool_calls", "stop") and c.message.content is None, c
    [call] = c.message.tool_calls
    a = json.loads(call.function.arguments)
    assert call.id and call.type == "function" and call.function.name == "get_weather", call
    assert set(a) == {"town", "unit", "days"} and len(a["town"]) <= 20 and a["unit"] in "CF" and 1 <= a["days"] <= 9, a
    # The conversation goes on with what the tool said.
    again = hello + [c.message.model_dump(exclude_none=True), {"role": "tool", "tool_call_id": call.id, "content": "rain"}]
    assert create(messages=again, tools=[clock, weather]).choices[0].finish_reason


def required_tool():
    for seed in range(4):
        r = create(tools=[clock, weather], tool_choice="required", max_completion_tokens=90, seed=seed)
        [call] = r.choices[0].message.tool_calls
        assert call.function.name in ("get_time", "get_weather") and isinstance(json.loads(call.function.arguments), dict), call
    with create(tools=[weather], tool_choice="required", max_completion_tokens=90, stream=True) as stream:
        deltas = [d for k in stream for c in k.choices for d in c.delta.tool_calls or []]
    assert deltas[0].index == 0 and deltas[0].id and deltas[0].function.name == "get_weather", deltas
    assert json.loads("".join(d.function.arguments for d in deltas))["unit"] in "CF", deltas
    refused(openai.BadRequestError, "invalid_value", lambda: create(tools=[weather], tool_choice={"type": "function", "function": {"name": "nope"}}))


class Color(enum.Enum):
    red = "red"
    blue = "blue"


class Part(pydantic.BaseModel):
    name: str = pydantic.Field(max_length=8)
    size: int | None


class Answer(pydantic.BaseModel):
    color: Color
    parts: list[Part] = pydantic.Field(max_length=2)
    sure: bool


def schema():
    for seed in range(6):
        r = client.chat.completions.parse(model=chat_model, messages=hello, max_completion_tokens=70, response_format=Answer, seed=seed)
        c = r.choices[0]
        assert c.finish_reason == "stop" and isinstance(c.message.parsed, Answer) and c.message.parsed.color in Color, c
    refused(openai.BadRequestError, "invalid_value", lambda: create(
        response_format={"type": "json_schema", "json_schema": {"name": "x", "schema": {"type": "strange"}}}))
    r = create(response_format={"type": "json_object"}, max_completion_tokens=40)
    assert r.choices[0].finish_reason == "stop" and isinstance(json.loads(r.choices[0].message.content), dict), r


def logprobs():
    r = create(logprobs=True, top_logprobs=3, temperature=0)
    list_ = r.choices[0].logprobs.content
    assert list_ and len(list_) <= 12, r
    for t in list_:
        assert t.logprob <= 0 and len(t.top_logprobs) == 3 and bytes(t.bytes).decode(errors="replace") is not None, t
        assert t.top_logprobs[0].token == t.token and abs(t.top_logprobs[0].logprob - t.logprob) < 1e-6, t
        assert t.top_logprobs[0].logprob >= t.top_logprobs[1].logprob >= t.top_logprobs[2].logprob, t
    assert create().choices[0].logprobs is None


def stop():
    text = create(max_completion_tokens=30).choices[0].message.content
    at = text[len(text) // 2 :][:3]
    r = create(max_completion_tokens=30, stop=[at, "never that"])
    c = r.choices[0]
    assert c.finish_reason == "stop" and c.message.content == text[: text.index(at)], (text, at, c)


def seed():
    one, same, other = (create(seed=s, temperature=1.0, max_completion_tokens=30).choices[0].message.content for s in (5, 5, 6))
    assert one == same and one != other, (one, same, other)


def cancel():
    for _ in range(5):
        with create(stream=True, max_completion_tokens=400, temperature=1.0) as stream:
            next(iter(stream))
    assert create().choices[0].finish_reason == "length"


def completions():
    r = client.completions.create(model=chat_model, prompt="hello", max_tokens=6, temperature=0, echo=True, logprobs=2, seed=1)
    c = r.choices[0]
    assert r.object == "text_completion" and c.text.startswith("hello") and c.finish_reason in ("length", "stop"), r
    assert len(c.logprobs.tokens) == len(c.logprobs.token_logprobs) == len(c.logprobs.top_logprobs), c
    with client.completions.create(model=chat_model, prompt="hello", max_tokens=6, temperature=0, stream=True) as stream:
        text = "".join(k.choices[0].text for k in stream if k.choices)
    assert "hello" + text == c.text, (text, c)


def errors():
    e = refused(openai.BadRequestError, "context_length_exceeded", lambda: create(messages=[{"role": "user", "content": "hello " * 3000}]))
    assert e.status_code == 400 and e.type == "invalid_request_error" and e.param == "messages", (e.type, e.param)
    refused(openai.BadRequestError, "context_length_exceeded", lambda: create(max_completion_tokens=10**6))
    refused(openai.NotFoundError, "model_not_found", lambda: create(model="nope"))
    e = refused(openai.BadRequestError, "invalid_value", lambda: create(temperature=3))
    assert e.param == "temperature", e.param
    refused(openai.BadRequestError, "invalid_value", lambda: create(messages=[]))
    stranger = client.with_options(api_key="wrong")
    refused(openai.AuthenticationError, "invalid_api_key", lambda: stranger.models.list())
    refused(openai.AuthenticationError, "invalid_api_key", lambda: stranger.chat.completions.create(model=chat_model, messages=hello))


def embeddings():
    texts = ["a cat", "a dog", "a cat"]
    r = client.embeddings.create(model=embed_model, input=texts)
    plain = client.embeddings.create(model=embed_model, input=texts, encoding_format="float")
    assert [d.index for d in r.data] == [0, 1, 2] and r.usage.prompt_tokens > 0 and r.object == "list", r.usage
    for a, b in zip(r.data, plain.data):
        assert len(a.embedding) == len(b.embedding) and max(abs(x - y) for x, y in zip(a.embedding, b.embedding)) < 1e-6
        assert abs(sum(x * x for x in a.embedding) - 1) < 1e-4, "its length is not 1"
    assert r.data[0].embedding == r.data[2].embedding != r.data[1].embedding


failed = 0
for check in (models, chat, unused, choices, streaming, streaming_helper, forced_tool, required_tool, schema, logprobs, stop, seed, cancel, completions, errors, embeddings):
    try:
        check()
        print("ok", check.__name__)
    except Exception:
        failed += 1
        print("FAILED", check.__name__)
        traceback.print_exc(file=sys.stdout)
print(f"{failed} checks failed")
sys.exit(failed > 0)
