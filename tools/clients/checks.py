"""What the client scripts share: their arguments, and checks that are printed one a line."""

import argparse
import contextlib
import traceback


def arguments(doc):
    p = argparse.ArgumentParser(description=doc, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("--base-url", required=True, help="ends in /v1")
    p.add_argument("--api-key", required=True)
    p.add_argument("--model", required=True, help="a name that the server lists")
    p.add_argument("--limited-key", help="a key with one request a minute, for the rate limit")
    p.add_argument("--embed-key", help="a key that may only embed")
    p.add_argument("--admin-key", help="a key that may read /metrics")
    return p.parse_args()


class Checks:
    """Counts checks. One that raises has failed, and the rest go on."""

    def __init__(self):
        self.passed = self.failed = 0

    @contextlib.contextmanager
    def __call__(self, what):
        try:
            yield
        except Exception as error:  # every failure of a check is a line of the report
            frame = [f for f in traceback.extract_tb(error.__traceback__) if f.filename != __file__ and "site-packages" not in f.filename]
            where = f"line {frame[-1].lineno}: {frame[-1].line}" if frame else ""
            print(f"FAIL  {what}: {type(error).__name__}: {str(error)[:500]}  [{where[:200]}]", flush=True)
            self.failed += 1
        else:
            print(f"ok    {what}", flush=True)
            self.passed += 1

    def close(self):
        print(f"{self.passed} passed, {self.failed} failed", flush=True)
        raise SystemExit(self.failed > 0)


@contextlib.contextmanager
def refused(kind, **fields):
    """The block must raise the client's exception `kind`; `fields` are compared with its attributes (a callable judges them)."""
    try:
        yield
    except kind as error:
        for name, wanted in fields.items():
            found = getattr(error, name)
            assert wanted(found) if callable(wanted) else found == wanted, f"{name} is {found!r}: {error}"
        return
    raise AssertionError(f"not refused with {kind.__name__}")
