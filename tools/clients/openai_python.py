"""The official `openai` package for Python against a running server."""

import asyncio
import json
import math
import time
import urllib.request

import openai
import pydantic

from checks import Checks, arguments, refused

args = arguments(__doc__)
client = openai.OpenAI(base_url=args.base_url, api_key=args.api_key, max_retries=0, timeout=120)
check = Checks()
MODEL = args.model
ROOT = args.base_url.removesuffix("/v1")
PROMPT = "The capital of France is"


def post(path, body):
    request = urllib.request.Request(ROOT + path, json.dumps(body).encode(), {
        "Content-Type": "application/json", "Authorization": f"Bearer {args.api_key}"})
    with urllib.request.urlopen(request) as response:
        return json.load(response)


def complete(prompt=PROMPT, **more):
    return client.completions.create(**({"model": MODEL, "prompt": prompt, "max_tokens": 8, "temperature": 0} | more))


def chat(text="Name a colour.", **more):
    return client.chat.completions.create(
        **({"model": MODEL, "messages": [{"role": "user", "content": text}], "max_completion_tokens": 16, "temperature": 0} | more))


def counts(usage):
    """What was counted; how much of the prompt was cached may differ from one time to the next."""
    return usage.prompt_tokens, usage.completion_tokens, usage.total_tokens


def metric(name):
    request = urllib.request.Request(ROOT + "/metrics", headers={"Authorization": f"Bearer {args.admin_key or args.api_key}"})
    with urllib.request.urlopen(request) as response:
        lines = response.read().decode().splitlines()
    found = [float(line.rsplit(" ", 1)[1]) for line in lines if line.startswith((name + "{", name + " "))]
    assert found, f"no metric {name}"
    return sum(found)


# Models

with check("models: list and retrieve"):
    names = [m.id for m in client.models.list()]
    assert MODEL in names, names
    model = client.models.retrieve(MODEL)
    assert model.object == "model" and isinstance(model.created, int) and model.owned_by
with check("models: an unknown one is NotFoundError"), refused(openai.NotFoundError, code="model_not_found", status_code=404):
    client.models.retrieve("no-such-model")

# Completions

ids = post("/tokenize", {"content": PROMPT})["tokens"]
with check("completions: a string"):
    whole = complete()
    assert whole.object == "text_completion" and whole.id.startswith("cmpl-") and isinstance(whole.created, int)
    assert whole.choices[0].text and whole.choices[0].finish_reason in ("stop", "length")
    assert whole.usage.prompt_tokens == len(ids) and whole.usage.completion_tokens <= 8
    assert whole.usage.total_tokens == whole.usage.prompt_tokens + whole.usage.completion_tokens
with check("completions: token ids, a list of strings, lists of token ids: the same answers, in order"):
    assert complete(ids).choices[0].text == whole.choices[0].text
    other = "Once upon a time"
    several = complete([PROMPT, other, PROMPT])
    assert [c.index for c in several.choices] == [0, 1, 2]
    assert [c.text for c in several.choices] == [whole.choices[0].text, complete(other).choices[0].text, whole.choices[0].text]
    other_ids = post("/tokenize", {"content": other})["tokens"]
    assert [c.text for c in complete([other_ids, ids]).choices] == [several.choices[1].text, whole.choices[0].text]
    assert several.usage.prompt_tokens == 2 * len(ids) + len(other_ids)
with check("completions: 16 tokens unless said otherwise"):
    free = client.completions.create(model=MODEL, prompt=PROMPT, temperature=0, extra_body={"ignore_eos": True})
    assert free.usage.completion_tokens == 16 and free.choices[0].finish_reason == "length"
with check("completions: echo with logprobs scores the prompt"):
    scored = complete(max_tokens=0, echo=True, logprobs=2)
    logprobs = scored.choices[0].logprobs
    assert scored.choices[0].text == PROMPT and "".join(logprobs.tokens) == PROMPT
    assert len(logprobs.tokens) == len(logprobs.token_logprobs) == len(logprobs.top_logprobs) == len(logprobs.text_offset) == len(ids)
    assert logprobs.token_logprobs[0] is None and logprobs.top_logprobs[0] is None
    assert all(p <= 0 for p in logprobs.token_logprobs[1:]) and all(2 <= len(t) <= 3 for t in logprobs.top_logprobs[1:])
    assert logprobs.text_offset == [len("".join(logprobs.tokens[:i])) for i in range(len(ids))]
    assert scored.usage.completion_tokens == 0
