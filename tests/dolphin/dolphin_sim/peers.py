"""The ways in which a bad HTTP peer spoils an answer (behaviours 16 and 24, and what any peer may do).

Each takes the true answer of the call and sends it badly: the call has been carried out, unless the fault was set
with `act: false`. `SENDERS` is name -> (sender, parameters, what it does); the fault table takes it over whole. All
that waits or pours is bounded by its parameters. A sender returns True when the connection ends with it; one
that ends by a reset has ended it already.
"""

import asyncio
import gzip
import json

from .wire import Answer

SENDERS = {}


def peer(name, says, **params):
    def keep(send):
        SENDERS[name] = (send, params, says)
        return send
    return keep


def reshaped(name, says, **params):
    """A peer that is honest as HTTP and changes only the answer."""
    def keep(change):
        async def send(connection, answer, p):
            await connection.send(change(answer, p).bytes())
            return False
        SENDERS[name] = (send, params, says)
        return change
    return keep


def with_body(answer, body, status=None):
    return Answer(status or answer.status, body, answer.content_type, answer.headers)


def half(data):
    return data[: max(1, len(data) // 2)]


def padded(answer, length):
    """The answer's body as JSON of at least `length` bytes."""
    try:
        value = json.loads(answer.body)
    except ValueError:
        value = None
    value = value if isinstance(value, dict) else {"value": value}
    return json.dumps({"padding": "x" * length, **value}).encode()


# Ends too early.

@peer("close_before_answer", "closes the connection without one byte of an answer")
async def close_before_answer(connection, answer, p):
    return True


@peer("reset_before_answer", "resets the connection without one byte of an answer")
async def reset_before_answer(connection, answer, p):
    connection.reset()
    return True


@peer("reset_mid_answer", "sends the head and half of the body, then resets")
async def reset_mid_answer(connection, answer, p):
    await connection.send(answer.head(len(answer.body)) + half(answer.body))
    # The bytes must leave before the reset throws away what is not sent.
    await asyncio.sleep(0.02)
    connection.reset()
    return True


@peer("half_head", "sends half of the head, then closes")
async def half_head(connection, answer, p):
    await connection.send(half(answer.head(len(answer.body))))
    return True


@peer("truncated_body", "promises the whole body, sends half of it, then closes")
async def truncated_body(connection, answer, p):
    await connection.send(answer.head(len(answer.body)) + half(answer.body))
    return True


@peer("chunked_cut", "sends one chunk of half the body and closes without the last chunk")
async def chunked_cut(connection, answer, p):
    part = half(answer.body)
    await connection.send(chunked_head(answer) + b"%x\r\n%s\r\n" % (len(part), part))
    return True


@peer("keep_alive_lie", "answers rightly, says keep-alive, and closes")
async def keep_alive_lie(connection, answer, p):
    await connection.send(answer.bytes())
    return True


# Takes its time.

@peer("drip", "sends `bytes` bytes every `every_ms`", every_ms=1000, bytes=1)
async def drip(connection, answer, p):
    data = answer.bytes()
    for at in range(0, len(data), p["bytes"]):
        await connection.send(data[at:at + p["bytes"]])
        await asyncio.sleep(p["every_ms"] / 1000)
    return False


@peer("half_head_hang", "sends half of the head and then nothing for `for_ms`", for_ms=600_000)
async def half_head_hang(connection, answer, p):
    await connection.send(half(answer.head(len(answer.body))))
    await connection.gone(p["for_ms"] / 1000)
    return True


@peer("half_body_hang", "sends the head and half of the body, then nothing for `for_ms`", for_ms=600_000)
async def half_body_hang(connection, answer, p):
    await connection.send(answer.head(len(answer.body)) + half(answer.body))
    await connection.gone(p["for_ms"] / 1000)
    return True


@peer("pause_mid_answer", "pauses for `ms` between the halves of the body, and ends rightly", ms=1000)
async def pause_mid_answer(connection, answer, p):
    first = half(answer.body)
    await connection.send(answer.head(len(answer.body)) + first)
    await asyncio.sleep(p["ms"] / 1000)
    await connection.send(answer.body[len(first):])
    return False


# Framing.

def chunked_head(answer):
    lines = answer.head_lines() + ["transfer-encoding: chunked", "connection: keep-alive"]
    return ("\r\n".join(lines) + "\r\n\r\n").encode("latin-1")


@peer("no_content_length", "ends the body by closing, as HTTP/1.0 did (a right answer)")
async def no_content_length(connection, answer, p):
    await connection.send(answer.head(None, close=True) + answer.body)
    return True


@peer("chunked", "sends the body in chunks of three bytes (a right answer)")
async def chunked(connection, answer, p):
    parts = [answer.body[at:at + 3] for at in range(0, len(answer.body), 3)]
    body = b"".join(b"%x\r\n%s\r\n" % (len(part), part) for part in parts)
    await connection.send(chunked_head(answer) + body + b"0\r\n\r\n")
    return False


@peer("chunked_garbage", "says chunked and sends what is no chunk")
async def chunked_garbage(connection, answer, p):
    await connection.send(chunked_head(answer) + b"zz\r\n" + answer.body + b"\r\n-1\r\n\r\n")
    return True


@peer("chunked_and_length", "sends both a content-length and chunks")
async def chunked_and_length(connection, answer, p):
    head = chunked_head(answer)[:-2] + b"content-length: %d\r\n\r\n" % len(answer.body)
    await connection.send(head + b"%x\r\n%s\r\n0\r\n\r\n" % (len(answer.body), answer.body))
    return True


@peer("extra_bytes", "sends `bytes` bytes more than it promised, on a connection that stays", bytes=64)
async def extra_bytes(connection, answer, p):
    await connection.send(answer.bytes() + b"\x00garbage" * (p["bytes"] // 8 + 1))
    return False


@peer("answer_twice", "sends the whole answer twice, so that the next call could read the second")
async def answer_twice(connection, answer, p):
    await connection.send(answer.bytes() * 2)
    return False


@peer("length_twice", "sends two content-lengths that differ")
async def length_twice(connection, answer, p):
    head = answer.head(len(answer.body))[:-2] + b"content-length: %d\r\n\r\n" % (len(answer.body) + 9)
    await connection.send(head + answer.body)
    return True


@peer("length_not_a_number", "sends a content-length that is no number")
async def length_not_a_number(connection, answer, p):
    await connection.send(answer.head(None)[:-2] + b"content-length: many\r\n\r\n" + answer.body)
    return True


@peer("length_too_short", "promises half of the body and sends the whole")
async def length_too_short(connection, answer, p):
    await connection.send(answer.head(len(half(answer.body))) + answer.body)
    return False


@peer("length_too_long", "promises 9 bytes more than come and keeps the connection for `for_ms`", for_ms=600_000)
async def length_too_long(connection, answer, p):
    await connection.send(answer.head(len(answer.body) + 9) + answer.body)
    await connection.gone(p["for_ms"] / 1000)
    return True


@peer("bad_status_line", "begins with `line` instead of a status line", line="HTTP/1.1 OK")
async def bad_status_line(connection, answer, p):
    rest = answer.bytes().partition(b"\r\n")[2]
    await connection.send(p["line"].encode() + b"\r\n" + rest)
    return True


@peer("bad_header", "sends header lines without a colon, with a NUL and with a blank name")
async def bad_header(connection, answer, p):
    head = answer.head(len(answer.body))[:-2] + b"no colon here\r\nx\x00y: 1\r\n : 2\r\n\r\n"
    await connection.send(head + answer.body)
    return True


@peer("not_http", "speaks another protocol")
async def not_http(connection, answer, p):
    await connection.send(b"SSH-2.0-OpenSSH_9.6\r\n")
    return True


@peer("tls_alert", "answers with a TLS alert, as an https port does")
async def tls_alert(connection, answer, p):
    await connection.send(bytes([0x15, 3, 1, 0, 2, 2, 40]))
    return True


@peer("http_1_0", "answers rightly as HTTP/1.0 (a right answer)")
async def http_1_0(connection, answer, p):
    await connection.send(answer.bytes(close=True).replace(b"HTTP/1.1", b"HTTP/1.0", 1))
    return True


@peer("switching_101", "answers 101 Switching Protocols that nobody asked for")
async def switching_101(connection, answer, p):
    await connection.send(b"HTTP/1.1 101 Switching Protocols\r\nupgrade: x\r\nconnection: upgrade\r\n\r\n")
    return True


@peer("many_1xx", "sends `count` interim answers before the right one", count=2000)
async def many_1xx(connection, answer, p):
    for _ in range(p["count"]):
        await connection.send(b"HTTP/1.1 103 Early Hints\r\nlink: </x>\r\n\r\n")
    await connection.send(answer.bytes())
    return False


# Too much.

@peer("huge_head", "sends `bytes` bytes of header lines", bytes=4 * 1024 * 1024)
async def huge_head(connection, answer, p):
    line = b"x-filler: " + b"x" * 1012 + b"\r\n"
    await connection.send(answer.head(len(answer.body))[:-2])
    for _ in range(p["bytes"] // len(line)):
        await connection.send(line)
    await connection.send(b"\r\n" + answer.body)
    return True


@reshaped("huge_body", "sends the right JSON with a padding of `bytes` bytes before the rest",
          bytes=64 * 1024 * 1024)
def huge_body(answer, p):
    return with_body(answer, padded(answer, p["bytes"]))


@peer("endless_body", "sends chunks until `bytes` bytes are out", bytes=1024 * 1024 * 1024)
async def endless_body(connection, answer, p):
    await connection.send(chunked_head(answer))
    part = b"10000\r\n" + b" " * 0x10000 + b"\r\n"
    for _ in range(p["bytes"] // 0x10000):
        await connection.send(part)
    return True


@peer("gzip_bomb", "sends a body that unpacks to `bytes` bytes", bytes=64 * 1024 * 1024)
async def gzip_bomb(connection, answer, p):
    body = gzip.compress(padded(answer, p["bytes"]), 1, mtime=0)
    await connection.send(answer.head(len(body))[:-2] + b"content-encoding: gzip\r\n\r\n" + body)
    return False


@reshaped("deep_json", "sends lists within lists, `depth` deep", depth=100_000)
def deep_json(answer, p):
    return with_body(answer, b"[" * p["depth"] + b"]" * p["depth"])


# Right HTTP, wrong words.

@reshaped("truncated_json", "sends half of the JSON, and a content-length that fits it")
def truncated_json(answer, p):
    return with_body(answer, half(answer.body))


@reshaped("empty_body", "sends `status` without a body", status=200)
def empty_body(answer, p):
    return with_body(answer, b"", p["status"])


@peer("status_204", "answers 204 without a body")
async def status_204(connection, answer, p):
    await connection.send(b"HTTP/1.1 204 No Content\r\nconnection: keep-alive\r\n\r\n")
    return False


WRONG_JSON = {
    "list": [], "string": "ok", "number": 1, "null": None, "true": True, "empty": {},
    "other_types": {"success": "yes", "automation": [], "data": {}, "error": 5, "message": []},
    "strange_map": {"not-an-id": {"pid": "x"}, "-1": None, "99999999999999999999": {}, "101": []},
}


@reshaped("wrong_json", "sends valid JSON of the wrong shape: `kind` is one of " + ", ".join(WRONG_JSON),
          kind="list")
def wrong_json(answer, p):
    return with_body(answer, json.dumps(WRONG_JSON[p["kind"]]).encode(), 200)


@reshaped("duplicate_keys", "sends an object with `success` twice, false and true")
def duplicate_keys(answer, p):
    return with_body(answer, b'{"success":false,"success":true}')


@reshaped("nan_json", "sends NaN where a number belongs, which is no JSON")
def nan_json(answer, p):
    return with_body(answer, b'{"success":true,"automation":{"port":NaN,"wsEndpoint":"/devtools/browser/x"}}')


@reshaped("huge_number", "sends a port far beyond 65535")
def huge_number(answer, p):
    return with_body(answer, b'{"success":true,"automation":{"port":1e400,"wsEndpoint":"/devtools/browser/x"}}')


@reshaped("bom_json", "sends a byte order mark before the right JSON")
def bom_json(answer, p):
    return with_body(answer, b"\xef\xbb\xbf" + answer.body)


@reshaped("utf16_json", "sends the right JSON as UTF-16")
def utf16_json(answer, p):
    return with_body(answer, answer.body.decode(errors="replace").encode("utf-16"))


@reshaped("invalid_utf8", "sends bytes that are no UTF-8 within a string")
def invalid_utf8(answer, p):
    return with_body(answer, b'{"success":false,"error":"\xff\xfe\xc3\x28"}')


@peer("gzip_lie", "says gzip and sends plain text")
async def gzip_lie(connection, answer, p):
    await connection.send(answer.head(len(answer.body))[:-2] + b"content-encoding: gzip\r\n\r\n" + answer.body)
    return False


@reshaped("wrong_content_type", "sends the right body as `type`", type="text/html")
def wrong_content_type(answer, p):
    return Answer(answer.status, answer.body, p["type"], answer.headers)


@reshaped("no_content_type", "sends the right body without a content-type")
def no_content_type(answer, p):
    return Answer(answer.status, answer.body, None, answer.headers)


@reshaped("html_200", "answers 200 with a page, as a proxy in between would")
def html_200(answer, p):
    return Answer.html(200, "Please sign in to the network")


async def send(name, connection, answer, params):
    """Sends `answer` as the peer `name` does; True when the connection ends with it."""
    return await SENDERS[name][0](connection, answer, params)
