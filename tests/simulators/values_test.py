"""Values and spaces at the border to Python, each whole or refused by name: `values_test.py BUILD [CASE ...]`."""
import json
import math
import pathlib
import socket
import sys
import tempfile
import threading
import types
import unittest
import warnings

ROOT = pathlib.Path(__file__).resolve().parent.parent.parent
sys.path[:0] = [str(ROOT / "tests/integration"), str(ROOT / "sdk/python")]
import flatbuffers  # noqa: E402
import gymnasium  # noqa: E402
import numpy as np  # noqa: E402
import run_test  # noqa: E402
from gymnasium import spaces as box  # noqa: E402
from myriad_client import protocol_generated as p  # noqa: E402
from myriad_client import simulator, wire  # noqa: E402
from myriad_client import Box, Client, Dict, Discrete, MultiBinary, MultiDiscrete, Policy, Tuple  # noqa: E402
from myriad_client.gymnasium import Dropped, action_of, as_sampled, look_at_first, num_options, space_of  # noqa: E402
from myriad_client.policy import Head, allows, choices_made, features  # noqa: E402
from myriad_client.returned import flag_of, reset_parts, reward_of, step_parts  # noqa: E402
from myriad_client.spaces import Codec, DoesNotFit, bounds_of, check_space, choices_of, values_of  # noqa: E402
from run_test import Case, json_lines  # noqa: E402


def sent(space, value) -> list:
    """The row of a value, leaf by leaf."""
    return [leaf.ravel().tolist() for leaf in Codec(space).converted(value)]


