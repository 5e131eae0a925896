"""The lists of mutants in this folder, and what meson knows of the tests that they name."""
import dataclasses
import json
import os
import pathlib
import shlex
import tomllib


@dataclasses.dataclass(frozen=True)
class Mutant:
    """One fault, and who must find it."""
    list: str
    id: str
    file: str
    before: str
    after: str
    test: str = ""
    case: str = ""
    equivalent: str = ""


class CannotRun(Exception):
    """The machine or the clone does not allow it."""


def load(folder: pathlib.Path, root: pathlib.Path) -> tuple[list[Mutant], list[str]]:
    """The mutants of all lists in the folder, and what is wrong with the lists."""
    mutants, errors, owner = [], [], {}
    known = {field.name for field in dataclasses.fields(Mutant)} - {"list"}
    for path in sorted(folder.glob("*.toml")):
        try:
            document = tomllib.loads(path.read_text())
        except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
            errors.append(f"{path.name}: {error}")
            continue
        entries = document.get("mutant")
        if document.keys() != {"mutant"} or not isinstance(entries, list) or not all(isinstance(entry, dict) for entry in entries):
            errors.append(f"{path.name}: want [[mutant]] tables and nothing else")
            continue
        for number, entry in enumerate(entries, 1):
            where = f"{path.name}: {entry.get('id', f'mutant {number}')}"
            needed = {"id", "file", "before", "after"} | (set() if "equivalent" in entry else {"test"})
            if not needed <= entry.keys() <= known or not all(isinstance(value, str) for value in entry.values()):
                errors.append(f"{where}: want {', '.join(sorted(needed))} and may have {', '.join(sorted(known - needed))}, all strings")
                continue
            mutant = Mutant(path.stem, **entry)
            mutants.append(mutant)
            if owner.setdefault(mutant.id, where) is not where:
                errors.append(f"{where}: {owner[mutant.id]} is there already")
            if not (root / mutant.file).is_file():
                errors.append(f"{where}: there is no file {mutant.file}")
            elif (count := (root / mutant.file).read_text().count(mutant.before) if mutant.before else 0) != 1:
                errors.append(f"{where}: `before` is {count} times in {mutant.file}, want once")
            elif mutant.before == mutant.after:
                errors.append(f"{where}: `after` is `before`")
    return mutants, errors


class Build:
    """What meson knows: the programs, and of each test what it depends on and its environment."""

    def __init__(self, root: pathlib.Path) -> None:
        self.root, build = root, root / "build"
        try:
            targets, tests = (json.loads((build / "meson-info" / f"intro-{what}.json").read_text()) for what in ("targets", "tests"))
        except FileNotFoundError:
            raise CannotRun("build/ is not set up: run ./myriad test once") from None
        file_of = {target["id"]: os.path.relpath(target["filename"][0], build) for target in targets}
        self.targets = {file_of[target["id"]]: [file_of[target["id"]]] for target in targets if target["type"] == "executable"}
        self.env: dict[str, dict[str, str]] = {}
        for test in tests:
            script = next((os.path.relpath(os.path.realpath(word), root) for word in test["cmd"] if word.endswith(".py")), None)
            name = script or os.path.relpath(test["cmd"][0], build)
            self.targets[name] = sorted({*self.targets.get(name, []), *(file_of[target] for target in test["depends"] if target in file_of)})
            self.env[name] = test["env"]

    def name(self, test: str) -> str:
        """The program or the script that a list's `test` runs; "" where there is none such."""
        python, *words = shlex.split(test) or [""]
        if python == "python3":
            return os.path.normpath(words[0]) if words and (self.root / words[0]).is_file() else ""
        return test if test in self.targets and not test.endswith(".py") else ""
