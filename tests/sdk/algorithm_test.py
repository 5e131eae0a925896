"""Algorithms, networks and wrappers out of tree, as their authors meet them: `algorithm_test.py BUILD [CASE ...]`.

Built against an installed SDK in a folder outside the tree, and run by the built programs. An algorithm compiles torch's
headers, so two are built for all cases: the template, and one with faults that a setting chooses.
"""
import contextlib
import functools
import json
import os
import pathlib
import re
import shutil
import subprocess
import sys
import tempfile

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parent.parent / "integration"))
import run_test  # noqa: E402
from run_test import Case, json_lines  # noqa: E402

ROOT = pathlib.Path(__file__).resolve().parent.parent.parent
SHARED = tempfile.TemporaryDirectory(prefix="mralg", dir="/tmp")


def environment() -> dict[str, str]:
    """Of a shell with the SDK installed and the programs on its path."""
    path = f"{ROOT / '.venv/bin'}:{run_test.BUILD / 'apps'}:{os.environ['PATH']}"
    return os.environ | {"PKG_CONFIG_PATH": str(prefix() / "lib/pkgconfig"), "PATH": path, "MYRIAD": str(run_test.BUILD / "apps/myriad"), "TERM": "dumb"}


def shell(words: list, cwd: pathlib.Path, env: dict[str, str] | None = None) -> str:
    result = subprocess.run(list(map(str, words)), cwd=cwd, env=env or environment(), stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=240)
    assert result.returncode == 0, f"{words}\n{result.stdout}{result.stderr}"
    return result.stdout


@functools.cache
def prefix() -> pathlib.Path:
    folder = pathlib.Path(SHARED.name) / "sdk"
    shell([sys.executable, ROOT / "scripts/install_sdk.py", folder], pathlib.Path(SHARED.name), dict(os.environ))
    return folder


@functools.cache
def from_howto(page: str, heading: str) -> tuple[pathlib.Path, str]:
    """The first sh block under the heading, run as it stands there: its folder, what it printed."""
    block = re.search(rf"\n#+ {heading}\n.*?```sh\n(.*?)```", (ROOT / "docs" / page).read_text(), re.S)[1]
    folder = pathlib.Path(SHARED.name) / page.removesuffix(".md")
    folder.mkdir()
    script = block.replace("./myriad install-sdk", f"{sys.executable} {ROOT / 'scripts/install_sdk.py'}").replace("./myriad", "myriad")
    return folder, shell(["bash", "-euc", f"PREFIX={folder}/sdk\n{script}"], folder)


FAULTS = """    if (config_.fault == "throw") throw std::runtime_error("no licence for the loss");
    if (config_.fault == "crash") *static_cast<volatile int*>(nullptr) = 1;
    static int calls = 0;
    if (config_.fault == "late" && ++calls > 3) throw std::runtime_error("the licence has ended");
    if (config_.fault == "memory" && ++calls > 3) (void)at::empty({int64_t{1} << 50});
    if (config_.fault == "shape") return {.total = output.values, .metrics = at::zeros({3})};
"""


@functools.cache
def faulty() -> pathlib.Path:
    """The template with faults, built with CMake."""
    folder = pathlib.Path(SHARED.name) / "faulty"
    shell(["myriad", "new-algorithm", "faulty"], folder.parent)
    source = folder / "faulty.cpp"
    text = source.read_text()
    for old, new in (("  double vf_loss_coeff = 0.5;", '  double vf_loss_coeff = 0.5;\n  std::string fault = "none";'),
                     ('    v.visit({"vf_loss_coeff"', '    v.visit({"fault", "", "what goes wrong"}, fault);\n    v.visit({"vf_loss_coeff"'),
                     ("    const at::Tensor logp", FAULTS + "    const at::Tensor logp"),
                     ("gamma_(config.training.gamma) {}", 'gamma_(config.training.gamma) {\n    if (config_.fault == "make") throw std::runtime_error("no memory for the tables");\n  }')):
        assert old in text, old
        text = text.replace(old, new, 1)
    source.write_text(text)
    shell(["cmake", "-G", "Ninja", "-DCMAKE_BUILD_TYPE=Debug", "-B", "build"], folder)
    shell(["cmake", "--build", "build"], folder)
    return folder / "build/faulty.so"


