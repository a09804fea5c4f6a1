"""What the desktop app believes and does: which profiles run, and what start, stop and a restart mean for them.

Owns the runs (the app's belief) and the live browsers (the truth), and keeps them apart on purpose: a zombie, an
orphan of a restart and a window that a human closed are the three ways in which they differ. Called by the local
API for clients and by the admin for people; knows nothing of HTTP. A launch belongs to the app, not to the call
that asked for it: it goes on when the caller has gone (behaviour 18).

Where the reference says "unverified" (§9) these were chosen: a start while the profile is starting, running,
stopping or lagging is DUPLICATE; a stop while it is starting waits for the launch (`stop_while_starting` switches
to "PID file not found"); a second stop at once joins the first; a start beside a living browser that the app does
not know is refused as a locked profile (`leftover_start` switches to DUPLICATE).
"""

import asyncio
import os
import random
import shutil
import traceback
import uuid

from . import launch
from .wire import bind

FIRST_TEMPORARY_ID = 900_000_001
MOST_BROWSERS = 300


class Run:
    """One run of a profile as the app sees it: starting, running, stopping or lagging."""

    def __init__(self, profile, run_id, automation):
        self.profile = profile
        self.run_id = run_id
        self.automation = automation
        self.state = "starting"
        self.browser = None
        self.lag_ms = profile.running_lag_ms
        self.lags_after_stop = False
        self.launching = None
        self.stopping = None


