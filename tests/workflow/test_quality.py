"""Format, lint, types and schemas are tests like any other."""

import re
import subprocess
import sys
from pathlib import Path

import pytest
import yaml
from jsonschema import Draft202012Validator

ROOT = Path(__file__).parents[2]
RULES = [str(ROOT / "Snakefile"), *map(str, sorted((ROOT / "workflow" / "rules").glob("*.smk")))]


@pytest.mark.parametrize(
    "command",
    [
        ["ruff", "format", "--check", "."],
        ["ruff", "check", "--no-cache", "."],
        ["snakefmt", "--check", *RULES],
        ["mypy"],
        ["snakemake", "--lint"],
    ],
    ids=lambda command: " ".join(command[:2]),
)
def test_tool_has_no_complaint(command: list[str]) -> None:
    program = Path(sys.executable).with_name(command[0])
    done = subprocess.run([program, *command[1:]], cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


SCHEMAS = [
    *sorted((ROOT / "workflow" / "schemas").glob("*.yaml")),
    *sorted((ROOT / "vit2onnx" / "families").glob("*/*.schema.yaml")),
]


@pytest.mark.parametrize("schema", SCHEMAS, ids=lambda path: f"{path.parent.name}/{path.name}")
def test_schema_is_strict_and_describes_every_property(schema: Path) -> None:
    content = yaml.safe_load(schema.read_text())
    Draft202012Validator.check_schema(content)

    def visit(node: object, path: str) -> None:
        if isinstance(node, dict):
            if "properties" in node:
                further = node["additionalProperties"]
                assert further is False or further["description"], path
                undescribed = [key for key, value in node["properties"].items() if "description" not in value]
                assert not undescribed, f"{path}: {undescribed}"
            for key, value in node.items():
                visit(value, f"{path}.{key}")

    visit(content, schema.name)


def test_every_yaml_for_users_names_its_schema() -> None:
    for path in (*(ROOT / "config").glob("[cl]*.yaml"), *(ROOT / "config" / "variants").glob("*/*.yaml")):
        first = path.read_text().splitlines()[0]
        assert first.startswith("# yaml-language-server: $schema=")
        assert (path.parent / first.partition("=")[2]).resolve().is_file()


def test_each_script_belongs_to_a_rule_and_fits_a_screen() -> None:
    rules = "".join(Path(path).read_text() for path in RULES)
    for script in (ROOT / "workflow" / "scripts").glob("*.py"):
        assert f"rule {script.stem}:" in rules
        assert f'"../scripts/{script.name}"' in rules
        assert len(script.read_text().splitlines()) <= 65, script.name


def test_a_shell_is_given_quoted_names_only():
    """Names of variants, recipes and files become its words."""
    rules = "".join(path.read_text() for path in (ROOT / "workflow" / "rules").glob("*.smk"))
    commands = re.findall(r"\n    shell:\n((?: {8}.*\n)+)", rules)
    assert rules.count("shell:") == len(commands) and "run:" not in rules
    for command in commands:
        assert all(field.endswith(":q") for field in re.findall(r"{([^}]*)}", command)), command
