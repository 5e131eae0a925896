"""Any Gymnasium environment: env = "gymnasium:ID?key=value", or `python -m myriad_client.gymnasium ID --listen HOST:PORT`.

What follows the question mark are keyword arguments that are no numbers; numbers are options (env_config). The module that
registers ID is named before a colon, as in gymnasium.make: "my_package:MyEnv-v0".
"""
import argparse
import inspect
import json
import math
import urllib.parse

import gymnasium

from myriad_client import spaces, wire
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


def value_of(text: str):
    try:
        return json.loads(text)  # true, null, 3, [1, 2], {"a": 1}
    except json.JSONDecodeError:
        return text


def numbers_of(spec) -> dict[str, float | int | bool]:
    """The keyword arguments that are numbers, with their defaults."""
    found = {}
    try:
        entry = gymnasium.envs.registration.load_env_creator(spec.entry_point) if isinstance(spec.entry_point, str) else spec.entry_point
        for name, parameter in inspect.signature(entry).parameters.items():
            found[name] = parameter.default
    except (TypeError, ValueError):
        pass  # a creator without a signature takes no options
    found.update(spec.kwargs)
    return {name: value for name, value in found.items() if isinstance(value, (bool, int, float))}


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m myriad_client.gymnasium", description=__doc__.splitlines()[0])
    parser.add_argument("id")
    parser.add_argument("--listen", default="", help="HOST:PORT or a path, for env = \"connect:...\"")
    arguments = parser.parse_args()
    env_id, _, query = arguments.id.partition("?")
    fixed = {key: value_of(value) for key, value in urllib.parse.parse_qsl(query, keep_blank_values=True)}
    started = wire.session_socket()
    try:
        spec = gymnasium.spec(env_id)
        numbers = {name: value for name, value in numbers_of(spec).items() if name not in fixed}
        make = lambda options: gymnasium.make(env_id, disable_env_checker=True, **fixed,
                                              **{n: type(numbers[n])(v) for n, v in options.items() if v != numbers[n]})
        probe = make(wire.options())
        observation, action = space_of(probe.observation_space), space_of(probe.action_space)
        probe.close()
    except Exception as error:
        if started is not None:
            wire.Connection(started).send(wire.failure(f"{type(error).__name__}: {error}"))
        raise SystemExit(f"{type(error).__name__}: {error}") from None
    serve(make, observation, action, name=env_id, source=f"Gymnasium {gymnasium.__version__}'s {env_id}", listen=arguments.listen,
          max_episode_steps=spec.max_episode_steps or 0, options={n: float(v) for n, v in numbers.items()},
          reward_threshold=math.nan if spec.reward_threshold is None else spec.reward_threshold)


if __name__ == "__main__":
    main()
