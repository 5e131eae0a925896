"""Checks the lists of this folder, and the runner on lists and on a tree of its own: `run_mutants_test.py BUILD`. Builds nothing."""
import json
import pathlib
import sys
import tempfile
import unittest

HERE = pathlib.Path(__file__).resolve().parent
ROOT = HERE.parent.parent
sys.path[:0] = [str(HERE), str(ROOT / "tests/integration")]

import run_mutants  # noqa: E402
import run_test  # noqa: E402
from mutant_lists import Build, CannotRun, Mutant, load  # noqa: E402
from run_mutants import Lab, Result, first_failure, no_judge, percent_found, table  # noqa: E402

DOCTEST = """\
===============================================================================
a.cpp:3:
TEST CASE:  A: only a message

a.cpp:4: MESSAGE: 7

===============================================================================
a.cpp:9:
TEST CASE:  B: two, and more

a.cpp:12: ERROR: CHECK( f() == 2 ) is NOT correct!
[doctest] test cases: 5 | 4 passed | 1 failed | 3 skipped
"""


class Tree(unittest.TestCase):
    """A tree with one source file, one program known to meson and one script."""

    def setUp(self):
        directory = tempfile.TemporaryDirectory()
        self.addCleanup(directory.cleanup)
        self.root = pathlib.Path(directory.name).resolve()
        self.lists = self.root / "tests/mutants"
        self.file("src/a.cpp", "int f() { return 1 + 1; }\n")
        self.file("src/answer.py", "def answer(): return 42\n")
        self.file("tests/answer_test.py", "import sys, time\nsys.path.append('src')\nimport answer\nsys.exit(answer.answer() != 42)\n")
        build = self.root / "build"
        targets = [("p", "tests/a_test", "executable"), ("s", "libs.so", "shared library"), ("x", "app", "executable")]
        tests = [([f"{build}/tests/a_test"], ["s", "p"], {"X": "1"}), (["python3", f"{build}/../tests/answer_test.py", f"{build}"], ["x"], {})]
        self.file("build/meson-info/intro-targets.json", json.dumps([{"id": i, "filename": [f"{build}/{file}"], "type": kind} for i, file, kind in targets]))
        self.file("build/meson-info/intro-tests.json", json.dumps([{"cmd": command, "depends": depends, "env": env} for command, depends, env in tests]))

    def file(self, path: str, text: str) -> None:
        (self.root / path).parent.mkdir(parents=True, exist_ok=True)
        (self.root / path).write_text(text)

    def mutant(self, list_name: str, **fields: str) -> None:
        """Appends one to a list; a field of None is left out."""
        entry = {"id": "one", "file": "src/a.cpp", "before": "+", "after": "-", "test": "tests/a_test"} | fields
        self.lists.mkdir(parents=True, exist_ok=True)
        with open(self.lists / f"{list_name}.toml", "a") as out:
            out.write("[[mutant]]\n" + "".join(f"{key} = {json.dumps(value)}\n" for key, value in entry.items() if value is not None))


