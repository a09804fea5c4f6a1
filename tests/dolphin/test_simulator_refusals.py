"""The simulator's refusals: behaviours 12, 13, 16, 17, 21 and 22 of the reference, with stubs.

The numbers in the names are those of section 8 of the reference. Each refusal is seen at the call that it was
ordered for and, where that is the point, to be over afterwards.
"""

import unittest

from rig import Calls, SimCase, wait_until


class Refusals(SimCase):
    def test_12_duplicate_in_every_shape(self):
        self.sim.profile(101)
        self.started()
        self.assert_duplicate(self.sim.start())
        for variant, status, holds in (
                ("errorObject", 500, lambda body: body["errorObject"]["code"] == "E_BROWSER_RUN_DUPLICATE"),
                ("nested", 500, lambda body: body["error"]["errorObject"]["code"] == "E_BROWSER_RUN_DUPLICATE"),
                ("text_only", 500, lambda body: "errorObject" not in body and "already running" in body["error"]),
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
        self.assertEqual(self.sim.start().headers["location"], "/v1.0/browser_profiles/101/start?automation=1")
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
        for name in ("free_plan_402", "limit_499", "too_many_429", "bad_request_400"):
            self.sim.fault(name)
            self.assertEqual(self.sim.start().status, int(name[-3:]))
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
        self.sim.ask("/faults", {"call": "start", "fault": "just_created", "params": {"for_ms": 300}})
        self.assertEqual(self.sim.start().status, 500)
        wait_until("the fault is over", lambda: self.sim.start().status == 200, 5)


if __name__ == "__main__":
    unittest.main()
