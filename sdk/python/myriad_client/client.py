"""A program that asks for actions at its own pace: a game, a robot, a service (env = "clients:FILE")."""
import contextlib
import math
import os
import random
import socket
import time

import flatbuffers
import numpy as np

from myriad_client import protocol_generated as p
from myriad_client import spaces, wire
from myriad_client.policy import Policy, allows
from myriad_client.returned import flag_of, reward_of


class Client:
    """One stream of episodes.

        client = Client("127.0.0.1:7000", observation=Box(-10, 10, (4,)), action=Discrete(2))
        action = client.begin(observation)
        while playing:
            action = client.act(observation, reward)
        client.end(observation, reward, terminated=True)

    With `acts=True` the actions are chosen here, by the run's policy of the moment (`client.policy`), and no answer is waited for.
    `begin` and `act` then also take an action that was chosen in another way, by a person or a script: the run learns from
    it as if its policy had drawn it. No answer is waited for, and so a client may act by weights that are older than those the run
    trains with: what each action was drawn with is told, and counted (env_runners/policy_lag_*).

    Values that are not of their space, rewards that are no numbers: spaces.DoesNotFit, a ValueError, before anything is said.

    A connection that is lost is made again, for `patience_s`; what was said already counts once. `EpisodeLost` says that the
    run has given the episode up meanwhile: begin another.
    """

    def __init__(self, address: str, *, observation, action, token: str = "", name: str = "", patience_s: float = 60.0, acts: bool = False,
                 seed: int | None = None):
        self.address, self.patience_s = address, patience_s
        self.observation, self.action = spaces.Codec(observation, "obs"), spaces.Codec(action, "action")
        self._row = bytearray(self.observation.row_bytes)
        self._leaves = self.observation.views(self._row, 1)[0]
        self._hello = observation, action, token, name or f"{socket.gethostname()}-{os.getpid()}"
        self.acts, self._seed = acts, seed
        self.policy: Policy | None = None  # acts: of the newest weights
        self._did: tuple[bytes, np.ndarray, int] | None = None  # acts: the last action, what it was drawn from, of which version
        self._session = b""
        self._connection: wire.Connection | None = None
        self._episode, self._t, self._reward, self._playing = -1, 0, 0.0, False
        self._connect()

    # --- an episode ---

    def begin(self, observation, action=None):
        """The first observation of an episode; returns what to do."""
        if self._playing:
            raise RuntimeError("the episode before has not ended: say end() first")
        self._look_at(observation, action)
        self._episode, self._t, self._reward, self._playing = self._episode + 1, 0, 0.0, True
        self._did = None
        return self._ask(observation, action)

    def log_reward(self, reward: float) -> None:
        """Adds to the reward of the next act() or end()."""
        if not self._playing:
            raise RuntimeError("a reward after the end of the episode counts for nothing")
        self._reward += finite(reward)

    def act(self, observation, reward: float = 0.0, action=None):
        """What the last action led to; returns what to do now."""
        self._look_at(observation, action)
        self._advance(reward)
        return self._ask(observation, action)

    def end(self, observation, reward: float = 0.0, *, terminated: bool = True) -> None:
        """The last observation; terminated=False: cut off (a time limit), it would have gone on."""
        terminated = flag_of(terminated, "terminated")
        self._look_at(observation, None)
        self._advance(reward)
        self._playing = False
        self._say(terminated=terminated, truncated=not terminated)

    def close(self) -> None:
        if self._connection is not None:
            self._connection.sock.close()
            self._connection = None

    def __enter__(self):
        return self

    def __exit__(self, *_) -> None:
        self.close()

    # --- how ---

    def _look_at(self, observation, action) -> None:
        """Raises for what does not fit, before the episode has moved."""
        self.observation.write(self._leaves, observation)
        for leaf, row in zip(self.observation.leaves, self._leaves):
            if row.dtype.kind == "f" and not np.isfinite(row).all():
                i = int(np.isfinite(row.ravel()).argmin())
                raise spaces.DoesNotFit(f"{leaf.path}[{i}] = {row.ravel()[i]}")
        if action is not None:
            self._refuse_action(observation, action)

    def _refuse_action(self, observation, action) -> None:
        """Raises for an action of one's own that is not possible."""
        if not self.acts:
            raise ValueError("an action of one's own is for a client with acts=True")
        if not allows(self.observation.space, self.action.space, observation, action):
            raise ValueError(f"the observation's action_mask forbids the action {action}")

    def _advance(self, reward: float) -> None:
        if not self._playing:
            raise RuntimeError("no episode runs: say begin() first")
        reward = finite(reward)
        self._t += 1
        self._reward += reward

    def _frame(self, terminated: bool, truncated: bool) -> bytes:
        """The observation that was looked at."""
        b = flatbuffers.Builder(len(self._row) + 256)
        row = b.CreateByteVector(bytes(self._row))
        if self._did is not None:
            did = b.CreateByteVector(self._did[0]), b.CreateNumpyVector(self._did[1])
        p.ObservationStart(b)
        if self._did is not None:
            p.ObservationAddAction(b, did[0]), p.ObservationAddActionDistInputs(b, did[1])
            p.ObservationAddWeightsVersion(b, self._did[2])
        p.ObservationAddEpisode(b, self._episode), p.ObservationAddT(b, self._t), p.ObservationAddObservation(b, row)
        p.ObservationAddReward(b, self._reward)
        p.ObservationAddTerminated(b, terminated), p.ObservationAddTruncated(b, truncated)
        self._reward = 0.0
        return wire.frame(b, p.Body.Observation, p.ObservationEnd(b))

    def _say(self, terminated: bool = False, truncated: bool = False) -> bytes:
        said = self._frame(terminated, truncated)
        try:
            if self._connection is None:
                raise wire.Closed
            self._connection.send(said)
        except wire.Closed:
            self._hear_last_word()
            self._come_back(said)
        return said

    def _hear_last_word(self) -> None:
        """Raises Refused where Myriad said so before it closed the connection."""
        with contextlib.suppress(wire.Closed):
            while self._connection is not None and self._connection.has_more():
                self._connection.receive()

    def _ask(self, observation, action):
        said = self._say()
        if self.acts:
            return self._choose(said, observation, action)
        while True:
            try:
                if self._connection is None:
                    raise wire.Closed
                kind, answer = self._connection.receive()
            except wire.Closed:
                self._come_back(said)
                continue
            if kind == p.Body.Action and (answer.Episode(), answer.T()) == (self._episode, self._t):
                return self.action.read(self.action.views(answer.ActionAsNumpy().tobytes(), 1)[0])

    def _choose(self, said: bytes, observation, action):
        """By the newest policy that has come; the first is waited for."""
        while self.policy is None or self._connection is None or self._connection.has_more():
            try:
                if self._connection is None:
                    raise wire.Closed
                kind, weights = self._connection.receive()
                if kind == p.Body.Weights:
                    if self.policy is None:
                        self.policy = Policy.of_weights(weights, self.observation.space, self.action.space, seed=self._seed)
                    else:
                        self.policy.set_weights(weights, self.observation.space, self.action.space)
            except wire.Closed:
                self._come_back(said)
        if action is None:
            action, drawn, inputs = self.policy.draw(observation)
            version = self.policy.version
        else:
            drawn, inputs, version = self.policy.drawn(action), np.zeros(0, np.float32), -1
        row = bytearray(self.action.row_bytes)
        self.action.write(self.action.views(row, 1)[0], drawn)
        self._did = bytes(row), inputs.astype(np.float32), version
        return action

    def _come_back(self, said: bytes) -> None:
        """Connects again, and repeats what may not have arrived."""
        while True:
            self.close()
            welcome = self._connect()
            known = (welcome.Episode(), welcome.T()) if welcome.Taken() else None
            if self._t > 0 and known not in ((self._episode, self._t - 1), (self._episode, self._t)):
                self._playing = False
                raise EpisodeLost(f"the run has given up episode {self._episode} after the connection was lost: begin another")
            try:
                return self._connection.send(said)
            except wire.Closed:
                continue  # lost again

    def _connect(self) -> p.Welcome:
        until, pause = time.monotonic() + self.patience_s, 0.05
        while True:
            try:
                self._connection = wire.Connection(self._dial())
                self._connection.send(self._hello_frame())
                kind, welcome = self._connection.receive()
                if kind != p.Body.Welcome:
                    raise wire.Closed("what came first is no Welcome")
                self._session = bytes(welcome.Session(i) for i in range(welcome.SessionLength()))
                return welcome
            except (wire.Closed, OSError) as error:
                self.close()
                if time.monotonic() + pause > until:
                    raise ConnectionError(f"no run takes clients at {self.address}: {error}") from None
                time.sleep(pause * random.uniform(0.5, 1))
                pause = min(2 * pause, 2.0)

    def _dial(self) -> socket.socket:
        if "/" in self.address:
            sock = socket.socket(socket.AF_UNIX)
            sock.connect(self.address)
            return sock
        return socket.create_connection(wire.host_and_port(self.address))

    def _hello_frame(self) -> bytes:
        observation, action, token, name = self._hello
        b = flatbuffers.Builder(1024)
        said = [b.CreateString(name), b.CreateString(token), b.CreateByteVector(self._session), spaces.build(b, observation), spaces.build(b, action)]
        p.HelloStart(b)
        p.HelloAddProtocol(b, wire.PROTOCOL), p.HelloAddRole(b, p.Role.asks), p.HelloAddName(b, said[0])
        p.HelloAddToken(b, said[1]), p.HelloAddSession(b, said[2]), p.HelloAddObservation(b, said[3]), p.HelloAddAction(b, said[4])
        p.HelloAddActs(b, self.acts)
        return wire.frame(b, p.Body.Hello, p.HelloEnd(b))


def finite(reward) -> float:
    reward = reward_of(reward)
    if not math.isfinite(reward):
        raise spaces.DoesNotFit(f"reward = {reward}")
    return reward


class EpisodeLost(Exception):
    """The run has given the episode up; begin another."""
