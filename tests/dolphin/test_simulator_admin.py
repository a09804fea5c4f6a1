"""The admin API, the log, the seed, and the end: nothing of the simulator outlives it.

What the README promises of each route is asked for here; bad input must name its field and change nothing.
"""

import json
import os
import shlex
import signal
import unittest

from rig import (Calls, Cdp, Sim, SimCase, alive, call, needs_chromium, processes_naming, raw_call, version,
                 wait_until)

README = os.path.join(os.path.dirname(os.path.abspath(__file__)), "README.md")


class Admin(SimCase):
    def refused(self, path, body, field, status=422, method=None):
        before = self.sim.state()
        reply = call(self.sim.admin, path, body, method)
        self.assertEqual(reply.status, status, reply.body)
        self.assertEqual(reply.json.get("field"), field, reply.body)
        after = self.sim.state()
        for key in ("profiles", "faults", "settings", "up", "api"):
            self.assertEqual(before[key], after[key], "a refused call changes nothing")
        return reply.json["error"]

    def test_bad_profiles_name_their_field(self):
        for body, field in (
                ({}, ""), ([1], "/0"), ([{"name": "x"}], "/0/id"), ([{"id": 0}], "/0/id"), ([{"id": "1"}], "/0/id"),
                ([{"id": True}], "/0/id"), ([{"id": 1}, {"id": 1}], "/1/id"), ([{"id": 1, "colour": 1}], "/0/colour"),
                ([{"id": 1, "browser": "lynx"}], "/0/browser"),
                ([{"id": 1, "start_delay_ms": -1}], "/0/start_delay_ms"),
                ([{"id": 1, "automation_style": {"ws": "x"}}], "/0/automation_style/ws"),
                ([{"id": 1, "refusal": {"status": 99}}], "/0/refusal/status"), ([{"id": 1, "free": 1}], "/0/free"),
                ([{"id": 1, "name": "x" * 201}], "/0/name"), ([{"id": 1}, {"id": 2, "state": ""}], "/1/state"),
                ([{"id": 1, "tags": ["a", 2]}], "/0/tags/1")):
            self.assertIn(field or "the body", self.refused("/profiles", body, field))

    def test_bad_faults_name_their_field(self):
        good = {"call": "start", "fault": "slow"}
        for change, field in (
                ({"fault": "nonsense"}, "/fault"), ({"call": "jump"}, "/call"),
                ({"call": "stop", "fault": "cdp_late"}, "/call"),
                ({"nth": 0}, "/nth"), ({"times": -1}, "/times"), ({"profile": "x"}, "/profile"), ({"x": 1}, "/x"),
                ({"params": []}, "/params"), ({"params": {"ms": "1"}}, "/params/ms"),
                ({"params": {"ms": -5}}, "/params/ms"),
                ({"params": {"seconds": 1}}, "/params/seconds"), ({"chance": 2}, "/chance"),
                ({"fault": "generic_500", "params": {"status": 99}}, "/params/status")):
            self.refused("/faults", {**good, **change}, field)
        self.refused("/faults", [], "")

    def test_bad_orders_paths_and_methods(self):
        self.refused("/app", {"action": "dance"}, "/action")
        self.refused("/app", {"cloud_rpm": "many"}, "/cloud_rpm")
        self.refused("/app", {"action": "down", "speed": 1}, "/speed")
        self.refused("/profiles", b"[{", None, status=400)
        self.refused("/reset", {"data": "burn"}, "/data")
        self.refused("/log?after=x", None, "/after")
        self.refused("/nowhere", None, None, status=404)
        self.refused("/profiles/1/open", b"", None, status=404, method="POST")
        self.refused("/state", b"", None, status=405, method="POST")
        self.sim.profile(1)
        self.refused("/profiles/1/close", b"", None, status=409, method="POST")
        self.started(1)
        self.refused("/profiles/1/open", b"", None, status=409, method="POST")

    def test_log_tells_every_call(self):
        self.sim.profile(101)
        fault = self.sim.fault("generic_500", nth=2)
        self.sim.start(headers={"authorization": "Bearer very-secret"})
        self.sim.start()
        self.sim.fault("close_before_answer", on="running")
        raw_call(self.sim.api, "/v1.0/browser_profiles/running")
        entries = self.sim.ask("/log")["entries"]
        self.assertEqual([(one["call"], one["profile"], one["status"]) for one in entries],
                         [("start", 101, 200), ("start", 101, 500), ("running", None, None)])
        self.assertEqual(entries[1]["faults"], [{"id": fault, "fault": "generic_500"}])
        self.assertEqual(entries[0]["query"], {"automation": "1"})
        self.assertEqual(entries[0]["headers"]["authorization"], "Bearer ...")
        self.assertLessEqual(entries[0]["time_ms"], entries[0]["ended_ms"])
        self.assertEqual(len(self.sim.ask(f"/log?after={entries[1]['number']}&call=running")["entries"]), 1)
        self.assertEqual(self.sim.state()["calls"], {"start": 2, "running": 1})

    def test_a_call_that_hangs_is_in_the_log(self):
        self.sim.fault("hang", on="running", for_ms=300)
        with Calls(lambda: raw_call(self.sim.api, "/v1.0/browser_profiles/running")):
            (entry,) = wait_until("the call is there", lambda: self.sim.ask("/log")["entries"])
            self.assertEqual((entry["status"], entry["ended_ms"]), (None, None))

    def test_state_and_reset(self):
        self.sim.profile(101)
        port, _ = self.started()
        self.sim.fault("slow", times=0)
        (browser,) = self.sim.state()["browsers"]
        self.assertEqual((browser["profile"], browser["port"], browser["kind"]), (101, port, "stub"))
        with open(f"/proc/{browser['pid']}/stat") as file:
            self.assertEqual(int(file.read().rpartition(")")[2].split()[19]), browser["start_ticks"])
        self.sim.ask("/reset", {})
        state = self.sim.state()
        self.assertFalse(alive(browser["pid"]))
        self.assertEqual((state["browsers"], state["runs"], state["faults"], state["calls"]), ([], {}, [], {}))
        self.assertEqual([one["id"] for one in state["profiles"]], [101])
        self.sim.app(action="down")
        self.sim.ask("/reset", {})
        self.assertEqual(self.sim.running(), {}, "and the app is up")

    def test_faults_join_and_any_and_delete(self):
        self.sim.profile(101)
        self.sim.fault("slow", on="any", times=0, ms=100)
        self.sim.fault("duplicate")
        self.assert_duplicate(self.sim.start())
        found = self.sim.ask("/faults")
        self.assertEqual([(one["fault"], one["matched"], one["fired"]) for one in found],
                         [("slow", 1, 1), ("duplicate", 1, 1)])
        self.sim.ask("/faults", method="DELETE")
        self.assertEqual(self.sim.ask("/faults"), [])

    def test_names_cover_the_faults_of_the_reference(self):
        found = self.sim.ask("/faults/names")
        self.assertLessEqual(set(range(11, 26)) - {20}, {one["behaviour"] for one in found})
        for one in found:
            self.assertEqual(set(one), {"name", "behaviour", "calls", "stage", "params", "does"})

    def test_readme_names_every_fault_and_parameter(self):
        with open(README) as file:
            rows = {line.split("`")[1]: line for line in file if line.startswith("| `")}
        for one in self.sim.ask("/faults/names"):
            self.assertIn(one["name"], rows)
            for param, rule in one["params"].items():
                if param != "act":
                    self.assertIn(f"`{param}`", rows[one["name"]])
                for choice in rule.get("one_of", []) if one["name"] != "cdp_peer" else []:
                    self.assertIn(choice, rows[one["name"]])

    def test_readme_examples_work(self):
        with open(README) as file:
            examples = [shlex.split(line, comments=True)[1:] for line in file if line.startswith("curl ")]
        self.assertGreater(len(examples), 15)
        for words in examples:
            self.setUp()
            self.sim.profile(101)
            if words[-1].endswith(("/close", "/kill")):
                self.started()
            method, body = None, None
            while words[0] == "-X":
                method, words = words[1], words[2:]
            if "-d" in words:
                body = json.loads(words[words.index("-d") + 1])
                words = words[:words.index("-d")]
            (url,) = words
            reply = call(self.sim.admin, url.removeprefix("$A"), body, method)
            self.assertEqual(reply.status, 200, (url, reply.body))

    def test_stub_refuses_what_chrome_refuses(self):
        self.sim.profile(101)
        port, path = self.started()
        base = f"http://127.0.0.1:{port}"
        self.assertEqual(call(base, "/json/version", headers={"host": "evil.com"}).status, 500)
        self.assertEqual(call(base, "/json/new?about:blank").status, 405)
        self.assertEqual(call(base, "/json/new?http%3A%2F%2Fa%2F", method="PUT").json["url"], "http://a/")
        self.assertEqual(len(call(base, "/json/list").json), 2)
        with Cdp(port, path) as cdp:
            with self.assertRaisesRegex(RuntimeError, "wasn't found"):
                cdp.call("Page.printToPDF", cdp.page_session())
            cdp.call("Browser.close")
        wait_until("the browser ends", lambda: not self.sim.pids(), 5)

    @needs_chromium
    def test_a_start_that_cannot_be_is_a_500(self):
        sim = Sim("--chromium", "/bin/false")
        self.addCleanup(sim.end)
        sim.profile(1, browser="chromium")
        self.assertEqual(sim.start(1).status, 500)
        self.assertEqual((sim.running(), sim.state()["browsers"]), ({}, []))


