"""What `python -m myriad_client.gymnasium` and `.pettingzoo` have in common."""
import argparse
import contextlib
import inspect
import json
import urllib.parse

from myriad_client import wire
from myriad_client.returned import said_of


def arguments(module: str, doc: str) -> tuple[str, dict, str]:
    """The id, the keyword arguments after its question mark, and where to listen."""
    parser = argparse.ArgumentParser(prog=f"python -m {module}", description=doc.splitlines()[0])
    parser.add_argument("id")
    parser.add_argument("--listen", default="", help='HOST:PORT or a path, for env = "connect:..."')
    given = parser.parse_args()
    env_id, _, query = given.id.partition("?")
    return env_id, {key: value_of(value) for key, value in urllib.parse.parse_qsl(query, keep_blank_values=True)}, given.listen


def takes_mask(fixed: dict) -> bool:
    """Whether the arguments have mask=info, which is not the environment's."""
    return fixed.get("mask") == "info" and bool(fixed.pop("mask"))


def value_of(text: str):
    try:
        return json.loads(text)  # true, null, 3, [1, 2], {"a": 1}
    except json.JSONDecodeError:
        return text


def defaults_of(creator) -> dict:
    """The keyword arguments of a function or class."""
    try:
        return {name: parameter.default for name, parameter in inspect.signature(creator).parameters.items()}
    except (TypeError, ValueError):
        return {}  # one without a signature takes no options


def numbers(values: dict) -> dict[str, float | int | bool]:
    return {name: value for name, value in values.items() if isinstance(value, (bool, int, float))}


def changed(options: dict[str, float], defaults: dict) -> dict:
    """The options that are not their defaults, in their types."""
    return {name: type(defaults[name])(value) for name, value in options.items() if value != defaults[name]}


@contextlib.contextmanager
def told():
    """What goes wrong before there is an environment is said to Myriad, which waits."""
    try:
        yield
    except Exception as error:
        said = said_of(error)
        if (started := wire.session_socket()) is not None:
            wire.Connection(started).send(wire.failure(said))
        raise SystemExit(said) from None
