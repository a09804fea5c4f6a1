"""The simulator's faults, 12 to 25 of the reference, with stubs and, where the browser itself matters, Chromium.

The numbers in the names are those of section 8 of the reference. Each fault is seen to happen at the call that it
was ordered for and, where that is the point, to be over afterwards. Spoilt answers are in test_simulator_peers.py.
"""

import threading
import time
import unittest

from rig import (Cdp, SimCase, accepts, alive, call, needs_chromium, version, wait_until)


class Refusals(SimCase):
    def test_12_duplicate_in_every_shape(self):
        self.sim.profile(101)
        self.started()
        self.assert_duplicate(self.sim.start())
        for variant, status, holds in (
                ("errorObject", 500, lambda body: body["errorObject"]["code"] == "E_BROWSER_RUN_DUPLICATE"),
                ("nested", 500, lambda body: body["error"]["errorObject"]["code"] == "E_BROWSER_RUN_DUPLICATE"),
                ("text_only", 500, lambda body: set(body) == {"success", "error"} and "already running" in body["error"]),
                ("200_success_false", 200, lambda body: body["success"] is False)):
            self.sim.fault("duplicate", profile=101, variant=variant)
            reply = self.sim.start()
            self.assertEqual(reply.status, status, variant)
            self.assertTrue(holds(reply.json), reply.body)
            self.sim.profile(101, duplicate_style=variant)
            self.assertEqual(self.sim.start().body, reply.body, "the app's own rule sounds the same")

    def test_12_faults_of_one_profile_and_of_the_nth_call(self):
        self.sim.profile(101)
        self.sim.profile(102)
        self.sim.fault("generic_500", profile=101, nth=2, times=2)
        found = []
        for _ in range(4):
            found.append((self.sim.start(101).status, self.sim.start(102).status))
            self.sim.stop(101)
            self.sim.stop(102)
        self.assertEqual(found, [(200, 200), (500, 200), (500, 200), (200, 200)])

    def test_13_success_of_stop_and_yet_duplicate_or_ebusy(self):
        for name, holds in (("still_duplicate_for", self.assert_duplicate), ("ebusy_for", self.assert_ebusy)):
            self.sim.profile(101)
            self.started()
            self.sim.fault(name, on="stop", ms=400)
            self.assert_stopped(self.sim.stop())
            self.assertEqual(self.sim.running(), {})
            holds(self.sim.start())
            wait_until("the profile is free", lambda: self.sim.start().status == 200, 5)
            self.sim.stop()

    def assert_ebusy(self, reply):
        self.assertEqual(reply.status, 500)
        self.assertIn("EBUSY: resource busy or locked", reply.json["error"])
        self.assertIn("Cookies", reply.json["error"])

    def test_13_ebusy_and_lock_once(self):
        self.sim.profile(101)
        self.sim.fault("ebusy")
        self.assert_ebusy(self.sim.start())
        self.sim.fault("locked_profile")
        reply = self.sim.start()
        self.assertIn("DevToolsActivePort", reply.json["error"])
        self.assertIn("profile is locked", reply.json["error"])
        self.started()

    def test_16_generic_failures(self):
        self.sim.profile(101)
        self.sim.fault("generic_500")
        self.assertEqual((self.sim.start().status, self.sim.pids()), (500, []))
        self.sim.fault("html_500")
        reply = self.sim.start()
        self.assertEqual((reply.status, reply.headers["content-type"]), (500, "text/html; charset=utf-8"))
        self.sim.fault("init_connection_error")
        self.assertIn("initConnectionError", self.sim.start().json["error"])
        self.sim.fault("init_connection_error", status=200)
        self.assertIs(self.sim.start().json["success"], False)
        self.sim.fault("redirect")
        self.assertEqual(self.sim.start().headers["location"], "/v1.0/browser_profiles/101/start")
        self.started()

    def test_17_plans_limits_and_parameters(self):
        for number in (1, 2, 3, 4):
            self.sim.profile(number, free=True)
            reply = self.sim.start(number)
            self.assertEqual((reply.status, reply.json["error"]), (402, "On free plan you can't use automation"))
        self.assertEqual([self.sim.start(number, automation=False).status for number in (1, 2, 3)], [200] * 3)
        fourth = self.sim.start(4, automation=False)
        self.assertEqual((fourth.status, fourth.json["errorObject"]["code"]),
                         (499, "FREE_PLAN_PROFILE_LIMIT_EXCEEDED"))
        self.sim.profile(101)
        for body, named in (({"colour": 1}, "colour"), ({"screenWidth": 100}, "screenWidth"), ({"dpr": 5}, "dpr"),
                            ({"headless": "1"}, "headless"), ([], "object")):
            reply = self.sim.start(automation=False, body=body)
            self.assertEqual(reply.status, 400, body)
            self.assertIn(named, reply.json["error"])
        for name, status in (("free_plan_402", 402), ("limit_499", 499), ("too_many_429", 429), ("bad_request_400", 400)):
            self.sim.fault(name)
            self.assertEqual(self.sim.start().status, status)
        self.sim.fault("too_many_429", retry_after_seconds=3)
        self.assertEqual(self.sim.start().headers["retry-after"], "3")

    def test_17_too_many_at_once(self):
        self.sim.app(max_parallel_starts=1)
        self.sim.profile(101, start_delay_ms=500)
        self.sim.profile(102)
        with Calls(lambda: self.sim.start(101)) as first:
            wait_until("a start is under way", lambda: self.sim.state()["now"]["start"])
            self.assertEqual(self.sim.start(102).status, 429)
        self.assertEqual(first.replies[0].status, 200)
        self.started(102)

    def test_17_signed_out_until_login(self):
        self.sim.profile(101)
        for name in ("signed_out_401", "token_refresh_timeout"):
            self.sim.fault(name)
            self.assertEqual(self.sim.start().status, 401)
            self.assertEqual((self.sim.start().status, self.sim.stop().status), (401, 401))
            self.assertEqual(self.sim.login("wrong").status, 401)
            self.assertEqual(self.sim.start().status, 401)
            self.assertEqual(self.sim.login().status, 200)
            self.started()
            self.assert_stopped(self.sim.stop())
            self.sim.fault(name, until_login=False)
            self.assertEqual((self.sim.start().status, self.sim.start().status), (401, 200))
            self.sim.stop()

    def test_21_unknown_profiles_are_as_configured(self):
        bare = self.sim.start(999)
        self.assertEqual((bare.status, bare.json), (500, {"success": False, "error": "Internal error"}))
        denied = {"status": 403, "code": "E_BROWSER_PROFILE_ACCESS_DENIED", "text": "Access denied"}
        for state in ("unknown", "no_access", "password"):
            self.sim.profile(101, state=state)
            self.assertEqual(self.sim.start().body, bare.body, state)
            self.sim.profile(101, state=state, refusal=denied)
            reply = self.sim.start()
            self.assertEqual((reply.status, reply.json["errorObject"]["code"]), (403, denied["code"]))
        opened = self.sim.start(automation=False, body={"automation": True, "browserProfilePassword": "secret"})
        self.assertEqual(opened.status, 200)
        self.sim.fault("unknown_profile", on="stop", **denied)
        self.assertEqual(self.sim.stop().status, 403)

    def test_22_just_created(self):
        self.sim.profile(101, just_created_ms=300)
        self.assertEqual(self.sim.start().status, 500)
        wait_until("the profile is known", lambda: self.sim.start().status == 200, 5)
        self.sim.stop()
        self.sim.fault("just_created", times=0, for_ms=300)
        self.assertEqual(self.sim.start().status, 500)
        wait_until("the fault is over", lambda: self.sim.start().status == 200, 5)


