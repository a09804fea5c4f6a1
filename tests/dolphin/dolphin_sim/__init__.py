"""A simulator of Dolphin Anty's Local API, its cloud API and its browsers.

Written from the reference of the Local API alone, never from cove's client: what the two disagree on is found
by running them against each other. Knows nothing about cove. Standard library only, Linux only (pidfd).

  wire         HTTP/1.1 by hand: requests, answers, listeners that can vanish and come back
  peers        the ways in which a bad HTTP peer spoils an answer
  refusals     the bodies of refused calls
  sockets      the ways in which a WebSocket at a CDP port can be bad
  faults       the table of faults, and the book that decides which fire at a call
  journal      every call, and the greatest number of starts and stops at once
  profiles     what a profile is, and its validation
  process      a child process, until its whole group is gone
  launch       browsers as processes: a stub or Chromium
  stub         the stub browser, a program of its own, with stub_cdp
  gate         a CDP port that opens late, or answers badly
  app          what the desktop app believes and does: start, stop, running
  service      one call, from its arrival to its last byte
  local_api    the routes under /v1.0, with start_options
  cloud        the cloud API
  admin        the routes by which a test arranges all this
  main         command line and life time
"""
