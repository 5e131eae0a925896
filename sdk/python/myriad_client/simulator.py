"""A simulator that Myriad resets and steps: `serve(make_env, observation, action)`.

`make_env(options)` returns an object with Gymnasium's reset(seed=...) -> (observation, info) and
step(action) -> (observation, reward, terminated, truncated, info). What it raises ends its episode; then it is closed and another
made in its place. Numbers of `info` go to the results of the run.

Where it has close(), that is called when the run is over, or the environment failed. Which environment of the run it is says
MYRIAD_ENV_INDEX in os.environ, as make_env is called: for a port, a folder, a display of its own.

With `agents` it returns a world of so many agents, each of which is an environment of Myriad's: reset(seed=...) -> observations,
step(actions) -> (observations, rewards, terminateds, truncateds), lists of one element an agent. The observation of an agent that
is not there is None: one that has not come yet, or that ended in an earlier step. It waits, and its action goes nowhere. An agent
that has an observation again is back, and begins an episode. The world is over when no agent is left.
"""
import contextlib
import math
import os
import random
import signal
import socket
import sys
import threading
import traceback
import warnings

import flatbuffers
import numpy as np

from myriad_client import protocol_generated as p
from myriad_client import spaces, wire
from myriad_client.returned import agents_parts, flag_of, method_place, reset_parts, reward_of, said_of, step_parts

TERMINATED, TRUNCATED, NOT_BEGUN, WAITS, ALONE = 1, 2, 4, 8, 16
ALIGN = 64
MAX_NUMBERS = 32
MAX_WARNINGS = 32


def serve(make_env, observation, action, *, name: str = "", source: str = "", max_envs: int = 0, max_episode_steps: int = 0,
          reward_threshold: float = math.nan, options: dict[str, float] | None = None, listen: str = "", agents: int = 1) -> None:
    """Serves Myriad until it goes: over the connection it made before it started this process, or each that comes to
    `listen` ("HOST:PORT" or a path), each with environments of its own."""
    hello = _hello(observation, action, name, source, max_envs, max_episode_steps, reward_threshold, options or {}, agents)
    started = wire.session_socket()
    if started is not None:
        sys.excepthook = sys.__excepthook__  # from here on errors are told below
        _leave_signals_to_myriad()
        _serve_one(started, hello, make_env, observation, action, agents)
        return
    if not listen:
        raise RuntimeError("Myriad did not start this process: say listen='HOST:PORT' for env = \"connect:HOST:PORT\"")
    with listener(listen) as door:
        signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # nobody asks how they end
        while True:
            sock, _ = door.accept()
            if os.fork() == 0:  # a process for each, as where Myriad starts them
                signal.signal(signal.SIGCHLD, signal.SIG_DFL)
                door.close()
                _serve_one(sock, hello, make_env, observation, action, agents)
                os._exit(0)
            sock.close()


def _leave_signals_to_myriad() -> None:
    """What is sent to all processes of a run at once ends the run, which closes the connection. Programs that this one starts, and
    forks of it, have the signals as they were: multiprocessing ends its workers by SIGTERM."""
    if threading.current_thread() is not threading.main_thread():
        return
    taken = {number: handler for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
             if (handler := signal.getsignal(number)) in (signal.SIG_DFL, signal.default_int_handler)}
    for number in taken:
        signal.signal(number, lambda *_: None)

    def give_back() -> None:
        for number, handler in taken.items():
            signal.signal(number, handler)
        signal.pthread_sigmask(signal.SIG_UNBLOCK, taken)
    os.register_at_fork(before=lambda: signal.pthread_sigmask(signal.SIG_BLOCK, taken),  # one that comes before give_back() waits for it
                        after_in_parent=lambda: signal.pthread_sigmask(signal.SIG_UNBLOCK, taken), after_in_child=give_back)


def listener(address: str) -> socket.socket:
    if "/" in address:
        if os.path.exists(address):
            os.unlink(address)
        door = socket.socket(socket.AF_UNIX)
        door.bind(address)
        door.listen()
        return door
    host, port = wire.host_and_port(address)
    family = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)[0][0]
    return socket.create_server((host, port), family=family)