class Lists(Tree):
    def errors(self) -> list[str]:
        return load(self.lists, self.root)[1]

    def test_a_list_is_read(self):
        self.mutant("l", case="A*")
        self.mutant("l", id="two", test=None, equivalent="adds 0")
        self.assertEqual(load(self.lists, self.root), ([Mutant("l", "one", "src/a.cpp", "+", "-", "tests/a_test", "A*"),
                                                        Mutant("l", "two", "src/a.cpp", "+", "-", equivalent="adds 0")], []))

    def test_what_is_no_list_is_an_error_that_names_it(self):
        self.file("tests/mutants/a.toml", "[[mutant]\n")
        self.file("tests/mutants/b.toml", "[[mutants]]\n")
        self.file("tests/mutants/c.toml", "mutant = 3\n")
        self.file("tests/mutants/d.toml", "")
        self.assertEqual(["a.toml", "b.toml", "c.toml", "d.toml"], [error.split(":")[0] for error in self.errors()])

    def test_fields_that_are_missing_unknown_or_no_text_are_errors(self):
        self.mutant("a", test=None)
        self.mutant("b", reason="x")
        self.mutant("c", after=3)
        self.mutant("d", id=None)
        self.assertEqual(["a.toml: one", "b.toml: one", "c.toml: one", "d.toml: mutant 1"], [error.split(": want")[0] for error in self.errors()])

    def test_before_is_once_in_its_file(self):
        self.mutant("l", id="absent", before="*")
        self.mutant("l", id="twice", before="1")
        self.mutant("l", id="empty", before="")
        self.mutant("l", id="same", after="+")
        self.mutant("l", id="nowhere", file="src/b.cpp")
        self.assertEqual(["l.toml: absent: `before` is 0 times in src/a.cpp, want once", "l.toml: twice: `before` is 2 times in src/a.cpp, want once",
                          "l.toml: empty: `before` is 0 times in src/a.cpp, want once", "l.toml: same: `after` is `before`",
                          "l.toml: nowhere: there is no file src/b.cpp"], self.errors())

    def test_an_id_is_once_in_all_lists(self):
        self.mutant("a")
        self.mutant("b")
        self.assertEqual(["b.toml: one: a.toml: one is there already"], self.errors())

    def test_the_lists_of_this_tree(self):
        mutants, errors = load(HERE, ROOT)
        build = Build(ROOT)
        self.assertEqual([], errors)
        self.assertEqual([], [f"{mutant.list}.toml: {mutant.id}: {mutant.test}" for mutant in mutants if mutant.test and not build.name(mutant.test)])
        self.assertTrue(mutants)


class Tests(Tree):
    def test_a_test_is_a_program_of_the_build_or_a_script(self):
        build = Build(self.root)
        names = {"tests/a_test": "tests/a_test", "python3 tests/answer_test.py build": "tests/answer_test.py", "python3 ./tests/answer_test.py": "tests/answer_test.py",
                 "tests/b_test": "", "libs.so": "", "python3 tests/no.py": "", "python3": "", "tests/answer_test.py": "", "": ""}
        self.assertEqual(names, {test: build.name(test) for test in names})

    def test_built_is_what_meson_says_a_test_depends_on(self):
        build = Build(self.root)
        self.assertEqual(["libs.so", "tests/a_test"], build.targets["tests/a_test"])
        self.assertEqual(["app"], build.targets["tests/answer_test.py"])
        self.assertEqual({"X": "1"}, build.env["tests/a_test"])

    def test_a_clone_without_a_build_says_so(self):
        (self.root / "build/meson-info/intro-tests.json").unlink()
        with self.assertRaisesRegex(CannotRun, "./myriad test"):
            Build(self.root)

    def test_the_first_failure(self):
        self.assertEqual("B: two, and more", first_failure(DOCTEST, 1))
        self.assertEqual("test_x", first_failure("test_y ... ok\nFAIL: test_x (m.Case.test_x)\nERROR: test_z (m)\n1 passed, 2 failed\n", 1))
        self.assertEqual("signal 11", first_failure("half a line", 128 + 11))
        self.assertEqual("the last line", first_failure("one\nthe last line\n\n", 2))
        self.assertEqual("exit status 2", first_failure("", 2))

    def test_who_cannot_judge(self):
        cases = "[doctest] test cases: {} | {} passed | 0 failed | 7 skipped\n"
        self.assertEqual("", no_judge("tests/a_test", 0, cases.format(2, 2)))
        self.assertEqual("", no_judge("tests/a_test", 0, "SKIPPED: no GPU\n" + cases.format(2, 2)))
        self.assertEqual("SKIPPED: no GPU", no_judge("tests/a_test", 0, "SKIPPED: no GPU\n" + cases.format(1, 1)))
        self.assertEqual("the filter selects no case", no_judge("tests/a_test", 0, cases.format(0, 0)))
        self.assertEqual("the filter selects no case", no_judge("python3 t.py", 0, "0 passed, 0 failed\n"))
        self.assertEqual("fails without the mutant: B: two, and more", no_judge("tests/a_test", 1, DOCTEST))
        self.assertEqual("is skipped here", no_judge("python3 t.py", 77, ""))
        self.assertEqual("", no_judge("python3 t.py", 0, "3 passed, 0 failed, 0 skipped\n"))
        self.assertIn("does not end", no_judge("tests/a_test", None, ""))


