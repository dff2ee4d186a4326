"""A completions server on loopback that answers exactly, and fails on command.

It speaks HTTP by hand, because half of what it must do (hang, cut a body, send
malformed JSON) is what a good HTTP library prevents. What it answers follows from
question and seed alone, so two runs that ask the same get the same.
"""

import asyncio
import contextlib
import dataclasses
import hashlib
import json
import re
import threading
from collections.abc import Callable, Iterator, Mapping
from typing import Any

TOKEN = re.compile(r" ?[A-Za-z]{1,4}| ?\d| ?[^\sA-Za-z\d]|\s")


@dataclasses.dataclass
class Request:
    """One request as it came.

    Attributes:
        number: 0 for the first of the server's life.
        question: the question asked.
        path: of the endpoint.
        body: the JSON.
        headers: lower-case names.
        answered: whether the whole answer was sent.
    """

    number: int
    question: str
    path: str
    body: dict[str, Any]
    headers: dict[str, str]
    answered: bool = False

    @property
    def key(self) -> tuple[str, int, int]:
        """Question, seed and number of choices."""
        return self.question, self.body.get("seed", -1), self.body.get("n", 1)


# Words with which servers say that they cut or refused a text.
CUTS = ("length", "max_tokens", "MAX_TOKENS", "truncated", "content_filter", "abort")
# What happens to the reasoning that is written before the answer, in chat.
PARSED = ("parsed", "parsed, cut")
# What is written before the answer, which is another one.
THOUGHTS = {
    "thinks": "<think>\nThe answer is 0.\n</think>\n\n",
    "thinks, tag eaten": "The answer is 0.\n</think>\n\n",
}


def asks_for_rows(body: Mapping[str, Any]) -> bool:
    return bool(body.get("logprobs"))


# The name of a fault, or what is sent instead of an answer.
Fault = Callable[[Request], "str | Raw | None"]


@dataclasses.dataclass
class Raw:
    """What is written, then `drip` every `pause_s` until the client leaves."""

    data: bytes
    drip: bytes = b""
    pause_s: float = 0.0


def http(status: int, body: bytes, **headers: str) -> Raw:
    """A whole response."""
    lines = [f"HTTP/1.1 {status} X", f"Content-Length: {len(body)}"]
    lines += ["Connection: close", *(f"{k}: {v}" for k, v in headers.items())]
    return Raw("\r\n".join([*lines, "", ""]).encode() + body)


