"""The ways in which a WebSocket at a CDP port can be bad (part of behaviour 14, and what any peer may do).

Used by the gate, which answers plain HTTP rightly and hands every upgrade to `answer`. Each kind is bytes that come
after a right upgrade, and then silence, a close or a reset; two kinds spoil the upgrade itself.
"""

import base64
import hashlib

from . import wire

SILENT_SECONDS = 600.0
KEY_TAIL = b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11"
STRANGE = b'{"id":99999,"result":{"x":[1,null]}}'
KINDS = {
    "refused_403": b"",
    "wrong_accept": b"",
    "closes": b"",
    "resets": b"",
    "silent": b"",
    "no_frames": b"\xff" * 64,
    "half_frame": b"\x81\x7e\x10\x00{",
    "no_json": b"\x81\x05hello",
    "no_utf8": b"\x81\x02\xff\xfe",
    "masked": b"\x81\x82\0\0\0\0{}",
    "huge_length": b"\x81\x7f\x7f" + b"\xff" * 7,
    "strange_json": bytes([0x81, len(STRANGE)]) + STRANGE,
    "close_1011": b"\x88\x02\x03\xf3",
}


async def answer(kind, key, connection):
    """Answers one upgrade; the connection ends with it."""
    if kind == "refused_403":
        await connection.send(wire.Answer.html(403, "Rejected an incoming WebSocket connection").bytes())
        return True
    accept = base64.b64encode(hashlib.sha1((key if kind != "wrong_accept" else "another").encode() + KEY_TAIL).digest())
    await connection.send(b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
                          b"Sec-WebSocket-Accept: " + accept + b"\r\n\r\n" + KINDS[kind])
    if kind == "resets":
        connection.reset()
    elif kind != "closes":
        await connection.gone(SILENT_SECONDS)
    return True
