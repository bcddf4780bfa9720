"""OpenAI's own client for Python, as published, against the gateway.

    WOPR_API_URL=http://localhost:3100 WOPR_SERVICE_KEY=wopr_sk_... python openai-python.py

The key is one of scope `inference`, of a customer with five dollars.
"""

import asyncio
import math

import httpx2
import openai
from checks import API, CHAT, KEY, NOBODYS_KEY, QUESTION, UNPAYABLE_TOKENS, check, equal, refused, run

BASE = f"{API}/v1/openai/v1"
client = openai.OpenAI(base_url=BASE, api_key=KEY)
MESSAGES = [{"role": "user", "content": QUESTION}]
ASK = {"model": CHAT, "max_tokens": 8, "temperature": 0, "messages": MESSAGES}


def used(usage):
    assert usage.prompt_tokens > 0 and usage.completion_tokens > 0, usage
    equal(usage.total_tokens, usage.prompt_tokens + usage.completion_tokens)


class Counted(httpx2.HTTPTransport):
    """The usual transport, how often it was used, and how often it is still to fail."""

    count = 0
    losses = 0

    def handle_request(self, request):
        self.count += 1
        if self.losses > 0:
            self.losses -= 1
            raise httpx2.ConnectError("lost", request=request)
        return super().handle_request(request)


def counted(**options):
    transport = Counted()
    http_client = httpx2.Client(transport=transport)
    return openai.OpenAI(base_url=BASE, http_client=http_client, **{"api_key": KEY, **options}), transport


@check("a chat")
def _():
    answer = client.chat.completions.create(**ASK)
    equal((answer.object, answer.choices[0].message.role), ("chat.completion", "assistant"))
    assert isinstance(answer.choices[0].message.content, str)
    assert answer.choices[0].finish_reason in ("stop", "length"), answer
    used(answer.usage)
    assert answer._request_id.startswith("req_"), answer._request_id


@check("a chat, without waiting for it")
def _():
    async def ask():
        async with openai.AsyncOpenAI(base_url=BASE, api_key=KEY) as waiting:
            return await asyncio.gather(*(waiting.chat.completions.create(**ASK) for _ in range(2)))

    for answer in asyncio.run(ask()):
        used(answer.usage)


@check("a stream, with the usage at its end")
def _():
    text, reason, usage = "", None, None
    for chunk in client.chat.completions.create(**ASK, stream=True, stream_options={"include_usage": True}):
        equal(chunk.object, "chat.completion.chunk")
        if chunk.choices:
            text += chunk.choices[0].delta.content or ""
            reason = chunk.choices[0].finish_reason or reason
        usage = chunk.usage or usage
    assert text and reason in ("stop", "length"), (text, reason)
    used(usage)


@check("a stream without usage, unless it was asked for")
def _():
    chunks = list(client.chat.completions.create(**ASK, stream=True))
    assert len(chunks) > 1
    for chunk in chunks:
        assert chunk.usage is None and len(chunk.choices) == 1, chunk


@check("a chat with tools")
def _():
    parameters = {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]}
    function = {"name": "weather", "description": "The weather", "parameters": parameters}
    tools = [{"type": "function", "function": function}]
    used(client.chat.completions.create(**ASK, tools=tools, tool_choice="auto").usage)
    # What a client sends next: the call it was asked for, and what came of it.
    call = {"id": "call_1", "type": "function", "function": {"name": "weather", "arguments": '{"city":"Oslo"}'}}
    messages = [
        *MESSAGES,
        {"role": "assistant", "content": None, "tool_calls": [call]},
        {"role": "tool", "tool_call_id": "call_1", "content": "rain"},
    ]
    used(client.chat.completions.create(**{**ASK, "messages": messages}, tools=tools).usage)


@check("a completion of a text")
def _():
    answer = client.completions.create(model=CHAT, prompt="Once upon", max_tokens=8)
    assert isinstance(answer.choices[0].text, str)
    used(answer.usage)


@check("embeddings, one and many, as the client wants them and as numbers")
def _():
    one = client.embeddings.create(model="qwen2-0.5b", input=QUESTION)
    vector = one.data[0].embedding
    assert len(vector) > 1 and all(math.isfinite(value) for value in vector), one
    assert one.usage.prompt_tokens > 0
    texts = [QUESTION, "How about chess?"]
    many = client.embeddings.create(model="qwen2-0.5b", input=texts, encoding_format="float")
    equal([(item.index, len(item.embedding)) for item in many.data], [(0, len(vector)), (1, len(vector))])
    for left, right in zip(vector, many.data[0].embedding, strict=True):
        assert abs(left - right) < 1e-3, (left, right)


@check("speech, and a transcription of it in two formats")
def _():
    speech = client.audio.speech.create(
        model="chatterbox-tts", voice="alloy", input=QUESTION, response_format="wav"
    ).read()
    assert speech[:4] == b"RIFF" and len(speech) > 1000, speech[:4]
    file = ("speech.wav", speech, "audio/wav")
    assert isinstance(client.audio.transcriptions.create(model="faster-whisper-small", file=file).text, str)
    verbose = client.audio.transcriptions.create(
        model="faster-whisper-small", file=file, response_format="verbose_json"
    )
    assert isinstance(verbose.text, str) and float(verbose.duration) > 0, verbose


@check("models: the list, one, and none")
def _():
    ids = [model.id for model in client.models.list()]
    for model in (CHAT, "qwen2-0.5b", "faster-whisper-small", "chatterbox-tts"):
        assert model in ids, ids
    equal(client.models.retrieve(CHAT).id, CHAT)
    refused(lambda: client.models.retrieve("no/such"), openai.NotFoundError, 404)


@check("a wrong key is an AuthenticationError, and is not tried again")
def _():
    stranger, sent = counted(api_key=NOBODYS_KEY)
    error = refused(lambda: stranger.chat.completions.create(**ASK), openai.AuthenticationError, 401)
    equal((error.code, sent.count), ("invalid_api_key", 1))
    assert NOBODYS_KEY not in str(error)


@check("a model that does not exist is a NotFoundError that names the field")
def _():
    wrong = {**ASK, "model": "nothing"}
    error = refused(lambda: client.chat.completions.create(**wrong), openai.NotFoundError, 404)
    equal((error.code, error.param), ("model_not_found", "model"))


@check("what cannot be paid is a 402 that says where to pay, and is not tried again")
def _():
    poor, sent = counted()
    dear = {**ASK, "max_tokens": UNPAYABLE_TOKENS}
    for stream in (False, True):
        error = refused(lambda: poor.chat.completions.create(**dear, stream=stream), openai.APIStatusError, 402)
        equal((error.code, error.type), ("insufficient_credits", "billing_error"))
        assert error.body["topUpUrl"].endswith("/dashboard/credits"), error.body
    equal(sent.count, 2)


@check("a connection that is lost is tried again")
def _():
    broken, sent = counted(max_retries=1)
    sent.losses = 1
    used(broken.chat.completions.create(**ASK).usage)
    equal(sent.count, 2)


@check("who asks too often is a RateLimitError that says when to come back")
def _():
    # Last of all: no minute lets in more of a customer's questions than sixty.
    impatient = client.with_options(max_retries=0)

    def hurry():
        for _ in range(90):
            impatient.embeddings.create(model="qwen2-0.5b", input="x")

    error = refused(hurry, openai.RateLimitError, 429)
    equal(error.code, "rate_limit_exceeded")
    assert 1 <= int(error.response.headers["retry-after"]) <= 60, error.response.headers


run()