class Values(unittest.TestCase):
    def refused(self, said: str, space, value) -> None:
        with self.subTest(said), self.assertRaises(DoesNotFit) as caught:
            print(f"sent: {sent(space, value)}")
        self.assertIn(said, str(caught.exception))

    def test_shapes_are_compared(self):
        four = Box(-10, 10, (4,))
        self.refused("obs: an array of shape (1,), want shape (4,)", four, np.array([0.5]))
        self.refused("obs: 0.5 (float), of shape (), want shape (4,)", four, 0.5)
        self.refused("obs: a list of 1, of shape (1,), want shape (4,)", four, [0.5])
        self.refused("obs: an array of shape (1, 4), want shape (4,)", four, np.zeros((1, 4)))
        self.refused("obs: an array of shape (3,), want shape (2, 3)", Box(-1, 1, (2, 3)), np.zeros(3, np.float32))
        self.refused("obs: an array of shape (), want shape (4,)", four, np.float64(1)[...])
        self.refused("obs: 1 (int), of shape (), want shape (2,)", MultiDiscrete([3, 3]), 1)
        self.refused("obs: an array of shape (4,), want shape (2, 2)", MultiBinary((2, 2)), np.zeros(4, np.int8))
        self.refused("obs: an array of shape (2,), want one integer", Discrete(3), np.array([1, 1]))
        self.refused("obs: a list of 2 is no array of float32", Box(-1, 1, (2, 2)), [[1, 2], [3]])

    def test_casts_keep_the_value(self):
        byte = Box(0, 255, (2,), "uint8")
        self.refused("obs[0] = 0.7 is no whole number", byte, np.array([0.7, 1]))
        self.refused("obs[1] = 300 is outside uint8, which is 0 to 255", byte, np.array([3, 300]))
        self.refused("obs[1] = -1 is outside uint8", byte, [3, -1])
        self.refused("obs[0] = nan is no whole number", byte, np.full(2, np.nan))
        self.refused("obs[1] = inf is no whole number", Box(-9, 9, (2,), "int64"), [1.0, math.inf])
        self.refused("obs[0] = 1.9 is no whole number", Box(-10, 10, (2,), "int32"), np.array([1.9, -1.9]))
        self.refused("obs[1, 0] = 3000000000 is outside int32", Box(-10, 10, (2, 1), "int32"), np.array([[1], [3_000_000_000]]))
        self.refused("obs[0] = 9223372036854775808 is outside int64", Box(-10, 10, (1,), "int64"), np.array([2**63], np.uint64))
        self.refused("obs[0] = 9.223372036854776e+18 is outside int64", Box(-10, 10, (1,), "int64"), np.array([2.0**63]))
        self.refused("obs = 1.9 is no whole number", Discrete(3), 1.9)
        self.refused("obs = 5000000000 is beyond int32", Discrete(3), np.int64(5_000_000_000))
        self.refused("obs[0] = 0.7 is no whole number", MultiBinary(1), [0.7])
        self.refused("obs[0] = 4294967296 is outside int32", MultiDiscrete([3, 3]), np.array([1 << 32, 0]))
        with warnings.catch_warnings(action="ignore"):
            self.refused("obs[1] = 1e+300 is beyond float32", Box(-10, 10, (2,)), np.array([0, 1e300]))
            self.refused("obs[0] = -1e+39 is beyond float32", Box(-10, 10, (40,)), np.full(40, -1e39))
            self.refused("obs[0, 0] = 1e+39 is beyond float32", Box(-10, 10, (1, 1)), [[1e39]])
        self.assertEqual([[2.0, 3.0]], sent(byte, np.array([2.0, 3.0])))
        self.assertEqual([[-2, 3]], sent(Box(-9, 9, (2,), "int64"), np.array([-2, 3], np.int8)))
        self.assertEqual([[1, 0]], sent(Box(0, 1, (2,), "uint8"), [True, False]))
        self.assertEqual([[0.5, 2.0**60]], sent(Box(-9, 9, (2,)), np.array([0.5, 2**60])))
        self.assertEqual([[np.float32(0.1)]], sent(Box(-9, 9, (1,)), [0.1]))  # rounding is no loss
        self.assertEqual([[7]], sent(Box(-9, 9, (1,)), np.array([7])))
        for largest in (3.4e38, math.inf, -math.inf):
            self.assertEqual([[np.float32(largest), 0]], sent(Box(-9, 9, (2,)), np.array([largest, 0])))
            self.assertEqual([[np.float32(largest)] * 40], sent(Box(-9, 9, (40,)), np.full(40, largest)))
        self.assertTrue(math.isnan(sent(Box(-9, 9, (1,)), [math.nan])[0][0]))  # Myriad's to count
        for one in (2, np.int64(2), np.array(2), np.array([2]), [2], 2.0, np.uint8(2)):
            self.assertEqual([[2]], sent(Discrete(3), one))

    def test_what_are_no_numbers(self):
        self.refused("obs: '1' (str), want numbers of int32", Discrete(3), "1")
        self.refused("obs: None, want numbers of int32", Discrete(3), None)
        self.refused("obs: None, want numbers of float32", Box(-1, 1, (1,)), None)
        self.refused("obs: an array of complex128, want numbers of float32", Box(-1, 1, (2,)), np.array([1 + 2j, 3j]))
        self.refused("obs: an array of <U1, want numbers of float32", Box(-1, 1, (2,)), ["1", "2"])
        self.refused("obs: an array of objects, want numbers of float32", Box(-1, 1, (2,)), [None, 1])
        self.refused("obs: a dict of 'a', want numbers of float32", Box(-1, 1, (2,)), {"a": 1})

    def test_parts_are_named(self):
        space = Dict({"a": Box(-1, 1, (3,)), "more": Tuple([Discrete(2), Dict({"left": Box(0, 255, (1,), "uint8")})])})
        good = {"a": [0, 0, 0], "more": (1, {"left": [7]})}
        self.assertEqual([[0, 0, 0], [1], [7]], sent(space, good))
        self.refused("obs.a: 0.5 (float), of shape ()", space, good | {"a": 0.5})
        self.refused("obs.more/1/left[0] = 0.5 is no whole number", space, good | {"more": (1, {"left": [0.5]})})
        self.refused("obs: a dict with 'extra', which its space has not: that has 'a', 'more'", space, good | {"extra": 1})
        self.refused("obs: a dict without 'more'; it has 'a'", space, {"a": [0, 0, 0]})
        self.refused("obs: a dict without 'more'; it has 'a', 'mor'", space, {"a": [0, 0, 0], "mor": 1})
        self.refused("obs: an array of shape (3,), want a dict of 'a', 'more'", space, np.zeros(3))
        self.refused("obs.more: a tuple of 1, want a tuple of 2", space, good | {"more": (1,)})
        self.refused("obs.more: an array of shape (2,), want a tuple of 2", space, good | {"more": np.zeros(2)})
        self.refused("obs.more/1: 3 (int), want a dict of 'left'", space, good | {"more": (1, 3)})
        with self.assertRaisesRegex(DoesNotFit, "^action: a dict without 'more'"):
            values_of(space, {"a": 1})

    def test_rewards_and_flags_are_numbers(self):
        for value in (1, 1.0, True, np.float32(1), np.int64(1), np.array(1), np.array([1.0]), np.array([[1]]), [1]):
            self.assertEqual((1.0, float), (reward_of(value), type(reward_of(value))))
        for value, said in (("1", r"reward is '1' \(str\), want one number"), (None, "reward is None"), (np.zeros(2), r"reward is an array of shape \(2,\)"),
                            (1j, "reward is 1j"), ({}, "reward is an empty dict"), (10**400, "is beyond a float"), ([[1], [2, 3]], "reward is a list of 2")):
            with self.assertRaisesRegex(DoesNotFit, said):
                reward_of(value)
        for value in (True, 1, 1.0, np.bool_(True), np.array([True]), np.array(1)):
            self.assertIs(True, flag_of(value, "terminated"))
        for value in (False, 0, np.bool_(False), np.array([0.0])):
            self.assertIs(False, flag_of(value, "terminated"))
        for value, what in (("no", "'no'"), ({}, "an empty dict"), (None, "None"), (2, "2"), (0.5, "0.5"), (np.zeros(2), "an array of shape"), (math.nan, "nan"), ([], "a list of 0")):
            with self.assertRaisesRegex(DoesNotFit, f"truncated is {what}.*want True or False"):
                flag_of(value, "truncated")

    def test_the_forms_of_reset_and_step(self):
        self.assertEqual((1, {}), reset_parts((1, {})))
        self.assertEqual([1, None], reset_parts([1, None]))
        for result, what in ((np.zeros(4), r"an array of shape \(4,\)"), ([1.0, 2.0, 3.0], "a list of 3"), ({"a": 1}, "a dict of 'a'"), ((1, 2), "a tuple of 2"), (None, "None"),
                             ((1, {}, {}), "a tuple of 3"), (3, "3")):
            with self.assertRaisesRegex(DoesNotFit, rf"^reset returned {what}.*, want \(observation, info\)"):
                reset_parts(result)
        self.assertEqual((1, 2, 3, 4, {}), step_parts((1, 2, 3, 4, {})))
        for result, what in (((1, 2, 3, {}), "a tuple of 4"), (np.zeros(5), "an array"), ((1, 2, False, {}, True), r"True \(bool\) as info"), (None, "None")):
            with self.assertRaisesRegex(DoesNotFit, rf"^step returned {what}.*\(observation, reward, terminated, truncated, info\)"):
                step_parts(result)

    def test_a_policy_takes_what_fits(self):
        space = Dict({"a": MultiDiscrete([[2], [3]], [[5], [-1]]), "b": Discrete(3, -1), "c": MultiBinary((1, 2))})
        good = {"a": [[6], [1]], "b": 0, "c": [[1, 0]]}
        self.assertEqual([0, 1, 0, 0, 1, 0, 1, 0, 1, 0], np.concatenate([part.ravel() for part in features(space, good)]).tolist())
        for wrong, said in ((good | {"b": 1.9}, "obs.b = 1.9"), (good | {"b": 2}, r"obs.b\[0\] = 2 outside \[-1, 2\)"), (good | {"a": [[1], [1]]}, r"obs.a\[0\] = 1 outside \[5, 7\)"),
                            (good | {"c": [1, 0]}, "obs.c: a list of 2, of shape"), ({"a": 1}, "a dict without 'b'")):
            with self.assertRaisesRegex(DoesNotFit, said):
                features(space, wrong)

    def test_a_policy_gives_what_the_environment_takes(self):
        draws = np.array([0, 9, 0, 0, 9], np.float32)
        for space, want in ((MultiDiscrete([[2], [3]], [[5], [25]]), [[6], [27]]), (Box(np.array([5, 25]), np.array([6, 27]), (2,), "int16"), [6, 27])):
            head = Head(space, {"kind": "multi_categorical", "nvec": [2, 3]})
            drawn = head.draw(draws, None, None, False)
            self.assertEqual(want, drawn.tolist())
            self.assertEqual(np.dtype(getattr(space, "dtype", "int32")), drawn.dtype)
            self.assertIs(drawn, head.drawn(drawn))
            self.assertEqual([1, 2], choices_made(space, drawn))
        for space, action, said in ((MultiDiscrete([2, 3], [5, 25]), [6, 28], r"action\[1\] = 28 outside \[25, 27\]"), (Discrete(2), 1.5, "action = 1.5"), (Box(-1, 1, (2,)), [0, 2], r"action\[1\] = 2.0 outside"),
                                    (Dict({"x": Discrete(2)}), {"x": 2}, r"action.x\[0\] = 2 outside \[0, 1\]"), (Box(-1, 1, (2,)), [0, math.nan], "nan outside")):
            with self.assertRaisesRegex(DoesNotFit, said):
                choices_made(space, action)
        mask = Dict({"action_mask": MultiBinary(5), "x": Box(0, 1, (1,))})
        see = {"action_mask": [1, 0, 0, 0, 1], "x": [0]}
        self.assertEqual([True, False], [allows(mask, MultiDiscrete([2, 3], [5, 25]), see, action) for action in ([5, 27], [5, 26])])
        # low == high: whatever was drawn, the environment gets the one number there is
        same = Head(Box(np.array([2, -1]), np.array([2, 1]), (2,)), {"kind": "diag_gaussian", "free_log_std": True})
        same.set_range(True, True)
        self.assertEqual([2, 0.5], same.given(np.float32([0.7, 0.5])).tolist())
        self.assertEqual([0, 0.5], same.drawn([2, 0.5]).tolist())


