"""Simulators and games in Python as environments of Myriad; docs/howto-external.md begins there."""
from myriad_client.client import Client, EpisodeLost
from myriad_client.policy import Policy
from myriad_client.simulator import serve
from myriad_client.spaces import Box, Dict, Discrete, MultiBinary, MultiDiscrete, Tuple
from myriad_client.wire import Refused

__all__ = ["Box", "Client", "Dict", "Discrete", "EpisodeLost", "MultiBinary", "MultiDiscrete", "Policy", "Refused", "Tuple", "serve"]
