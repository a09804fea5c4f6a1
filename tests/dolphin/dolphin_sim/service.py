"""One call to the local API or the cloud, from its arrival to its last byte, with the faults that fire at it.

Shared by `local_api` and `cloud`, which say what a call is and carry it out. The order is always the same: delays,
then a refusal in its place, then the call itself, then the bad peer that sends the answer, then what must happen
after it. A call that is carried out and then sends nothing is as possible as one that is not carried out.
"""

import asyncio

from . import peers, refusals
from .wire import Answer

SILENT = ("close_before_answer", "reset_before_answer", "not_http", "tls_alert", "half_head", "half_head_hang")


class Call:
    """A call under way."""

    def __init__(self, kind, profile_id, request, connection, fired):
        self.kind = kind
        self.profile_id = profile_id
        self.request = request
        self.connection = connection
        self.fired = fired
        self.after = []


def common_refusal(fault, call):
    """The answers that suit every call."""
    if fault.name == "generic_500":
        return refusals.generic(fault.params["status"])
    if fault.name == "html_500":
        return Answer.html(fault.params["status"], "Internal Server Error")
    if fault.name == "redirect":
        to = fault.params["to"]
        return Answer(fault.params["status"], headers=[("location", call.request.target if to == "self" else to)])
    return None


class Service:
    name = ""

    def __init__(self, app, book, journal):
        self.app = app
        self.book = book
        self.journal = journal

    def classify(self, request):
        """(kind of call, profile id or None)"""
        raise NotImplementedError

    async def refuse(self, fault, call):
        """The answer of a fault of the stage `refuse`, or None where the call goes on."""
        raise NotImplementedError

    async def carry_out(self, call):
        """The answer, or None to close without one."""
        raise NotImplementedError

    async def handle(self, request, connection):
        """Takes one call; True when the connection ends with it."""
        kind, profile_id = self.classify(request)
        fired = self.book.at(kind, profile_id)
        call = Call(kind, profile_id, request, connection, fired)
        entry = self.journal.arrived(self.name, kind, profile_id, request)
        entry["faults"] = fired.shown()
        try:
            with self.journal.under_way(kind, profile_id):
                answer = await self.answered(call)
            if answer is None:
                return True
            peer = fired.first("peer")
            if peer is not None:
                entry["status"] = None if peer.name in SILENT else answer.status
                return await peers.send(peer.name, connection, answer, peer.params)
            entry["status"] = answer.status
            await connection.send(answer.bytes(close=request.wants_close()))
            return False
        finally:
            entry["ended_ms"] = self.journal.time_ms()
            for work in call.after:
                self.app.spawn(work)

    async def answered(self, call):
        hang = call.fired.get("hang")
        if hang is not None:
            await call.connection.gone(hang["for_ms"] / 1000)
            return None
        slow = call.fired.get("slow")
        if slow is not None:
            await asyncio.sleep((slow["ms"] + slow["per_profile_ms"] * len(self.app.runs)) / 1000)
        parallel = call.fired.get("slow_parallel_stop")
        if parallel is not None:
            under_way = self.journal.now["stop"]
            if 0 < parallel["error_over"] < under_way:
                return refusals.ebusy(self.app.data_dir(call.profile_id))
            await asyncio.sleep(parallel["per_other_ms"] * (under_way - 1) / 1000)
        fault = call.fired.first("refuse")
        if fault is not None:
            answer = common_refusal(fault, call) or await self.refuse(fault, call)
            if answer is not None:
                return answer
        peer = call.fired.first("peer")
        if peer is not None and not peer.params["act"]:
            return Answer.of(200, {"success": True})
        return await self.carry_out(call)