class App:
    def __init__(self, seed, data, chromium, clock_ms):
        self.seed = seed
        self.data = data
        self.chromium = chromium
        self.clock_ms = clock_ms
        self.profiles = {}
        self.browsers = []
        self.proxy_hole = bind("127.0.0.1", 0)
        self.settings = {"plan": "paid", "tokens": ["sim-api-token"], "max_parallel_starts": 0,
                         "temporary_browser": "stub"}
        self.generation = 0
        self.tasks = set()
        self.forget()
        self.begin_anew()

    def forget(self):
        """What the app forgets when it ends: everything that it does not keep on disk."""
        self.runs = {}
        self.blocked = {}
        self.auth = "ok"
        self.stuck_status = 401

    def begin_anew(self):
        """Makes a world in which nothing was launched yet; a restart of the app alone does not."""
        self.launches = {}
        self.last_uuid = {}
        self.temporary = 0
        self.session_token = self.uuid_of("session", 0)

    def uuid_of(self, *parts):
        """A UUID that depends on the seed and on `parts` alone, not on the order of calls."""
        dice = random.Random("/".join(str(part) for part in (self.seed, *parts)))
        return str(uuid.UUID(int=dice.getrandbits(128), version=4))

    def spawn(self, work):
        task = asyncio.get_running_loop().create_task(work)
        self.tasks.add(task)
        task.add_done_callback(self.over)
        return task

    def over(self, task):
        self.tasks.discard(task)
        reason = None if task.cancelled() else task.exception()
        if reason is not None and not isinstance(reason, launch.LaunchFailed):
            traceback.print_exception(reason)

    def data_dir(self, profile_id):
        return os.path.join(self.data, "browser_profiles", str(profile_id), "data_dir")

    def closed_port(self):
        """A port of ours at which nobody listens."""
        return self.proxy_hole.getsockname()[1]

    def stale_uuid(self, profile_id):
        return self.last_uuid.get(profile_id) or self.uuid_of(profile_id, "stale")

    def leftovers(self, profile_id):
        """Living browsers of the profile that the app does not know of."""
        known = self.runs[profile_id].browser if profile_id in self.runs else None
        return [one for one in self.browsers
                if one.order.profile_id == profile_id and one.alive() and one is not known]

    def blocked_by(self, profile_id):
        until_ms, how = self.blocked.get(profile_id, (0, None))
        return how if self.clock_ms() < until_ms else None

    def block(self, profile_id, for_ms, how):
        self.blocked[profile_id] = (self.clock_ms() + for_ms, how)

    # Start.

    def begin(self, profile, automation, tabs, change=None):
        """Begins a run; its `launching` task ends with the browser, or with LaunchFailed."""
        if len(self.browsers) >= MOST_BROWSERS:
            raise launch.LaunchFailed(f"{MOST_BROWSERS} browsers run already")
        number = self.launches.get(profile.id, 0) + 1
        self.launches[profile.id] = number
        order = launch.Order(profile.id, profile.browser, self.data_dir(profile.id),
                             self.uuid_of(profile.id, number, "browser"), automation, tabs)
        order.run_id = self.uuid_of(profile.id, number, "run")
        run = Run(profile, order.run_id, automation)
        if change is not None:
            change(run, order)
        self.runs[profile.id] = run
        run.launching = self.spawn(self.launch(run, order, self.generation))
        return run

    async def launch(self, run, order, generation):
        profile = run.profile
        try:
            await asyncio.sleep(profile.start_delay_ms / 1000)
            if generation != self.generation:
                raise launch.LaunchFailed("the app ended")
            browser = await launch.launch(order, self.chromium)
        except BaseException:
            if self.runs.get(profile.id) is run:
                del self.runs[profile.id]
            raise
        self.browsers.append(browser)
        self.spawn(self.watch(browser))
        if generation == self.generation:
            run.browser = browser
            run.state = "running"
        return browser

    async def watch(self, browser):
        """Learns the end of a browser; one that the app did not ask for is noticed after a lag (25)."""
        await browser.process.exited.wait()
        run = self.runs.get(browser.order.profile_id)
        if run is not None and run.browser is browser and run.state == "running":
            self.spawn(self.drop_later(run))
        await browser.ended()
        self.last_uuid[browser.order.profile_id] = browser.uuid
        self.browsers.remove(browser)

    async def drop_later(self, run):
        run.state = "lagging"
        await asyncio.sleep(run.lag_ms / 1000)
        if self.runs.get(run.profile.id) is run:
            del self.runs[run.profile.id]

    # Stop.

    async def stop(self, run, keeps_listed_ms=0):
        """Stops a run and answers when it is stopped. Calls at once join each other."""
        if run.stopping is None:
            run.stopping = self.spawn(self.end(run, keeps_listed_ms))
        await asyncio.shield(run.stopping)

    async def end(self, run, keeps_listed_ms):
        if run.browser is None:
            await asyncio.wait([run.launching])
        run.state = "stopping"
        if run.browser is not None:
            await run.browser.close()
        await asyncio.sleep(run.profile.stop_delay_ms / 1000)
        if keeps_listed_ms:
            run.lag_ms, run.lags_after_stop = keeps_listed_ms, True
            self.spawn(self.drop_later(run))
        else:
            self.let_go(run)
        if run.profile.id >= FIRST_TEMPORARY_ID and run.profile.name == "temporary":
            self.profiles.pop(run.profile.id, None)
            shutil.rmtree(os.path.dirname(self.data_dir(run.profile.id)), ignore_errors=True)

    def let_go(self, run):
        """Forgets a run; its browser may live on as a leftover."""
        if self.runs.get(run.profile.id) is run:
            del self.runs[run.profile.id]

    # The app itself.

    async def down(self, orphans):
        """The app ends: it forgets what runs, and its browsers are left alive or killed."""
        self.generation += 1
        launching = [run.launching for run in self.runs.values() if run.state == "starting"]
        self.forget()
        if orphans == "kill":
            for task in launching:
                task.cancel()
            await self.kill_all()

    async def kill_all(self):
        living = list(self.browsers)
        for browser in living:
            browser.process.send_all(9)
        await asyncio.gather(*(browser.ended() for browser in living))

    def new_session_token(self):
        self.session_token = self.uuid_of("session", self.session_token)

    async def end_all(self):
        """Everything ends: launches under way, browsers, tasks."""
        await self.down("kill")
        for task in list(self.tasks):
            task.cancel()
        await asyncio.gather(*self.tasks, return_exceptions=True)
        await self.kill_all()

    def running_map(self):
        return {str(run.profile.id): {"runid": run.run_id, "pid": run.browser.pid}
                for run in self.runs.values() if run.browser is not None}

    def shown(self):
        return {
            "profiles": [profile.shown() for profile in self.profiles.values()],
            "browsers": [browser.shown() for browser in self.browsers if browser.alive()],
            "runs": {str(run.profile.id): {"run_id": run.run_id, "state": run.state, "automation": run.automation,
                                           "pid": run.browser.pid if run.browser else None}
                     for run in self.runs.values()},
            "auth": self.auth, "session_token": self.session_token, "settings": self.settings,
        }
