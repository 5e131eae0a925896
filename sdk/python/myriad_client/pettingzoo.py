"""Any PettingZoo environment of like agents: env = "pettingzoo:MODULE?key=value", or `python -m myriad_client.pettingzoo MODULE`.

MODULE has `parallel_env` or `env`, as pettingzoo.butterfly.pistonball_v6. One policy plays all agents (parameter sharing): each
agent is an environment of Myriad's, as in SuperSuit's pettingzoo_env_to_vec_env. What follows the question mark are keyword
arguments that are no numbers; numbers are options (env_config). `mask=info` makes a part of the observations of each agent's
info["action_mask"]; an "action_mask" that observations have already is honoured without it.

All agents begin and end an episode together. One that has ended while others play on waits: it sees nothing (zeros, or what of
the space is nearest), gets no reward, its actions go nowhere, and its end is told with the end of all; its return is right, its
length counts the waiting. This is SuperSuit's black_death and the death masking of Yu et al. 2022, "The Surprising Effectiveness of
PPO in Cooperative Multi-Agent Games".
"""
import importlib

import numpy as np
import pettingzoo
from gymnasium import spaces as box
from pettingzoo.utils import BaseParallelWrapper
from pettingzoo.utils.conversions import aec_to_parallel

from myriad_client import command, wire
from myriad_client.gymnasium import action_of, as_sampled, masked, masked_space, space_of
from myriad_client.simulator import serve


def nothing_of(space):
    """What an agent sees that is not there: the element nearest to zero."""
    if isinstance(space, box.Box):
        return np.clip(np.zeros(space.shape, space.dtype), space.low, space.high)
    if isinstance(space, box.Discrete):
        return int(np.clip(0, space.start, space.start + space.n - 1))
    if isinstance(space, box.Dict):
        return {name: everything_of(part) if name == "action_mask" else nothing_of(part) for name, part in space.items()}
    if isinstance(space, box.Tuple):
        return tuple(nothing_of(part) for part in space)
    return np.zeros(space.shape, space.dtype)  # MultiDiscrete, MultiBinary


def everything_of(mask):
    """An action_mask of an agent that is not there: what it does goes nowhere, and so it may do anything."""
    if isinstance(mask, box.Tuple):
        return tuple(everything_of(part) for part in mask)
    return np.ones(mask.shape, mask.dtype)


class InfoMasks(BaseParallelWrapper):
    """mask=info: the masks in the observations."""

    def observation_space(self, agent):
        return masked_space(self.env.observation_space(agent), self.env.action_space(agent))

    def reset(self, seed=None, options=None):
        seen, infos = super().reset(seed=seed, options=options)
        return {agent: masked(self.env.action_space(agent), one, infos[agent]) for agent, one in seen.items()}, infos

    def step(self, actions):
        seen, rewards, terminateds, truncateds, infos = super().step(actions)
        ended = lambda agent: bool(terminateds.get(agent) or truncateds.get(agent))
        seen = {agent: masked(self.env.action_space(agent), one, infos[agent], ended(agent)) for agent, one in seen.items()}
        return seen, rewards, terminateds, truncateds, infos


class World:
    """A parallel environment as lists of one element an agent, in the order of possible_agents."""

    def __init__(self, env):
        self.env, self.agents = env, list(env.possible_agents)
        self.actions = [env.action_space(agent) for agent in self.agents]
        self.nothing = nothing_of(env.observation_space(self.agents[0]))

    def reset(self, seed=None) -> list:
        self.last = dict(self.env.reset(seed=seed)[0])  # of each agent the last that it saw
        self.ends = {}  # of each agent that has ended, how: terminated, truncated
        return [self.last.get(agent, self.nothing) for agent in self.agents]

    def step(self, actions: list):
        playing = set(self.env.agents)
        taken = {a: as_sampled(space, action) for a, space, action in zip(self.agents, self.actions, actions) if a in playing}
        seen, rewards, terminateds, truncateds, _ = self.env.step(taken)
        for agent in playing:
            if terminateds.get(agent) or truncateds.get(agent):
                self.ends[agent] = bool(terminateds.get(agent)), bool(truncateds.get(agent))
        self.last.update(seen)
        rewards = [float(rewards.get(agent, 0)) for agent in self.agents]
        if self.env.agents:
            return [seen.get(agent, self.nothing) for agent in self.agents], rewards, [False] * len(rewards), [False] * len(rewards)
        ends = [self.ends.get(agent, (True, False)) for agent in self.agents]
        return [self.last.get(agent, self.nothing) for agent in self.agents], rewards, [end[0] for end in ends], [end[1] for end in ends]

    def close(self) -> None:
        self.env.close()


def agents_of(env, name: str) -> list:
    """The agents, which must be alike."""
    agents = list(getattr(env, "possible_agents", []))
    if not agents:
        raise TypeError(f"{name} does not say its possible_agents, and each agent wants an environment of its own")
    for what in ("observation_space", "action_space"):
        first, *others = [getattr(env, what)(agent) for agent in agents]
        for agent, space in zip(agents[1:], others):
            if space != first:
                raise TypeError(f"one policy plays all agents, but the {what} of {agents[0]} is {first} and that of {agent} is {space}: "
                                "pad them alike (SuperSuit's pad_observations_v0, pad_action_space_v0)")
    return agents


def main() -> None:
    name, fixed, listen = command.arguments("myriad_client.pettingzoo", __doc__)
    with command.told():
        module = importlib.import_module(name)
        create = getattr(module, "parallel_env", None) or getattr(module, "env", None)
        if create is None:
            raise TypeError(f"{name} has neither parallel_env nor env: name the module of an environment, as pettingzoo.butterfly.pistonball_v6")
        mask = command.takes_mask(fixed)
        defaults = command.defaults_of(getattr(module, "raw_env", create)) | command.defaults_of(create)
        numbers = {key: value for key, value in command.numbers(defaults).items() if key not in fixed}

        def make(options):
            env = create(**fixed, **command.changed(options, numbers))
            env = env if isinstance(env, pettingzoo.ParallelEnv) else aec_to_parallel(env)
            return InfoMasks(env) if mask else env

        probe = make(wire.options())
        agents = agents_of(probe, name)
        observation, action = space_of(probe.observation_space(agents[0])), action_of(probe.action_space(agents[0]))
        probe.close()
    serve(lambda options: World(make(options)), observation, action, name=name, listen=listen, agents=len(agents),
          source=f"PettingZoo {pettingzoo.__version__}'s {name}, {len(agents)} agents", options={n: float(v) for n, v in numbers.items()})


if __name__ == "__main__":
    main()
