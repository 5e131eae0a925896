"""Any Gymnasium environment: env = "gymnasium:ID?key=value", or `python -m myriad_client.gymnasium ID --listen HOST:PORT`.

What follows the question mark are keyword arguments that are no numbers; numbers are options (env_config). The module that
registers ID is named before a colon, as in gymnasium.make: "my_package:MyEnv-v0".

Where info["action_mask"] says which actions are possible, `mask=info` puts it into the observations: "gymnasium:Taxi-v3?mask=info".
"""
import importlib
import math

import gymnasium
import numpy as np

from myriad_client import command, spaces, wire
from myriad_client.simulator import serve


def space_of(space) -> object:
    """A Gymnasium space as one of ours."""
    box = gymnasium.spaces
    if isinstance(space, box.Box):
        same = lambda x: float(x.flat[0]) if x.size and (x == x.flat[0]).all() else x
        return spaces.Box(same(space.low), same(space.high), space.shape, str(spaces.dtype_of(space.dtype)))
    if isinstance(space, box.Discrete):
        return spaces.Discrete(int(space.n), int(space.start))
    if isinstance(space, box.MultiDiscrete):
        return spaces.MultiDiscrete([int(n) for n in space.nvec.ravel()])
    if isinstance(space, box.MultiBinary):
        return spaces.MultiBinary(math.prod(space.shape))
    if isinstance(space, box.Dict):
        return spaces.Dict({name: space_of(part) for name, part in space.items()})
    if isinstance(space, box.Tuple):
        return spaces.Tuple([space_of(part) for part in space])
    raise TypeError(f"a {type(space).__name__} space has no fixed size and cannot be sent: wrap the environment so that it has Box, "
                    "Discrete, MultiDiscrete, MultiBinary, Dict or Tuple spaces")


def action_of(space) -> object:
    """The same of actions, which a policy gives as float32."""
    ours = space_of(space)
    if isinstance(ours, spaces.Box) and ours.dtype == "float64":
        ours.dtype = "float32"
    return ours


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
    if isinstance(action, (gymnasium.spaces.Dict, gymnasium.spaces.Tuple)):
        return sum(map(num_options, action.values() if isinstance(action, gymnasium.spaces.Dict) else action))
    if isinstance(action, gymnasium.spaces.Box):
        return sum(int(high) - int(low) + 1 for low, high in zip(action.low.flat, action.high.flat)) if action.dtype.kind in "iu" else 0
    return sum(spaces.choices_of(space_of(action)))


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
        observation, info = self.env.reset(**arguments)
        return masked(self.env.action_space, observation, info), info

    def step(self, action):
        observation, reward, terminated, truncated, info = self.env.step(action)
        return masked(self.env.action_space, observation, info, terminated or truncated), reward, terminated, truncated, info


def numbers_of(spec) -> dict[str, float | int | bool]:
    """The keyword arguments that are numbers, with their defaults."""
    entry = gymnasium.envs.registration.load_env_creator(spec.entry_point) if isinstance(spec.entry_point, str) else spec.entry_point
    return command.numbers(command.defaults_of(entry) | spec.kwargs)


def main() -> None:
    env_id, fixed, listen = command.arguments("myriad_client.gymnasium", __doc__)
    with command.told():
        module, _, name = env_id.rpartition(":")
        if module:
            importlib.import_module(module)
        spec = gymnasium.spec(name)
        numbers = {name: value for name, value in numbers_of(spec).items() if name not in fixed}
        mask = command.takes_mask(fixed)

        def make(options):
            env = SampledActions(gymnasium.make(env_id, disable_env_checker=True, **fixed, **command.changed(options, numbers)))
            return InfoMask(env) if mask else env

        probe = make(wire.options())
        observation, action = space_of(probe.observation_space), action_of(probe.action_space)
        probe.close()
    serve(make, observation, action, name=env_id, source=f"Gymnasium {gymnasium.__version__}'s {env_id}", listen=listen,
          max_episode_steps=spec.max_episode_steps or 0, options={n: float(v) for n, v in numbers.items()},
          reward_threshold=math.nan if spec.reward_threshold is None else spec.reward_threshold)


if __name__ == "__main__":
    main()
