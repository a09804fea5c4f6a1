"""Answers that a bad peer spoils: parts of 16 and 24 of the reference, and what any HTTP peer may do.

Each peer is looked at byte by byte with a raw socket, so that a fault that silently became an honest answer would
be seen. That the call was carried out all the same is seen in `running`.
"""

import concurrent.futures
import gzip
import json
import time
import unittest

from rig import Cdp, SimCase, call, raw_call, version

HONEST = b'{"success":true}'
HALF = b'{"succes'
AT_ONCE = 12


def split(data):
    head, _, body = data.partition(b"\r\n\r\n")
    return head.decode("latin-1").lower(), body


# name -> (parameters, how the connection is seen to end, what holds for head and body)
PEERS = {
    "close_before_answer": ({}, "closed", lambda head, body: head == "" and body == b""),
    "reset_before_answer": ({}, "reset", lambda head, body: head == "" and body == b""),
    "reset_mid_answer": ({}, "reset", lambda head, body: body == HALF and "length: 16" in head),
    "half_head": ({}, "closed", lambda head, body: head.startswith("http/1.1 200") and "connection" not in head),
    "truncated_body": ({}, "closed", lambda head, body: body == HALF and "length: 16" in head),
    "chunked_cut": ({}, "closed", lambda head, body: body == b"8\r\n" + HALF + b"\r\n"),
    "keep_alive_lie": ({}, "closed", lambda head, body: body == HONEST and "keep-alive" in head),
    "drip": ({"every_ms": 1, "bytes": 2}, "silent", lambda head, body: body == HONEST),
    "half_head_hang": ({}, "silent", lambda head, body: "connection" not in head),
    "half_body_hang": ({}, "silent", lambda head, body: body == HALF),
    "pause_mid_answer": ({"ms": 20}, "silent", lambda head, body: body == HONEST),
    "no_content_length": ({}, "closed", lambda head, body: body == HONEST and "length" not in head),
    "chunked": ({}, "silent", lambda head, body: body[:8] == b'3\r\n{"s\r\n' and body.endswith(b"1\r\n}\r\n0\r\n\r\n")),
    "chunked_garbage": ({}, "closed", lambda head, body: "chunked" in head and body.startswith(b"zz\r\n")),
    "chunked_and_length": ({}, "closed", lambda head, body: "chunked" in head and "content-length" in head),
    "extra_bytes": ({"bytes": 16}, "silent", lambda head, body: body.startswith(HONEST + b"\x00garbage")),
    "answer_twice": ({}, "silent", lambda head, body: body.count(b"HTTP/1.1 200") == 1 and body.endswith(HONEST)),
    "length_twice": ({}, "closed", lambda head, body: head.count("content-length") == 2),
    "length_not_a_number": ({}, "closed", lambda head, body: "content-length: many" in head),
    "length_too_short": ({}, "silent", lambda head, body: "length: 8" in head and body == HONEST),
    "length_too_long": ({}, "silent", lambda head, body: "length: 25" in head and body == HONEST),
    "bad_status_line": ({"line": "HTTP/1.1 OK"}, "closed", lambda head, body: head.startswith("http/1.1 ok\r\n")),
    "bad_header": ({}, "closed", lambda head, body: "no colon here" in head and "x\x00y" in head),
    "not_http": ({}, "closed", lambda head, body: head.startswith("ssh-2.0")),
    "tls_alert": ({}, "closed", lambda head, body: head.encode("latin-1") == bytes([0x15, 3, 1, 0, 2, 2, 40])),
    "http_1_0": ({}, "closed", lambda head, body: head.startswith("http/1.0 200") and body == HONEST),
    "switching_101": ({}, "closed", lambda head, body: head.startswith("http/1.1 101")),
    "many_1xx": ({"count": 9}, "silent", lambda head, body: body.count(b"HTTP/1.1 103") == 8 and body.endswith(HONEST)),
    "huge_head": ({"bytes": 100_000}, "closed", lambda head, body: len(head) > 98_000 and body == HONEST),
    "huge_body": ({"bytes": 100_000}, "silent", lambda head, body: len(json.loads(body)["padding"]) == 100_000),
    "endless_body": ({"bytes": 2**21}, "full", lambda head, body: "chunked" in head and b" " * 1000 in body),
    "gzip_bomb": ({"bytes": 90_000}, "silent", lambda head, body: len(body) < 5000 < len(gzip.decompress(body))),
    "deep_json": ({"depth": 1000}, "silent", lambda head, body: body == b"[" * 1000 + b"]" * 1000),
    "truncated_json": ({}, "silent", lambda head, body: body == HALF and "length: 8" in head),
    "empty_body": ({"status": 502}, "silent", lambda head, body: body == b"" and head.startswith("http/1.1 502")),
    "status_204": ({}, "silent", lambda head, body: head.startswith("http/1.1 204")),
    "wrong_json": ({"kind": "string"}, "silent", lambda head, body: body == b'"ok"'),
    "duplicate_keys": ({}, "silent", lambda head, body: body.count(b"success") == 2),
    "nan_json": ({}, "silent", lambda head, body: b"NaN" in body),
    "huge_number": ({}, "silent", lambda head, body: b"1e400" in body),
    "bom_json": ({}, "silent", lambda head, body: body == b"\xef\xbb\xbf" + HONEST),
    "utf16_json": ({}, "silent", lambda head, body: body.decode("utf-16").encode() == HONEST),
    "invalid_utf8": ({}, "silent", lambda head, body: b"\xff\xfe" in body),
    "gzip_lie": ({}, "silent", lambda head, body: "gzip" in head and body == HONEST),
    "wrong_content_type": ({"type": "image/png"}, "silent", lambda head, body: "image/png" in head and body == HONEST),
    "no_content_type": ({}, "silent", lambda head, body: "content-type" not in head and body == HONEST),
    "html_200": ({}, "silent", lambda head, body: "text/html" in head and b"<html>" in body),
}


