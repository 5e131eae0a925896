"""The SDK as a simulator's author meets it: `sdk_test.py BUILD [CASE ...]`.

Plugins are built against an installed SDK alone, in a folder outside the tree, and run by the built programs.
"""
import errno
import json
import os
import pathlib
import re
import shutil
import struct
import subprocess
import sys
import zlib

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parent.parent / "integration"))
import run_test  # noqa: E402
from run_test import Case, json_lines, landlock_abi  # noqa: E402

ROOT = pathlib.Path(__file__).resolve().parent.parent.parent


def read_png(path: pathlib.Path) -> tuple[int, int, list[list[tuple[int, ...]]]]:
    """Width, height and rows of pixels of an RGB picture; ISO 15948, the filters of its section 9."""
    content, at, packed = path.read_bytes(), 8, b""
    while at < len(content):
        length, kind = struct.unpack(">I4s", content[at:at + 8])
        if kind == b"IHDR":
            width, height, depth, colour = struct.unpack(">IIBB", content[at + 8:at + 18])
            assert (depth, colour) == (8, 2), "want 8-bit RGB"
        packed += content[at + 8:at + 8 + length] if kind == b"IDAT" else b""
        at += 12 + length
    data, size, above, rows = zlib.decompress(packed), 3 * width, bytes(3 * width), []
    for y in range(height):
        kind, row = data[y * (size + 1)], bytearray(data[y * (size + 1) + 1:(y + 1) * (size + 1)])
        for i in range(size):
            left, up, corner = row[i - 3] if i >= 3 else 0, above[i], above[i - 3] if i >= 3 else 0
            guess = left + up - corner
            paeth = min((abs(guess - value), order, value) for order, value in enumerate((left, up, corner)))[2]
            row[i] = (row[i] + (0, left, up, (left + up) // 2, paeth)[kind]) % 256
        rows.append([tuple(row[3 * x:3 * x + 3]) for x in range(width)])
        above = row
    return width, height, rows


class Plugin(Case):
    def setUp(self) -> None:
        super().setUp()
        self.prefix = self.root / "prefix"
        self.shell([sys.executable, ROOT / "scripts/install_sdk.py", self.prefix])
        path = f"{ROOT / '.venv/bin'}:{run_test.BUILD / 'apps'}:{os.environ['PATH']}"
        self.environment |= {"PKG_CONFIG_PATH": str(self.prefix / "lib/pkgconfig"), "PATH": path, "MYRIAD": str(run_test.BUILD / "apps/myriad")}

    def shell(self, words: list, cwd: pathlib.Path | None = None) -> str:
        result = subprocess.run(list(map(str, words)), cwd=cwd or self.root, env=self.environment, stdin=subprocess.DEVNULL,
                                capture_output=True, text=True, timeout=120)
        self.assertEqual(0, result.returncode, f"{words}\n{result.stdout}{result.stderr}")
        return result.stdout

    def compile(self, text: str, name: str = "broken", language: str = "cpp", include: pathlib.Path | None = None) -> pathlib.Path:
        """A library of this source, which its author built by hand."""
        source, library = self.root / f"{name}.{language}", self.root / f"{name}.so"
        source.write_text(text)
        compiler = ["c++", "-std=c++17"] if language == "cpp" else ["cc", "-std=c99"]
        self.shell([*compiler, "-O1", "-shared", "-fPIC", f"-I{include or self.prefix / 'include'}", source, "-o", library, "-lm"])
        return library

    def cart(self, language: str = "cpp", **replaced: str) -> str:
        """The template, with some of its text replaced."""
        text = (self.prefix / f"share/myriad/templates/{language}/NAME.{language}.in").read_text()
        text = text.replace("@CLASS@", "Cart").replace("@ID@", "Cart-v0")
        for old, new in replaced.values():
            self.assertIn(old, text)
            text = text.replace(old, new, 1)
        return text

    def train_plugin(self, library: pathlib.Path, *overrides: str, status: int | None = 0) -> tuple[subprocess.CompletedProcess, pathlib.Path]:
        config = self.file("plugin.toml", run_test.CARTPOLE.replace("CartPole-v1", f"plugin:{library}"))
        run = self.root / "run"
        return self.call("train", config, "--out", run, *overrides, status=status), run

    def sandbox(self, run: pathlib.Path) -> str:
        return next(e["text"] for e in json_lines(run / "events.jsonl") if e["kind"] == "sandbox")

    # --- the way in ---

    def test_howto_as_it_is_written(self):
        text = (ROOT / "docs/howto-simulator.md").read_text()
        for i, block in enumerate(re.findall(r"```sh\n(.*?)```", text, re.S)):
            folder = self.root / f"block{i}"
            folder.mkdir()
            script = block.replace("./myriad install-sdk", f"{sys.executable} {ROOT / 'scripts/install_sdk.py'}").replace("./myriad", "myriad")
            out = self.shell(["bash", "-euc", f"PREFIX={folder}/sdk\n{script}"], folder)
            self.assertRegex(out, r"done +episode_return_mean 4[5-9]\d")

    def test_template_builds_with_meson_and_cmake_in_both_languages(self):
        for language in ("cpp", "c"):
            name = f"my_{language}"
            self.shell(["myriad", "new-env", name, "--lang", language])
            folder = self.root / name
            self.shell(["meson", "setup", "build"], folder)
            self.shell(["ninja", "-C", "build"], folder)
            self.shell(["meson", "test", "-C", "build"], folder)
            if shutil.which("cmake"):
                self.shell(["cmake", "-G", "Ninja", "-B", "by-cmake"], folder)
                self.shell(["cmake", "--build", "by-cmake"], folder)
                self.shell(["ctest", "--test-dir", "by-cmake"], folder)
            self.assertLessEqual(len((folder / "my_cpp.cpp").read_text().splitlines()) if language == "cpp" else 0, 40)

    def test_both_languages_are_the_same_simulator(self):
        # Which is CartPole-v1's, but for a float's rounding of the limits.
        c, cpp = (self.compile(self.cart(language), f"cart_{language}", language) for language in ("c", "cpp"))
        steps = [self.shell(["myriad", "play", env, "--seed", "3", "--steps", "500", "--json"])
                 for env in (f"plugin:{c}", f"plugin:{cpp}", "CartPole-v1")]
        self.assertGreater(len(steps[0].splitlines()), 10)
        self.assertEqual(steps[0], steps[1])
        numbers = lambda text: [float(x) for x in re.findall(r"-?\d+\.?\d*(?:[eE][-+]?\d+)?", text)]
        for ours, builtin in zip(numbers(steps[0]), numbers(steps[2]), strict=True):
            self.assertAlmostEqual(ours, builtin, delta=1e-5)

    def test_resume_is_bit_exact(self):
        library = self.compile(self.cart())
        _, run = self.train_plugin(library, "stop.training_iteration=6")
        shutil.move(run, self.root / "whole")
        self.train_plugin(library, "stop.training_iteration=3")
        self.call("train", "--resume", run, "stop.training_iteration=6")
        self.assert_same_state(self.checkpoints(self.root / "whole")[-1], self.checkpoints(run)[-1])

    def test_library_of_several_environments(self):
        text = self.cart(macro=("MYRIAD_ENVIRONMENT(Cart)", """
struct Short : Cart {
  using Cart::Cart;
  static constexpr const char* id = "Short-v0";
  static constexpr int max_episode_steps = 7;
};
MYRIAD_ENVIRONMENTS(Cart, Short)"""))
        library = self.compile(text, "two")
        play = lambda name, **more: self.call("play", f"plugin:{library}{name}", "--seed", "3", "--steps", "500", "--json", **more)
        steps = {name: len(play(name).stdout.splitlines()) for name in ("", "#Cart-v0", "#Short-v0")}
        self.assertEqual(steps[""], steps["#Cart-v0"])
        self.assertEqual((8, True), (steps["#Short-v0"], steps[""] > 8))
        self.assertIn(f"error[unknown-env] {library} has no environment Shirt-v0; did you mean Short-v0?", play("#Shirt-v0", status=2).stderr)
        config = self.file("two.toml", run_test.CARTPOLE.replace("CartPole-v1", f"plugin:{library}#Short-v0"))
        self.call("train", config, "--out", self.root / "run", "stop.training_iteration=2")
        one = self.compile(self.cart(), "one")
        self.call("play", f"plugin:{one}#Cart-v0", "--steps", "2")
        self.assertIn("did you mean Cart-v0?", self.call("play", f"plugin:{one}#Cort-v0", status=2).stderr)

    def test_nothing_of_the_arcade_learning_environment_is_installed(self):
        self.assertEqual([], [path for path in self.prefix.rglob("*") if "ale" in re.split(r"[\W_]", path.stem) or path.suffix == ".bin"])

    def test_options_reach_the_plugin_and_unknown_ones_are_errors(self):
        library = self.compile(self.cart())
        play = lambda *more, status=0: self.call("play", f"plugin:{library}", "--seed", "1", "--steps", "3", "--json", *more, status=status)
        self.assertNotEqual(play().stdout, play("--option", "force=5").stdout)
        self.assertIn("has no option forse; did you mean force", play("--option", "forse=5", status=2).stderr)

    def test_plugin_of_the_first_release_still_runs(self):
        old = ROOT / "tests/sdk/first_release"
        self.assertNotIn("render", (old / "myriad/env.h").read_text())
        library, new = (self.compile(self.cart("c"), name, "c", include) for name, include in (("old", old), ("new", None)))
        play = lambda env: self.call("play", f"plugin:{env}", "--seed", "3", "--steps", "500", "--json").stdout
        self.assertIn('"terminated":true', play(library))
        self.assertEqual(play(new), play(library))
        self.assertIn("error[no-rendering]", self.call("play", f"plugin:{library}", "--render", self.root / "frames", status=2).stderr)

    def test_table_longer_than_ours_is_read_as_far_as_we_know_it(self):
        header = self.prefix / "include/myriad/env.h"
        header.write_text(header.read_text().replace("} myriad_plugin;", "  int (*later)(myriad_env* env);\n} myriad_plugin;"))
        self.call("play", f"plugin:{self.compile(self.cart(), 'later')}", "--steps", "3")

    # --- what a simulator can do beside stepping ---

    RENDER = ("  double force, s[4]", '''  static constexpr double render_fps = 50;
  void render(int width, int height, uint8_t* rgb) {
    for (int i = 0; i < width * height; ++i) rgb[3 * i] = i % width, rgb[3 * i + 1] = i / width, rgb[3 * i + 2] = s[0] < 0 ? 0 : 255;
  }
  double force, s[4]''')

    def test_rendered_frame_arrives_as_it_was_drawn(self):
        library, frames = self.compile(self.cart(render=self.RENDER)), self.root / "frames"
        self.call("play", f"plugin:{library}", "--state", "[-1, 0, 0, 0]", "--steps", "2", "--render", frames, "--size", "20x16")
        self.assertEqual(["000000.png", "000001.png", "000002.png"], sorted(os.listdir(frames)))
        width, height, rows = read_png(frames / "000002.png")
        self.assertEqual((20, 16), (width, height))
        self.assertEqual([[(x, y, 0) for x in range(20)] for y in range(16)], rows)
        self.call("play", f"plugin:{library}", "--steps", "5", "--render", self.root / "five.webm")
        self.assertEqual(b"\x1aE\xdf\xa3", (self.root / "five.webm").read_bytes()[:4])

    def test_exception_in_render_has_its_words(self):
        broken = (self.RENDER[0], self.RENDER[1].replace("    for", '    throw std::runtime_error("the lens is dirty");\n    for', 1))
        result = self.call("play", f"plugin:{self.compile(self.cart(render=broken))}", "--render", self.root / "x.png", status=3)
        self.assertRegex(result.stderr, r"error\[env-exception\].*the lens is dirty")

    BATCH = ("  double force, s[4]", '''  static void step_batch(myriad::Batch<Cart, int32_t, float>& batch) {
    for (size_t i = 0; i < batch.envs.size(); ++i)
      batch.steps[i] = batch.envs[i]->step(batch.actions[i], batch.randoms[i], batch.observations[i]);
  }
  double force, s[4]''')

    def test_batch_of_steps_trains_as_single_steps_do(self):
        # Every step of a runner's 8 environments is one batch: a batch of another size would throw. Evaluation, where
        # episodes end one by one, has smaller ones.
        seen = self.root / "seen"
        check = f'    static std::FILE* const seen = std::fopen("{seen}", "w");\n    if (!seen || batch.envs.size() != 8) throw std::runtime_error("a part of the vector");\n    for'
        whole = (self.BATCH[0], self.BATCH[1].replace("    for", check, 1))
        runs = []
        for name, replaced in (("single", {}), ("batch", {"batch": whole})):
            _, run = self.train_plugin(self.compile(self.cart(**replaced)), "stop.training_iteration=3", f"env_runners.sandbox_write={self.root}")
            runs.append(shutil.move(run, self.root / name))
        self.assertTrue(seen.exists())
        self.assert_same_state(*(self.checkpoints(pathlib.Path(run))[-1] for run in runs))
        results = []
        for replaced in ({}, {"batch": self.BATCH}):
            self.compile(self.cart(**replaced))
            results.append(self.call("evaluate", runs[0], "--episodes", "40", "--explore", "--json").stdout)
        self.assertEqual(*results)

    def offers(self, **replaced: str) -> str:
        """The environment with action masks of docs/howto-simulator.md."""
        text = re.search(r"```cpp\n// offers.cpp\n(.*?)```", (ROOT / "docs/howto-simulator.md").read_text(), re.S)[1]
        for old, new in replaced.values():
            self.assertIn(old, text)
            text = text.replace(old, new, 1)
        return text

    def test_actions_that_are_not_possible_are_not_taken(self):
        """The environment throws where one is."""
        library = self.compile(self.offers(), "offers")
        episode = [json.loads(line) for line in self.call("play", f"plugin:{library}", "--steps", 50, "--json").stdout.splitlines()]
        self.assertEqual(51, len(episode))
        for before, after in zip(episode, episode[1:]):
            self.assertEqual(1, before["observation"]["action_mask"][after["action"]])
        self.call("check-env", f"plugin:{library}")
        for settings in (["learners.executor=native"], ["learners.executor=torch", "environment.observation_filter=MeanStdFilter"],
                         ["algorithm=IMPALA", "training.grad_clip=40"]):
            with self.subTest(settings):
                result, run = self.train_plugin(library, *settings, "stop.training_iteration=40", "training.gamma=0", "stop.episode_return_mean=60",
                                                "training.lr=3e-3", "evaluation.evaluate_at_end=true")
                self.assertGreater(json_lines(run / "results.jsonl")[-1]["env_runners"]["episode_return_mean"], 55)
                self.call("evaluate", run, "--episodes", 20), self.call("evaluate", run, "--episodes", 20, "--explore")
                shutil.rmtree(run)

    def test_masks_of_every_type_lie_behind_the_observation(self):
        for name, replaced in (
                ("bytes", {"space": ("box(0, 1, {8})", "box(0, 255, {8}, MYRIAD_U8)"), "reset": ("float* observation) {\n    const auto", "uint8_t* observation) {\n    const auto"),
                           "step": ("random, float*", "random, uint8_t*")}),
                ("pair", {"space": ("discrete(8)", "multi_discrete({8, 2})"), "mask": ("// the mask", "observation[16] = 1, observation[17] = 0;")}),
                ("bits", {"space": ("discrete(8)", "multi_binary(4)"), "taken": ("!possible[*action]", "false"),
                          "mask": ("possible[i] = all || i == one;\n      observation[8 + i] = possible[i] ? 1 : 0;  // the mask", "observation[8 + i] = i % 2 == one % 2;  // the mask")})):
            with self.subTest(name):
                library = self.compile(self.offers(**replaced), name)
                self.call("check-env", f"plugin:{library}")
                _, run = self.train_plugin(library, "stop.training_iteration=2", "environment.max_episode_steps=20")
                shutil.rmtree(run)

    def test_masks_of_a_program(self):
        """And a fork of it ends by SIGTERM, which serve() leaves to Myriad."""
        forks = """observation) {
      static const bool ended = [] {
        const pid_t child = fork();
        if (child == 0) for (;;) pause();
        int status = 0;
        kill(child, SIGTERM), waitpid(child, &status, 0);
        return WIFSIGNALED(status) && WTERMSIG(status) == SIGTERM;
      }();
      if (!ended) throw std::runtime_error("not ended");"""
        text = self.offers(header=("<myriad/env.hpp>", "<myriad/client.hpp>\n#include <csignal>\n#include <sys/wait.h>\n#include <unistd.h>"), forks=("observation) {", forks), main=("MYRIAD_ENVIRONMENT(Offers)", "int main(int argc, char** argv) { return myriad::serve<Offers>(argc, argv); }"))
        (self.root / "offers.cpp").write_text(text)
        self.shell(["bash", "-euc", "c++ -std=c++17 -O1 offers.cpp -o offers $(pkg-config --cflags --libs myriad-client)"])
        env = f"process:{self.root}/offers"
        self.call("check-env", env)
        self.call("train", self.file("program.toml", run_test.CARTPOLE.replace("CartPole-v1", env)), "--out", self.root / "run", "stop.training_iteration=3")

    def test_masks_that_cannot_be_are_named(self):
        none = {"none": ("observation[8 + i] = possible[i] ? 1 : 0", "observation[8 + i] = 0")}
        library = self.compile(self.offers(**none), "none")
        result, run = self.train_plugin(library, status=3)
        self.assertRegex(result.stderr, r"error\[no-action\] plugin:\S+none.so env \d+ \(seed \d+\) at reset: obs.action_mask allows no action")
        self.assertIn("action_mask allows no action", self.call("check-env", f"plugin:{library}", status=3).stdout)
        shutil.rmtree(run)
        box = self.compile(self.offers(space=("discrete(8)", "box(0, 1, {8}, MYRIAD_I32)")), "box")
        self.refused(box, "actions with a mask are Discrete, MultiDiscrete or MultiBinary, not Box", status=2)

    def test_simulator_ends_an_episode_by_truncation(self):
        library = self.compile(self.cart(ends=("    return {1.0,", "    return {1.0, false, ++steps == 7};\n    return {1.0,"), count=("  double force, s[4]", "  int steps = 0;\n  double force, s[4]")))
        last = json.loads(self.call("play", f"plugin:{library}", "--json").stdout.splitlines()[-1])
        self.assertEqual((7, False, True), (last["t"], last["terminated"], last["truncated"]))

    # --- mistakes, and what their author sees ---

    def refused(self, library: pathlib.Path, want: str, status: int = 3) -> None:
        result, run = self.train_plugin(library, status=status)
        self.assertRegex(result.stderr, want)
        self.assertFalse(run.exists())

    def test_what_is_no_plugin_is_refused_before_a_run_begins(self):
        self.refused(self.root / "nothing.so", r"error\[no-plugin\] there is no file", 2)
        self.refused(self.compile("int x;", "empty"), r"error\[no-plugin\] .*no myriad_env_plugin\(\)")
        self.refused(self.file("text.so", "not a library"), r"error\[no-plugin\] .*cannot be loaded")
        header = self.prefix / "include/myriad/env.h"
        header.write_text(header.read_text().replace("#define MYRIAD_ENV_ABI 1", "#define MYRIAD_ENV_ABI 7"))
        self.refused(self.compile(self.cart(), "newer"), r"error\[plugin-abi\] .*speaks plugin ABI 7, this program ABI 1")

    def test_library_that_crashes_as_it_is_loaded_costs_nobody(self):
        crash = '#include <cstdlib>\nstatic const int now = [] { std::abort(); return 0; }();\n'
        self.refused(self.compile(crash + self.cart()), r"error\[plugin-broken\] .*ended with Aborted while it was loaded")

    def test_spaces_that_are_none_are_named(self):
        library = self.compile(self.cart(shape=("{4}); }\n  static myriad::Space action", "{4, -1}); }\n  static myriad::Space action")))
        self.refused(library, r"error\[plugin-broken\] .*its observation space has a shape that is none")
        library = self.compile(self.cart(low=("box(-myriad::infinity", "box(std::nan(\"\")")), "low")
        self.refused(library, r"error\[plugin-broken\] .*its observation space has a low above its high, or no number")
        library = self.compile(self.cart(dtype=("myriad::infinity, {4})", "myriad::infinity, {4}, MYRIAD_F64)")), "dtype")
        self.refused(library, r"error\[plugin-broken\] .*an observation of another type than its space's")

    def test_environment_that_cannot_be_made_ends_the_run_with_its_words(self):
        library = self.compile(self.cart(make=("force(options[\"force\"]) {}", "force(options[\"force\"]) { throw std::runtime_error(\"no licence for d\\xe9j\\xe0\"); }")))
        result, _ = self.train_plugin(library, status=3)
        self.assertRegex(result.stderr, r"error\[.*cannot be made: no licence for d\?j\?")

    def test_exception_in_step_ends_the_run_with_its_words(self):
        library = self.compile(self.cart(throws=("    observe(observation);\n    return", '    throw std::runtime_error("motor 3 is hot");\n    return')))
        result, _ = self.train_plugin(library, status=3)
        self.assertRegex(result.stderr, r"error\[env-exception\].*motor 3 is hot")

    def test_nan_is_named_with_environment_and_step(self):
        library = self.compile(self.cart(nan=("{1.0, std::abs", "{s[0] > 0.1 ? std::nan(\"\") : 1.0, std::abs")))
        result, _ = self.train_plugin(library, "environment.on_failure=end", status=3)
        self.assertRegex(result.stderr, r"error\[(nan|env-contract|env-exception)\].*nan")

    # --- check-env ---

    def findings(self, library: pathlib.Path, status: int) -> dict[str, dict]:
        out = self.call("check-env", f"plugin:{library}", "--steps", "10000", "--json", status=status).stdout
        return {row["check"]: row for row in map(json.loads, out.splitlines())}

    def finding(self, check: str, want: str, status: int = 3, **replaced: tuple) -> None:
        """The template with this mistake: found by this check."""
        found = self.findings(self.compile(self.cart(**replaced), check), status)
        self.assertIn(check, found)
        self.assertEqual("wrong" if status else "note", found[check]["verdict"], found)
        self.assertRegex(found[check]["found"], want)

    def test_check_env_has_nothing_to_say_of_what_is_right(self):
        for env in (f"plugin:{self.compile(self.cart())}", "CartPole-v1", "Pendulum-v1", "Hopper-v5"):
            out = self.call("check-env", env, "--steps", "10000").stdout
            self.assertEqual([], [line for line in out.splitlines() if not line.startswith("ok ")], env)
            self.assertRegex(out, r"speed +\d+ steps/s")

    def test_check_env_finds_mistakes(self):
        step = "    observe(observation);\n    return"
        self.finding("determinism", "the same seed and actions give another step", reset=("random.uniform(-0.05, 0.05)", "0.1 * std::rand() / RAND_MAX"),
                     include=("#include <myriad", "#include <cstdlib>\n#include <myriad"))
        self.finding("instances", "a second instance changes the first one's step", state=("double force, s[4] = {};", "double force;\n  static double s[4];"),
                     define=("MYRIAD_ENVIRONMENT", "double Cart::s[4];\nMYRIAD_ENVIRONMENT"))
        self.finding("spaces", r"observation\[2\] = nan", nan=(step, "    if (s[0] > 0.1) s[2] = std::nan(\"\");\n" + step))
        self.finding("spaces", "outside", box=("box(-myriad::infinity, myriad::infinity, {4})", "box(-0.1, 0.1, {4})"))
        mixed = (self.BATCH[0], self.BATCH[1].replace("batch.observations[i]", "batch.observations[0]"))
        self.finding("together", "at step 1 0 of 8 together is not as alone", batch=mixed)
        self.finding("state", r"load\(\) gives", load=("s[i] = state[i];", "s[i] = i == 1 ? 0 : state[i];"))
        self.finding("memory", "MiB over", leak=(step, "    new char[1000]();\n" + step))
        self.finding("reset", "give the same state", status=0, reset=("random.uniform(-0.05, 0.05)", "0.01"))
        self.finding("spaces", r"it called exit\(0\)", exit=(step, "    if (s[0] > 0.1) std::exit(0);\n" + step), include=("#include <myriad", "#include <cstdlib>\n#include <myriad"))
        self.finding("reset", "ended with Segmentation fault", crash=("  void reset(myriad::Random& random, float* observation) {", "  void reset(myriad::Random& random, float* observation) {\n    *(volatile int*)nullptr = 1;"))

    def test_crash_in_step_costs_one_runner_and_training_goes_on(self):
        # Once for the whole run: the file says that it has been.
        once = self.root / "crashed"
        crash = (f'    static const std::string file = "{once}";\n    if (++steps == 2000 && std::fopen(file.c_str(), "wx")) '
                 '{ volatile int* nowhere = nullptr; *nowhere = 1; }\n    observe(observation);\n    return')
        library = self.compile(self.cart(crash=("    observe(observation);\n    return", crash), count=("  double force, s[4]", "  long steps = 0;\n  double force, s[4]")))
        _, run = self.train_plugin(library, "stop.training_iteration=120", f"env_runners.sandbox_write={self.root}")
        self.assertTrue(once.exists())
        down = [e["text"] for e in json_lines(run / "events.jsonl") if e["kind"] == "runner-down"]
        self.assertEqual(1, len(down), down)
        self.assertIn("SIGSEGV", down[0])
        self.assert_counted_once(run, 120)

    # --- what a plugin may not do: docs/howto-simulator.md ---

    # As it is loaded and once more as an environment is made: each attempt and its errno go to standard error.
    HOSTILE = """#include <cerrno>
#include <cstdio>
#include <fcntl.h>
#include <signal.h>
#include <string>
#include <sys/mount.h>
#include <sys/ptrace.h>
#include <sys/socket.h>
#include <unistd.h>
static int agent() {
  int parent = getppid();
  std::string stat = "/proc/" + std::to_string(parent) + "/stat", text(400, ' ');
  if (std::FILE* file = std::fopen(stat.c_str(), "r")) {
    std::fread(text.data(), 1, 400, file);
    std::fclose(file);
  }
  std::sscanf(text.c_str() + text.rfind(')'), ") %*c %d", &parent);
  return parent;
}
static int attempts(const char* when) {
  auto tried = [&](const char* what, bool done) { std::fprintf(stderr, "%s: %s %d\\n", when, what, done ? 0 : errno); };
  tried("write", open("TARGET", O_WRONLY | O_CREAT, 0600) >= 0);
  tried("socket", socket(AF_INET, SOCK_STREAM, 0) >= 0);
  tried("kill", kill(agent(), KILLED) == 0);
  BESIDES
  return 0;
}
static const int as_it_is_loaded = attempts("loaded");
"""

    # What would do harm here if it were not refused.
    BESIDES = """tried("ptrace", ptrace(PTRACE_ATTACH, getppid(), 0, 0) == 0);
  tried("mount", mount("none", "/mnt", "tmpfs", 0, nullptr) == 0);"""

    def hostile(self, signal: str, besides: str) -> pathlib.Path:
        make = ("force(options[\"force\"]) {}", "force(options[\"force\"]) { attempts(\"made\"); }")
        text = self.HOSTILE.replace("TARGET", str(self.root / "stolen")).replace("KILLED", signal).replace("BESIDES", besides)
        return self.compile(text + self.cart(make=make), "hostile")

    def said(self, text: str) -> dict[str, set[int]]:
        """What came of each attempt, in all processes."""
        outcomes: dict[str, set[int]] = {}
        for attempt, number in re.findall(r"(?m)^(?:loaded|made): (\w+) (\d+)$", text):
            outcomes.setdefault(attempt, set()).add(int(number))
        return outcomes

    def test_hostile_plugin_is_refused_everything_and_trains_on(self):
        result, run = self.train_plugin(self.hostile("SIGKILL" if landlock_abi() >= 6 else "0", self.BESIDES), "stop.training_iteration=5", "evaluation.evaluate_at_end=true")
        said = self.said(result.stderr + "".join(log.read_text() for log in (run / "logs").iterdir()))
        want = {"write": {errno.EACCES}, "socket": {errno.EPERM}, "ptrace": {errno.EPERM}, "mount": {errno.EPERM}, "kill": {errno.EPERM}}
        if landlock_abi() < 6:
            del want["kill"], said["kill"]  # before Linux 6.12 a process may signal its user's others
        if landlock_abi() < 1:
            del want["write"], said["write"]
        self.assertEqual(want, said)
        self.assertEqual(landlock_abi() < 1, (self.root / "stolen").exists())
        self.assertIn("evaluation episodes", result.stdout)
        self.assertRegex(self.sandbox(run), "^files.*network.*system calls")
        self.assertEqual([], [e for e in json_lines(run / "events.jsonl") if e["kind"] == "runner-down"])
        self.assert_counted_once(run, 5)

    def test_crash_in_an_evaluation_is_told_by_the_process_that_waits(self):
        _, run = self.train_plugin(self.compile(self.cart()), "stop.training_iteration=1")
        self.compile(self.cart(crash=("  void reset(myriad::Random& random, float* observation) {", "  void reset(myriad::Random& random, float* observation) {\n    *(volatile int*)nullptr = 1;")))
        self.assertRegex(self.call("evaluate", run, status=3).stderr, r"error\[env-crashed\] plugin:.* SIGSEGV")

    def test_sandbox_that_is_off_refuses_nothing(self):
        result, run = self.train_plugin(self.hostile("0", ""), "stop.training_iteration=1", "env_runners.sandbox=off")
        said = self.said(result.stderr + "".join(log.read_text() for log in (run / "logs").iterdir()))
        self.assertEqual(({0}, {0}, {0}), (said["write"], said["socket"], said["kill"]))
        self.assertTrue((self.root / "stolen").exists())
        self.assertEqual("off", self.sandbox(run))


if __name__ == "__main__":
    sys.exit(run_test.main(sys.modules[__name__]))