with check("completions: echo and an answer; the answer's part is the answer"):
    both = complete(echo=True, logprobs=0)
    assert both.choices[0].text == PROMPT + whole.choices[0].text
    assert len(both.choices[0].logprobs.tokens) == len(ids) + both.usage.completion_tokens
with check("completions: logprobs of the answer; greedy is the likeliest"):
    logprobs = complete(logprobs=5).choices[0].logprobs
    assert "".join(logprobs.tokens) == whole.choices[0].text
    for chosen, top in zip(logprobs.token_logprobs, logprobs.top_logprobs):
        assert len(top) == 5 and math.isclose(chosen, max(top.values())) and sum(map(math.exp, top.values())) < 1.0001
with check("completions: n with a seed, twice the same, different from each other"):
    first = complete(n=3, seed=5, temperature=1, max_tokens=16)
    again = complete(n=3, seed=5, temperature=1, max_tokens=16)
    texts = [c.text for c in first.choices]
    assert texts == [c.text for c in again.choices] and len(set(texts)) > 1 and sorted(c.index for c in first.choices) == [0, 1, 2]
with check("completions: another seed, another text"):
    assert complete(seed=6, temperature=1, max_tokens=16).choices[0].text != complete(seed=7, temperature=1, max_tokens=16).choices[0].text
with check("completions: best_of gives the likeliest of its candidates"):
    def mean(choice):
        return sum(choice.logprobs.token_logprobs) / len(choice.logprobs.token_logprobs)
    candidates = complete(n=4, seed=11, temperature=1, logprobs=0, max_tokens=8)
    best = complete(n=1, best_of=4, seed=11, temperature=1, logprobs=0, max_tokens=8)
    assert len(best.choices) == 1 and best.choices[0].text == max(candidates.choices, key=mean).text
    assert best.usage.completion_tokens == candidates.usage.completion_tokens
with check("completions: a stop string ends the answer and is left out"):
    long = complete(max_tokens=40).choices[0].text
    stop = long.strip()[8:12]
    stopped = complete(max_tokens=40, stop=stop)
    assert stopped.choices[0].text == long[:long.index(stop)] and stopped.choices[0].finish_reason == "stop"
    assert complete(max_tokens=40, stop=[stop, "zzz"]).choices[0].text == stopped.choices[0].text
with check("completions: logit_bias forces and bans"):
    token = ids[-1]
    piece = post("/detokenize", {"tokens": [token]})["content"]
    forced = complete(max_tokens=3, logit_bias={str(token): 100})
    assert forced.choices[0].text == piece * 3, forced.choices[0].text
    first_id = complete(max_tokens=1, extra_body={"return_token_ids": True}).choices[0].token_ids[0]
    banned = complete(max_tokens=1, logit_bias={str(first_id): -100}, extra_body={"return_token_ids": True}).choices[0]
    assert banned.token_ids[0] != first_id
with check("completions: penalties change a repetitive answer"):
    repetitive = "na na na na na na na na"
    assert complete(repetitive, max_tokens=24, frequency_penalty=2, presence_penalty=2).choices[0].text != complete(repetitive, max_tokens=24).choices[0].text
with check("completions: streamed is the same text, with usage in a last chunk"):
    chunks = list(complete(stream=True, stream_options={"include_usage": True}, max_tokens=24, seed=3, temperature=0.9))
    alone = complete(max_tokens=24, seed=3, temperature=0.9)
    assert "".join(c.choices[0].text for c in chunks if c.choices) == alone.choices[0].text
    assert {c.object for c in chunks} == {"text_completion"} and len({c.id for c in chunks}) == 1
    assert chunks[-1].choices == [] and counts(chunks[-1].usage) == counts(alone.usage), (chunks[-1].usage, alone.usage)
    assert all(c.usage is None for c in chunks[:-1])
    assert [c.choices[0].finish_reason for c in chunks if c.choices][-1] == alone.choices[0].finish_reason
