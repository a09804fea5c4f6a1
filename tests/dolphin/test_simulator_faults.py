"""The simulator's faults in what happens and when: 14, 15, 18 to 20, 23 to 25, with Chromium where it matters.

The numbers in the names are those of section 8 of the reference. Each fault is seen to happen at the call that it
was ordered for and, where that is the point, to be over afterwards. Refusals are in test_simulator_refusals.py.
"""

import time
import unittest

from rig import Calls, Cdp, SimCase, accepts, alive, call, needs_chromium, stopped, version, wait_until


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
        wait_until("it launched", self.sim.running, 5)
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
        wait_until("it launched", self.sim.running, 10)
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
        for error_over in (0, 1):
            self.sim.profile(1, stop_delay_ms=800)
            self.sim.profile(2)
            self.started(1)
            self.started(2)
            fault = {"times": 0, "per_other_ms": 400, "error_over": error_over}
            self.sim.fault("slow_parallel_stop", on="stop", **fault)
            with Calls(lambda: self.sim.stop(1)) as first:
                wait_until("a stop is under way", lambda: self.sim.state()["now"]["stop"])
                began = time.monotonic()
                second = self.sim.stop(2)
            self.assertEqual(first.replies[0].status, 200)
            if error_over:
                self.assert_ebusy(second)
            else:
                self.assertGreaterEqual(time.monotonic() - began, 0.4)
                self.assert_stopped(second)
            self.sim.ask("/faults", method="DELETE")
        most = self.sim.state()["most_at_once"]
        self.assertEqual((most["stop"], most["by_profile"]["1"]["stop"]), (2, 1))

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
        self.sim.profile(102)
        self.started(102)
        self.sim.app(action="restart", orphans="kill")
        self.started()
        self.assertNotEqual(self.sim.state()["browsers"][0]["uuid"], before["browsers"][0]["uuid"])
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
        self.sim.profile(101)
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
        self.sim.profile(101)
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


if __name__ == "__main__":
    unittest.main()
