"""Any Gymnasium environment: env = "gymnasium:ID?key=value", or `python -m myriad_client.gymnasium ID --listen HOST:PORT`.

What follows the question mark are keyword arguments that are no numbers; numbers are options (env_config). The module that
registers ID is named before a colon, as in gymnasium.make: "my_package:MyEnv-v0".

`wrappers=NAME,MODULE:NAME` puts wrappers around it, the first one innermost: "gymnasium:minigrid:MiniGrid-Empty-5x5-v0?wrappers=minigrid.wrappers:ImgObsWrapper";
NAME alone is one of gymnasium.wrappers; one with arguments is written as in wrappers=[["ResizeObservation",{"shape":[84,84]}]].

Where info["action_mask"] says which actions are possible, `mask=info` puts it into the observations: "gymnasium:Taxi-v3?mask=info".
`drop=mission` leaves a part of Dict or Tuple observations out, by its path; several: `drop=mission,extra/0`.
"""
import contextlib
import importlib
import math

import gymnasium
import numpy as np

from myriad_client import command, spaces, wire
from myriad_client.returned import flag_of, method_place, reset_parts, step_parts
from myriad_client.simulator import serve


def space_of(space, path: str = "obs") -> object:
    """A Gymnasium space as one of ours. Raises TypeError with the path of a part that has no fixed size."""
    box = gymnasium.spaces
    if isinstance(space, box.Box):
        same = lambda x: x.flat[0].item() if x.size and (x == x.flat[0]).all() else x
        return spaces.Box(same(space.low), same(space.high), space.shape, str(space.dtype))
    if isinstance(space, box.Discrete):
        return spaces.Discrete(int(space.n), int(space.start))
    if isinstance(space, box.MultiDiscrete):
        return spaces.MultiDiscrete(space.nvec.tolist(), space.start.tolist() if space.start.any() else None)
    if isinstance(space, box.MultiBinary):
        return spaces.MultiBinary(space.shape if len(space.shape) != 1 else space.shape[0])
    if isinstance(space, box.Dict):
        return spaces.Dict({name: space_of(part, spaces.below(path, name)) for name, part in space.items()})
    if isinstance(space, box.Tuple):
        return spaces.Tuple([space_of(part, spaces.below(path, i)) for i, part in enumerate(space)])
    drop = spaces.leave_out(path) + ", or " if "." in path and path.startswith("obs") else ""
    way = WAYS.get(type(space).__name__, "Box, Discrete, MultiDiscrete, MultiBinary, Dict or Tuple")
    raise TypeError(f"{path}: {type(space).__name__} has no fixed size and cannot be sent: {drop}make it another space in a wrapper of your own ({way})")


# What such a space may be instead.
WAYS = {"Text": "a Box of the letters' numbers, or a Discrete of the texts there are", "Sequence": "a Box of the most elements there can be, and how many are used",
        "Graph": "Boxes of the most nodes and edges there can be", "OneOf": "a Discrete that says which, beside a part for each"}


def action_of(space) -> object:
    """The same of actions, which a policy gives as float32."""
    ours = space_of(space, "action")
    if isinstance(ours, spaces.Box) and ours.dtype == "float64":
        ours.dtype = "float32"
    return ours


# --- parts that are left out ---

def dropped_space(space, paths: list[str], path: str = ""):
    """A Gymnasium space without the parts at `paths`; those that are found are taken out of the list."""
    box = gymnasium.spaces
    if not isinstance(space, (box.Dict, box.Tuple)):
        return space
    parts = [(name, below_part(path, name), part) for name, part in (space.items() if isinstance(space, box.Dict) else enumerate(space))]
    kept = [(name, dropped_space(part, paths, at)) for name, at, part in parts if at not in paths]
    for _, at, _ in parts:
        if at in paths:
            paths.remove(at)
    return box.Dict(kept) if isinstance(space, box.Dict) else box.Tuple([part for _, part in kept])