class Spaces(unittest.TestCase):
    def test_every_field_of_gymnasiums_spaces_arrives(self):
        for space in (box.MultiDiscrete([2, 11], start=[0, 25]), box.MultiDiscrete([[5, 5], [3, 3]]), box.MultiDiscrete([[5, 5], [3, 3]], start=[[-1, 2], [3, 4]]), box.MultiBinary([4, 4]),
                      box.MultiBinary(3), box.Box(-1, 1, (2,), np.float64), box.Box(0, 99, (2,), np.uint64), box.Box(0, 1, (2,), np.float16), box.Box(0, 1, (2,), bool),
                      box.Box(-100, 100, (2, 1), np.int8), box.Box(0, 60000, (2,), np.uint16), box.Box(0, 4e9, (2,), np.uint32), box.Box(-3, 3, (2,), np.int64), box.Discrete(3, start=-7),
                      box.Tuple([box.Box(0, 1, ())]), box.Dict({0: box.Discrete(3), "b/c": box.Box(0, 255, (2, 2), np.uint8)}), box.Box(1, 1, (2,)),
                      box.Dict({"0": box.Tuple([box.Discrete(2, start=1)])}), box.Box(-np.inf, np.inf, (1,), np.float32)):
            with self.subTest(str(space)):
                ours = space_of(space)
                codec = Codec(ours)
                row = codec.views(bytearray(codec.row_bytes), 1)[0]
                for _ in range(5):
                    value = space.sample()
                    codec.write(row, value)
                    back = as_sampled(space, codec.read(row))
                    self.assertTrue(space.contains(back))
                    self.assertEqual(str(value), str(back))
        self.assertEqual((1, 3), MultiBinary((1, 3)).shape)
        self.assertEqual([2, 3, 2, 2, 4], choices_of(Tuple([MultiDiscrete([[2], [3]]), MultiBinary((2, 1)), Box(-1, 2, (1,), "int8")])))
        self.assertEqual(7, num_options(box.Box(np.array([0, -1]), np.array([3, 1]), dtype=np.int64)))

    def test_what_is_larger_than_a_bound_is_none(self):
        for bound in (1e30, np.finfo(np.float32).max, np.inf, 1e300):
            low, high = bounds_of(Box(-bound, bound, (2,), "float64"))
            self.assertEqual(([-math.inf] * 2, [math.inf] * 2), (low.tolist(), high.tolist()))
        self.assertEqual([-1e29], bounds_of(Box(-1e29, 1, (1,)))[0].tolist())

    def test_what_cannot_be_sent_is_named_with_a_way_out(self):
        for space, said in ((box.Dict(image=box.Box(0, 255, (7, 7, 3), np.uint8), mission=box.Text(64)), r"obs.mission: Text has no fixed size.*\?drop=mission.*wrapper of your own"),
                            (box.Dict(a=box.Tuple([box.Sequence(box.Discrete(2))])), r"obs.a/0: Sequence .*drop=a/0"), (box.OneOf([box.Discrete(2)]), "obs: OneOf .*a Discrete that says which"),
                            (box.Graph(box.Discrete(2), None), "obs: Graph .*the most nodes"), (box.Discrete(5, start=10**12), "begins at 1,000,000,000,000.*beyond int32"),
                            (box.Discrete(5_000_000_000), "obs: Discrete.*5,000,000,000 values, each a feature.*Box of numbers"), (box.MultiDiscrete([2, 5_000_000_000]), "at element 1"),
                            (box.Dict(a=box.Dict()), r"obs.a: an empty Dict has no part: leave it out \(gymnasium:ID\?drop=a\)"), (box.Tuple([]), "obs: an empty Tuple has no part"),
                            (box.Dict(x=box.Box(0, 1, (0,))), "obs.x: .*has no element: leave it out"), (box.Dict({0: box.Discrete(2), "0": box.Discrete(2)}), "twice as text"),
                            (box.Dict({"": box.Discrete(2)}), "is empty"), (box.Dict({"a\nb": box.Discrete(2)}), "cannot be printed"), (box.Dict({"a/b": box.Discrete(2), "a": box.Dict(b=box.Discrete(2))}), "two parts have the path 'obs.a/b'"),
                            (box.MultiDiscrete([60_000_000, 60_000_000]), "has 120,000,000 features")):
            with self.subTest(said), self.assertRaisesRegex((TypeError, ValueError), said):
                check_space(space_of(space), "obs")
        with self.assertRaisesRegex(TypeError, "^action.a: Text .*: make it another space"):
            action_of(box.Dict(a=box.Text(3)))
        with self.assertRaisesRegex(ValueError, "beyond int64"):
            check_space(action_of(box.Dict(a=box.Box(0, 2**64 - 1, (1,), np.uint64))), "action")
        for wrong, said in ((Box(1, -1, (2,)), "a low above its high"), (Box(math.nan, 1, (2,)), "no number"), (Box(-1, 1, (2,), "complex64"), "cannot be sent"), (MultiDiscrete([2, 3], [1]), "has 1 starts"),
                            (box.Discrete(2), "is no space.*space_of"), (Discrete(0), "has 0 values"), (MultiBinary(0), "has no element"), (Box(np.zeros(3), 1, (2,)), "cannot be sent")):
            with self.subTest(said), self.assertRaisesRegex((TypeError, ValueError), said):
                check_space(wrong, "obs")

    def test_parts_that_are_dropped(self):
        class Env(gymnasium.Env):
            observation_space = box.Dict(image=box.Box(0, 1, (1,)), mission=box.Text(9), more=box.Dict(a=box.Discrete(2), b=box.Text(3)), pair=box.Tuple([box.Discrete(2), box.Text(2)]))
            action_space = box.Discrete(2)
            def reset(self, seed=None, options=None):
                return {"image": [0.5], "mission": "go", "more": {"a": 1, "b": "x"}, "pair": (1, "y"), **self.extra}, {}

        Env.extra = {}
        env = Dropped(Env(), "mission,more/b,pair/1")
        self.assertEqual(box.Dict(image=box.Box(0, 1, (1,)), more=box.Dict(a=box.Discrete(2)), pair=box.Tuple([box.Discrete(2)])), env.observation_space)
        self.assertEqual({"image": [0.5], "more": {"a": 1}, "pair": (1,)}, env.reset()[0])
        Env.extra = {"other": 3}
        with self.assertRaisesRegex(DoesNotFit, "with 'other'"):
            Codec(space_of(env.observation_space)).converted(env.reset()[0])
        with self.assertRaisesRegex(ValueError, "drop=mision, but no part"):
            Dropped(Env(), "mision")

    def test_the_first_returns_are_looked_at_before_wrappers(self):
        class Env(gymnasium.Env):
            observation_space = action_space = box.Discrete(2)
            results = [np.zeros(4), (0, {})]
            def reset(self, seed=None, options=None):
                return self.results.pop(0)
            def step(self, action):
                return 0, 1.0, False, {}

        env = Env()
        look_at_first(env)
        wrapped = gymnasium.wrappers.TimeLimit(env, 5)
        with self.assertRaisesRegex(DoesNotFit, r"reset returned an array of shape \(4,\)") as caught:
            wrapped.reset(seed=3)
        self.assertRegex(caught.exception.place, r" \(reset of values_test.py:\d+\)")
        self.assertEqual((0, {}), wrapped.reset())
        with self.assertRaisesRegex(DoesNotFit, "step returned a tuple of 4"):
            wrapped.step(0)
        self.assertNotIn("reset", vars(env))


