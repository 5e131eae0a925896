"""Any PettingZoo environment of like agents: env = "pettingzoo:MODULE?key=value", or `python -m myriad_client.pettingzoo MODULE`.

MODULE has `parallel_env` or `env`, as pettingzoo.butterfly.pistonball_v6. One policy plays all agents (parameter sharing): each
agent is an environment of Myriad's, as in SuperSuit's pettingzoo_env_to_vec_env. What follows the question mark are keyword
arguments that are no numbers; numbers are options (env_config). `mask=info` makes a part of the observations of each agent's
info["action_mask"]; an "action_mask" that observations have already is honoured without it. `wrappers=supersuit:NAME,...` puts
functions of an environment around it, the first one innermost.

An agent that ends while others play on is told so in that step, and waits from then on: it sees nothing (zeros, or what of the
space is nearest), gets no reward, its actions go nowhere. So does one that comes late; where it comes, or comes back, an episode of
its own begins. Waits count as no episodes (death masking: Yu et al. 2022, "The Surprising Effectiveness of PPO in Cooperative
Multi-Agent Games").
"""
import difflib
import importlib

import pettingzoo
from pettingzoo.utils import BaseParallelWrapper
from pettingzoo.utils.conversions import aec_to_parallel

from myriad_client import command, wire
from myriad_client.gymnasium import action_of, as_sampled, masked, masked_space, space_of
from myriad_client.returned import flag_of, reward_of
from myriad_client.simulator import serve
from myriad_client.spaces import kind_of


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
    """A parallel environment as lists of one element an agent, in the order of possible_agents; None: it is not there."""

    def __init__(self, env):
        self.env, self.agents = env, list(env.possible_agents)
        self.actions = [env.action_space(agent) for agent in self.agents]

    def reset(self, seed=None) -> list:
        returned = self.env.reset(seed=seed)
        if not isinstance(returned, tuple) or len(returned) != 2:
            raise TypeError(f"reset() returned {kind_of(returned)}, want (observations, infos)")
        self.t, self.playing, self.owed = 0, set(self.env.agents), {}
        seen = returned[0]
        self._check_names({"agents": self.env.agents, "observations": seen})
        return [self._own("observations", seen, agent) if agent in self.playing else None for agent in self.agents]

    def step(self, actions: list):
        self.t += 1
        asked = set(self.env.agents)
        returned = self.env.step({a: as_sampled(space, action) for a, space, action in zip(self.agents, self.actions, actions) if a in asked})
        if not isinstance(returned, tuple) or len(returned) != 5:
            raise TypeError(f"step() returned {kind_of(returned)}, want (observations, rewards, terminations, truncations, infos)")
        seen, rewards, terminations, truncations, _ = returned
        left, flags = set(self.env.agents), {"terminations": terminations, "truncations": truncations}
        self._check_names({"agents": left, "observations": seen, "rewards": rewards, **flags})
        all_end = [flag_of(ends.get("__all__", False), what) for what, ends in flags.items()]
        playing, rows = set(), []
        for agent in self.agents:
            if agent in self.playing:
                one, reward = self._own("observations", seen, agent), reward_of(self._own("rewards", rewards, agent)) + self.owed.pop(agent, 0)
                ended = [flag_of(ends.get(agent, False) if "__all__" in ends else self._own(what, ends, agent), what) for what, ends in flags.items()]
                ended = ended if any(ended) else all_end
                if not any(ended) and agent not in left:
                    raise ValueError(f"{agent!r} is no longer in `agents` after step {self.t}, and neither terminations nor truncations say that it "
                                     "ended: one of them has to, in an agent's last step")
            else:
                comes = agent in left and not any(all_end) and not any(ends.get(agent) for ends in flags.values())
                one, reward, ended = self._own("observations", seen, agent) if comes else None, reward_of(rewards.get(agent, 0)), [False, False]
                if comes:
                    self.owed[agent], reward = reward, 0  # it comes with the reward of its first step
                elif reward != 0:
                    raise ValueError(f"{agent!r} has a reward of {reward:g} in step {self.t}, in which it does not play: give it with the agent's "
                                     "last step, or let the agent end later")
            if one is not None and not any(ended):
                playing.add(agent)
            rows.append((one, reward, *ended))
        self.playing = playing
        return tuple(map(list, zip(*rows)))

    def _own(self, what: str, values: dict, agent):
        if agent not in values:
            raise ValueError(f"{what} {self._when()} have nothing for {agent!r}, which plays; they have {', '.join(map(repr, values)) or 'nothing at all'}")
        return values[agent]

    def _check_names(self, given: dict) -> None:
        """Every name in what came is an agent's."""
        for what, names in given.items():
            for name in names:
                if name not in self.agents and not (name == "__all__" and what in ("terminations", "truncations")):
                    near = difflib.get_close_matches(str(name), map(str, self.agents), 1)
                    raise ValueError(f"{what} {self._when()} name {name!r}, which is not in possible_agents ({', '.join(map(repr, self.agents))})"
                                     + (f"; did you mean {near[0]!r}?" if near else ""))

    def _when(self) -> str:
        return f"of step {self.t}" if self.t else "of reset()"

    @property
    def unwrapped(self):
        return getattr(self.env, "unwrapped", self.env)

    def close(self) -> None:
        self.env.close()


