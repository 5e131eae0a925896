"""Any Gymnasium environment: env = "gymnasium:ID?key=value", or `python -m myriad_client.gymnasium ID --listen HOST:PORT`.

What follows the question mark are keyword arguments that are no numbers; numbers are options (env_config). The module that
registers ID is named before a colon, as in gymnasium.make: "my_package:MyEnv-v0".
"""
import importlib
import math

import gymnasium

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
        make = lambda options: gymnasium.make(env_id, disable_env_checker=True, **fixed, **command.changed(options, numbers))
        probe = make(wire.options())
        observation, action = space_of(probe.observation_space), action_of(probe.action_space)
        probe.close()
    serve(make, observation, action, name=env_id, source=f"Gymnasium {gymnasium.__version__}'s {env_id}", listen=listen,
          max_episode_steps=spec.max_episode_steps or 0, options={n: float(v) for n, v in numbers.items()},
          reward_threshold=math.nan if spec.reward_threshold is None else spec.reward_threshold)


if __name__ == "__main__":
    main()
