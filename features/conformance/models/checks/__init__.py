"""What both programs for Python need: where the API is, a key, and a list of checks.

All programs of this directory ask as one customer, who is let in sixty times a minute: together they ask less often, but
for the last check, which is about that.
"""

import os
import sys
import traceback

API = os.environ.get("WOPR_API_URL", "http://localhost:3100").rstrip("/")
KEY = os.environ.get("WOPR_SERVICE_KEY") or sys.exit("WOPR_SERVICE_KEY is not set")
CHAT = "llama-3.1-8b"
# Asked without chance: by chance the model would now and then end before its first word.
QUESTION = "Shall we play a game?"
# The shape of a key, and nobody's.
NOBODYS_KEY = f"wopr_sk_{'A' * 43}_AAAAAA"
# More than the customer's five dollars, whatever a token costs.
UNPAYABLE_TOKENS = 1_000_000_000

_checks = []


def check(name):
    return lambda body: _checks.append((name, body))


def equal(found, expected):
    assert found == expected, f"{found!r} is not {expected!r}"


def refused(call, kind, status=None):
    """The call must fail with this class of error."""
    try:
        answer = call()
    except kind as error:
        if status is not None:
            equal(error.status_code, status)
        return error
    raise AssertionError(f"expected {kind.__name__}, got {answer!r}")


def run():
    failed = 0
    for name, body in _checks:
        try:
            body()
            print(f"ok    {name}")
        except Exception:
            failed += 1
            print(f"FAIL  {name}\n{traceback.format_exc()}")
    print(f"{len(_checks) - failed} of {len(_checks)} checks passed")
    sys.exit(1 if failed else 0)