def _hello(observation, action, name, source, max_envs, max_episode_steps, reward_threshold, options, agents) -> bytes:
    spaces.check_space(observation, "obs"), spaces.check_space(action, "action")
    b = flatbuffers.Builder(1024)
    rows = []
    for key, value in options.items():
        text = b.CreateString(key)
        p.OptionStart(b), p.OptionAddName(b, text), p.OptionAddValue(b, float(value))
        rows.append(p.OptionEnd(b))
    rows = spaces.vector(b, rows, p.HelloStartOptionsVector, b.PrependUOffsetTRelative)
    said = [b.CreateString(name or os.path.basename(sys.argv[0])), b.CreateString(source), spaces.build(b, observation), spaces.build(b, action)]
    p.HelloStart(b)
    p.HelloAddProtocol(b, wire.PROTOCOL), p.HelloAddRole(b, p.Role.steps)
    p.HelloAddName(b, said[0]), p.HelloAddSource(b, said[1]), p.HelloAddObservation(b, said[2]), p.HelloAddAction(b, said[3])
    p.HelloAddMaxEnvs(b, max_envs), p.HelloAddMaxEpisodeSteps(b, max_episode_steps), p.HelloAddOptions(b, rows)
    p.HelloAddRewardThreshold(b, reward_threshold), p.HelloAddAgents(b, agents)
    return wire.frame(b, p.Body.Hello, p.HelloEnd(b))


def _serve_one(sock: socket.socket, hello: bytes, make_env, observation, action, agents) -> None:
    connection = wire.Connection(sock)
    host, heard = None, _hear_warnings()
    try:
        connection.send(hello)
        kind, welcome = connection.receive()
        if kind == p.Body.Welcome:
            host = (_Host if agents == 1 else _Worlds)(connection, welcome, observation, action, agents)
            host.warnings = heard
            host.make(make_env)
            host.run()
    except wire.Closed:
        pass  # the run is over
    except Exception as error:
        _tell(connection, error)
        raise
    finally:
        if host is not None:
            host.close()


def _hear_warnings() -> list[str]:
    """From now on the texts of RuntimeWarnings, numpy's overflows and divisions among them, until they are told: each once, the first
    ones alone."""
    heard, known, show = [], set(), warnings.showwarning

    def hear(message, category, filename, lineno, *more, **named):
        show(message, category, filename, lineno, *more, **named)
        text = f"{category.__name__}: {message} ({os.path.basename(filename)}:{lineno})"
        if issubclass(category, RuntimeWarning) and text not in known and len(known) < MAX_WARNINGS:
            known.add(text)
            heard.append(text)
    warnings.showwarning = hear
    return heard


def _tell(connection: wire.Connection, error: BaseException) -> None:
    try:
        connection.send(wire.failure(said_of(error)))
    except wire.Closed:
        pass


def _tell_before_serve(kind, error, trace) -> None:
    """An error of a program that Myriad started, and that has not come to serve() yet: Myriad waits for its first word."""
    try:
        if issubclass(kind, Exception) and (started := wire.session_socket()) is not None:
            _tell(wire.Connection(started), error)
    except OSError:
        pass  # not the process that Myriad started, but a child of it
    sys.__excepthook__(kind, error, trace)


if wire.is_started() and sys.excepthook is sys.__excepthook__:
    sys.excepthook = _tell_before_serve


@contextlib.contextmanager
def _from(env, method: str):
    """What does not fit came from this method."""
    try:
        yield
    except spaces.DoesNotFit as error:
        error.place = method_place(env, method)
        raise


