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


def masked_space(observation, action) -> gymnasium.spaces.Dict:
    """The observations together with the masks of info["action_mask"]."""
    size = sum(spaces.choices_of(space_of(action)))
    if size == 0:
        raise TypeError(f"mask=info is for Discrete and MultiDiscrete actions, not {action}")
    return gymnasium.spaces.Dict({"action_mask": gymnasium.spaces.Box(0, 1, (size,), np.uint8), "observation": observation})


def masked(space: gymnasium.spaces.Dict, observation, info: dict, ended: bool = False) -> dict:
    """An observation of masked_space(); where the episode has ended there need be no mask."""
    mask = info.get("action_mask", np.zeros(space["action_mask"].shape) if ended else None)
    if mask is None:
        raise KeyError('mask=info, but there is no info["action_mask"]')
    parts = [np.ravel(part) for part in mask] if isinstance(mask, tuple) else [np.ravel(mask)]  # a tuple: of MultiDiscrete
    return {"action_mask": np.concatenate(parts), "observation": observation}


class InfoMask(gymnasium.Wrapper):
    """mask=info: the masks in the observations."""

    def __init__(self, env):
        super().__init__(env)
        self.observation_space = masked_space(env.observation_space, env.action_space)

    def reset(self, **arguments):
        observation, info = self.env.reset(**arguments)
        return masked(self.observation_space, observation, info), info

    def step(self, action):
        observation, reward, terminated, truncated, info = self.env.step(action)
        return masked(self.observation_space, observation, info, terminated or truncated), reward, terminated, truncated, info


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
            env = gymnasium.make(env_id, disable_env_checker=True, **fixed, **command.changed(options, numbers))
            return InfoMask(env) if mask else env

        probe = make(wire.options())
        observation, action = space_of(probe.observation_space), action_of(probe.action_space)
        probe.close()
    serve(make, observation, action, name=env_id, source=f"Gymnasium {gymnasium.__version__}'s {env_id}", listen=listen,
          max_episode_steps=spec.max_episode_steps or 0, options={n: float(v) for n, v in numbers.items()},
          reward_threshold=math.nan if spec.reward_threshold is None else spec.reward_threshold)


if __name__ == "__main__":
    main()