class Seeds(unittest.TestCase):
    def story(self, seed):
        """What a fixed story looks like under a seed."""
        sim = Sim("--seed", seed)
        try:
            sim.profile(1)
            sim.profile(2)
            sim.ask("/faults", {"call": "running", "fault": "generic_500", "times": 0, "chance": 0.5})
            statuses = [call(sim.api, "/v1.0/browser_profiles/running").status for _ in range(30)]
            self.assertEqual({sim.start(2).status, sim.start(1).status}, {200})
            state = sim.state()
            return (statuses, state["session_token"], {key: run["run_id"] for key, run in state["runs"].items()},
                    {one["profile"]: one["uuid"] for one in state["browsers"]})
        finally:
            sim.end()

    def test_a_seed_decides_and_another_decides_otherwise(self):
        one, same, other = self.story("5"), self.story("5"), self.story("6")
        self.assertEqual(one, same)
        for mine, theirs in zip(one, other, strict=True):
            self.assertNotEqual(mine, theirs)
        self.assertEqual(set(one[0]), {200, 500})

    def test_a_reset_begins_the_same_anew(self):
        sim = Sim("--seed", "5")
        self.addCleanup(sim.end)
        sim.profile(1)
        rounds = []
        for _ in range(2):
            sim.start(1)
            rounds.append(sim.state()["runs"]["1"]["run_id"])
            sim.ask("/reset", {})
        self.assertEqual(rounds[0], rounds[1])


