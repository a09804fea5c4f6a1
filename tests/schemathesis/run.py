#!/usr/bin/env python3
"""schemathesis over the whole description of the API, against a real daemon of its own.

Makes a few things of each kind, so that paths with ids lead somewhere, then has schemathesis send what the
description allows and what it forbids, and follow its links. Fails on any 5xx, on any answer that the
description does not have, and on a daemon that ended or panicked meanwhile.

    run.py PATH_OF_COVE [EXAMPLES] [SEED]

The daemon listens on loopback at a free port, has no browser, and ends with this program.
"""

import json
import os
import random
import signal
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from pathlib import Path

HERE = Path(__file__).resolve().parent
ROOT = HERE.parent.parent
# What is allowed by the description, and refused for what it names: an unknown flow, a busy profile.
CONFIG = """
request-timeout = 70
continue-on-failure = true

[generation]
max-examples = {examples}

[checks]
positive_data_acceptance.expected-statuses = ["2xx", "3xx", "401", "403", "404", "409", "422", "426"]
# A worker may wait a minute for work.
max_response_time = 65

[phases.stateful]
max-steps = 12

# It has no end of its own; tests/it/events.rs listens to it.
[[operations]]
include-path = "/api/v1/events"
enabled = false
"""


class Daemon:
    def __init__(self, cove, folder):
        self.folder = folder
        self.state = folder / "state"
        limits = {f"COVE_LIMITS__{name}": "0" for name in ["REQUESTS", "TASK_STARTS", "HEALTH", "METRICS", "LOCKS"]}
        self.env = {name: value for name, value in os.environ.items() if not name.startswith("COVE_")} | limits | {
            "COVE_SERVER__LISTEN": "127.0.0.1:0",
            "COVE_SERVER__SOCKET": str(folder / "sock"),
            "COVE_STATE__DIR": str(self.state),
            "COVE_MEDIA__ROOTS": json.dumps([str(folder / "media")]),
            "COVE_BROWSER__CHROMIUM": "/nonexistent/chromium",
            "COVE_AUTH__OPEN_ON_LOOPBACK": "",
            # However busy the machine is, it is no reason: a 503 is a failure here.
            "COVE_RESOURCES__CPU_THRESHOLD_PERCENT": "0",
        }
        self.cove = cove
        self.log = folder / "daemon.log"
        with open(self.log, "wb") as log:
            self.process = subprocess.Popen([cove, "serve"], env=self.env, stdout=log, stderr=log)
        listen = self.state / "listen"
        deadline = time.monotonic() + 60
        while not listen.exists():
            if self.process.poll() is not None or time.monotonic() > deadline:
                sys.exit(f"the daemon did not start:\n{self.log.read_text()}")
            time.sleep(0.05)
        self.base = f"http://{listen.read_text().strip()}"
        made = self.run("tokens", "create", "schemathesis", "--scope", "admin", "--json")
        self.token = json.loads(made)["token"]

    def run(self, *arguments):
        return subprocess.run([self.cove, *arguments], env=self.env, check=True, stdout=subprocess.PIPE).stdout

    def call(self, method, path, body=None):
        data = None if body is None else body if isinstance(body, bytes) else json.dumps(body).encode()
        request = urllib.request.Request(self.base + path, data=data, method=method)
        request.add_header("Authorization", f"Bearer {self.token}")
        if data is not None:
            request.add_header("Content-Type", "application/json")
        with urllib.request.urlopen(request, timeout=30) as answer:
            text = answer.read()
        return json.loads(text) if text else None

    def stop(self):
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGTERM)
        try:
            return self.process.wait(60)
        except subprocess.TimeoutExpired:
            self.process.kill()
            return self.process.wait()