class Peers(SimCase):
    def test_every_peer_is_tried_here(self):
        table = {one["name"] for one in self.sim.ask("/faults/names") if one["stage"] == "peer"}
        self.assertEqual(table, set(PEERS))

    def test_16_24_every_peer_byte_by_byte(self):
        profiles = {name: number for number, name in enumerate(PEERS, 1)}
        self.sim.ask("/profiles", [{"id": number} for number in profiles.values()])
        for name, number in profiles.items():
            self.sim.fault(name, on="stop", profile=number, **PEERS[name][0])

        def look(name):
            return raw_call(self.sim.api, f"/v1.0/browser_profiles/{profiles[name]}/stop", timeout=1.0)

        with concurrent.futures.ThreadPoolExecutor(AT_ONCE) as pool:
            seen = dict(zip(PEERS, pool.map(look, PEERS), strict=True))
        for name, (_, end, holds) in PEERS.items():
            with self.subTest(peer=name):
                data, how = seen[name]
                self.assertEqual(how, end, data[:200])
                self.assertTrue(holds(*split(data)), data[:300])
                self.assert_stopped(self.sim.stop(profiles[name]))

    def test_16_truncated_json_empty_body_and_wrong_shapes_of_a_start(self):
        self.sim.profile(101)
        for name, params in (("truncated_json", {}), ("empty_body", {}), ("wrong_json", {"kind": "list"})):
            self.sim.fault(name, **params)
            reply = self.sim.start()
            self.assertEqual(reply.status, 200)
            self.assertNotIn(b"automation\":{\"port", reply.body if name != "truncated_json" else b"")
            if name == "truncated_json":
                self.assertRaises(ValueError, json.loads, reply.body)
            self.assert_duplicate(self.sim.start())
            self.sim.stop()

    def test_24_reset_in_the_middle_of_a_start_that_launched_or_did_not(self):
        self.sim.profile(101)
        for act in (True, False):
            self.sim.fault("reset_mid_answer", act=act)
            data, end = raw_call(self.sim.api, "/v1.0/browser_profiles/101/start?automation=1")
            self.assertEqual(end, "reset")
            self.assertTrue(data.startswith(b"HTTP/1.1 200"))
            self.assertEqual(list(self.sim.running()), ["101"] if act else [])
            self.sim.stop()

    def test_24_one_byte_at_a_time(self):
        self.sim.fault("drip", on="running", every_ms=5)
        began = time.monotonic()
        self.assertEqual(self.sim.running(), {})
        self.assertGreaterEqual(time.monotonic() - began, 0.5)

    def test_14_every_bad_websocket(self):
        self.sim.profile(101)
        for kind in self.sim.choices("cdp_socket", "kind"):
            with self.subTest(kind=kind):
                self.sim.fault("cdp_socket", kind=kind)
                port, path = self.started()
                self.assertEqual(version(port)["webSocketDebuggerUrl"], f"ws://127.0.0.1:{port}{path}")
                if kind == "refused_403":
                    self.assertRaises(ConnectionRefusedError, Cdp, port, path)
                else:
                    with Cdp(port, path) as cdp:
                        cdp.sock.settimeout(0.2)
                        with self.assertRaises((OSError, ValueError)):
                            cdp.call("Browser.getVersion")
                self.assert_stopped(self.sim.stop())

    def test_peers_spoil_the_cloud_and_login_too(self):
        for on, ask in (("login", self.sim.login), ("cloud", lambda: call(self.sim.cloud, "/browser_profiles"))):
            self.sim.fault("html_200", on=on)
            self.assertIn(b"<html>", ask().body)
            self.sim.fault("hang", on=on, for_ms=50)
            with self.assertRaises(ConnectionError):
                ask()


if __name__ == "__main__":
    unittest.main()