class _Numbers:
    """The numbers of each environment's `info`s: over its episode their means and the last ones, in pairs in `memory`."""

    def __init__(self, memory, n: int, room: int):
        self.pairs, self.room = memory.cast("d"), room
        self.pairs[:] = memoryview(np.full(2 * n * room, math.nan))
        self.names: dict[str, int] = {}
        self.of = [{} for _ in range(n)]  # name -> [sum, count, place in pairs], or None where it is no number
        self.over = [True] * n  # the next info begins an episode
        self.told = 0  # names

    def add(self, i: int, info: dict, ended: bool) -> None:
        of, pairs = self.of[i], self.pairs
        if self.over[i]:
            for one in filter(None, of.values()):
                one[0], one[1], pairs[one[2]] = 0.0, 0, math.nan
        self.over[i] = ended
        for name, value in info.items():
            try:
                one = of[name]
            except KeyError:
                one = self.begin(i, name, value)
                if len(of) < 256:  # of an info that has other names in each step the first ones are enough
                    of[name] = one
            if one is not None:
                try:
                    one[0] += value
                    one[1] += 1
                    at = one[2]
                    pairs[at] = one[0] / one[1]
                    pairs[at + 1] = value
                except (TypeError, OverflowError):  # no number this time, or an int of 400 digits
                    one[0] = pairs[one[2]] = math.nan

    def begin(self, i: int, name, value) -> list | None:
        if not isinstance(name, str) or not isinstance(value, (float, int, np.number, np.bool_)):
            return None
        if name not in self.names and len(self.names) == min(self.room, MAX_NUMBERS):
            return None
        return [0.0, 0, 2 * (i * self.room + self.names.setdefault(name, len(self.names)))]


class _OwnGenerators:
    """What the process shares of random generators is an environment's own while it is reset and stepped: `myriad check-env` finds out by
    it why two of one process are not as one alone."""

    def __init__(self, env):
        self.env, self.states = env, self.now()

    @classmethod
    def of(cls, make_env):
        return lambda options: cls(make_env(options))

    @staticmethod
    def now() -> tuple:
        return random.getstate(), np.random.get_state()

    def call(self, method, *arguments, **named):
        others = self.now()
        self.put(self.states)
        try:
            return method(*arguments, **named)
        finally:
            self.states = self.now()
            self.put(others)

    @staticmethod
    def put(states: tuple) -> None:
        random.setstate(states[0]), np.random.set_state(states[1])

    def reset(self, **named):
        return self.call(self.env.reset, **named)

    def step(self, action):
        return self.call(self.env.step, action)

    def __getattr__(self, name):
        return getattr(self.env, name)