class Cdps(SimCase):
    def test_14_port_opens_late_never_or_crashes(self):
        self.sim.profile(101)
        self.sim.fault("cdp_late", ms=400)
        port, path = self.started()
        self.assertFalse(accepts(port))
        wait_until("the port opens", lambda: accepts(port), 5)
        with Cdp(port, path) as cdp:
            self.assertIn("Chrome", cdp.call("Browser.getVersion")["product"])
        self.sim.stop()
        self.sim.fault("cdp_never")
        port, _ = self.started()
        self.assertFalse(accepts(port))
        self.assertTrue(alive(self.sim.pids()[0]))
        self.sim.stop()
        self.sim.profile(101, running_lag_ms=0)
        self.sim.fault("cdp_crash")
        port, _ = self.started()
        wait_until("the browser dies", lambda: not self.sim.pids(), 5)
        self.assertFalse(accepts(port))
        wait_until("the app notices", lambda: self.sim.running() == {}, 5)

    @needs_chromium
    def test_14_port_opens_late_real_chromium(self):
        self.sim.profile(101, browser="chromium")
        self.sim.fault("cdp_late", ms=500)
        port, path = self.started()
        self.assertFalse(accepts(port))
        wait_until("the port opens", lambda: accepts(port), 5)
        self.assertEqual(version(port)["webSocketDebuggerUrl"], f"ws://127.0.0.1:{port}{path}")
        with Cdp(port, path) as cdp:
            self.assertIn("Chrome", cdp.call("Browser.getVersion")["product"])

    def test_14_port_that_accepts_and_is_silent_or_bad(self):
        self.sim.profile(101)
        self.sim.fault("cdp_frozen", for_ms=700)
        port, _ = self.started()
        wait_until("the browser is frozen", lambda: stopped(self.sim.pids()[0]), 5)
        with self.assertRaises(TimeoutError):
            call(f"http://127.0.0.1:{port}", "/json/version", timeout=0.2)
        wait_until("it goes on", lambda: not stopped(self.sim.pids()[0]), 5)
        self.assertIn("Browser", version(port))
        self.sim.stop()
        self.sim.fault("cdp_peer", peer="html_200")
        port, _ = self.started()
        self.assertIn("text/html", call(f"http://127.0.0.1:{port}", "/json/version").headers["content-type"])
        self.assert_stopped(self.sim.stop())
        self.assertFalse(accepts(port))

    def test_15_answers_without_a_usable_endpoint(self):
        self.sim.profile(101)
        for name, holds in (
                ("no_automation", lambda body: body == {"success": True}),
                ("automation_null", lambda body: body == {"success": True, "automation": None}),
                ("port_zero", lambda body: body["automation"]["port"] == 0),
                ("empty_ws", lambda body: body["automation"]["wsEndpoint"] == ""),
                ("other_port", lambda body: not accepts(body["automation"]["port"]))):
            self.sim.fault(name)
            reply = self.sim.start()
            self.assertTrue(reply.status == 200 and holds(reply.json), (name, reply.body))
            self.assert_duplicate(self.sim.start())
            self.sim.stop()

    @needs_chromium
    def test_15_stale_uuid_real_chromium(self):
        self.sim.profile(101, browser="chromium")
        _, old = self.started()
        self.sim.stop()
        self.sim.fault("stale_uuid")
        port, path = self.started()
        self.assertEqual(path, old, "it is the UUID of the last launch")
        with self.assertRaises(ConnectionRefusedError):
            Cdp(port, path)
        self.assertIn("Chrome/", version(port)["Browser"])

    @needs_chromium
    def test_23_dead_proxy_real_chromium(self):
        self.sim.profile(101, browser="chromium")
        self.sim.fault("dead_proxy")
        with Cdp(*self.started()) as cdp:
            session = cdp.page_session()
            for url in (self.sim.cloud, "http://example.org/"):
                self.assertEqual(cdp.call("Page.navigate", session, url=url)["errorText"],
                                 "net::ERR_PROXY_CONNECTION_FAILED")
        self.sim.stop()
        with Cdp(*self.started()) as cdp:
            self.assertNotIn("errorText", cdp.call("Page.navigate", cdp.page_session(), url=self.sim.cloud))

    def test_23_dead_proxy_of_a_stub(self):
        self.sim.profile(101)
        self.sim.fault("dead_proxy")
        with Cdp(*self.started()) as cdp:
            self.assertIn("PROXY", cdp.call("Page.navigate", cdp.page_session(), url="http://a/")["errorText"])