class OutOfTree(Case):
    def setUp(self) -> None:
        super().setUp()
        self.environment |= {name: environment()[name] for name in ("PKG_CONFIG_PATH", "PATH", "MYRIAD")}

    def compile(self, text: str, name: str, *flags: str, language: str = "cpp") -> pathlib.Path:
        source, library = self.root / f"{name}.{language}", self.root / f"{name}.so"
        source.write_text(text)
        compiler = ["c++", "-std=c++20"] if language == "cpp" else ["cc"]
        shell([*compiler, "-O0", "-shared", "-fPIC", f"-I{prefix() / 'include'}", f"-I{prefix() / 'include/myriad'}", source, "-o", library, *flags], self.root)
        return library

    def refused(self, want: str, status: int, *overrides: str) -> None:
        result = self.call("train", self.config, "--out", self.root / "refused", *overrides, status=status)
        self.assertRegex(result.stderr, want)
        self.assertFalse((self.root / "refused").exists())

    # --- algorithms ---

    def algorithm(self) -> pathlib.Path:
        return from_howto("howto-algorithm.md", "Out of tree")[0] / "my_a2c/build/my_a2c.so"

    def a2c(self, *overrides: str) -> list[str]:
        return [f"algorithm=plugin:{self.algorithm()}", "training.num_epochs=1", "training.minibatch_size=512", *overrides]

    def test_howto_as_it_is_written(self):
        folder, out = from_howto("howto-algorithm.md", "Out of tree")
        self.assertRegex(out, r"done +episode_return_mean (4[789]\d|500)")
        summary = json.loads((next((folder / "my_a2c/runs").iterdir()) / "run.json").read_text())
        self.assertEqual("finished", summary["state"])

    def test_only_learners_open_the_library(self):
        driver, run = self.start_train(*self.a2c("learners.num_learners=2", "hosts.num_hosts=2"))
        maps = {pid: pathlib.Path(f"/proc/{pid}/maps").read_text() for pid in self.processes()}
        opened = {self.processes()[pid] for pid, text in maps.items() if "my_a2c.so" in text}
        with_torch = {self.processes()[pid] for pid, text in maps.items() if "libtorch" in text}
        self.assertEqual(({"myriad-learner"}, {"myriad-learner"}), (opened, with_torch))
        self.assertEqual(2, len(self.runners()))
        self.interrupt(driver)
        # What it said is in the run's config, with its path, so that others need not ask.
        config = (run / "config.effective.toml").read_text()
        self.assertIn(f'algorithm = "plugin:{self.algorithm()}"', config)
        self.assertRegex(config, r"(?m)^\[plugins\]\nalgorithm = .*\nmodule = .*")

    def test_one_learner_and_two_train_as_the_built_in_form_does(self):
        # The template is A2C: the same batches, the same bits.
        settings = ["training.num_epochs=1", "training.minibatch_size=512", "training.grad_clip=0.5", "stop.training_iteration=3"]
        two = ["learners.num_learners=2", "hosts.num_hosts=2"]
        library = f"algorithm=plugin:{self.algorithm()}"
        runs = self.train_all({"built-in": ["algorithm=A2C", *settings], "plugin": [library, *settings],
                               "two built-in": ["algorithm=A2C", *settings, *two], "two plugin": [library, *settings, *two]},
                              self.file("a2c.toml", "\n".join(line for line in run_test.CARTPOLE.splitlines() if not line.startswith(("clip", "num_epochs", "minibatch")))))
        for ours, builtin in (("plugin", "built-in"), ("two plugin", "two built-in")):
            files = [self.state_files(runs[name]) for name in (ours, builtin)]
            self.assertEqual([], [name for name in files[0] if name != "config.toml" and files[0][name] != files[1][name]])
            self.assert_counted_once(self.root / ours, 3)

    def test_resume_is_bit_exact_and_evaluation_needs_no_library(self):
        library = shutil.copy(self.algorithm(), self.root / "mine.so")
        a2c = ["algorithm=plugin:./mine.so", "training.num_epochs=1", "training.minibatch_size=512"]
        self.train(self.root / "whole", *a2c, "stop.training_iteration=4")
        self.train(self.root / "run", *a2c, "stop.training_iteration=2")
        self.call("train", "--resume", self.root / "run", "stop.training_iteration=4")
        self.assert_same_state(self.checkpoints(self.root / "whole")[-1], self.checkpoints(self.root / "run")[-1])
        os.rename(library, self.root / "moved.so")
        self.assertIn("over 3 episodes", self.call("evaluate", self.root / "run", "--episodes", "3").stdout)
        self.assertRegex(self.call("train", "--resume", self.root / "run", "stop.training_iteration=5", status=2).stderr,
                         r"error\[no-plugin\] there is no file .*/mine.so")
        self.call("train", "--resume", self.root / "run", "algorithm=plugin:./moved.so", "stop.training_iteration=5")

    def test_its_settings_are_settings(self):
        library = f"algorithm=plugin:{self.algorithm()}"
        resolved = self.call("config", "--resolved", self.config, library, "training.entropy_coeff=[[0,0.25],[1000,0.0]]").stdout
        self.assertIn("entropy_coeff = [[0, 0.25], [1000, 0.0]]\n", resolved)
        self.assertIn("vf_loss_coeff = 0.5\n", resolved)
        self.assertIn("grad_clip = 0.5\n", resolved)  # its default
        self.assertNotIn("\nclip_param", resolved)  # PPO's
        self.assertEqual(resolved, self.call("config", "--resolved", self.file("resolved.toml", resolved)).stdout)
        rows = [json.loads(line) for line in self.call("config", "--resolved", self.config, library, "--json").stdout.splitlines()]
        self.assertIn("coefficient of the value loss", [row["meaning"] for row in rows if row["key"] == "vf_loss_coeff"])
        self.refused(r"error\[unknown-key\] .*\[training\] has no lambda.*did you mean lambda_", 2, library, "training.lambda=0.9")
        self.refused(r"error\[out-of-range\] .*training.lambda_ is 2 \(integer\), want 0 to 1", 2, library, "training.lambda_=2")
        self.refused(r"error\[impossible\] .*training.sampling is 'async'.*samples sync or lag1", 2, library, "training.sampling=async")

    def test_new_projects_want_a_name_and_no_folder_of_it(self):
        for verb in ("new-algorithm", "new-module", "new-wrapper"):
            self.assertRegex(self.call(verb, "MyNet", status=2).stderr, r"error\[bad-name\] MyNet cannot be the name here; want lower case")
            self.call(verb, "mine_" + verb.replace("-", "_"))
            self.assertRegex(self.call(verb, "mine_" + verb.replace("-", "_"), status=2).stderr, r"error\[exists\]")
        self.refused(r"error\[no-plugin\] plugin: names no file", 2, "algorithm=plugin:")

    def test_what_is_no_algorithm_is_refused_before_a_run_begins(self):
        at = lambda library: f"algorithm=plugin:{library}"
        self.refused(r"error\[no-plugin\] there is no file /.*/nothing.so", 2, "algorithm=plugin:nothing.so")
        self.refused(r"error\[no-plugin\] .*text.so cannot be loaded.*file too short.*howto-algorithm", 3, at(self.file("text.so", "no library")))
        self.refused(r"error\[no-plugin\] .*empty.so has no myriad_algorithm_plugin\(\); see docs/howto-algorithm.md", 3, at(self.compile("int x;", "empty", language="c")))
        missing = "void of_nowhere(void); void* myriad_algorithm_plugin(void) { of_nowhere(); return 0; }"
        self.refused(r"error\[no-plugin\] .*missing.so cannot be loaded.*undefined symbol: of_nowhere", 3, at(self.compile(missing, "missing", language="c")))
        crash = "__attribute__((constructor)) static void now(void) { __builtin_trap(); }"
        self.refused(r"error\[plugin-broken\] .*crash.so ended with Illegal instruction while it was loaded", 3, at(self.compile(crash, "crash", language="c")))
        null = "void* myriad_algorithm_plugin(void) { return 0; }"
        self.refused(r"error\[plugin-broken\] myriad_algorithm_plugin\(\) of .*null.so returned a null pointer", 3, at(self.compile(null, "null", language="c")))
        other = ('static const char* build[5] = {"0123456789ab", "0.0.9", "g++ 4.8", "libstdc++ (old ABI)", "1.13.0"};\n'
                 "const void* myriad_algorithm_plugin(void) { return build; }")
        interface = re.search(r'HEADERS "(\w+)"', (prefix() / "include/myriad/plugin_interface_generated.h").read_text())[1]
        self.refused(rf"error\[plugin-abi\] .*other.so was built with Myriad 0.0.9 \(headers 0123456789ab\), g\+\+ 4.8, libstdc\+\+ \(old ABI\), torch 1.13.0; "
                     rf"this program with Myriad .* \(headers {interface}\).*build it again", 3, at(self.compile(other, "other", language="c")))

    def faults(self, fault: str, status: int, *overrides: str, run: str = "run") -> str:
        result = self.call("train", self.config, "--out", self.root / run, f"algorithm=plugin:{faulty()}", "training.num_epochs=1",
                           "training.minibatch_size=512", f"training.fault={fault}", "stop.training_iteration=5", *overrides, status=status)
        return result.stderr + result.stdout

    def test_exception_in_a_loss_ends_the_run_with_name_and_words(self):
        self.assertRegex(self.faults("throw", 3), r"error\[algorithm-exception\] Faulty of /.*/faulty.so: no licence for the loss")

    def test_what_was_learned_before_an_exception_is_saved(self):
        """Of the algorithm itself, and of memory that there is not; with one learner and with two."""
        for fault, words in (("late", "the licence has ended"), ("memory", "allocate memory")):
            for learners in (1, 2):
                with self.subTest(fault=fault, learners=learners):
                    said = self.faults(fault, 3, f"learners.num_learners={learners}", f"hosts.num_hosts={learners}", run=f"{fault}-{learners}")
                    self.assertRegex(said, rf"error\[algorithm-exception\] Faulty of /.*{words}")
                    run = self.root / f"{fault}-{learners}"
                    record = json.loads((run / "run.json").read_text())
                    self.assertEqual(("failed", 3), (record["state"], record["last_iteration"]))
                    self.assertEqual(["000000003"], [folder.name for folder in self.checkpoints(run)])
                    self.assertRegex(said, rf"saved +\S*{run.name}/checkpoints/000000003")
        self.assert_nothing_left()

    def test_exception_as_it_is_made_ends_the_run_with_name_and_words(self):
        self.assertRegex(self.faults("make", 3, "learners.num_learners=2", "hosts.num_hosts=2"),
                         r"error\[algorithm-exception\] Faulty of /.*/faulty.so: no memory for the tables")

    def test_loss_that_torch_refuses_is_named(self):
        self.assertRegex(self.faults("shape", 3), r"error\[algorithm-exception\] Faulty of /.*/faulty.so: .*scalar")

    def test_crash_in_a_loss_is_told_with_its_name(self):
        self.assertRegex(self.faults("crash", 5), r"SIGSEGV.*\n? *error\[algorithm-crashed\] SIGSEGV in a call of Faulty of /.*/faulty.so")

    # --- networks ---

    def network(self) -> pathlib.Path:
        return from_howto("howto-module.md", "Out of tree")[0] / "my_net/build/my_net.so"

    def modules(self, body: str, *names: str) -> str:
        """A library with this function under these names."""
        listed = ", ".join(f'{{"{name}", net}}' for name in names or ("net",))
        return ("#include <myriad/module.hpp>\n#include <stdexcept>\nusing namespace myriad;\n"
                f"ModuleSpec net(const Space& observation, const Space& action, const ModelConfig& config) {{ {body} }}\nMYRIAD_MODULES({listed})\n")

    def test_howto_of_networks_as_it_is_written(self):
        folder, out = from_howto("howto-module.md", "Out of tree")
        self.assertRegex(out, r"done +episode_return_mean 4[5-9]\d")
        spec = json.loads((self.checkpoints(next((folder / "my_net/runs").iterdir()))[-1] / "learner_group/module.json").read_text())
        self.assertEqual(["encoder", "pi", "vf_encoder", "vf"], [network["name"] for network in spec["networks"]])
        for network in spec["networks"][::2]:
            self.assertEqual(["linear", "residual_begin", "layernorm", "activate", "linear", "residual_end", "activate"], [layer["kind"] for layer in network["layers"]])

    def test_network_is_asked_once_and_no_process_of_the_run_opens_it(self):
        library = shutil.copy(self.network(), self.root / "net.so")
        driver, run = self.start_train("rl_module.encoder=plugin:./net.so", "learners.num_learners=2", "hosts.num_hosts=2")
        os.rename(library, self.root / "moved.so")
        self.assertEqual([], [pid for pid in self.processes() if "net.so" in pathlib.Path(f"/proc/{pid}/maps").read_text()])
        os.kill(self.runners()[0], 9)  # another is started, without the library
        self.wait_reports(run, 3, driver)
        self.interrupt(driver)
        self.assertIn("over 3 episodes", self.call("evaluate", run, "--episodes", "3").stdout)

    def test_network_of_a_name_and_with_an_algorithm_out_of_tree(self):
        library = self.compile(self.modules("return make_mlp_spec(observation, action, config);", "small", "large"), "two")
        self.refused(r"error\[out-of-range\] .*two.so has 2 networks: want .*plugin:.*:NAME.* small, large", 2, f"rl_module.encoder=plugin:{library}")
        self.refused(r"error\[out-of-range\] .*two.so has no network larg; did you mean large", 2, f"rl_module.encoder=plugin:{library}:larg")
        encoder = f'rl_module.encoder="plugin:{library}:large"'
        runs = self.train_all({name: [*self.a2c("stop.training_iteration=2"), *more] for name, more in (("plugin", [encoder]), ("mlp", ["rl_module.encoder=mlp"]))},
                              self.file("a2c.toml", "\n".join(line for line in run_test.CARTPOLE.splitlines() if not line.startswith(("num_epochs", "minibatch")))))
        files = {name: self.state_files(checkpoint) for name, checkpoint in runs.items()}
        self.assertEqual([], [name for name in files["mlp"] if name != "config.toml" and files["mlp"][name] != files["plugin"][name]])

    def test_network_that_cannot_be_is_refused_with_the_fact(self):
        at = lambda body, name: f"rl_module.encoder=plugin:{self.compile(self.modules(body), name)}"
        self.refused(r"error\[bad-module\] the network takes 3 features; observations .* have 4", 2, at("return make_mlp_spec(Space::box(-1, 1, {3}), action, config);", "three"))
        self.refused(r"error\[bad-module\] the network gives a categorical of 5 inputs; actions .* want a categorical of 2", 2,
                     at("return make_mlp_spec(observation, Space::discrete(5), config);", "five"))
        self.refused(r"error\[bad-module\] a module has no network vf; did you mean pi", 2,
                     at("ModuleSpec spec = make_mlp_spec(observation, action, config); std::erase_if(spec.networks, [](const Network& network) { return !network.acts; }); return spec;", "actor"))
        self.refused(r"error\[plugin-broken\] .*words.so: no such width", 3, at('throw std::invalid_argument("no such width");', "words"))
        self.refused(r"error\[plugin-broken\] .*crash.so ended with .* while it was loaded", 3, at("__builtin_trap();", "crash"))
        self.refused(r"error\[no-plugin\] .*empty.so has no myriad_module_plugin\(\); see docs/howto-module.md", 3, f"rl_module.encoder=plugin:{self.compile('int x;', 'empty')}")
        older = self.modules("return {};").replace("MYRIAD_MODULES", '#undef MYRIAD_PLUGIN_HEADERS\n#define MYRIAD_PLUGIN_HEADERS "0123456789ab"\nMYRIAD_MODULES')
        self.refused(r"error\[plugin-abi\] .*older.so was built with Myriad .* \(headers 0123456789ab\)", 3, f"rl_module.encoder=plugin:{self.compile(older, 'older')}")

    def test_network_of_torch_operators_is_refused_by_name(self):
        # A torch::nn::Module has symbols of torch; nothing in the driver or a runner defines them.
        net = "namespace at { struct Tensor; Tensor* relu(Tensor*); }\nat::Tensor* forward(at::Tensor* x) { return at::relu(x); }\n"
        self.refused(r"error\[impossible\] .*torchnet.so computes with libtorch.*inference server", 2,
                     f"rl_module.encoder=plugin:{self.compile(net + self.modules('return {};'), 'torchnet')}")

    # --- wrappers ---

    def wrapper(self) -> pathlib.Path:
        return from_howto("howto-environment.md", "Wrappers of your own")[0] / "my_wrapper/build/my_wrapper.so"

    def wrappers(self, body: str, *names: str) -> str:
        """A library with the class Mine of this body under these names."""
        listed = ", ".join(f'wrapper<Mine>("{name}")' for name in names or ("mine",))
        return ("#include <myriad/wrapper.hpp>\n#include <stdexcept>\nusing namespace myriad;\n"
                f"struct Mine : EnvWrapper {{ using EnvWrapper::EnvWrapper;\n{body} }};\nMYRIAD_WRAPPERS({listed})\n")

    def steps(self, *arguments: object) -> list[dict]:
        return [json.loads(line) for line in self.call("play", *arguments, "--seed", "3", "--steps", "8", "--json").stdout.splitlines()]

    def test_howto_of_wrappers_as_it_is_written(self):
        folder, out = from_howto("howto-environment.md", "Wrappers of your own")
        self.assertRegex(out, r"done +episode_return_mean 4[5-9]\d")
        self.assertIn(f'wrappers = ["plugin:{self.wrapper()}"]', (next((folder / "my_wrapper/runs").iterdir()) / "config.effective.toml").read_text())

    def test_wrapper_changes_what_is_seen_done_and_rewarded(self):
        at = ("--wrapper", f"plugin:{self.wrapper()}", "--option", "tilt_cost=10")
        bare, seen = self.steps("CartPole-v1"), self.steps("CartPole-v1", *at)
        for x, y in zip(bare, seen, strict=True):
            for a, b, unit in zip(x["observation"], y["observation"], (2.4, 2.0, 0.2095, 2.0), strict=True):
                self.assertAlmostEqual(a, b * unit, delta=1e-6)
            if "reward" in x:
                self.assertAlmostEqual(x["reward"] - 10 * abs(x["observation"][2]), y["reward"], delta=1e-6)
        self.assertNotEqual(seen[1]["observation"], self.steps("CartPole-v1", *at, "--option", "reversed=1")[1]["observation"])
        out = self.call("check-env", "CartPole-v1", "--steps", "10000", *at).stdout
        self.assertEqual([], [line for line in out.splitlines() if not line.startswith("ok ")])

    def test_run_with_a_wrapper_resumes_bit_for_bit_and_evaluates(self):
        library = shutil.copy(self.wrapper(), self.root / "mine.so")
        config = self.file("wrapped.toml", run_test.CARTPOLE.replace('"CartPole-v1"', '"CartPole-v1"\nframe_stack = 2\nenv_config = { tilt_cost = 0.25 }\nwrappers = ["plugin:./mine.so"]'))
        self.train(self.root / "whole", "stop.training_iteration=4", config=config)
        self.train(self.root / "run", "stop.training_iteration=2", config=config)
        self.call("train", "--resume", self.root / "run", "stop.training_iteration=4")
        self.assert_same_state(self.checkpoints(self.root / "whole")[-1], self.checkpoints(self.root / "run")[-1])
        self.assert_counted_once(self.root / "run", 4)
        self.assertIn("over 3 episodes", self.call("evaluate", self.root / "run", "--episodes", "3").stdout)
        os.rename(library, self.root / "moved.so")
        self.assertRegex(self.call("evaluate", self.root / "run", "--episodes", "3", status=2).stderr, r"error\[no-plugin\] there is no file .*/mine.so")

    def test_wrapper_crops_pictures_below_a_stack_of_frames(self):
        crop = """  static void describe(EnvSpec& env) {
    Box box = *env.observation_space.get_if<Box>();
    box.shape[0] = 6;  // the lower rows
    env.observation_space = box;
    env.max_episode_steps = 40;
  }
  void see(ConstRow inside, Row seen) override { std::ranges::copy(inside.bytes().last(seen.bytes().size()), seen.bytes().begin()); }
"""
        library = self.compile("#include <algorithm>\n" + self.wrappers(crop), "crop")
        config = self.file("crop.toml", run_test.CARTPOLE.replace('"CartPole-v1"', f'"MinAtar/Breakout-v1"\nframe_stack = 2\nwrappers = ["plugin:{library}"]'))
        self.train(self.root / "run", "stop.training_iteration=2", config=config)
        bare, seen = self.steps("MinAtar/Breakout-v1"), self.steps("MinAtar/Breakout-v1", "--wrapper", f"plugin:{library}")
        flat = lambda value: [x for item in value for x in flat(item)] if isinstance(value, list) else [value]
        for x, y in zip(bare, seen, strict=True):
            self.assertEqual(flat(x["observation"])[-len(flat(y["observation"])):], flat(y["observation"]))
        self.assertEqual(len(flat(bare[0]["observation"])) * 6 // 10, len(flat(seen[0]["observation"])))

    def test_wrapper_that_cannot_be_is_refused_before_a_run_begins(self):
        at = lambda library: f'environment.wrappers=["plugin:{library}"]'
        named = lambda body, name: at(self.compile(self.wrappers(body), name))
        self.refused(r"error\[no-plugin\] there is no file /.*/nothing.so", 2, at("nothing.so"))
        self.refused(r"error\[out-of-range\] environment.wrappers has 'frame_stack'; want plugin:PATH or plugin:PATH:NAME", 2, 'environment.wrappers=["frame_stack"]')
        self.refused(r"error\[no-plugin\] .*empty.so has no myriad_wrapper_plugin\(\); see docs/howto-environment.md", 3, at(self.compile("int x;", "empty")))
        self.refused(r"error\[plugin-broken\] .*crash.so ended with .* while it was loaded", 3, named("static void describe(EnvSpec&) { __builtin_trap(); }", "crash"))
        self.refused(r"error\[plugin-broken\] .*words.so: want pictures", 3, named('static void describe(EnvSpec&) { throw std::invalid_argument("want pictures"); }', "words"))
        self.refused(r"error\[unknown-env-option\] CartPole-v1 has no option tilt_cots; did you mean tilt_cost", 2, at(self.wrapper()), "environment.env_config={tilt_cots=1}")
        self.refused(r"error\[plugin-broken\] .*twice.so: its option sutton_barto_reward is an option of CartPole-v1, too", 3,
                     named('static EnvOptions options() { return {{"sutton_barto_reward", 1}}; }', "twice"))
        two = self.compile(self.wrappers("", "one", "two"), "two")
        self.refused(rf'error\[out-of-range\] .*two.so has 2 wrappers: want environment.wrappers = \["plugin:.*:NAME"\] with one of one, two', 2, at(two))
        self.refused(r"error\[out-of-range\] .*two.so has no wrapper twoo; did you mean two", 2, at(f"{two}:twoo"))
        older = self.wrappers("").replace("MYRIAD_WRAPPERS", '#undef MYRIAD_PLUGIN_HEADERS\n#define MYRIAD_PLUGIN_HEADERS "0123456789ab"\nMYRIAD_WRAPPERS')
        interface = re.search(r'HEADERS "(\w+)"', (prefix() / "include/myriad/plugin_interface_generated.h").read_text())[1]
        self.refused(rf"error\[plugin-abi\] .*older.so was built with Myriad .* \(headers 0123456789ab\).*this program with Myriad .* \(headers {interface}\)", 3,
                     at(self.compile(older, "older")))

    def test_exception_of_a_wrapper_names_it_and_the_step_and_of_the_environment_does_not(self):
        throws = 'void adjust(StepResult&, ConstRow, ConstRow) override { if (++steps == 3) throw std::runtime_error("no such colour"); } int steps = 0;'
        library = self.compile(self.wrappers(throws, "paint", "other"), "throws")
        result = self.call("train", self.config, "--out", self.root / "run", f'environment.wrappers=["plugin:{library}:paint"]', status=3)
        self.assertRegex(result.stderr, r"error\[env-exception\] CartPole-v1 env \d+ \(seed \d+\) at step 3 of its episode: the simulator threw: "
                                        r"the wrapper paint of /.*/throws.so: no such colour")
        plain = self.compile(self.wrappers(""), "plain")
        inner = f'plugin:{library}:paint'
        said = self.call("play", "CartPole-v1", "--wrapper", inner, "--wrapper", f"plugin:{plain}", status=3).stderr
        self.assertIn("the wrapper paint of", said)
        self.assertNotIn("plain.so", said)


if __name__ == "__main__":
    status = run_test.main(sys.modules[__name__])
    with contextlib.suppress(OSError):
        SHARED.cleanup()
    sys.exit(status)