class Served(unittest.TestCase):
    """A simulator, and a Myriad that is played here."""

    def word_of(self, env, observation, action=Discrete(2), agents: int = 1) -> str:
        """The Failure after a reset and a step, "" where there is none."""
        n = agents
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_STREAM)
        ours.settimeout(20)
        hello = simulator._hello(observation, action, "env", "", 0, 0, math.nan, {}, agents)

        def serve() -> None:
            try:
                simulator._serve_one(theirs, hello, lambda options: env, observation, action, agents)
            except Exception:
                pass  # told

        thread = threading.Thread(target=serve, daemon=True)
        thread.start()
        connection = wire.Connection(ours)
        connection.receive()
        b = flatbuffers.Builder(64)
        p.WelcomeStart(b)
        p.WelcomeAddProtocol(b, 1), p.WelcomeAddNumEnvs(b, n)
        p.WelcomeAddObservationBytes(b, Codec(observation).row_bytes), p.WelcomeAddActionBytes(b, Codec(action, "action").row_bytes)
        connection.send(wire.frame(b, p.Body.Welcome, p.WelcomeEnd(b)))
        b = flatbuffers.Builder(64)
        said = b.CreateNumpyVector(np.arange(n, dtype=np.uint32)), b.CreateNumpyVector(np.full(n, 7, np.uint64))
        p.ResetStart(b)
        p.ResetAddEnvs(b, said[0]), p.ResetAddSeeds(b, said[1])
        connection.send(wire.frame(b, p.Body.Reset, p.ResetEnd(b)))
        kind, message = connection.receive()
        if kind == p.Body.Stepped:
            b = flatbuffers.Builder(64)
            said = b.CreateByteVector(bytes(n * Codec(action, "action").row_bytes)), b.CreateByteVector(bytes([1] * n))
            p.StepStart(b)
            p.StepAddActions(b, said[0]), p.StepAddActive(b, said[1])
            connection.send(wire.frame(b, p.Body.Step, p.StepEnd(b)))
            kind, message = connection.receive()
        ours.close()
        thread.join(20)
        self.assertFalse(thread.is_alive())
        return wire.text(message.Text()) if kind == p.Body.Failure else ""

    @staticmethod
    def env(reset=None, step=None, seen=(0.0,)):
        class Env:
            def reset(self, seed=None):
                return (np.array(seen, np.float32), {}) if reset is None else reset
            def step(self, action):
                if isinstance(step, Exception):
                    raise step
                return (np.array(seen, np.float32), 1.0, False, False, {}) if step is None else step
        return Env()

    def test_the_users_method_file_and_line_are_named(self):
        one = Box(-1, 1, (1,))
        good = np.zeros(1, np.float32)
        self.assertEqual("", self.word_of(self.env(), one))
        first = self.env.__code__.co_firstlineno + 3
        place = lambda method: rf" \({method} of values_test.py:{first if method == 'reset' else first + 2}\)$"
        for env, said, method in ((self.env(reset=np.zeros(4)), r"^reset returned an array of shape \(4,\), want \(observation, info\)", "reset"),
                                  (self.env(reset=([0.0, 1.0], {})), r"^obs: a list of 2, of shape \(2,\), want shape \(1,\)", "reset"),
                                  (self.env(step=(good, 1.0, True, {})), "^step returned a tuple of 4", "step"), (self.env(step=(good, 1.0, False, {}, True)), "as info", "step"),
                                  (self.env(step=(good, "1", False, False, {})), "^reward is '1'", "step"), (self.env(step=(good, 1.0, "no", False, {})), "^terminated is 'no'", "step"),
                                  (self.env(step=(good, 1.0, False, {}, {})), "^truncated is an empty dict", "step"), (self.env(step=(np.zeros((1, 1)), 1.0, False, False, {})), r"^obs: an array of shape \(1, 1\)", "step")):
            with self.subTest(said):
                self.assertRegex(self.word_of(env, one), said + ".*" + place(method))
        self.assertEqual("", self.word_of(self.env(step=(good, np.array([1.0]), np.bool_(False), 0, None)), one))
        self.assertRegex(self.word_of(self.env(step=RuntimeError("no fuel")), one), rf"^RuntimeError: no fuel \(values_test.py:{first + 4}\)$")

    def test_an_error_of_a_library_is_placed_in_the_users_code(self):
        env = self.env()
        env.step = types.MethodType(lambda self, action: np.zeros(3).reshape(2, 2), env)
        line = self.test_an_error_of_a_library_is_placed_in_the_users_code.__code__.co_firstlineno + 2
        self.assertRegex(self.word_of(env, Box(-1, 1, (1,))), rf"^ValueError: cannot reshape array .*\(values_test.py:{line}\)$")

    def test_worlds(self):
        class World:
            def __init__(self, reset, step=None):
                self.results = reset, step
            def reset(self, seed=None):
                return self.results[0]
            def step(self, actions):
                return self.results[1]

        one, good = Box(-1, 1, (1,)), [[0.0], [0.0]]
        step = lambda rewards=(0, 1.0), terminateds=(False, False), seen=good: World(good, (seen, rewards, terminateds, [0, 0]))
        self.assertEqual("", self.word_of(step(), one, agents=2))
        for world, said in ((World([[0.0]]), "^reset returned a list of 1, want a list of observations, one of each agent, of whom there are 2"), (World((good, {})), "^obs: a list of 2"), (step(rewards=[1]), "^step returned a list of 1"),
                            (World(good, (good, [0, 0], [0, 0])), "^step returned a tuple of 3"), (step(rewards=[0, None]), "^reward is None"), (step(terminateds=["no", 0]), "^terminated is 'no'"),
                            (step(seen=[[0], [0.0, 0.0]]), "^obs: a list of 2")):
            with self.subTest(said):
                self.assertRegex(self.word_of(world, one, agents=2), said)