class Timing(SimCase):
    def test_18_start_hangs_and_launches_or_does_not(self):
        self.sim.profile(101)
        self.sim.fault("hang_but_launches")
        with self.assertRaises(TimeoutError):
            self.sim.start(timeout=0.5)
        wait_until("it launched", lambda: self.sim.running(), 5)
        self.assert_duplicate(self.sim.start())
        self.sim.stop()
        self.sim.fault("hang_but_launches", answer_after_ms=300)
        began = time.monotonic()
        port, _ = self.started()
        self.assertGreaterEqual(time.monotonic() - began, 0.3)
        self.assertTrue(accepts(port))
        self.sim.stop()
        self.sim.fault("hang")
        with self.assertRaises(TimeoutError):
            self.sim.start(timeout=0.3)
        self.assertEqual((self.sim.running(), self.sim.pids()), ({}, []))

    @needs_chromium
    def test_18_a_launch_goes_on_when_its_caller_is_gone_real_chromium(self):
        self.sim.profile(101, browser="chromium", start_delay_ms=300)
        with self.assertRaises(TimeoutError):
            self.sim.start(timeout=0.1)
        self.assert_duplicate(self.sim.start())
        wait_until("it launched", lambda: self.sim.running(), 10)
        self.assert_duplicate(self.sim.start())
        self.assert_stopped(self.sim.stop())

    def test_18_stop_while_starting(self):
        for switch, success in (("waits", True), ("not_running", False)):
            self.sim.profile(101, start_delay_ms=400, stop_while_starting=switch)
            with Calls(self.sim.start) as first:
                wait_until("a start is under way", lambda: self.sim.state()["runs"])
                self.assertIs(self.sim.stop().json["success"], success)
            self.assertEqual(first.replies[0].status, 200)
            self.assertEqual(list(self.sim.running()), [] if success else ["101"])

    def test_19_stop_hangs_or_fails(self):
        self.sim.profile(101)
        self.started()
        (pid,) = self.sim.pids()
        self.sim.fault("stop_hangs", on="stop")
        with self.assertRaises(TimeoutError):
            self.sim.stop(timeout=0.3)
        self.sim.fault("stop_500", on="stop")
        self.assertEqual(self.sim.stop().status, 500)
        self.sim.fault("stop_success_false", on="stop")
        self.assertIn("PID file", self.sim.stop().json["message"])
        self.assertTrue(alive(pid))
        self.assertEqual(list(self.sim.running()), ["101"])
        self.sim.fault("stop_500", on="stop", closes=True)
        self.assertEqual(self.sim.stop().status, 500)
        self.assertFalse(alive(pid))
        self.started()
        self.sim.fault("stop_hangs", on="stop", closes=True, answer_after_ms=100)
        self.assert_stopped(self.sim.stop())
        self.assertEqual(self.sim.running(), {})

    @needs_chromium
    def test_19_zombie_real_chromium(self):
        self.sim.profile(101, browser="chromium")
        port, _ = self.started()
        (pid,) = self.sim.pids()
        self.sim.fault("zombie", on="stop")
        self.assert_stopped(self.sim.stop())
        self.assertEqual(self.sim.running(), {})
        self.assertTrue(alive(pid))
        self.assertIn("Chrome/", version(port)["Browser"])
        self.assertIn("profile is locked", self.sim.start().json["error"])
        self.assert_stopped(self.sim.stop())
        self.assertTrue(alive(pid), "the app does not know it any more")
        self.assert_stopped(self.sim.stop(query="?retryToStop=true"))
        self.assertFalse(alive(pid))
        self.started()

    def test_19_zombie_that_stays_listed(self):
        self.sim.profile(101)
        self.started()
        self.sim.fault("zombie", on="stop", listed=True)
        self.assert_stopped(self.sim.stop())
        self.assertEqual(list(self.sim.running()), ["101"])
        self.assert_duplicate(self.sim.start())
        self.assert_stopped(self.sim.stop())
        self.assertEqual(self.sim.running(), {})

    def test_24_parallel_stops_are_slow_or_busy(self):
        for number in (1, 2, 3):
            self.sim.profile(number)
            self.started(number)
        self.sim.fault("slow_parallel_stop", on="stop", times=0, per_other_ms=300)
        began = time.monotonic()
        with Calls(*(lambda number=number: self.sim.stop(number) for number in (1, 2, 3))) as stops:
            pass
        self.assertGreaterEqual(time.monotonic() - began, 0.3)
        self.assertEqual([one.status for one in stops.replies], [200] * 3)
        most = self.sim.state()["most_at_once"]
        self.assertGreaterEqual(most["stop"], 2)
        self.assertEqual(most["by_profile"]["1"]["stop"], 1)
        self.sim.ask("/faults", method="DELETE")
        for number in (1, 2):
            self.started(number)
        self.sim.fault("slow_parallel_stop", on="stop", times=0, per_other_ms=300, error_over=1)
        with Calls(*(lambda number=number: self.sim.stop(number) for number in (1, 2))) as stops:
            pass
        self.assertIn("EBUSY", "".join(one.body.decode() for one in stops.replies))

    def test_24_slow_running(self):
        for number in (1, 2, 3):
            self.sim.profile(number)
            self.started(number)
        self.sim.fault("slow", on="running", ms=100, per_profile_ms=100)
        began = time.monotonic()
        self.assertEqual(len(self.sim.running()), 3)
        self.assertGreaterEqual(time.monotonic() - began, 0.4)