class _Host:
    def __init__(self, connection: wire.Connection, welcome: p.Welcome, observation, action, agents: int):
        self.connection, self.agents = connection, agents
        self.n = n = welcome.NumEnvs()
        self.options = {wire.text(welcome.Options(i).Name()): welcome.Options(i).Value() for i in range(welcome.OptionsLength())}
        self.hears_made = welcome.HearsMade()
        self.observation, self.action = spaces.Codec(observation, "obs"), spaces.Codec(action, "action")
        if (self.observation.row_bytes, self.action.row_bytes) != (welcome.ObservationBytes(), welcome.ActionBytes()):
            raise RuntimeError("Myriad lays these spaces out in other rows: update the client")
        self.shared = welcome.SharedBytes() > 0
        aligned = lambda size: -(-size // ALIGN) * ALIGN
        room = welcome.MaxNumbers()
        sizes = [n * self.observation.row_bytes, n * self.observation.row_bytes, n * self.action.row_bytes, 8 * n, n, n, 16 * n * room]
        starts = [sum(map(aligned, sizes[:i])) for i in range(len(sizes))]
        total = starts[-1] + aligned(sizes[-1])
        memory = connection.memory(welcome.SharedBytes()) if self.shared else bytearray(total)
        self.blocks = [memoryview(memory)[start:start + size] for start, size in zip(starts, sizes)]
        self.observations = self.observation.views(self.blocks[0], n)
        self.finals = self.observation.views(self.blocks[1], n)
        self.actions = self.action.views(self.blocks[2], n)
        self.rewards, self.flags = np.frombuffer(self.blocks[3], np.float64), self.blocks[4]
        self.active = self.blocks[5]
        self.numbers = _Numbers(self.blocks[6], n, room)
        self.takes_failed, self.failed = welcome.TakesFailed(), []  # (environment, why), to be told
        self.num_failed = 0
        self.warnings: list[str] = []  # to be told
        self.not_begun: dict[int, Exception] = {}  # by world: why its next episode has not begun, to be told at its Reset
        self.stepped = self._stepped() if self.shared else b""
        if n % agents:
            raise RuntimeError(f"{n} environments are no multiple of the {agents} agents of a world")
        self.envs: list = []  # None: it failed

    def make(self, make_env) -> None:
        first = int(os.environ.get("MYRIAD_ENV_INDEX", "0"))

        make_env = _OwnGenerators.of(make_env) if "MYRIAD_OWN_GENERATORS" in os.environ else make_env

        def make_one(world: int):
            os.environ["MYRIAD_ENV_INDEX"] = str(first + world * self.agents)
            return make_env(dict(self.options))

        self.make_one = make_one
        for world in range(self.n // self.agents):
            self.envs.append(make_one(world))
            if self.hears_made:
                self.connection.send(_made((world + 1) * self.agents))

    def close(self) -> None:
        for world in range(len(self.envs)):
            self.discard(world)

    def _stepped(self) -> bytes:
        b = flatbuffers.Builder(256)
        rows = []
        if not self.shared:
            for start, block in ((p.SteppedStartObservationsVector, 0), (p.SteppedStartFinalsVector, 1), (p.SteppedStartFlagsVector, 4)):
                rows.append(b.CreateByteVector(bytes(self.blocks[block])))
            rewards = b.CreateNumpyVector(self.rewards)
            numbers = b.CreateNumpyVector(np.array(self.numbers.pairs))
        failed, names = [], None
        for i, why in self.failed:
            text = b.CreateString(why)
            p.FailedEnvStart(b), p.FailedEnvAddEnv(b, i), p.FailedEnvAddText(b, text)
            failed.append(p.FailedEnvEnd(b))
        failed = spaces.vector(b, failed, p.SteppedStartFailedVector, b.PrependUOffsetTRelative)
        if self.numbers.told < len(self.numbers.names):
            names = [b.CreateString(name) for name in self.numbers.names]
            names = spaces.vector(b, names, p.SteppedStartNumberNamesVector, b.PrependUOffsetTRelative)
        warned = spaces.vector(b, [b.CreateString(text) for text in self.warnings], p.SteppedStartWarningsVector, b.PrependUOffsetTRelative)
        p.SteppedStart(b)
        p.SteppedAddFailed(b, failed), p.SteppedAddWarnings(b, warned)
        if names is not None:
            p.SteppedAddNumberNames(b, names)
        if not self.shared:
            p.SteppedAddObservations(b, rows[0]), p.SteppedAddFinals(b, rows[1]), p.SteppedAddFlags(b, rows[2])
            p.SteppedAddRewards(b, rewards), p.SteppedAddNumbers(b, numbers)
        return wire.frame(b, p.Body.Stepped, p.SteppedEnd(b))

    def answer(self) -> bytes:
        if self.shared and not self.failed and not self.warnings and self.numbers.told == len(self.numbers.names):
            return self.stepped
        data = self._stepped()
        self.failed, self.numbers.told = [], len(self.numbers.names)
        self.warnings.clear()
        return data

    def failed_in(self, world: int, error: Exception) -> None:
        """The error is that of one world, or of one environment where each is its own: the others go on."""
        if not self.takes_failed:
            raise error
        self.failed += [(i, said_of(error)) for i in range(world * self.agents, (world + 1) * self.agents)]
        self.num_failed += 1
        if str(self.num_failed).strip("0") == "1":  # the first, tenth, hundredth, ...
            traceback.print_exception(error)
        self.discard(world)

    def begin_next(self, world: int, begin) -> None:
        """Where that fails, the episode that has ended is none the worse."""
        try:
            begin()
        except Exception as error:
            if not self.takes_failed:
                raise
            self.not_begun[world] = error
            for i in range(world * self.agents, (world + 1) * self.agents):
                self.flags[i] |= NOT_BEGUN

    def refuse_not_begun(self, world: int) -> None:
        error = self.not_begun.pop(world, None)
        if error is not None:
            raise error

    def discard(self, world: int) -> None:
        self.not_begun.pop(world, None)
        env, self.envs[world] = self.envs[world], None
        try:
            if env is not None and hasattr(env, "close"):
                env.close()
        except Exception as error:
            print(f"an environment that failed cannot be closed: {said_of(error)}", file=sys.stderr)

    def made(self, world: int):
        if self.envs[world] is None:
            self.envs[world] = self.make_one(world)
        return self.envs[world]

    def run(self) -> None:
        always: bytes | None = None  # what a Step looks like where rows are shared
        while True:
            data = self.connection.receive_bytes()
            if data == always:
                self.step()
                self.connection.send(self.answer())
                continue
            kind, message = wire.parse(data)
            if kind == p.Body.Step:
                if self.shared:
                    always = data
                else:
                    self.blocks[2][:] = message.ActionsAsNumpy().tobytes()
                    self.active[:] = message.ActiveAsNumpy().tobytes()
                self.step()
            elif kind == p.Body.Reset:
                for k in range(message.EnvsLength()):
                    seed = message.Seeds(k) if k < message.SeedsLength() else None
                    i = message.Envs(k)
                    try:
                        self.reset(i, seed, message.Anew())
                    except Exception as error:
                        self.failed_in(i // self.agents, error)
            else:
                raise RuntimeError("Myriad sent what a simulator does not take: update the client")
            self.connection.send(self.answer())

    def reset(self, i: int, seed: int | None, anew: bool) -> None:
        if anew:
            self.discard(i)
        self.refuse_not_begun(i)
        self.numbers.over[i] = True
        self._begin(i, seed=seed)

    def _begin(self, i: int, **seed) -> None:
        env = self.made(i)
        result = env.reset(**seed)
        try:
            self.observation.write(self.observations[i], reset_parts(result)[0])
        except spaces.DoesNotFit as error:
            error.place = method_place(env, "reset")
            raise

    def step(self) -> None:
        read, write, numbers = self.action.read, self.observation.write, self.numbers
        for i, env in enumerate(self.envs):
            if not self.active[i]:
                continue
            try:
                result = env.step(read(self.actions[i]))
                try:
                    if type(result) is not tuple or len(result) != 5 or type(result[4]) is not dict:
                        step_parts(result)
                    observation, reward, terminated, truncated, info = result
                    self.rewards[i] = reward if type(reward) is float else reward_of(reward)
                    if terminated is False and truncated is False:
                        flags = 0
                    else:
                        flags = (TERMINATED if flag_of(terminated, "terminated") else 0) | (TRUNCATED if flag_of(truncated, "truncated") else 0)
                    self.flags[i] = flags
                    if info and numbers.room:
                        numbers.add(i, info, flags != 0)
                    write((self.finals if flags else self.observations)[i], observation)
                except spaces.DoesNotFit as error:
                    error.place = method_place(env, "step")
                    raise
                if flags:
                    self.begin_next(i, lambda: self._begin(i))
            except Exception as error:
                self.failed_in(i, error)


def _made(envs: int) -> bytes:
    b = flatbuffers.Builder(64)
    p.MadeStart(b)
    p.MadeAddEnvs(b, envs)
    return wire.frame(b, p.Body.Made, p.MadeEnd(b))


def nothing_of(space):
    """What an agent sees that is not there: the element nearest to zero, and a mask that allows everything."""
    if isinstance(space, spaces.Box):
        return np.clip(np.zeros(space.shape, space.dtype), space.low, space.high)
    if isinstance(space, spaces.Discrete):
        return min(max(0, space.start), space.start + space.n - 1)
    if isinstance(space, spaces.Dict):
        return {name: everything_of(part) if name == "action_mask" else nothing_of(part) for name, part in space.spaces.items()}
    if isinstance(space, spaces.Tuple):
        return tuple(map(nothing_of, space.spaces))
    if isinstance(space, spaces.MultiBinary):
        return np.zeros(space.shape, np.int32)
    start = np.zeros(space.shape, np.int64) if space.start is None else np.array(space.start)
    return np.clip(0, start, start + np.array(space.nvec) - 1)


def everything_of(mask):
    if isinstance(mask, spaces.Tuple):
        return tuple(map(everything_of, mask.spaces))
    return np.ones(mask.shape, np.int32)


class _Worlds(_Host):
    """Worlds side by side: environment i is agent i % agents of world i // agents.

    What an agent sees is cut into episodes: its lives, and the waits before, between and after them, which count as none. Life and
    wait of an agent end by themselves (ALONE), or together with the world, whose time limit is kept here.
    """

    def __init__(self, connection, welcome, observation, action, agents):
        super().__init__(connection, welcome, observation, action, agents)
        self.nothing, self.limit = nothing_of(observation), welcome.MaxEpisodeSteps()

    def make(self, make_env) -> None:
        super().make(make_env)
        self.first: list[dict] = [{} for _ in self.envs]  # of a new episode: S_0 of the agents that have not asked for it
        self.there: list[list[bool]] = [[] for _ in self.envs]
        self.t = [0 for _ in self.envs]

    def reset(self, i: int, seed: int | None, anew: bool) -> None:
        """The first agent that asks begins an episode, the others join it: its seed is the world's."""
        world, agent = divmod(i, self.agents)
        if agent not in self.first[world]:
            if anew:
                self.discard(world)
            self.refuse_not_begun(world)
            self.made(world)
            self.first[world] = dict(enumerate(self.begin(world, seed)))
        with _from(self.envs[world], "reset"):
            self.observation.write(self.observations[i], self.first[world].pop(agent))

    def begin(self, world: int, seed: int | None = None) -> list:
        result = self.envs[world].reset(seed=seed)
        with _from(self.envs[world], "reset"):
            seen = agents_parts(result, "reset", self.agents)[0]
        self.t[world], self.there[world] = 0, [one is not None for one in seen]
        if not any(self.there[world]):
            raise ValueError("reset() begins a world without an agent")
        return self.shown(seen)

    def shown(self, seen: list) -> list:
        return [self.nothing if one is None else one for one in seen]

    def step(self) -> None:
        for k, world in enumerate(self.envs):
            active = [self.active[i] for i in range(k * self.agents, (k + 1) * self.agents)]
            if not any(active):
                continue
            try:
                if not all(active):
                    raise RuntimeError(f"agent {active.index(0)} of a world has no action: its {self.agents} agents act together")
                self.step_one(k, world)
            except Exception as error:
                self.failed_in(k, error)

    def step_one(self, k: int, world) -> None:
        rows = range(k * self.agents, (k + 1) * self.agents)
        self.first[k] = {}
        self.t[k] += 1
        result = world.step([self.action.read(self.actions[i]) for i in rows])
        with _from(world, "step"):
            seen, rewards, terminateds, truncateds = agents_parts(result, "step", self.agents)
            was, cut = self.there[k], self.t[k] == self.limit
            ends = [(TERMINATED if flag_of(a, "terminated") else 0) | (TRUNCATED if flag_of(b, "truncated") or cut else 0)
                    for a, b in zip(terminateds, truncateds)]
            stays = [one is not None and not end for one, end in zip(seen, ends)]
            over = not any(stays)
            for agent, i in enumerate(rows):
                if was[agent] and seen[agent] is None:
                    raise ValueError(f"agent {agent} has no observation after its step {self.t[k]}")
                flags = ends[agent] if was[agent] else WAITS | (TERMINATED if over or stays[agent] else 0)
                if flags & (TERMINATED | TRUNCATED):
                    self.observation.write(self.finals[i], seen[agent] if was[agent] else self.nothing)
                    flags |= 0 if over else ALONE
                self.rewards[i], self.flags[i] = reward_of(rewards[agent]) if was[agent] else 0, flags
        if over:
            self.begin_next(k, lambda: self._write_all(world, "reset", rows, self.begin(k)))
        else:
            self.there[k] = stays
            self._write_all(world, "step", rows, self.shown([one if stay else None for one, stay in zip(seen, stays)]))

    def _write_all(self, world, method: str, rows, observations) -> None:
        with _from(world, method):
            for i, observation in zip(rows, observations):
                self.observation.write(self.observations[i], observation)
