"""The bodies of refused calls, assembled as section 3 of the reference does.

No capture of an error answer is public: codes and statuses are the reference's, the wording is [I] unless it is
quoted there. Used by the app's own rules and by faults alike, so that both sound the same.
"""

from .wire import Answer

DUPLICATE_CODE = "E_BROWSER_RUN_DUPLICATE"
DUPLICATE_STYLES = ("errorObject", "nested", "text_only", "200_success_false")
SESSION = {"error": "invalid session token"}  # [F2], quoted


def failure(status, text, code=None, error_type=None):
    body = {"success": False, "error": text}
    if code is not None:
        body["errorObject"] = {"code": code, "text": text}
        if error_type is not None:
            body["errorObject"]["type"] = error_type
    return Answer.of(status, body)


def duplicate(profile_id, style="errorObject"):
    """Code S11, "already running" S8, status 500 S2; "nested" is [?]."""
    text = f"Browser profile {profile_id} is already running"
    if style == "nested":
        return Answer.of(500, {"success": False, "error": {"errorObject": {"code": DUPLICATE_CODE, "text": text}}})
    if style == "text_only":
        return Answer.of(500, {"success": False, "error": text})
    if style == "200_success_false":
        return Answer.of(200, {"success": False, "error": text,
                               "errorObject": {"code": DUPLICATE_CODE, "text": text}})
    return failure(500, text, DUPLICATE_CODE)


def ebusy(data_dir):
    path = f"{data_dir}/Default/Cookies"
    return failure(500, f"EBUSY: resource busy or locked, unlink '{path}'")


def locked(data_dir):
    return failure(500, f"ENOENT: no such file or directory, open '{data_dir}/DevToolsActivePort': "
                        "profile is locked, the browser is still running")


def init_connection_error(status=500):
    return Answer.of(status, {"success": False, "error": "initConnectionError"})


def free_plan():
    return Answer.of(402, {"success": False, "error": "On free plan you can't use automation"})  # [D], quoted


def free_plan_limit():
    return failure(499, "Free plan allows three running profiles", "FREE_PLAN_PROFILE_LIMIT_EXCEEDED")


def too_many(retry_after_seconds=None):
    headers = [] if retry_after_seconds is None else [("retry-after", str(retry_after_seconds))]
    return Answer.of(429, {"success": False, "error": "Too many browser launches"}, headers)


def bad_request(text):
    return Answer.of(400, {"success": False, "error": text})


def signed_out():
    return Answer.of(401, {"success": False, "error": "Unauthorized"})


def token_refresh(status=401):
    return Answer.of(status, {"success": False, "error": "token refresh timeout"})


def unknown(status=500, code=None, text="Internal error"):
    """§3: not documented for start, so the default is a bare 500 (behaviour 21)."""
    return failure(status, text, code)


def not_known_yet():
    return Answer.of(500, {"success": False, "error": "Internal error"})


def generic(status=500):
    return Answer.of(status, {"success": False, "error": "Internal Server Error"})


def stop_failed():
    return Answer.of(500, {"success": False, "error": "Browser was not stopped"})


def already_exited():
    """[D], quoted."""
    return Answer.of(200, {"success": False,
                           "message": "PID file not found, assuming the browser has already exited."})


def no_such_path(path):
    """Wrong paths answer with a page, as the web framework below does [I]."""
    return Answer.html(404, f"Cannot GET {path}")