with check("completions: several streamed at once, each with its own end"):
    parts, ends = {}, {}
    for chunk in complete([PROMPT, other], stream=True, n=2, seed=3, temperature=0.9):
        for choice in chunk.choices:
            parts[choice.index] = parts.get(choice.index, "") + choice.text
            ends[choice.index] = choice.finish_reason or ends.get(choice.index)
    assert parts == {c.index: c.text for c in complete([PROMPT, other], n=2, seed=3, temperature=0.9).choices}
    assert set(ends) == {0, 1, 2, 3} and all(ends.values())
with check("completions: suffix is refused or filled, never ignored"):
    try:
        complete(suffix=" is the end.")
    except openai.BadRequestError as error:
        assert error.param == "suffix", error
with check("completions: more ways to sample, in extra_body"):
    more = {"top_k": 5, "min_p": 0.05, "repetition_penalty": 1.2, "typical_p": 0.9, "top_n_sigma": 1.5, "dry_multiplier": 0.5}
    assert complete(temperature=1, seed=1, extra_body=more).choices[0].text
    assert complete(temperature=1, seed=1, extra_body={"top_k": 1}).choices[0].text == whole.choices[0].text
with check("completions: a regex, a grammar and a schema hold to the last character"):
    import re
    assert re.fullmatch("[0-9]{4}-[0-9]{2}", complete("A month: ", max_tokens=20, extra_body={"regex": "[0-9]{4}-[0-9]{2}"}).choices[0].text)
    text = complete("Yes or no? ", max_tokens=10, extra_body={"grammar": 'start: "yes" | "no"'}).choices[0].text
    assert text in ("yes", "no"), text
    schema = {"type": "object", "properties": {"age": {"type": "integer"}}, "required": ["age"], "additionalProperties": False}
    value = json.loads(complete("Her age as JSON: ", max_tokens=40, extra_body={"json_schema": schema}).choices[0].text)
    assert isinstance(value["age"], int) and len(value) == 1
with check("completions: mixed languages and emoji come through streams whole"):
    text = "日本語 и русский 🌍👩‍🚀 é: "
    assert complete(text, max_tokens=0, echo=True).choices[0].text == text
    streamed = "".join(c.choices[0].text for c in complete(text * 4, stream=True, max_tokens=40, temperature=1.5, seed=2))
    assert streamed == complete(text * 4, max_tokens=40, temperature=1.5, seed=2).choices[0].text

# Chat

with check("chat: an answer"):
    answer = chat()
    message = answer.choices[0].message
    assert answer.object == "chat.completion" and answer.id.startswith("chatcmpl-") and message.role == "assistant" and message.content
    assert message.tool_calls is None and answer.usage.total_tokens == answer.usage.prompt_tokens + answer.usage.completion_tokens
with check("chat: system, developer and assistant turns; content in parts is the same as a string"):
    turns = [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "Hello."}, {"role": "assistant", "content": "Hi."},
             {"role": "user", "content": "Name a colour."}]
    plain = chat(messages=turns).choices[0].message.content
    parts = turns[:-1] + [{"role": "user", "content": [{"type": "text", "text": "Name a colour."}]}]
    assert chat(messages=parts).choices[0].message.content == plain
    assert chat(messages=[{"role": "developer", "content": "Be brief."}] + turns[1:]).choices[0].message.content
with check("chat: the prompt is the template's"):
    applied = post("/apply-template", {"messages": turns, "add_generation_prompt": True})
    assert len(applied["tokens"]) == chat(messages=turns).usage.prompt_tokens and "Name a colour." in applied["prompt"]
with check("chat: max_tokens and max_completion_tokens end it with length"):
    for name in ("max_tokens", "max_completion_tokens"):
        short = client.chat.completions.create(model=MODEL, messages=turns, temperature=0, **{name: 2})
        assert short.usage.completion_tokens <= 2 and short.choices[0].finish_reason == "length"
with check("chat: streamed is the same text; role first, usage last"):
    chunks = list(chat(stream=True, stream_options={"include_usage": True}))
    assert "".join(c.choices[0].delta.content or "" for c in chunks if c.choices) == answer.choices[0].message.content
    assert chunks[0].choices[0].delta.role == "assistant" and {c.object for c in chunks} == {"chat.completion.chunk"}
    assert chunks[-1].choices == [] and chunks[-1].usage.completion_tokens == answer.usage.completion_tokens
    assert chunks[-2].choices[0].finish_reason == answer.choices[0].finish_reason
