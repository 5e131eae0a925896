"""What a user's environment returns: the parts of reset and step, rewards and flags as numbers. What is not what it should be is
refused in the user's words: which method, of which file and line, returned what, and what was wanted."""
import collections.abc
import inspect
import os
import sysconfig
import traceback

import numpy as np

from myriad_client.spaces import DoesNotFit, kind_of

RESET = "(observation, info)"
STEP = "(observation, reward, terminated, truncated, info)"


def reset_parts(result) -> tuple:
    """Observation and info."""
    if not isinstance(result, (tuple, list)) or len(result) != 2 or not is_info(result[1]):
        raise DoesNotFit(f"reset returned {kind_of(result)}, want {RESET}: gym before 0.26 returned the observation alone")
    return result


def step_parts(result) -> tuple:
    if not isinstance(result, (tuple, list)) or len(result) != 5:
        raise DoesNotFit(f"step returned {kind_of(result)}, want {STEP}: gym before 0.26 returned one flag, done")
    if not is_info(result[4]):
        raise DoesNotFit(f"step returned {kind_of(result[4])} as info, want a dict: {STEP}")
    return result


def agents_parts(result, method: str, agents: int) -> tuple:
    """Of a world: of reset observations, of step observations, rewards, terminateds and truncateds, each one of each agent."""
    want = "a list of observations, one of each agent" if method == "reset" else "(observations, rewards, terminateds, truncateds), lists of one element an agent"
    lists = (result,) if method == "reset" else result
    if not isinstance(lists, (tuple, list)) or len(lists) != (1 if method == "reset" else 4):
        raise DoesNotFit(f"{method} returned {kind_of(result)}, want {want}")
    for each in lists:
        if not isinstance(each, (tuple, list, np.ndarray)) or len(each) != agents:
            raise DoesNotFit(f"{method} returned {kind_of(each)}, want {want}, of whom there are {agents}")
    return lists


def is_info(value) -> bool:
    return value is None or isinstance(value, collections.abc.Mapping)


def reward_of(value, name: str = "reward") -> float:
    """A number, or an array of one."""
    if type(value) is float:
        return value
    if isinstance(value, (int, float, np.integer, np.floating, np.bool_)):
        try:
            return float(value)
        except OverflowError:
            raise DoesNotFit(f"{name} = {value!r:.40} is beyond a float") from None
    array = one_number(value, "biuf")
    if array is None:
        raise DoesNotFit(f"{name} is {kind_of(value)}, want one number")
    return float(array)


def flag_of(value, name: str) -> bool:
    """True or False, or 1 or 0, or an array of one of them."""
    if value is True or value is False:
        return value
    array = one_number(value, "biuf")
    if array is None or array not in (0, 1):
        raise DoesNotFit(f"{name} is {kind_of(value)}, want True or False: step returns {STEP}")
    return bool(array)


def one_number(value, kinds: str):
    """The element of an array of one; None where it is no such number."""
    if isinstance(value, (str, bytes)) or value is None:
        return None
    try:
        array = np.asarray(value)
    except Exception:
        return None
    return array.item() if array.size == 1 and array.dtype.kind in kinds else None


# --- where ---

HERE = os.path.dirname(os.path.abspath(__file__)) + os.sep
LIBRARIES = tuple({os.path.join(sysconfig.get_path(name), "") for name in ("stdlib", "platstdlib", "purelib", "platlib")} | {"<frozen"})
FRAMEWORKS = tuple(f"{os.sep}{name}{os.sep}" for name in ("numpy", "gymnasium", "pettingzoo"))


def method_place(env, method: str) -> str:
    """Of an environment's own method: " (reset of my_env.py:12)"."""
    inner = getattr(env, "unwrapped", env)
    try:
        code = inspect.unwrap(getattr(type(inner), method)).__code__
    except AttributeError:
        return ""
    return f" ({method} of {os.path.basename(code.co_filename)}:{code.co_firstlineno})"


def error_place(error: BaseException) -> str:
    """Where the user's code was when it was raised: " (my_env.py:14)". Libraries are passed over, where there is more."""
    frames = [frame for frame in traceback.extract_tb(error.__traceback__) if not frame.filename.startswith((HERE, "<"))]
    for passed in (lambda name: name.startswith(LIBRARIES), lambda name: any(part in name for part in FRAMEWORKS), lambda name: False):
        own = [frame for frame in frames if not passed(frame.filename)]
        if own:
            return f" ({os.path.basename(own[-1].filename)}:{own[-1].lineno})"
    return ""


def said_of(error: BaseException) -> str:
    """An error in one line, with where it was."""
    text = str(error) if isinstance(error, DoesNotFit) else f"{type(error).__name__}: {error}"
    return text + (getattr(error, "place", None) or error_place(error))
