"""LlamaIndex's clients for servers like OpenAI's (OpenAILike, OpenAILikeEmbedding) against a running server."""

import asyncio

import pydantic
from llama_index.core import Document, VectorStoreIndex
from llama_index.core.llms import ChatMessage
from llama_index.core.prompts import PromptTemplate
from llama_index.core.tools import FunctionTool
from llama_index.embeddings.openai_like import OpenAILikeEmbedding
from llama_index.llms.openai_like import OpenAILike

from checks import Checks, arguments

args = arguments(__doc__)
common = {"model": args.model, "api_base": args.base_url, "api_key": args.api_key, "max_retries": 0, "context_window": 8192, "temperature": 0}
text = OpenAILike(**common, max_tokens=16, is_chat_model=False)
chat = OpenAILike(**common, max_tokens=24, is_chat_model=True)
caller = OpenAILike(**common, max_tokens=150, is_chat_model=True, is_function_calling_model=True)
check = Checks()


class Person(pydantic.BaseModel):
    """A person."""

    name: str = pydantic.Field(max_length=20)
    age: int


messages = [ChatMessage(role="system", content="Be brief."), ChatMessage(role="user", content="Name a colour.")]
with check("completion: invoke and stream are the same"):
    whole = text.complete("The capital of France is").text
    assert whole and list(text.stream_complete("The capital of France is"))[-1].text == whole
with check("chat: invoke and stream are the same"):
    whole = chat.chat(messages).message.content
    assert whole and list(chat.stream_chat(messages))[-1].message.content == whole
with check("chat: asynchronously"):
    assert asyncio.run(chat.achat(messages)).message.content == whole
with check("tools: a required call"):
    def get_weather(city: str) -> str:
        """Weather at a place now."""
        return city
    answer = caller.chat_with_tools([FunctionTool.from_defaults(get_weather)], "Weather in Paris?", tool_required=True)
    (call, *_) = caller.get_tool_calls_from_response(answer)
    assert call.tool_name == "get_weather" and isinstance(call.tool_kwargs["city"], str)
with check("structured output by a function"):
    assert isinstance(caller.structured_predict(Person, PromptTemplate("Invent a person.")), Person)
with check("structured output by a schema"):
    shaped = OpenAILike(**common, max_tokens=150, is_chat_model=True, should_use_structured_outputs=True)
    assert isinstance(shaped.as_structured_llm(Person).complete("Invent a person.").raw, Person)
embed = OpenAILikeEmbedding(model_name=args.model, api_base=args.base_url, api_key=args.api_key, embed_batch_size=8)
with check("embeddings: texts and a query"):
    vectors = embed.get_text_embedding_batch(["a cat", "a dog", "a house"])
    assert len(vectors) == 3 and embed.get_text_embedding("a cat") == vectors[0]
with check("an index of documents is searched and asked"):
    documents = [Document(text="The harbour of Genoa was rebuilt."), Document(text="Bread needs flour, water, salt and time.")]
    index = VectorStoreIndex.from_documents(documents, embed_model=embed)
    assert len(index.as_retriever(similarity_top_k=1).retrieve("Bread needs flour, water, salt and time.")) == 1
    assert str(index.as_query_engine(llm=chat).query("What does bread need?"))

check.close()