class Asking(unittest.TestCase):
    def test_a_client_says_nothing_that_does_not_fit(self):
        """What is refused is refused before the episode has moved, and can be said again."""
        with tempfile.TemporaryDirectory(dir="/tmp") as folder, simulator.listener(f"{folder}/s") as door:
            heard = []

            def run() -> None:
                sock, _ = door.accept()
                connection = wire.Connection(sock)
                connection.receive()
                b = flatbuffers.Builder(64)
                p.WelcomeStart(b)
                connection.send(wire.frame(b, p.Body.Welcome, p.WelcomeEnd(b)))
                for _ in range(3):
                    _, seen = connection.receive()
                    heard.append((seen.Episode(), seen.T(), np.frombuffer(seen.ObservationAsNumpy().tobytes(), np.float32).tolist(), seen.Reward(), seen.Terminated()))
                    b = flatbuffers.Builder(64)
                    row = b.CreateByteVector(bytes(4))
                    p.ActionStart(b)
                    p.ActionAddEpisode(b, seen.Episode()), p.ActionAddT(b, seen.T()), p.ActionAddAction(b, row)
                    connection.send(wire.frame(b, p.Body.Action, p.ActionEnd(b)))
                sock.close()

            thread = threading.Thread(target=run, daemon=True)
            thread.start()
            with Client(f"{folder}/s", observation=Box(-9, 9, (2,)), action=Discrete(2)) as client:
                for wrong in ([0], [0, "x"], [0, math.nan]):
                    with self.assertRaisesRegex(DoesNotFit, "^obs"):
                        client.begin(wrong)
                client.begin([1, 2])
                for observation, reward in (([0, 0], "1"), ([0, 0], math.nan), ([0, 0], None), ([0], 1.0)):
                    with self.assertRaises(DoesNotFit):
                        client.act(observation, reward)
                with self.assertRaisesRegex(DoesNotFit, "^reward is"):
                    client.log_reward([1, 2])
                client.act([3, 4], np.array([0.5]))
                with self.assertRaisesRegex(DoesNotFit, "^terminated is 'no'"):
                    client.end([5, 6], 1, terminated="no")
                with self.assertRaisesRegex(ValueError, "acts=True"):
                    client.act([5, 6], 1, 0)
                client.end([5, 6], 1, terminated=np.bool_(True))
                thread.join(20)
            self.assertEqual([(0, 0, [1, 2], 0, False), (0, 1, [3, 4], 0.5, False), (0, 2, [5, 6], 1, True)], heard)


    def test_an_action_tells_the_weights_it_was_drawn_with(self):
        with tempfile.TemporaryDirectory(dir="/tmp") as folder, simulator.listener(f"{folder}/s") as door:
            heard = []

            def run() -> None:
                sock, _ = door.accept()
                connection = wire.Connection(sock)
                connection.receive()
                b = flatbuffers.Builder(64)
                p.WelcomeStart(b)
                connection.send(wire.frame(b, p.Body.Welcome, p.WelcomeEnd(b)))
                for _ in range(4):
                    _, seen = connection.receive()
                    heard.append((seen.ActionLength() > 0, seen.WeightsVersion()))
                sock.close()

            thread = threading.Thread(target=run, daemon=True)
            thread.start()
            with Client(f"{folder}/s", observation=Box(-9, 9, (1,)), action=Discrete(2), acts=True) as client:
                client.policy = types.SimpleNamespace(version=41, draw=lambda seen: (1, 1, np.zeros(2)), drawn=lambda action: action)
                client.begin([0])
                client.act([1], 1.0)
                client.policy.version = 42  # newer ones came after the action
                client.act([2], 1.0, 0)
                client.end([3], 1.0)  # what a person did is of no version
                with self.assertRaisesRegex(DoesNotFit, r"action\[0\] = 2 outside \[0, 1\]"):
                    client.begin([0], 2)
                thread.join(20)
            self.assertEqual([(False, -1), (True, 41), (True, 41), (True, -1)], heard)