with check("chat: logprobs and top_logprobs with bytes"):
    content = chat(logprobs=True, top_logprobs=4).choices[0].logprobs.content
    assert "".join(t.token for t in content).startswith(answer.choices[0].message.content[:10])
    for token in content:
        assert len(token.top_logprobs) == 4 and token.logprob <= 0 and (token.bytes is None or bytes(token.bytes).decode(errors="ignore") in token.token)
    streamed = [t for c in chat(stream=True, logprobs=True, top_logprobs=4) for t in (c.choices[0].logprobs.content if c.choices[0].logprobs else [])]
    assert [t.logprob for t in streamed] == [t.logprob for t in content]
with check("chat: n"):
    assert len({c.message.content for c in chat(n=3, temperature=1.2, seed=1).choices}) > 1

# Tools

weather = {"type": "function", "function": {"name": "get_weather", "description": "Weather at a place now", "parameters": {
    "type": "object", "properties": {"city": {"type": "string", "maxLength": 20}, "unit": {"type": "string", "enum": ["C", "F"]}},
    "required": ["city", "unit"], "additionalProperties": False}}}
clock = {"type": "function", "function": {"name": "get_time", "description": "Time at a place", "parameters": {
    "type": "object", "properties": {"zone": {"type": "string", "maxLength": 20}}, "required": ["zone"], "additionalProperties": False}}}


def is_call(call, names=("get_weather", "get_time")):
    value = json.loads(call.function.arguments)
    assert call.type == "function" and call.id and call.function.name in names, call
    assert set(value) == ({"city", "unit"} if call.function.name == "get_weather" else {"zone"}), value
    return value


with check("tools: auto answers in words or with a call, and says which"):
    choice = chat("What is the weather in Paris?", tools=[weather], max_completion_tokens=100).choices[0]
    assert (choice.finish_reason == "tool_calls") == bool(choice.message.tool_calls)
    assert choice.message.content or choice.message.tool_calls
with check("tools: none never calls"):
    assert not chat("What is the weather in Paris?", tools=[weather], tool_choice="none").choices[0].message.tool_calls
with check("tools: required gives parsed calls"):
    choice = chat("What is the weather in Paris?", tools=[weather, clock], tool_choice="required", max_completion_tokens=120).choices[0]
    assert choice.finish_reason == "tool_calls" and choice.message.tool_calls
    for call in choice.message.tool_calls:
        is_call(call)
with check("tools: a named one is the one called"):
    named = {"type": "function", "function": {"name": "get_time"}}
    choice = chat("Weather in Paris?", tools=[weather, clock], tool_choice=named, max_completion_tokens=120).choices[0]
    is_call(choice.message.tool_calls[0], ("get_time",))
with check("tools: streamed calls are the same, name and id once"):
    whole_call = choice.message.tool_calls[0]
    name, arguments_, call_ids, end = "", "", set(), None
    for chunk in chat("Weather in Paris?", tools=[weather, clock], tool_choice=named, max_completion_tokens=120, stream=True):
        end = chunk.choices[0].finish_reason or end
        for call in chunk.choices[0].delta.tool_calls or []:
            if call.index == 0:
                name += call.function.name or ""
                arguments_ += call.function.arguments or ""
                call_ids |= {call.id} - {None}
    assert (name, arguments_) == (whole_call.function.name, whole_call.function.arguments), (name, arguments_)
    assert len(call_ids) == 1 and end in ("tool_calls", "stop")
with check("tools: a result goes back and is answered"):
    calls = [{"role": "user", "content": "What time is it in Oslo?"},
             {"role": "assistant", "content": None, "tool_calls": [whole_call.model_dump()]},
             {"role": "tool", "tool_call_id": whole_call.id, "content": "12:30"}]
    assert chat(messages=calls, tools=[clock], tool_choice="none").choices[0].message.content
with check("tools: a tool_choice that is not among the tools is refused"), refused(openai.BadRequestError):
    chat(tools=[weather], tool_choice={"type": "function", "function": {"name": "no_such"}})

# Structured output


class Person(pydantic.BaseModel):
    name: str = pydantic.Field(max_length=20)
    age: int
    tags: list[str] = pydantic.Field(max_length=2)


