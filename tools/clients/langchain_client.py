"""LangChain's clients for the OpenAI API (langchain-openai) against a running server."""

import pydantic
from langchain_core.messages import AIMessage, HumanMessage, SystemMessage, ToolMessage
from langchain_core.tools import tool
from langchain_openai import ChatOpenAI, OpenAI, OpenAIEmbeddings

from checks import Checks, arguments

args = arguments(__doc__)
common = {"model": args.model, "base_url": args.base_url, "api_key": args.api_key, "max_retries": 0}
chat = ChatOpenAI(**common, temperature=0, max_tokens=24)
text = OpenAI(**common, temperature=0, max_tokens=16)
check = Checks()


class Person(pydantic.BaseModel):
    """A person."""

    name: str = pydantic.Field(max_length=20)
    age: int


@tool
def get_weather(city: str) -> str:
    """Weather at a place now."""
    return f"sunny in {city}"


question = [SystemMessage("Be brief."), HumanMessage("Name a colour.")]
with check("ChatOpenAI: invoke, with usage and finish reason"):
    answer = chat.invoke(question)
    assert isinstance(answer, AIMessage) and answer.content and answer.usage_metadata["total_tokens"] > 0
    assert answer.response_metadata["finish_reason"] in ("stop", "length")
with check("ChatOpenAI: stream is the same text, with usage"):
    whole = None
    for piece in chat.stream(question, stream_usage=True):
        whole = piece if whole is None else whole + piece
    assert whole.content == answer.content
    assert all(whole.usage_metadata[k] == answer.usage_metadata[k] for k in ("input_tokens", "output_tokens", "total_tokens"))
with check("ChatOpenAI: batch of 8"):
    answers = chat.batch([f"Name {i} things." for i in range(8)])
    assert len(answers) == 8 and answers[3].content == chat.invoke("Name 3 things.").content
with check("ChatOpenAI: logprobs"):
    assert chat.bind(logprobs=True, top_logprobs=2).invoke("Hi").response_metadata["logprobs"]["content"]
with check("ChatOpenAI: tools, a forced call and its result"):
    bound = ChatOpenAI(**common, temperature=0, max_tokens=100).bind_tools([get_weather], tool_choice="get_weather")
    call = bound.invoke("Weather in Paris?").tool_calls[0]
    assert call["name"] == "get_weather" and isinstance(call["args"]["city"], str) and call["id"]
    result = ToolMessage(get_weather.invoke(call["args"]), tool_call_id=call["id"])
    assert chat.invoke([HumanMessage("Weather in Paris?"), AIMessage("", tool_calls=[call]), result]).content
with check("ChatOpenAI: a streamed call"):
    whole = None
    for piece in bound.stream("Weather in Paris?"):
        whole = piece if whole is None else whole + piece
    assert whole.tool_calls[0]["args"] == call["args"]
long = ChatOpenAI(**common, temperature=0, max_tokens=200)
for method in ("json_schema", "function_calling"):
    with check(f"ChatOpenAI: structured output by {method}"):
        assert isinstance(long.with_structured_output(Person, method=method).invoke("Invent a person."), Person)
with check("ChatOpenAI: structured output by json_mode"):
    assert isinstance(long.with_structured_output(None, method="json_mode").invoke("A cat, as JSON."), dict)
with check("ChatOpenAI: over the responses API"):
    responses = ChatOpenAI(**common, temperature=0, max_tokens=24, use_responses_api=True)
    assert responses.invoke(question).text and "".join(p.text for p in responses.stream(question))
with check("OpenAI: invoke and stream are the same"):
    whole = text.invoke("The capital of France is")
    assert whole and "".join(text.stream("The capital of France is")) == whole
with check("OpenAI: several prompts, best_of and n"):
    generations = OpenAI(**common, temperature=1, max_tokens=8, n=2, best_of=3, seed=1).generate(["Once", "Twice"]).generations
    assert [len(g) for g in generations] == [2, 2]
with check("OpenAIEmbeddings: documents and a query (token ids on the wire are the other model's: strings instead)"):
    embeddings = OpenAIEmbeddings(**common, check_embedding_ctx_length=False)
    documents = embeddings.embed_documents(["a cat", "a dog"])
    assert len(documents) == 2 and embeddings.embed_query("a cat") == documents[0]

check.close()
