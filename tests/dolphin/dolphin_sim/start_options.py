"""The options of a start, from the query and from the JSON body, checked as §2.2 of the reference says.

Unknown keys of the body are refused [D]; unknown keys of the query are ignored [I], since GET has only the two.
"""

import json


class BadOptions(Exception):
    pass


def flag(value):
    return isinstance(value, bool)


def words(value):
    return isinstance(value, str)


def between(least, most, kinds=int):
    return lambda value: isinstance(value, kinds) and not isinstance(value, bool) and least <= value <= most


KEYS = {
    "automation": flag, "headless": flag, "noTabs": flag, "screenWidth": between(640, 3840),
    "screenHeight": between(480, 2160), "dpr": between(1, 4, (int, float)), "plan": words,
    "browserProfilePassword": words, "is_owned": flag, "name_session": words, "transfer": flag,
}


def read(request):
    """The options as a dict. Raises BadOptions."""
    options = {key: request.query[key] in ("1", "true") for key in ("automation", "headless") if key in request.query}
    if "browserProfilePassword" in request.query:
        options["browserProfilePassword"] = request.query["browserProfilePassword"]
    if request.method == "POST" and request.body:
        if "application/json" not in request.headers.get("content-type", ""):
            raise BadOptions("Content-Type must be application/json")
        try:
            body = json.loads(request.body)
        except ValueError:
            raise BadOptions("Unexpected token in JSON") from None
        if not isinstance(body, dict):
            raise BadOptions("the body must be an object")
        for key, value in body.items():
            if key not in KEYS:
                raise BadOptions(f"\"{key}\" is not allowed")
            if not KEYS[key](value):
                raise BadOptions(f"\"{key}\" is not valid")
        options.update(body)
    return options