with check("response_format: json_object"):
    text = chat("Describe a cat as JSON, briefly.", response_format={"type": "json_object"}, max_completion_tokens=200).choices[0].message.content
    assert isinstance(json.loads(text), dict)
with check("response_format: json_schema"):
    schema = {"name": "person", "strict": True, "schema": {
        "type": "object", "properties": {"name": {"type": "string", "maxLength": 20}, "age": {"type": "integer"}},
        "required": ["name", "age"], "additionalProperties": False}}
    text = chat("Invent a person.", response_format={"type": "json_schema", "json_schema": schema}, max_completion_tokens=100).choices[0].message.content
    assert set(json.loads(text)) == {"name", "age"}
with check("response_format: parse with pydantic"):
    parsed = client.chat.completions.parse(model=MODEL, messages=[{"role": "user", "content": "Invent a person."}], temperature=0,
                                           response_format=Person, max_completion_tokens=300)
    assert isinstance(parsed.choices[0].message.parsed, Person), parsed
with check("response_format: the client's stream helper parses too"):
    with client.chat.completions.stream(model=MODEL, messages=[{"role": "user", "content": "Invent a person."}], temperature=0,
                                        response_format=Person, max_completion_tokens=300) as stream:
        kinds = {event.type for event in stream}
        final = stream.get_final_completion()
    assert {"chunk", "content.delta", "content.done"} <= kinds and final.choices[0].message.parsed == parsed.choices[0].message.parsed
with check("response_format: a schema that cannot be held is refused by its path"), refused(openai.BadRequestError, message=lambda m: len(m) > 20):
    chat(response_format={"type": "json_schema", "json_schema": {"name": "x", "schema": {"type": "no-such-type"}}})

# Responses


def respond(input="Name a colour.", **more):
    return client.responses.create(**({"model": MODEL, "input": input, "max_output_tokens": 16, "temperature": 0} | more))


with check("responses: a text"):
    response = respond()
    assert response.object == "response" and response.id.startswith("resp_") and response.output_text
    assert response.status in ("completed", "incomplete") and response.output[0].type == "message"
    assert response.usage.total_tokens == response.usage.input_tokens + response.usage.output_tokens
    if response.status == "incomplete":
        assert response.incomplete_details.reason == "max_output_tokens"
with check("responses: items and instructions"):
    items = [{"role": "user", "content": "Hello."}, {"role": "assistant", "content": "Hi."},
             {"role": "user", "content": [{"type": "input_text", "text": "Name a colour."}]}]
    assert respond(items, instructions="Be brief.").output_text
with check("responses: events in order, the same text"):
    events = list(respond(stream=True))
    kinds = [e.type for e in events]
    assert kinds[:2] == ["response.created", "response.in_progress"] and kinds[-1] in ("response.completed", "response.incomplete"), kinds
    for kind in ("response.output_item.added", "response.content_part.added", "response.output_text.delta", "response.output_text.done",
                 "response.content_part.done", "response.output_item.done"):
        assert kind in kinds, kind
    assert [e.sequence_number for e in events] == list(range(events[0].sequence_number, events[0].sequence_number + len(events)))
    assert "".join(e.delta for e in events if e.type == "response.output_text.delta") == response.output_text == events[-1].response.output_text
with check("responses: parse with pydantic"):
    parsed = client.responses.parse(model=MODEL, input="Invent a person.", text_format=Person, temperature=0, max_output_tokens=300)
    assert isinstance(parsed.output_parsed, Person)
with check("responses: a function is called, streamed and not"):
    tool = {"type": "function", "strict": True} | clock["function"]
    called = respond("Time in Oslo?", tools=[tool], tool_choice="required", max_output_tokens=120)
    call = next(o for o in called.output if o.type == "function_call")
    assert call.name == "get_time" and set(json.loads(call.arguments)) == {"zone"} and call.call_id
    events = list(respond("Time in Oslo?", tools=[tool], tool_choice="required", max_output_tokens=120, stream=True))
    deltas = "".join(e.delta for e in events if e.type == "response.function_call_arguments.delta")
    assert deltas == call.arguments and "response.function_call_arguments.done" in [e.type for e in events]
    back = [{"role": "user", "content": "Time in Oslo?"}, {"type": "function_call", "call_id": call.call_id, "name": call.name, "arguments": call.arguments},
            {"type": "function_call_output", "call_id": call.call_id, "output": "12:30"}]
    assert respond(back, tools=[tool], tool_choice="none").output_text