def below_part(path: str, name) -> str:
    return f"{path}/{name}" if path else str(name)


def dropped(space, value, paths: frozenset[str], path: str = ""):
    """The same of a value; what is no dict or tuple is left as it is, for what looks at it next."""
    box = gymnasium.spaces
    if isinstance(space, box.Dict) and isinstance(value, dict):
        own = {name: below_part(path, name) for name in value}
        return {name: dropped(space[name], part, paths, own[name]) if name in space.spaces else part for name, part in value.items() if own[name] not in paths}
    if isinstance(space, box.Tuple) and isinstance(value, (tuple, list)) and len(value) == len(space):
        return tuple(dropped(part, element, paths, below_part(path, i)) for i, (part, element) in enumerate(zip(space, value)) if below_part(path, i) not in paths)
    return value


def dropped_of(space, names: str):
    """drop=NAMES: the space without them, and what makes a value one of it."""
    wanted = [name for name in names.split(",") if name]
    left = list(wanted)
    small = dropped_space(space, left)
    if left:
        raise ValueError(f"drop={left[0]}, but no part of the observations {space} has this path: KEY, or KEY/KEY and KEY/NUMBER within Dicts and Tuples")
    paths = frozenset(wanted)
    return small, lambda value: dropped(space, value, paths)


class Dropped(gymnasium.ObservationWrapper):
    """drop=NAMES."""

    def __init__(self, env, names: str):
        super().__init__(env)
        self.observation_space, self.observation = dropped_of(env.observation_space, names)


def as_sampled(space, action):
    """An action as the Gymnasium space's sample() gives it: an np.int64, an array of the space's type and shape, a dict in its order."""
    box = gymnasium.spaces
    if isinstance(space, box.Dict):
        return {name: as_sampled(part, action[name]) for name, part in space.items()}
    if isinstance(space, box.Tuple):
        return tuple(as_sampled(part, element) for part, element in zip(space, action, strict=True))
    if isinstance(space, box.Discrete):
        return space.dtype.type(action)
    return np.asarray(action).astype(space.dtype).reshape(space.shape)


class SampledActions(gymnasium.ActionWrapper):
    def action(self, action):
        return as_sampled(self.env.action_space, action)


def masked_space(observation, action) -> gymnasium.spaces.Dict:
    """The observations together with the masks of info["action_mask"]."""
    size = num_options(action)
    if not 0 < size <= 1 << 20:
        raise TypeError(f"mask=info is for actions with choices, of 1 to {1 << 20} options, not {action}")
    return gymnasium.spaces.Dict({"action_mask": gymnasium.spaces.Box(0, 1, (size,), np.uint8), "observation": observation})


def num_options(action) -> int:
    """Of all choices of an action; a Box of whole numbers is a choice for each element."""
    return sum(spaces.choices_of(space_of(action, "action")))


def joined(mask) -> np.ndarray:
    """A MultiDiscrete's masks are a tuple, nested as its shape is."""
    return np.concatenate([joined(part) for part in mask]) if isinstance(mask, tuple) else np.ravel(mask)


def mask_row(space, mask) -> np.ndarray:
    """A mask as the Gymnasium space's sample(mask=...) takes it, as a row of 0 or 1 for every option of every choice. None allows all."""
    box = gymnasium.spaces
    if isinstance(space, box.Dict):
        return np.concatenate([mask_row(part, mask and mask[name]) for name, part in space.items()])
    if isinstance(space, box.Tuple):
        return np.concatenate([mask_row(part, own) for part, own in zip(space, mask or [None] * len(space), strict=True)])
    if mask is None or isinstance(space, box.Box):
        return np.ones(num_options(space))
    row = joined(mask)
    if isinstance(space, box.MultiBinary) and row.size == math.prod(space.shape):
        return np.stack([row != 1, row != 0], 1).ravel()  # 0: it is 0, 1: it is 1, 2: it is either
    return row