def agents_of(env, name: str) -> list:
    """The agents, which must be alike."""
    agents = list(getattr(env, "possible_agents", []))
    if not agents:
        raise TypeError(f"{name} does not say its possible_agents, and each agent wants an environment of its own")
    for what, pad in (("observation_space", "pad_observations_v0"), ("action_space", "pad_action_space_v0")):
        first, *others = [getattr(env, what)(agent) for agent in agents]
        for agent, space in zip(agents[1:], others):
            if space != first:
                raise TypeError(f"one policy plays all agents, but the {what} of {agents[0]} is {first} and that of {agent} is {space}: "
                                f"pad them alike, as \"pettingzoo:{name}?wrappers=supersuit:{pad}\" does (pip install supersuit)")
    return agents


def parallel(env, name: str):
    """An AEC environment as a parallel one; what cannot be one is named."""
    if isinstance(env, pettingzoo.ParallelEnv) or not hasattr(env, "agent_iter"):
        return env
    if not env.metadata.get("is_parallelizable", False):
        raise TypeError(f"{name} is turn-based (an AEC environment whose metadata does not say is_parallelizable): its agents act one after "
                        "the other, and Myriad steps the agents of a world together. What can be trained is one side of it: a Gymnasium "
                        "environment whose step() plays the other sides, as env = \"gymnasium:my_module:MyGame-v0\"")
    return aec_to_parallel(env)


def main() -> None:
    name, fixed, listen = command.arguments("myriad_client.pettingzoo", __doc__)
    with command.told("pettingzoo"):
        module = importlib.import_module(name)
        create = getattr(module, "parallel_env", None) or getattr(module, "env", None)
        if create is None:
            raise TypeError(f"{name} has neither parallel_env nor env: name the module of an environment, as pettingzoo.butterfly.pistonball_v6")
        mask, wrap = command.takes_mask(fixed), command.wrappers_of(fixed, "supersuit")
        defaults = command.defaults_of(getattr(module, "raw_env", create)) | command.defaults_of(create)
        numbers = {key: value for key, value in command.numbers(defaults).items() if key not in fixed}

        def make(options):
            env = wrap(parallel(create(**fixed, **command.changed(options, numbers)), name))
            return InfoMasks(env) if mask else env

        probe = make(wire.options())
        agents = agents_of(probe, name)
        observation, action = space_of(probe.observation_space(agents[0])), action_of(probe.action_space(agents[0]))
        probe.close()
    serve(lambda options: World(make(options)), observation, action, name=name, listen=listen, agents=len(agents),
          source=f"PettingZoo {pettingzoo.__version__}'s {name}, {len(agents)} agents", options={n: float(v) for n, v in numbers.items()})


if __name__ == "__main__":
    main()
