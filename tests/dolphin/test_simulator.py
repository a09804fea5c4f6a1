"""The simulator's normal behaviours, 1 to 11 of the reference, with real Chromium and with stubs.

The numbers in the names are those of section 8 of the reference. Faults are in test_simulator_faults.py, spoilt
answers in test_simulator_peers.py, and the admin, seeds and the end in test_simulator_admin.py.
"""

import json
import os
import re
import socket
import subprocess
import sys
import time
import unittest

from rig import (PROGRAM, TOKEN, WAIT_SECONDS, Cdp, Sim, SimCase, accepts, alive, call, command_line, has_ipv6,
                 needs_chromium, port_of, version)

UUID = r"[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}"


class Addresses(unittest.TestCase):
    def sim(self, *options):
        sim = Sim(*options)
        self.addCleanup(sim.end)
        return sim

    def test_01_port_is_configurable_and_on_loopback_alone(self):
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            port = probe.getsockname()[1]
        sim = self.sim("--port", str(port))
        self.assertEqual(sim.api, f"http://127.0.0.1:{port}")
        self.assertEqual(sim.running(), {})
        with open("/proc/net/tcp") as file:
            listening = [line.split()[1] for line in file if line.split()[3] == "0A"]
        for base in (sim.api, sim.cloud, sim.admin):
            self.assertIn(f"0100007F:{port_of(base):04X}", listening)
            self.assertNotIn(f"00000000:{port_of(base):04X}", listening)
        self.assertFalse(accepts(port, "::1"), "::1 is silent unless asked for")

    def test_01_busy_port(self):
        with socket.socket() as busy:
            busy.bind(("127.0.0.1", 0))
            busy.listen()
            port = busy.getsockname()[1]
            sim = self.sim("--port", str(port), "--next-free-port")
            self.assertGreater(port_of(sim.api), port)
            self.assertEqual(sim.running(), {})
            refused = subprocess.run([sys.executable, PROGRAM, "--port", str(port)], capture_output=True,
                                     timeout=WAIT_SECONDS, check=False)
            self.assertEqual(refused.returncode, 1)
            self.assertIn(f"port {port} cannot be taken", refused.stderr.decode())

    @unittest.skipUnless(has_ipv6(), "no IPv6 loopback")
    def test_01_ipv6_localhost(self):
        both = self.sim("--ipv6-localhost", "both")
        self.assertEqual(call(f"http://[::1]:{port_of(both.api)}", "/v1.0/browser_profiles/running").json, {})
        self.assertEqual(both.running(), {})
        only = self.sim("--ipv6-localhost", "only")
        self.assertTrue(accepts(port_of(only.api), "::1"))
        self.assertFalse(accepts(port_of(only.api)))
        hang = self.sim("--ipv6-localhost", "hang")
        with self.assertRaises(TimeoutError):
            call(f"http://[::1]:{port_of(hang.api)}", "/v1.0/browser_profiles/running", timeout=0.3)
        self.assertEqual(hang.running(), {})


