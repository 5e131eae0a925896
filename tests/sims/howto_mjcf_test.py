"""docs/howto-mjcf.md as it is written, and runs of task files: `howto_mjcf_test.py BUILD [CASE ...]`."""
import pathlib
import re
import sys

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parent.parent / "integration"))
import run_test  # noqa: E402
from run_test import ROOT, Case, json_lines  # noqa: E402

TASKS = ROOT / "configs/tasks"


class Mjcf(Case):
    def setUp(self) -> None:
        super().setUp()
        self.text = (ROOT / "docs/howto-mjcf.md").read_text()
        self.blocks = {name: re.search(rf"^`{name}`:.*?\n```\w+\n(.*?)```", self.text, re.M | re.S).group(1)
                       for name in ("arm.xml", "arm.toml", "arm-ppo.toml")}
        for name, block in self.blocks.items():
            self.file(name, block)

    def test_howto_as_it_is_written(self):
        for name in ("arm.xml", "arm.toml"):
            self.assertEqual((TASKS / name).read_text(), self.blocks[name])
        commands = [line.split() for line in re.search(r"```sh\n(.*?)```", self.text, re.S).group(1).splitlines()]
        self.assertEqual([["myriad", verb] for verb in ("check-env", "play", "train")], [words[:2] for words in commands])
        checked, played, trained = (self.call(*words[1:]).stdout for words in commands)
        self.assertEqual([], [line for line in checked.splitlines() if not line.startswith("ok ")])
        self.assertEqual(5, len(played.splitlines()))
        [run] = (self.root / "runs").iterdir()
        first = json_lines(run / "results.jsonl")[0]["env_runners"]["episode_return_mean"]
        self.assertLess(first, -25)
        self.assertGreater(float(re.search(r"^return +(-?[\d.]+)", trained, re.M).group(1)), -12)

    def test_every_randomised_field_that_the_howto_names_is_one(self):
        section = re.search(r"^Fields: (.*?)\. What", self.text, re.M | re.S).group(1)
        body = self.blocks["arm.toml"].split("[randomize]")[0] + "[randomize]\n"
        for field in re.findall(r"`([\w.]+)`", section):
            self.file("arm.toml", body + f'"{field}" = {{ uniform = [1, 1], scale = true }}\n')
            self.call("play", "mjcf:arm.toml", "--steps", "2")

    def test_resume_is_bit_exact(self):
        train = ("train", "arm-ppo.toml", "training.train_batch_size=512", "training.minibatch_size=128")
        self.call(*train, "--out", "whole", "stop.training_iteration=6")
        self.call(*train, "--out", "run", "stop.training_iteration=3")
        self.call("train", "--resume", "run", "stop.training_iteration=6")
        self.assert_same_state(self.checkpoints(self.root / "whole")[-1], self.checkpoints(self.root / "run")[-1])

    def test_a_task_that_moved_is_asked_for_and_one_that_changed_is_told(self):
        train = ("train", "arm-ppo.toml", "training.train_batch_size=512", "training.minibatch_size=128", "stop.training_iteration=2")
        self.call(*train, "--out", "run", "evaluation.evaluation_duration=1")
        (self.root / "new place").mkdir()
        for name in ("arm.toml", "arm.xml"):
            (self.root / name).rename(self.root / "new place" / name)
        for command in (("evaluate", "run"), ("train", "--resume", "run", "stop.training_iteration=3")):
            self.assertRegex(self.call(*command, status=2).stderr, r"^error\[no-file\] .*/arm.toml of run is not there any more; say where it is: environment.env=mjcf:NEW/PLACE/arm.toml\n$")
        moved = 'environment.env="mjcf:new place/arm.toml"'
        self.assertEqual("", self.call("evaluate", "run", moved).stderr)
        self.call("train", "--resume", "run", moved, "stop.training_iteration=3")
        self.assertNotIn("resume", [e["kind"] for e in json_lines(self.root / "run/events.jsonl")], "the states of its episodes fit")
        with open(self.root / "new place/arm.xml", "a") as model:
            model.write("<!-- longer -->\n")
        self.assertIn("warning[changed-files] what environment.env names is not what run was trained with", self.call("evaluate", "run").stderr)
        self.assertIn("warning[changed-files]", self.call("train", "--resume", "run", "stop.training_iteration=4").stderr)
        self.assertIn("what environment.env names changed: all episodes begin anew", [e["text"] for e in json_lines(self.root / "run/events.jsonl") if e["kind"] == "resume"])
        self.assertEqual("", self.call("evaluate", "run").stderr)

    def test_options_are_set_by_the_config(self):
        play = lambda *more, status=0: self.call("play", "mjcf:arm.toml", "--seed", "1", "--steps", "3", "--json", *more, status=status)
        self.assertNotEqual(play().stdout, play("--option", "reach=0.1").stdout)
        self.assertIn("has no option reech; did you mean reach", play("--option", "reech=1", status=2).stderr)

    def test_mistakes_as_the_howto_shows_them(self):
        shown = {line.split("|")[1].strip(): line.split("|")[2] for line in self.text.splitlines() if line.startswith("| a wrong ")}
        def refused(old: str, new: str) -> str:
            self.file("arm.toml", self.blocks["arm.toml"].replace(old, new, 1))
            line = self.call("play", "mjcf:arm.toml", status=2).stderr.strip().replace(f"{self.root}/", "")
            return re.sub(r":\d+:\d+:", "", line)
        for mistake, line in (("a wrong key or type", refused("[reward]", "[action]\nscales = 1\n[reward]")),
                              ("a wrong name in an expression", refused("norm(to_target)", "norm(site_xpos:tipp)"))):
            self.assertEqual(line, re.sub(r":\d+:\d+:", "", re.search(r"`(.*?)`", shown[mistake]).group(1)))

    def test_shipped_tasks_keep_the_contract(self):
        for task in sorted(TASKS.glob("*.toml")):
            out = self.call("check-env", f"mjcf:{task}", "--steps", "10000").stdout
            self.assertEqual([], [line for line in out.splitlines() if not line.startswith("ok ")], task)


if __name__ == "__main__":
    sys.exit(run_test.main(sys.modules[__name__]))