class AppAndPeople(SimCase):
    def test_20_app_down_and_up(self):
        self.sim.profile(101)
        port, _ = self.started()
        before = self.sim.state()
        self.assertFalse(self.sim.app(action="down")["up"])
        with self.assertRaises(ConnectionRefusedError):
            self.sim.running()
        self.assertTrue(accepts(port), "orphans are left alive unless told otherwise")
        self.sim.app(action="up")
        self.assertEqual(self.sim.running(), {})
        self.assertEqual(self.sim.state()["api"], before["api"])
        self.assertNotEqual(self.sim.state()["session_token"], before["session_token"])

    @needs_chromium
    def test_20_restart_with_orphans_real_chromium(self):
        self.sim.profile(101, browser="chromium")
        port, _ = self.started()
        (pid,) = self.sim.pids()
        old = self.sim.api
        self.sim.app(action="restart", orphans="leave", move_port=True)
        self.assertNotEqual(self.sim.api, old)
        with self.assertRaises(ConnectionRefusedError):
            call(old, "/v1.0/browser_profiles/running")
        self.assertEqual(self.sim.running(), {})
        self.assertIn("Chrome/", version(port)["Browser"])
        self.assertIn("profile is locked", self.sim.start().json["error"])
        self.sim.profile(101, browser="chromium", leftover_start="duplicate")
        self.assert_duplicate(self.sim.start())
        self.sim.app(action="restart", orphans="kill")
        self.assertFalse(alive(pid))
        self.started()

    def test_20_down_cuts_calls_under_way_and_launches(self):
        self.sim.profile(101, start_delay_ms=300)
        with Calls(self.sim.start) as first:
            wait_until("a start is under way", lambda: self.sim.state()["runs"])
            self.sim.app(action="restart")
        self.assertIsInstance(first.replies[0], ConnectionError)
        self.sim.profile(101)
        self.started()
        self.assertEqual(len(self.sim.pids()), 1, "the launch that was cut did not come")
        self.sim.app(action="restart", orphans="kill", signed_in=False)
        self.assertEqual(self.sim.start().status, 401)
        self.sim.login()
        self.started()

    @needs_chromium
    def test_25_closed_by_a_human_real_chromium(self):
        self.sim.profile(101, browser="chromium", running_lag_ms=400)
        port, _ = self.started()
        (pid,) = self.sim.pids()
        self.sim.ask("/profiles/101/close", method="POST")
        self.assertFalse(alive(pid))
        self.assertFalse(accepts(port))
        self.assertEqual(list(self.sim.running()), ["101"], "running still shows it")
        self.assert_duplicate(self.sim.start())
        wait_until("running drops it", lambda: self.sim.running() == {}, 5)
        self.started()

    def test_25_opened_and_killed(self):
        self.sim.profile(101, running_lag_ms=0)
        self.sim.ask("/profiles/101/open", method="POST")
        self.assert_duplicate(self.sim.start())
        self.assertEqual(list(self.sim.running()), ["101"])
        self.assert_stopped(self.sim.stop())
        self.started()
        (pid,) = self.sim.pids()
        self.sim.ask("/profiles/101/kill", method="POST")
        self.assertFalse(alive(pid))
        wait_until("running drops it", lambda: self.sim.running() == {}, 5)

    def test_25_lag_by_a_fault(self):
        self.sim.profile(101, running_lag_ms=0)
        self.sim.fault("running_lag", ms=400)
        self.started()
        self.sim.ask("/profiles/101/kill", method="POST")
        self.assertEqual(list(self.sim.running()), ["101"])
        wait_until("running drops it", lambda: self.sim.running() == {}, 5)
        self.started()
        self.sim.fault("running_lag", on="stop", ms=400)
        self.assert_stopped(self.sim.stop())
        self.assertEqual(list(self.sim.running()), ["101"])
        wait_until("running drops it", lambda: self.sim.running() == {}, 5)


class Calls:
    """Calls made at once, each in a thread; `replies` holds their replies or errors when the block is left."""

    def __init__(self, *calls):
        self.calls = calls
        self.replies = []

    def __enter__(self):
        self.replies = [None] * len(self.calls)
        self.threads = [threading.Thread(target=self.one, args=(at,)) for at in range(len(self.calls))]
        for thread in self.threads:
            thread.start()
        return self

    def one(self, at):
        try:
            self.replies[at] = self.calls[at]()
        except OSError as reason:
            self.replies[at] = reason

    def __exit__(self, *reason):
        for thread in self.threads:
            thread.join(30)


def stopped(pid):
    with open(f"/proc/{pid}/stat") as file:
        return file.read().rpartition(")")[2].split()[0] == "T"


if __name__ == "__main__":
    unittest.main()