class FaultServer:
    """Runs in a thread of its own.

    Attributes:
        golds: question -> the right answer.
        fault: says what goes wrong with a request, or None.
        delay_s: how long an answer takes.
        held: whether a request is not answered yet; asked again and again.
        requests: everything that came, in order.
        raw_logprobs: whether log-probabilities are before temperature.
        max_choices: most choices of a response, however many are asked for.
        right_share: share of right answers.
        busiest: most requests that were under way at once.
    """

    def __init__(self, golds: Mapping[str, str]):
        self.golds = dict(golds)
        self.fault: Fault = lambda request: None
        self.delay_s = 0.0
        self.held: Callable[[Request], bool] = lambda request: False
        self.requests: list[Request] = []
        self.raw_logprobs = True
        self.max_choices: int | None = None
        self.right_share = 0.6
        self.busy = self.busiest = 0

    @contextlib.contextmanager
    def running(self) -> Iterator[str]:
        """Yields the base URL while the server runs."""
        loop = asyncio.new_event_loop()
        ready = threading.Event()
        port: list[int] = []
        stop = asyncio.Event()

        async def serve() -> None:
            server = await asyncio.start_server(self._connection, "127.0.0.1", 0)
            port.append(server.sockets[0].getsockname()[1])
            ready.set()
            await stop.wait()
            server.close()
            tasks = asyncio.all_tasks() - {asyncio.current_task()}
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)

        thread = threading.Thread(target=lambda: loop.run_until_complete(serve()))
        thread.start()
        ready.wait()
        try:
            yield f"http://127.0.0.1:{port[0]}/v1"
        finally:
            loop.call_soon_threadsafe(stop.set)
            thread.join()
            loop.close()

    async def _connection(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> None:
        # Cancelled: the server ends while it hangs.
        gone = (ConnectionError, asyncio.IncompleteReadError, asyncio.CancelledError)
        with contextlib.suppress(*gone):
            head = (await reader.readuntil(b"\r\n\r\n")).decode()
            first, *lines = head.split("\r\n")
            headers = {
                name.lower(): value.strip()
                for name, _, value in (line.partition(":") for line in lines if line)
            }
            body = json.loads(await reader.readexactly(int(headers["content-length"])))
            prompt = body.get("prompt") or body["messages"][-1]["content"]
            question = re.findall(r"Question: (.*)\nLet's", prompt)[-1]
            path = first.split()[1]
            request = Request(len(self.requests), question, path, body, headers)
            self.requests.append(request)
            self.busy += 1
            self.busiest = max(self.busiest, self.busy)
            try:
                if self.delay_s:
                    await asyncio.sleep(self.delay_s)
                while self.held(request):
                    await asyncio.sleep(0.01)
                await self._respond(request, writer)
                request.answered = True
            finally:
                self.busy -= 1
        writer.close()

    async def _respond(self, request: Request, writer: asyncio.StreamWriter) -> None:
        fault = self.fault(request)
        status, extra = 200, ""
        if isinstance(fault, Raw):
            writer.write(fault.data)
            await writer.drain()
            while fault.drip:
                writer.write(fault.drip)
                await writer.drain()
                await asyncio.sleep(fault.pause_s)
            return
        if fault == "hang":
            await asyncio.sleep(60)
        if fault in ("429", "429 date", "500", "400", "401", "404"):
            status = int(fault[:3])
            data = json.dumps(
                {"error": {"message": f"no: {request.headers.get('authorization')}"}}
            ).encode()
            if fault == "429":
                extra = "Retry-After: 0.2\r\n"
        else:
            data = self._body(request, fault)
        head = (
            f"HTTP/1.1 {status} X\r\nContent-Type: application/json\r\n"
            f"Content-Length: {len(data)}\r\nConnection: close\r\n{extra}\r\n"
        )
        if fault == "cut":
            data = data[: len(data) // 2]
        writer.write(head.encode() + data)
        await writer.drain()

    def _body(self, request: Request, fault: str | None) -> bytes:
        if fault == "malformed":
            return b'{"choices": [{"text": "half'
        body = request.body
        count = min(body.get("n", 1), self.max_choices or 1000)
        if fault == "fewer":
            count = max(1, count - 1)
        chat = "messages" in body
        choices = [self._choice(request, index, fault, chat) for index in range(count)]
        if fault == "no choices":
            choices = []
        spent = sum(len(TOKEN.findall(choice["full"])) for choice in choices)
        for choice in choices:
            del choice["full"]
        usage = {"prompt_tokens": 100, "completion_tokens": spent}
        return json.dumps({"id": "x", "choices": choices, "usage": usage}).encode()

    def text(self, question: str, seed: int, index: int) -> str:
        """What is answered to a question."""
        digest = hashlib.sha256(f"{question}/{seed}/{index}".encode()).digest()
        gold = self.golds[question]
        answer = gold if digest[0] < 256 * self.right_share else f"{gold}9"
        return f"\nWe count {digest[1]} twice.\nThe answer is {answer}"

    def _choice(
        self, request: Request, index: int, fault: str | None, chat: bool
    ) -> dict[str, Any]:
        body = request.body
        text = self.text(request.question, body.get("seed", 0), index)
        limit = body.get("max_tokens") or body["max_completion_tokens"]
        if fault in PARSED:
            text = THOUGHTS["thinks"] + text
        if fault in THOUGHTS:
            text = THOUGHTS[fault] + text
        tokens = TOKEN.findall(text)[:limit]
        text = "".join(tokens)
        power = 1.0 if self.raw_logprobs else 1 / max(body["temperature"], 1e-6)
        tops = [{token: -0.2 * power, "zz": -2.5 * power} for token in tokens]
        logprobs: Any = {
            "tokens": tokens,
            "token_logprobs": [top[t] for t, top in zip(tokens, tops, strict=True)],
            "top_logprobs": tops,
        }
        if fault == "nan":
            logprobs["token_logprobs"][3] = float("nan")
        if fault == "null":
            logprobs["token_logprobs"][3] = None
        if fault == "positive":
            logprobs["token_logprobs"][3] = 0.7
        if fault == "mismatch":
            logprobs["tokens"] = [*tokens[:3], "?!", *tokens[4:]]
            tops[3] = {"?!": tops[3][tokens[3]]}
        if chat:
            logprobs = {
                "content": [
                    {
                        "token": token,
                        "bytes": list(token.encode()),
                        "logprob": value,
                        "top_logprobs": [
                            {"token": t, "bytes": list(t.encode()), "logprob": lp}
                            for t, lp in top.items()
                        ],
                    }
                    for token, value, top in zip(
                        logprobs["tokens"],
                        logprobs["token_logprobs"],
                        logprobs["top_logprobs"],
                        strict=True,
                    )
                ]
            }
        if fault == "no logprobs" or not asks_for_rows(body):
            logprobs = None
        reason = fault if fault in CUTS else "stop"
        choice = {"index": index, "finish_reason": reason, "logprobs": logprobs}
        choice |= {"message": {"content": text}} if chat else {"text": text}
        if fault in PARSED:
            thought, _, said = text.removeprefix("<think>\n").partition("</think>")
            choice["message"] = {"content": said, "reasoning_content": thought}
            if fault == "parsed, cut":
                choice["message"]["content"] = None
                choice["finish_reason"] = "length"
        return choice | {"full": text}