class Ends(unittest.TestCase):
    def busy(self, kind="stub"):
        """A simulator with a zombie, an orphan and a browser of `kind` without automation; and the pids of all."""
        sim = Sim()
        sim.ask("/profiles", [{"id": 1}, {"id": 2}, {"id": 3, "browser": kind}])
        sim.start(1)
        sim.fault("zombie", on="stop")
        sim.stop(1)
        sim.start(2)
        sim.app(action="restart", orphans="leave")
        sim.start(3, automation=False)
        pids = [one["pid"] for one in sim.state()["browsers"]]
        self.assertEqual(len(pids), 3)
        return sim, pids

    def assert_nothing_left(self, sim, pids):
        wait_until("the browsers have ended", lambda: not any(map(alive, pids)), 10)
        wait_until("nothing names the data folder", lambda: not processes_naming(sim.folder.name), 10)

    @needs_chromium
    def test_no_process_is_left_at_the_end_of_stdin(self):
        sim, pids = self.busy("chromium")
        self.assertEqual(sim.end(), 0)
        self.assert_nothing_left(sim, pids)

    def test_no_process_is_left_by_sigterm_with_a_call_under_way(self):
        sim, pids = self.busy()
        sim.fault("hang_but_launches")
        with Calls(lambda: sim.start(1)), Calls(lambda: sim.start(2)):
            sim.process.send_signal(signal.SIGTERM)
            self.assertEqual(sim.process.wait(20), 0)
        self.assert_nothing_left(sim, pids)
        sim.end()

    @needs_chromium
    def test_no_browser_outlives_a_simulator_that_was_killed(self):
        sim, pids = self.busy("chromium")
        sim.process.send_signal(signal.SIGKILL)
        sim.process.wait(20)
        self.assert_nothing_left(sim, pids)
        sim.process.stdin.close()
        sim.process.stdout.close()
        sim.folder.cleanup()

    def test_dozens_of_stubs(self):
        sim = Sim()
        self.addCleanup(sim.end)
        sim.ask("/profiles", [{"id": number} for number in range(1, 31)])
        with Calls(*(lambda number=number: sim.start(number) for number in range(1, 31))) as starts:
            pass
        ports = {reply.json["automation"]["port"] for reply in starts.replies}
        self.assertEqual((len(ports), len(sim.running())), (30, 30))
        self.assertIn("Browser", version(ports.pop()))
        for one in sim.state()["browsers"]:
            with open(f"/proc/{one['pid']}/statm") as file:
                self.assertLess(int(file.read().split()[1]) * 4096, 32 * 1024 * 1024)


if __name__ == "__main__":
    unittest.main()