def furnish(daemon):
    """Something of each kind, by the operations whose paths name it."""
    media = daemon.folder / "media"
    media.mkdir()
    (media / "1.mp4").write_bytes(b"a very short film")
    flow = (ROOT / "packaging/flows/atelier.json").read_bytes()
    daemon.call("PUT", "/api/v1/flows/atelier", flow)
    outside = {"title": "studio", "cove": {"external": "studio"}, "steps": []}
    try:
        daemon.call("PUT", "/api/v1/flows/studio", outside)
    except urllib.error.HTTPError as error:
        sys.exit(f"the flow of an outside worker was refused: {error.read().decode()}")
    profile = daemon.call("POST", "/api/v1/profiles", {"name": "anna"})["id"]
    task = daemon.call("POST", "/api/v1/bulk-upload/start", {"flow": "studio", "items": [{"profile": "anna"}] * 3})["task_id"]
    item = daemon.call("GET", f"/api/v1/tasks/{task}/items")["items"][0]["id"]
    claim = daemon.call("POST", "/api/v1/claims", {"kinds": ["studio"], "owner": "worker-1", "ttl_seconds": 3600})
    token = daemon.call("POST", "/api/v1/tokens", {"name": "other", "scopes": ["read"]})["id"]
    return {"tasks": task, "items": item, "profiles": profile, "claims": claim["claim_id"], "tokens": token}


def parameters(values):
    """Half of the requests ask for something that is there."""
    text = ""
    for noun, value in values.items():
        text += f'\n[[operations]]\ninclude-path-regex = "^/api/v1/{noun}/[{{]id[}}]"\nparameters = {{ "path.id" = "{value}" }}\n'
    text += '\n[[operations]]\ninclude-path-regex = "^/api/v1/flows/[{]name[}]/(run|check)$"\nparameters = { "path.name" = "atelier" }\n'
    text += '\n[[operations]]\ninclude-path-regex = "^/api/v1/maintenance/"\nparameters = { "path.job" = "lock_cleanup" }\n'
    return text


def control(schemathesis, daemon, folder, document):
    """The negative control: a description that is not true has to be noticed."""
    document["components"]["schemas"]["Simple"]["properties"]["status"] = {"const": "sick"}
    document["paths"] = {path: document["paths"][path] for path in ["/api/v1/health/simple"]}
    (folder / "wrong.json").write_text(json.dumps(document))
    (folder / "plain.toml").write_text("")
    command = [schemathesis, "--config-file", "plain.toml", "run", "wrong.json", "--url", daemon.base]
    command += ["--checks", "response_schema_conformance", "--max-examples", "1"]
    if subprocess.run(command, cwd=folder, stdout=subprocess.DEVNULL).returncode == 0:
        sys.exit("a wrong description was not noticed: this proves nothing")


def main():
    cove = str(Path(sys.argv[1]).resolve())
    examples = sys.argv[2] if len(sys.argv) > 2 else "5"
    seed = sys.argv[3] if len(sys.argv) > 3 else str(random.randrange(1 << 32))
    schemathesis = Path(sys.executable).parent / "schemathesis"
    print(f"schemathesis: EXAMPLES={examples} SEED={seed}", flush=True)
    with tempfile.TemporaryDirectory(prefix="cove-schemathesis-") as name:
        folder = Path(name)
        daemon = Daemon(cove, folder)
        try:
            document = daemon.call("GET", "/api/v1/openapi.json")
            (folder / "openapi.json").write_text(json.dumps(document))
            config = CONFIG.format(examples=examples) + parameters(furnish(daemon))
            (folder / "schemathesis.toml").write_text(config)
            command = [schemathesis, "run", "openapi.json", "--url", daemon.base, "--checks", "all", "--seed", seed, "--no-color"]
            command += ["--header", f"Authorization: Bearer {daemon.token}"]
            failed = subprocess.run(command, cwd=folder).returncode
            control(schemathesis, daemon, folder, document)
            lived = daemon.process.poll() is None
        finally:
            code = daemon.stop()
        log = daemon.log.read_text(errors="replace")
        panicked = [line for line in log.splitlines() if "panicked" in line]
        if panicked or not lived or code != 0:
            sys.exit(f"the daemon did not bear it (exit code {code}):\n" + "\n".join(panicked or [log[-4000:]]))
        sys.exit(failed)


if __name__ == "__main__":
    main()