with check("responses: nothing is stored"), refused(openai.NotFoundError):
    client.responses.retrieve(response.id)

# Embeddings, moderations

with check("embeddings: floats and the client's base64 are the same numbers"):
    texts = ["A cat sat on the mat.", "A kitten lay on the rug.", "Interest rates rose by a quarter point."]
    packed = client.embeddings.create(model=MODEL, input=texts)
    plain = client.embeddings.create(model=MODEL, input=texts, encoding_format="float")
    for a, b in zip(packed.data, plain.data):
        assert a.object == "embedding" and a.index == b.index and len(a.embedding) == len(b.embedding) > 16
        assert all(math.isclose(x, y, rel_tol=1e-6, abs_tol=1e-9) for x, y in zip(a.embedding, b.embedding))
    assert packed.usage.prompt_tokens == packed.usage.total_tokens > 10

    def cosine(i, j):
        a, b = plain.data[i].embedding, plain.data[j].embedding
        return sum(x * y for x, y in zip(a, b)) / math.sqrt(sum(x * x for x in a) * sum(y * y for y in b))
    assert cosine(0, 1) > cosine(0, 2), (cosine(0, 1), cosine(0, 2))
with check("embeddings: a string and token ids"):
    one = client.embeddings.create(model=MODEL, input=texts[0]).data[0].embedding
    by_ids = client.embeddings.create(model=MODEL, input=post("/tokenize", {"content": texts[0]})["tokens"]).data[0].embedding
    assert one == by_ids == packed.data[0].embedding
with check("embeddings: an empty input is refused"), refused(openai.BadRequestError, param="input"):
    client.embeddings.create(model=MODEL, input=[])
with check("moderations: results with every category"):
    result = client.moderations.create(input=["Hello there.", "The weather is fine."])
    assert result.id.startswith("modr-") and len(result.results) == 2 and not result.results[0].flagged
    assert result.results[0].categories.violence is False and 0 <= result.results[0].category_scores.violence <= 1

with check("moderations: what a filter refuses is flagged, and refused as a prompt"):
    text = "Meet me at the Zanzibar  Lighthouse tonight."
    flagged = client.moderations.create(input=text).results[0]
    assert flagged.flagged and flagged.categories.violence and flagged.category_scores.violence == 1
    for ask in (lambda: complete(text), lambda: chat(text), lambda: respond(text)):
        with refused(openai.BadRequestError, code=lambda c: c and "content" in c or c == "test_phrase"):
            ask()
with check("moderations: what a filter refuses in an answer never goes out"):
    forced = {"regex": "So: zanzibar lighthouse, said he"}
    answer = complete("Say it. ", max_tokens=40, extra_body=forced).choices[0]
    assert answer.finish_reason == "content_filter" and "zanzibar" not in answer.text, answer
    streamed = list(complete("Say it. ", max_tokens=40, extra_body=forced, stream=True))
    assert "zanzibar" not in "".join(c.choices[0].text for c in streamed) and streamed[-1].choices[0].finish_reason == "content_filter"

# Errors

with check("errors: a wrong key is AuthenticationError"), refused(openai.AuthenticationError, code="invalid_api_key", type="invalid_request_error"):
    client.with_options(api_key="sk-wrong").models.list()
with check("errors: an unknown model is NotFoundError"), refused(openai.NotFoundError, code="model_not_found", param="model"):
    complete(model="no-such-model")
with check("errors: a value out of range names its parameter"):
    for name, value in (("temperature", 5), ("top_p", 2), ("n", 0), ("presence_penalty", 9), ("logprobs", 6), ("max_tokens", -1)):
        with refused(openai.BadRequestError, param=name, type="invalid_request_error", status_code=400):
            complete(**{name: value})
with check("errors: top_logprobs without logprobs, stream_options without stream"):
    with refused(openai.BadRequestError, param="top_logprobs"):
        chat(top_logprobs=3)
    with refused(openai.BadRequestError, param="stream_options"):
        complete(stream_options={"include_usage": True})
