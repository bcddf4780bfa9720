"""Anthropic's own client for Python, as published, against the gateway, which translates.

    WOPR_API_URL=http://localhost:3100 WOPR_SERVICE_KEY=wopr_sk_... python anthropic-python.py

The key is one of scope `inference`, of a customer with five dollars.
"""

import anthropic
import httpx2
from checks import API, CHAT, KEY, NOBODYS_KEY, QUESTION, UNPAYABLE_TOKENS, check, equal, refused, run

BASE = f"{API}/v1/anthropic"
client = anthropic.Anthropic(base_url=BASE, api_key=KEY)
MESSAGES = [{"role": "user", "content": QUESTION}]
ASK = {"model": CHAT, "max_tokens": 8, "messages": MESSAGES, "extra_body": {"temperature": 0}}


def whole(message):
    equal((message.type, message.role, message.model), ("message", "assistant", CHAT))
    assert message.id.startswith("msg_"), message.id
    assert message.stop_reason in ("end_turn", "max_tokens", "tool_use"), message
    assert message.usage.input_tokens > 0 and message.usage.output_tokens > 0, message.usage


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
    return anthropic.Anthropic(base_url=BASE, http_client=http_client, **{"api_key": KEY, **options}), transport


@check("a message")
def _():
    message = client.messages.create(**ASK, system=[{"type": "text", "text": "You are a computer."}])
    whole(message)
    equal(message.content[0].type, "text")
    assert message._request_id.startswith("req_"), message._request_id


@check("a stream has its events in their order")
def _():
    kinds = [event.type for event in client.messages.create(**ASK, stream=True) if event.type != "ping"]
    once = [kind for at, kind in enumerate(kinds) if at == 0 or kinds[at - 1] != kind]
    blocks = ["content_block_start", "content_block_delta", "content_block_stop"]
    equal(once, ["message_start", *blocks, "message_delta", "message_stop"])


@check("the client's own stream helper puts the message together")
def _():
    with client.messages.stream(**ASK) as stream:
        text = "".join(stream.text_stream)
        message = stream.get_final_message()
    whole(message)
    assert text
    equal(message.content[0].text, text)


@check("a message with tools, and what came of them")
def _():
    schema = {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]}
    tools = [{"name": "weather", "description": "The weather", "input_schema": schema}]
    whole(client.messages.create(**ASK, tools=tools, tool_choice={"type": "auto"}))
    call = {"type": "tool_use", "id": "toolu_1", "name": "weather", "input": {"city": "Oslo"}}
    result = {"type": "tool_result", "tool_use_id": "toolu_1", "content": [{"type": "text", "text": "rain"}]}
    messages = [*MESSAGES, {"role": "assistant", "content": [call]}, {"role": "user", "content": [result]}]
    whole(client.messages.create(**{**ASK, "messages": messages}, tools=tools))


@check("models: the list, one, and none")
def _():
    assert CHAT in [model.id for model in client.models.list()]
    equal(client.models.retrieve(CHAT).id, CHAT)
    refused(lambda: client.models.retrieve("no-such"), anthropic.NotFoundError, 404)


@check("a wrong key is an AuthenticationError, and is not tried again")
def _():
    stranger, sent = counted(api_key=NOBODYS_KEY)
    error = refused(lambda: stranger.messages.create(**ASK), anthropic.AuthenticationError, 401)
    equal((error.body["error"]["type"], sent.count), ("authentication_error", 1))


@check("a model that does not exist is a NotFoundError")
def _():
    wrong = {**ASK, "model": "nothing"}
    error = refused(lambda: client.messages.create(**wrong), anthropic.NotFoundError, 404)
    equal(error.body["error"]["type"], "not_found_error")


@check("what cannot be paid is a 402 that says where to pay")
def _():
    dear = {**ASK, "max_tokens": UNPAYABLE_TOKENS}
    error = refused(lambda: client.messages.create(**dear, timeout=60), anthropic.APIStatusError, 402)
    equal(error.body["error"]["type"], "billing_error")
    assert error.body["error"]["topUpUrl"].endswith("/dashboard/credits"), error.body


@check("a connection that is lost is tried again")
def _():
    broken, sent = counted(max_retries=1)
    sent.losses = 1
    whole(broken.messages.create(**ASK))
    equal(sent.count, 2)


run()
