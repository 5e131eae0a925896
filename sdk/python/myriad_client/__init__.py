"""Simulators and games in Python as environments of Myriad; docs/howto-simulator.md begins there."""
from myriad_client.simulator import serve
from myriad_client.spaces import Box, Dict, Discrete, MultiBinary, MultiDiscrete, Tuple

__all__ = ["Box", "Dict", "Discrete", "MultiBinary", "MultiDiscrete", "Tuple", "serve"]