class Normal(SimCase):
    def test_02_login_with_token(self):
        self.assertEqual((self.sim.login().status, self.sim.login().json), (200, {"success": True}))
        bad = self.sim.login("another")
        self.assertEqual((bad.status, bad.json), (401, {"success": False}))
        session = self.sim.state()["session_token"]
        for body in ("{", "[]", '"text"', "{}"):
            reply = call(self.sim.api, "/v1.0/auth/login-with-token", body,
                         headers={"content-type": "application/json"})
            self.assertEqual(reply.status, 400, body)
            self.assertNotIn(session.encode(), reply.body)
        plain = call(self.sim.api, "/v1.0/auth/login-with-token", json.dumps({"token": TOKEN}))
        self.assertEqual(plain.status, 400, "without application/json")
        self.assertNotIn(session.encode(), self.sim.login().body)

    @needs_chromium
    def test_03_start_by_get_and_by_post_real_chromium(self):
        self.sim.profile(101, browser="chromium")
        port, path = self.started()
        self.assertRegex(path, f"^/devtools/browser/{UUID}$")
        self.assertIn("Chrome/", version(port)["Browser"])
        self.assertEqual(version(port)["webSocketDebuggerUrl"], f"ws://127.0.0.1:{port}{path}")
        (pid,) = self.sim.pids()
        self.assertIn("browser_profiles/101/data_dir", command_line(pid))
        self.assertIn("/chrom", os.readlink(f"/proc/{pid}/exe"))
        with Cdp(port, path) as cdp:
            session = cdp.page_session()
            self.assertEqual(cdp.call("Runtime.evaluate", session, expression="6*7")["result"]["value"], 42)
            self.assertNotIn("errorText", cdp.call("Page.navigate", session, url=self.sim.cloud))
        self.sim.stop()
        reply = self.sim.start(body={"automation": True, "screenWidth": 1280, "dpr": 1.5}, automation=False)
        self.assertEqual(reply.status, 200, reply.body)
        self.assertNotEqual(reply.json["automation"]["wsEndpoint"], path, "the UUID is fresh at every launch")
        self.assertIn("Chrome/", version(reply.json["automation"]["port"])["Browser"])

    def test_03_start_answers_after_the_launch_and_its_delay(self):
        self.sim.profile(101, start_delay_ms=400)
        began = time.monotonic()
        port, _ = self.started()
        self.assertGreaterEqual(time.monotonic() - began, 0.4)
        self.assertIn("Browser", version(port))
        uuids = set()
        for _ in range(3):
            uuids.add(self.sim.state()["browsers"][0]["uuid"])
            self.assert_stopped(self.sim.stop())
            self.started()
        self.assertEqual(len(uuids), 3)

    def test_03_temporary_profile(self):
        reply = call(self.sim.api, "/v1.0/browser_profiles/start", {"automation": True})
        self.assertEqual((reply.status, reply.json["type"]), (200, "temporary"))
        self.assertIn(str(reply.json["profileId"]), self.sim.running())
        self.assertIn("Browser", version(reply.json["automation"]["port"]))
        self.assert_stopped(self.sim.stop(reply.json["profileId"]))
        self.assertEqual(self.sim.state()["profiles"], [])

    @needs_chromium
    def test_04_styles_of_port_and_endpoint_real_chromium(self):
        self.sim.profile(101, browser="chromium", automation_style={"ws": "url", "port": "text"})
        automation = self.sim.start().json["automation"]
        self.assertIsInstance(automation["port"], str)
        self.assertRegex(automation["wsEndpoint"], rf"^ws://127\.0\.0\.1:{automation['port']}/devtools/browser/{UUID}$")
        self.assertIn("Chrome/", version(int(automation["port"]))["Browser"])

    def test_04_default_style(self):
        self.sim.profile(101)
        port, path = self.started()
        self.assertIsInstance(port, int)
        self.assertTrue(path.startswith("/devtools/browser/"))

    @needs_chromium
    def test_05_without_automation_there_is_no_cdp_real_chromium(self):
        self.sim.profile(101, browser="chromium")
        reply = self.sim.start(automation=False)
        self.assertEqual((reply.status, reply.json), (200, {"success": True}))
        (pid,) = self.sim.pids()
        self.assertNotIn("--remote-debugging-port", command_line(pid))
        self.assertEqual(listening_ports(pid), [])
        self.assert_duplicate(self.sim.start())
        self.assert_stopped(self.sim.stop())
        self.assertFalse(alive(pid))

    def test_05_null_variant(self):
        self.sim.profile(101, no_automation_style="null")
        self.assertEqual(self.sim.start(automation=False).json, {"success": True, "automation": None})
        self.assertEqual(listening_ports(self.sim.pids()[0]), [])

    @needs_chromium
    def test_06_stop_closes_gracefully_real_chromium(self):
        self.sim.profile(101, browser="chromium", stop_delay_ms=300)
        port, _ = self.started()
        (pid,) = self.sim.pids()
        began = time.monotonic()
        self.assert_stopped(self.sim.stop())
        self.assertGreaterEqual(time.monotonic() - began, 0.3)
        self.assertFalse(alive(pid))
        self.assertFalse(accepts(port))
        self.assertEqual(self.sim.running(), {})
        with open(os.path.join(self.sim.folder.name, "browser_profiles/101/data_dir/Default/Preferences")) as file:
            self.assertEqual(json.load(file)["profile"]["exit_type"], "Normal")

    def test_06_stop_of_what_does_not_run(self):
        self.sim.profile(101)
        self.sim.profile(102, stop_when_not_running="false_message")
        self.assert_stopped(self.sim.stop(101))
        reply = self.sim.stop(102)
        self.assertEqual((reply.status, reply.json["success"]), (200, False))
        self.assertIn("PID file not found", reply.json["message"])

    @needs_chromium
    def test_07_running_is_a_bare_map_real_chromium(self):
        self.assertEqual(self.sim.running(), {})
        self.sim.profile(101, browser="chromium")
        self.sim.profile(102)
        port, _ = self.started(101)
        self.started(102)
        found = self.sim.running()
        self.assertEqual(set(found), {"101", "102"})
        for profile, one in found.items():
            self.assertEqual(set(one), {"runid", "pid"})
            self.assertEqual([one["pid"]], self.sim.pids(int(profile)))
            self.assertRegex(one["runid"], f"^{UUID}$")
        self.assertNotIn(str(port), json.dumps(found))

    @needs_chromium
    def test_08_data_survives_and_tabs_real_chromium(self):
        self.sim.profile(101, browser="chromium", start_tabs="restored")
        cookie = {"name": "kept", "value": "yes", "domain": "example.org", "path": "/",
                  "expires": time.time() + 86400}
        with Cdp(*self.started()) as cdp:
            self.assertEqual([one["url"] for one in cdp.pages()], ["about:blank"], "the first has one start tab")
            cdp.call("Storage.setCookies", cookies=[cookie])
            self.assertEqual(len(cdp.call("Target.getBrowserContexts")["browserContextIds"]), 0)
            cdp.call("Target.createTarget", url="data:text/plain,restored")
        self.assert_stopped(self.sim.stop())
        with Cdp(*self.started()) as cdp:
            found = cdp.call("Storage.getCookies")["cookies"]
            self.assertEqual([(one["name"], one["value"]) for one in found], [("kept", "yes")])
            self.assertEqual({one["url"] for one in cdp.pages()}, {"about:blank", "data:text/plain,restored"})
        self.sim.stop()
        reply = call(self.sim.api, "/v1.0/browser_profiles/101/start?automation=1&headless=1")
        with Cdp(*reply.json["automation"].values()) as cdp:
            self.assertEqual(cdp.pages(), [], "headless implies no tabs")

    def test_08_data_survives_and_tabs_of_a_stub(self):
        for tabs, urls in (("one", ["about:blank"]), ("none", [])):
            self.sim.profile(101, start_tabs=tabs)
            with Cdp(*self.started()) as cdp:
                self.assertEqual([one["url"] for one in cdp.pages()], urls)
                cdp.call("Target.createTarget", url="http://example.org/a")
                cdp.call("Storage.setCookies", cookies=[{"name": tabs, "value": "1"}])
            self.sim.stop()
        self.sim.profile(101, start_tabs="restored")
        with Cdp(*self.started()) as cdp:
            self.assertEqual([one["url"] for one in cdp.pages()], ["http://example.org/a"])
            self.assertEqual([one["name"] for one in cdp.call("Storage.getCookies")["cookies"]], ["one", "none"])

    def test_09_guarded_calls_need_the_session_token(self):
        self.sim.profile(101, name="anna")
        session = self.sim.state()["session_token"]
        for path in ("/v1.0/browser_profiles", "/v1.0/browser_profiles/101"):
            for headers in ({}, {"authorization": f"Bearer {TOKEN}"}, {"x-anty-session-token": "wrong"}):
                reply = call(self.sim.api, path, headers=headers)
                self.assertEqual((reply.status, reply.json), (401, {"error": "invalid session token"}), headers)
            self.assertEqual(call(self.sim.api, path, headers={"x-anty-session-token": session}).status, 200)
        self.assertEqual(call(self.sim.api, "/v1.0/check/proxy", {"type": "http"}).status, 401)
        for path in ("active", "101/active", "101/automation", "101/status", "status"):
            path = path if path == "status" else f"browser_profiles/{path}"
            reply = call(self.sim.api, f"/v1.0/{path}")
            self.assertEqual(reply.status, 404, path)
            self.assertIn("text/html", reply.headers["content-type"])

    @needs_chromium
    def test_10_start_and_stop_with_and_without_bearer_real_chromium(self):
        self.sim.profile(101, browser="chromium")
        right, wrong = {"authorization": f"Bearer {TOKEN}"}, {"authorization": "Bearer of bad news"}
        self.assertEqual(self.sim.start(headers=right).status, 200)
        self.assert_stopped(self.sim.stop(headers=wrong))
        self.sim.profile(101)
        self.assertEqual(self.sim.start(headers=wrong).status, 200)
        self.assert_stopped(self.sim.stop(headers=right))
        self.assertEqual(self.sim.start(headers={}).status, 200)
        self.assert_stopped(self.sim.stop(headers={}))