class Score(unittest.TestCase):
    def test_equivalent_and_wrong_mutants_do_not_count(self):
        # a: 3 found and 1 survived of 4 that count: 75; b: none counts: 100; all: 3 of 4.
        verdicts = ["a found", "a found", "a found", "a survived", "a equivalent", "b does-not-compile", "b error"]
        rows = table([Result(Mutant(verdict.split()[0], "", "", "", ""), verdict.split()[1]) for verdict in verdicts])
        self.assertEqual([("a", 5, 3, 1, 1, 0, 75.0), ("b", 2, 0, 0, 0, 2, 100.0), ("all", 7, 3, 1, 1, 2, 75.0)], [tuple(row.values()) for row in rows])

    def test_percent(self):
        self.assertEqual([0.0, 100.0, 95.0, 100.0], [percent_found(0, 2), percent_found(2, 0), percent_found(19, 1), percent_found(0, 0)])


class Copies(Tree):
    """With a Python test, which needs no compiler."""

    def setUp(self):
        super().setUp()
        scratch = tempfile.TemporaryDirectory()
        self.addCleanup(scratch.cleanup)
        self.scratch = pathlib.Path(scratch.name)
        self.build = Build(self.root)
        self.build.targets = {}
        self.lab = Lab(self.root, self.build, 2, self.scratch)
        try:
            self.lab.find_a_way_in()
        except CannotRun as why:
            self.skipTest(str(why).splitlines()[0])
        self.test = "python3 tests/answer_test.py"
        self.lab.try_test((self.test, ""))

    def judge(self, before: str, after: str) -> Result:
        return self.lab.judge(Mutant("l", "one", "src/answer.py", before, after, self.test))

    def test_a_mutant_is_found_or_survives_and_the_tree_stays_as_it_was(self):
        before = (self.root / "src/answer.py").read_text()
        self.assertEqual("", self.lab.no_judge[self.test, ""])
        self.assertEqual(("found", "exit status 1"), (lambda result: (result.verdict, result.what))(self.judge("42", "43")))
        self.assertEqual("survived", self.judge("42", "41 + 1").verdict)
        self.assertEqual("error", self.judge("44", "43").verdict)
        self.assertEqual(before, (self.root / "src/answer.py").read_text())
        self.assertEqual([], list(self.scratch.iterdir()))

    def test_a_mutant_that_hangs_is_found(self):
        self.lab.limit_s[self.test, ""] = 0.5
        result = self.judge("def", "while True: pass\ndef")
        self.assertEqual(("found", "hangs"), (result.verdict, result.what.split(":")[0]))
        self.assertEqual([], list(self.scratch.iterdir()))

    def test_a_test_that_fails_anyway_judges_nothing(self):
        self.file("src/answer.py", "def answer(): return 41\n")
        self.lab.try_test((self.test, ""))
        result = self.judge("41", "42")
        self.assertEqual("error", result.verdict)
        self.assertIn("fails without the mutant", result.what)

    def test_where_namespaces_are_not_permitted_it_says_what_was_tried(self):
        self.addCleanup(setattr, run_mutants, "ENTER", run_mutants.ENTER)
        run_mutants.ENTER = [["false"], ["no-such-program"]]
        with self.assertRaisesRegex(CannotRun, r"(?s)tried\n  false, then mount .*\n  no-such-program, then mount "):
            self.lab.find_a_way_in()


if __name__ == "__main__":
    sys.exit(run_test.main(sys.modules[__name__]))