# --- with the programs ---

SERVED = """
import numpy as np
from gymnasium import spaces as s
from myriad_client import Box, Dict, Discrete, serve
from myriad_client.gymnasium import action_of, space_of
class E:
    def __init__(self, options): pass
    def reset(self, seed=None): return obs.sample(), {}
    def step(self, action):
        if not act.contains(action): raise ValueError(f"{action!r} is not in {act}")
        return obs.sample(), 0.0, False, False, {}
obs, act = SPACES
serve(E, space_of(obs), action_of(act), max_episode_steps=20)
"""
CONFIG = """
algorithm = "PPO"
seed = 3
[environment]
env = ENV
[env_runners]
num_env_runners = 1
num_envs_per_env_runner = 2
rollout_fragment_length = 20
[training]
train_batch_size = 40
minibatch_size = 20
num_epochs = 1
[learners]
num_threads = 1
[rl_module]
fcnet_hiddens = [8]
[evaluation]
evaluate_at_end = false
[stop]
training_iteration = 3
"""


class Programs(Case):
    def setUp(self) -> None:
        super().setUp()
        self.environment |= {"MYRIAD_PYTHON": sys.executable}

    def command(self, text: str, name: str = "mine.py") -> str:
        return f"process:{sys.executable} {self.file(name, text)}"

    def refused(self, env: str, *more: str, status: int = 3) -> str:
        config = self.file("config.toml", CONFIG.replace("ENV", json.dumps(env), 1))
        return self.call("train", config, "--out", self.root / "refused", *more, status=status).stderr

    def test_spaces_train_whole_and_a_policy_plays_them(self):
        """Every element type, starts and shapes, on both sides: the environment throws at an action that is not of its space."""
        spaces = """(s.Dict({0: s.MultiDiscrete([[2, 3]], start=[[-1, 25]]), "b": s.MultiBinary((2, 2)), "c": s.Box(0, 2**62, (1,), np.uint64), "d": s.Box(-1e30, 1e30, ()), "e": s.Box(1, 1, (1,), np.float16)}),
            s.Tuple([s.MultiDiscrete([2, 11], start=[0, 25]), s.MultiBinary([2, 3]), s.Box(-3, 2, (2,), np.int64), s.Box(2, 2, (1,)), s.Discrete(2, start=7)]))"""
        env, run = self.command(SERVED.replace("SPACES", spaces)), self.root / "run"
        self.train(run, config=self.file("config.toml", CONFIG.replace("ENV", json.dumps(env), 1)))
        policy = Policy(run, seed=1)
        scope = {"s": box, "np": np}
        observation, action = eval(spaces, scope)
        for _ in range(20):
            chosen = policy.act(observation.sample(), explore=True)
            self.assertTrue(all(space.contains(np.int64(part) if isinstance(part, int) else part) for space, part in zip(action, chosen, strict=True)), chosen)
        alone = self.command(SERVED.replace("SPACES", "s.Box(-1, 1, (3,)), s.MultiDiscrete([[2, 11]], start=[[0, 25]])"), "alone.py")
        self.train(self.root / "alone", config=self.file("alone.toml", CONFIG.replace("ENV", json.dumps(alone), 1)))
        self.assertIn(Policy(self.root / "alone").act(np.zeros(3))[0, 1], range(25, 36))
        self.train(self.root / "random", "env_runners.random_actions=true", "stop.training_iteration=1", config=self.root / "config.toml")

    def test_what_a_program_returns_wrongly_is_told_before_a_run_begins_or_with_its_line(self):
        text = "import numpy as np\nfrom gymnasium import spaces as s\nfrom myriad_client import Box, Discrete, serve\nfrom myriad_client.gymnasium import space_of\n"
        serve = "class E:\n    def __init__(self, options): pass\n    def reset(self, seed=None): return RESET\n    def step(self, action): return np.zeros(4), 1.0, False, False, {}\nserve(E, OBS, Discrete(2))\n"
        old = self.call("play", self.command(text + serve.replace("OBS", "Box(-1, 1, (4,))").replace("RESET", "np.zeros(4)"), "old.py"), "--steps", 1, status=3).stderr
        self.assertRegex(old, r"reset returned an array of shape \(4,\), want \(observation, info\).*\(reset of old.py:7\)")
        self.assertIn("obs.mission: Text has no fixed size", self.refused(self.command(text + "space_of(s.Dict(mission=s.Text(3)))\n", "text.py")))
        self.assertIn("obs: Discrete(n=99999999999, start=0) has 99,999,999,999 values", self.refused(self.command(text + "serve(None, Discrete(99999999999), Discrete(2))\n", "wide.py")))
        self.assertIn("ZeroDivisionError: division by zero (early.py:5)", self.refused(self.command(text + "1 / 0\n", "early.py")))

    def test_features_and_parameters_are_counted_before_memory_is_taken(self):
        said = self.refused(self.command(SERVED.replace("SPACES", "s.Discrete(20_000_000), s.Discrete(2)"), "wide.py"), status=2)
        self.assertIn("160 M parameters to act with, 320 M in all: 20000000 features of the observations Discrete(20000000)", said)
        self.assertIn("make it numbers of a Box", said)
        said = self.refused(self.command(SERVED.replace("SPACES", "s.Discrete(2), s.Discrete(20_000_000)"), "many.py"), status=2)
        self.assertIn("20000000 outputs for the actions Discrete(20000000)", said)

    def test_a_part_of_a_gymnasium_environment_is_dropped(self):
        self.file("talks.py", """
import gymnasium
from gymnasium import spaces as s
class Talks(gymnasium.Env):
    observation_space, action_space = s.Dict(x=s.Box(-1, 1, (2,)), mission=s.Text(8)), s.Discrete(2)
    def reset(self, seed=None, options=None):
        super().reset(seed=seed)
        return {"x": self.np_random.uniform(-1, 1, 2), "mission": "go"}, {}
    def step(self, action):
        return {"x": self.np_random.uniform(-1, 1, 2), "mission": "go"}, 1.0, False, False, {}
gymnasium.register("Talks-v0", entry_point=Talks, max_episode_steps=10)
""")
        said = self.call("play", "gymnasium:talks:Talks-v0", "--steps", 2, status=3).stderr
        self.assertIn("obs.mission: Text has no fixed size", said)
        self.assertIn("(gymnasium:ID?drop=mission)", said)
        self.assertEqual(3, len(self.call("play", "gymnasium:talks:Talks-v0?drop=mission", "--steps", 2, "--json").stdout.splitlines()))


if __name__ == "__main__":
    sys.exit(run_test.main(sys.modules[__name__]))