class Cloud(SimCase):
    def get(self, path, token=TOKEN):
        return call(self.sim.cloud, path, headers={"authorization": f"Bearer {token}"} if token else {})

    def test_11_bearer_is_checked(self):
        for token in (None, "wrong"):
            self.assertEqual(self.get("/browser_profiles", token).status, 401)
        self.assertEqual(self.get("/browser_profiles").json["data"], [])

    def test_11_paging(self):
        self.sim.ask("/profiles", [{"id": number, "name": f"p{number}"} for number in range(1, 251)])
        first = self.get("/browser_profiles").json
        self.assertLess({"current_page", "data", "first_page_url", "from", "last_page", "last_page_url",
                         "next_page_url", "path", "per_page", "prev_page_url", "to"}, set(first))
        self.assertNotIn("success", first)
        self.assertEqual((len(first["data"]), first["last_page"], first["total"]), (50, 5, 250))
        capped = self.get("/browser_profiles?limit=1000&page=3").json
        self.assertEqual((len(capped["data"]), capped["per_page"], capped["last_page"]), (50, 100, 3))
        self.assertIsNone(capped["next_page_url"])
        beyond = self.get("/browser_profiles?limit=100&page=9").json
        self.assertEqual((beyond["data"], beyond["from"], beyond["to"]), ([], None, None))
        seen, url = [], first["first_page_url"]
        while url:
            page = self.get(re.sub("^http://[^/]+", "", url)).json
            seen += [one["id"] for one in page["data"]]
            url = page["next_page_url"]
        self.assertEqual(seen, list(range(1, 251)))
        self.sim.app(cloud_numbers="text")
        text = self.get("/browser_profiles").json
        self.assertEqual((text["total"], text["per_page"]), ("250", "50"))

    def test_11_single_profiles_and_their_refusals(self):
        self.sim.ask("/profiles", [{"id": 1, "name": "a"}, {"id": 2, "state": "no_access"},
                                   {"id": 3, "state": "password"}, {"id": 4, "state": "unknown"}])
        one = self.get("/browser_profiles/1").json["data"]
        self.assertEqual((one["id"], one["name"], one["browserType"]), (1, "a", "anty"))
        for number, status, code in ((2, 403, "ACCESS_DENIED"), (3, 403, "WRONG_PASSWORD"), (4, 404, None),
                                     (9, 404, None)):
            reply = self.get(f"/browser_profiles/{number}")
            self.assertEqual(reply.status, status, number)
            if code:
                self.assertEqual(reply.json["errorObject"]["code"], f"E_BROWSER_PROFILE_{code}")
        self.assertEqual(self.get("/browser_profiles/3?browserProfilePassword=secret").status, 200)

    def test_11_rate_limit(self):
        self.sim.app(cloud_rpm=3)
        left = [self.get("/browser_profiles").headers["x-ratelimiter-rpm-left"] for _ in range(3)]
        self.assertEqual(left, ["2", "1", "0"])
        over = self.get("/browser_profiles")
        self.assertEqual((over.status, over.headers["x-ratelimiter-allowed-rpm"]), (429, "3"))
        self.assertNotIn("retry-after", over.headers)

    def test_11_scripted_refusals(self):
        for name, status in (("cloud_401", 401), ("cloud_403", 403), ("cloud_404", 404), ("cloud_429", 429),
                             ("cloud_500", 500), ("cloud_html", 503)):
            self.sim.fault(name, on="cloud")
            self.assertEqual(self.get("/browser_profiles").status, status, name)
            self.assertEqual(self.get("/browser_profiles").status, 200, name)
        self.sim.fault("cloud_429", on="cloud", retry_after_seconds=7)
        self.assertEqual(self.get("/browser_profiles").headers["retry-after"], "7")

    def test_11_bad_pages(self):
        self.sim.ask("/profiles", [{"id": number} for number in range(1, 61)])
        kinds = self.sim.choices("cloud_bad_page", "kind")
        good = self.get("/browser_profiles").json
        for kind in kinds:
            self.sim.fault("cloud_bad_page", on="cloud", kind=kind)
            self.assertNotEqual(self.get("/browser_profiles").json, good, kind)
        self.assertEqual(self.get("/browser_profiles").json, good)


def listening_ports(pid):
    """The TCP ports at which a process listens."""
    inodes = set()
    for name in os.listdir(f"/proc/{pid}/fd"):
        try:
            inodes.add(os.readlink(f"/proc/{pid}/fd/{name}"))
        except OSError:
            continue
    with open("/proc/net/tcp") as file:
        rows = [line.split() for line in list(file)[1:]]
    return [int(row[1].partition(":")[2], 16) for row in rows if row[3] == "0A" and f"socket:[{row[9]}]" in inodes]


if __name__ == "__main__":
    unittest.main()