def masked(action_space, observation, info: dict, ended: bool = False) -> dict:
    """An observation of masked_space(); where the episode has ended there need be no mask."""
    if "action_mask" not in info and not ended:
        raise KeyError('mask=info, but there is no info["action_mask"]')
    row = mask_row(action_space, info["action_mask"]) if "action_mask" in info else np.zeros(num_options(action_space))
    return {"action_mask": row, "observation": observation}


class InfoMask(gymnasium.Wrapper):
    """mask=info: the masks in the observations."""

    def __init__(self, env):
        super().__init__(env)
        self.observation_space = masked_space(env.observation_space, env.action_space)

    def reset(self, **arguments):
        observation, info = reset_parts(self.env.reset(**arguments))
        return masked(self.env.action_space, observation, info), info

    def step(self, action):
        observation, reward, terminated, truncated, info = step_parts(self.env.step(action))
        ended = flag_of(terminated, "terminated") or flag_of(truncated, "truncated")
        return masked(self.env.action_space, observation, info, ended), reward, terminated, truncated, info


def look_at_first(env) -> None:
    """Of the environment's own reset and step the first returns, before Gymnasium's wrappers take them apart."""
    for method, parts in (("reset", reset_parts), ("step", step_parts)):
        def look(*arguments, method=method, parts=parts, own=getattr(env, method), **keywords):
            result = own(*arguments, **keywords)
            try:
                parts(result)
            except spaces.DoesNotFit as error:
                error.place = method_place(env, method)
                raise
            delattr(env, method)
            return result

        with contextlib.suppress(AttributeError):  # an environment without a __dict__
            setattr(env, method, look)


def numbers_of(spec) -> dict[str, float | int | bool]:
    """The keyword arguments that are numbers, with their defaults."""
    entry = gymnasium.envs.registration.load_env_creator(spec.entry_point) if isinstance(spec.entry_point, str) else spec.entry_point
    return command.numbers(command.defaults_of(entry) | spec.kwargs)


def spec_of(env_id: str):
    """Of an id as gymnasium.make takes it: the module before the colon is imported, so that it registers its environments."""
    module, _, name = env_id.rpartition(":")
    if module:
        importlib.import_module(module)
    try:
        return gymnasium.spec(name)
    except gymnasium.error.Error as error:
        if module:
            ids = sorted(i for i, spec in gymnasium.registry.items() if str(spec.entry_point).partition(".")[0].partition(":")[0] == module.partition(".")[0])
            known = f"{module} registers {', '.join(ids[:8])}{' ...' if len(ids) > 8 else ''}" if ids else f"{module} registers no environments"
            raise type(error)(f"{error} ({known})") from None
        raise type(error)(f"{error} (an environment that another package registers is named with it: \"gymnasium:PACKAGE:{name}\")") from None


def main() -> None:
    env_id, fixed, listen = command.arguments("myriad_client.gymnasium", __doc__)
    with command.told("gymnasium"):
        spec = spec_of(env_id)
        numbers = {name: value for name, value in numbers_of(spec).items() if name not in fixed}
        mask, drop, wrap = command.takes_mask(fixed), fixed.pop("drop", ""), command.wrappers_of(fixed, "gymnasium.wrappers")

        def make(options):
            env = gymnasium.make(spec, disable_env_checker=True, **fixed, **command.changed(options, numbers))
            look_at_first(env.unwrapped)
            env = SampledActions(wrap(env))
            env = Dropped(env, drop) if drop else env
            return InfoMask(env) if mask else env

        probe = make(wire.options())
        observation, action = space_of(probe.observation_space), action_of(probe.action_space)
        probe.close()
    serve(make, observation, action, name=env_id, source=f"Gymnasium {gymnasium.__version__}'s {env_id}", listen=listen,
          max_episode_steps=spec.max_episode_steps or 0, options={n: float(v) for n, v in numbers.items()},
          reward_threshold=math.nan if spec.reward_threshold is None else spec.reward_threshold)


if __name__ == "__main__":
    main()
