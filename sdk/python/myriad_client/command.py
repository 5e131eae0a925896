"""What `python -m myriad_client.gymnasium` and `.pettingzoo` have in common."""
import argparse
import contextlib
import difflib
import importlib.metadata
import importlib.util
import inspect
import json
import os
import pkgutil
import re
import sys
import traceback
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


def wrappers_of(fixed: dict, home: str):
    """What puts the `wrappers` of the arguments, which are not the environment's, around one: "NAME,MODULE:NAME", the innermost first, or
    a JSON list of names and of [name, keyword arguments]. NAME alone is one of `home`'s."""
    given = fixed.pop("wrappers", [])
    wraps = []
    for entry in given.split(",") if isinstance(given, str) else given:
        name, arguments = entry if isinstance(entry, list) and len(entry) == 2 else (entry, {})
        if not isinstance(name, str) or not isinstance(arguments, dict):
            raise TypeError(f'wrappers: {json.dumps(entry)}, want "MODULE:NAME" or ["MODULE:NAME", {{"key": value}}]')
        module, _, attribute = name.rpartition(":")
        wrap = getattr(importlib.import_module(module or home), attribute, None)
        if wrap is None:
            raise AttributeError(f"wrappers: {module or home} has no {attribute}" + ("" if module else "; one of another module is MODULE:NAME"))
        wraps.append((wrap, arguments))

    def put_around(env):
        for wrap, arguments in wraps:
            env = wrap(env, **arguments)
        return env

    return put_around


@contextlib.contextmanager
def told(package: str):
    """What goes wrong before there is an environment is said to Myriad, which waits: with its place, and a missing module with what to
    do about it."""
    try:
        yield
    except Exception as error:
        said = said_of(error)
        cause = error
        while cause is not None and not isinstance(cause, ModuleNotFoundError):
            cause = cause.__cause__ or cause.__context__
        last = traceback.extract_tb(error.__traceback__)[-1]
        if cause is not None and cause.name:
            said += f". {way_to(cause.name, package)}"
        elif not isinstance(error, ImportError) and "site-packages" in last.filename:
            said += versions_around(last.filename)
        if (started := wire.session_socket()) is not None:
            wire.Connection(started).send(wire.failure(said))
        raise SystemExit(said) from None


def way_to(missing: str, package: str) -> str:
    """To a module that is not there."""
    parent, _, name = missing.rpartition(".")
    top = missing.partition(".")[0]
    if parent and importlib.util.find_spec(top) is not None:
        folder = sys.modules.get(parent)
        there = sorted(module.name for module in pkgutil.iter_modules(getattr(folder, "__path__", [])))
        near = difflib.get_close_matches(name, there, 3, 0.7)
        return f"{top} is installed, {missing} is not part of it" + (f"; did you mean {' or '.join(f'{parent}.{one}' for one in near)}?" if near else "")
    wanted = HOMES.get(top, top.replace("_", "-"))
    return (f"{sys.executable} has no module {top}: `{sys.executable} -m pip install {wanted}`, or set MYRIAD_PYTHON to a Python that has it (with "
            f"{package}, flatbuffers and numpy); a module of your own wants its folder on PYTHONPATH")


def versions_around(file: str) -> str:
    """Of the installed package that failed, and of what it builds on: it may want others."""
    top = file.partition("site-packages/")[2].partition("/")[0]
    versions = []
    for name in importlib.metadata.packages_distributions().get(top, [])[:1]:
        wanted = [re.match(r"[\w.-]+", line)[0] for line in importlib.metadata.requires(name) or [] if "extra ==" not in line]
        for one in [name, *wanted]:
            with contextlib.suppress(importlib.metadata.PackageNotFoundError):
                versions.append(f"{one} {importlib.metadata.version(one)}")
    return f". It fails in {top} itself, which may want other versions of what it builds on: {', '.join(versions)}" if versions else ""


# What to install for a module of another name.
HOMES = {"Box2D": "Box2D", "cv2": "opencv-python", "PIL": "pillow"} | dict.fromkeys(("glfw", "imageio", "mujoco", "packaging"), "'gymnasium[mujoco]'")