with check("errors: an over-long prompt is refused with the counts"), refused(
        openai.BadRequestError, code="context_length_exceeded", message=lambda m: sum(c.isdigit() for c in m) >= 6):
    complete("word " * 20_000)
with check("errors: a prompt that fits, with too long an answer, is refused too"), refused(openai.BadRequestError):
    complete(max_tokens=10_000_000)
with check("errors: no messages, an unknown role"):
    with refused(openai.BadRequestError, param=lambda p: p and p.startswith("messages")):
        chat(messages=[])
    with refused(openai.BadRequestError, param=lambda p: p and p.startswith("messages")):
        chat(messages=[{"role": "wizard", "content": "x"}])
if args.limited_key:
    with check("errors: over the limit is RateLimitError with Retry-After"):
        limited = client.with_options(api_key=args.limited_key)
        limited.completions.create(model=MODEL, prompt="x", max_tokens=1)
        with refused(openai.RateLimitError, code="rate_limit_exceeded",
                     response=lambda r: float(r.headers["retry-after"]) > 0 and r.headers["x-ratelimit-remaining-requests"] == "0"):
            limited.completions.create(model=MODEL, prompt="x", max_tokens=1)
if args.embed_key:
    with check("errors: a key without the scope is PermissionDeniedError"), refused(openai.PermissionDeniedError):
        client.with_options(api_key=args.embed_key).completions.create(model=MODEL, prompt="x", max_tokens=1)
with check("headers: request id, rate limits"):
    raw = client.completions.with_raw_response.create(model=MODEL, prompt="x", max_tokens=1)
    assert raw.headers["x-request-id"] and raw.parse()._request_id == raw.headers["x-request-id"]
    if args.limited_key:
        # The only request of this minute is spent: the refusal carries the headers as well.
        with refused(openai.RateLimitError, response=lambda r: r.headers["x-ratelimit-limit-requests"] == "1" and r.headers["x-ratelimit-reset-requests"]):
            client.with_options(api_key=args.limited_key).completions.create(model=MODEL, prompt="x", max_tokens=1)

# Cancellation, and many at once

with check("cancellation: a closed stream stops the work"):
    stream = complete(stream=True, max_tokens=4000, extra_body={"ignore_eos": True})
    for _, chunk in zip(range(3), stream):
        pass
    assert metric("verve_requests_running") >= 1
    stream.close()
    closed = time.monotonic()
    while metric("verve_requests_running") > 0:
        assert time.monotonic() < closed + 2, "still running after 2 s"
        time.sleep(0.02)
    count = metric("verve_generated_tokens_total")
    time.sleep(0.3)
    assert metric("verve_generated_tokens_total") == count


async def many(count):
    """`count` streams at once, of eight different requests."""
    async with openai.AsyncOpenAI(base_url=args.base_url, api_key=args.api_key, max_retries=8, timeout=300) as asynchronous:
        async def one(i):
            parts = []
            stream = await asynchronous.completions.create(model=MODEL, prompt=f"Number {i % 8} is", seed=i % 8, temperature=0.9, max_tokens=24,
                                                           stream=True)
            async for chunk in stream:
                parts.append(chunk.choices[0].text)
            return "".join(parts)
        return await asyncio.gather(*(one(i) for i in range(count)))


with check("async: at 7 and at 64 at once the bytes that each has alone"):
    single = [complete(f"Number {i} is", seed=i, temperature=0.9, max_tokens=24).choices[0].text for i in range(8)]
    for width in (7, 64):
        texts = asyncio.run(many(width))
        assert texts == [single[i % 8] for i in range(width)], width
with check("async: a cancelled task stops its request only"):
    async def cancelled():
        async with openai.AsyncOpenAI(base_url=args.base_url, api_key=args.api_key, max_retries=0, timeout=120) as asynchronous:
            async def endless():
                return await asynchronous.completions.create(model=MODEL, prompt="x", max_tokens=4000, extra_body={"ignore_eos": True})
            task = asyncio.create_task(endless())
            await asyncio.sleep(0.5)
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)
            return await asynchronous.completions.create(model=MODEL, prompt=PROMPT, max_tokens=8, temperature=0)
    assert asyncio.run(cancelled()).choices[0].text == whole.choices[0].text

check.close()
