"""Profiles know the rules."""

import re

import yaml
from workflow_project import ROOT


def test_every_rule_has_a_time_limit_on_a_cluster() -> None:
    rules = "".join(path.read_text() for path in sorted((ROOT / "workflow" / "rules").glob("*.smk")))
    names = set(re.findall(r"^rule (\w+):|^use rule \w+ as (\w+)", rules, re.M))
    profile = yaml.safe_load((ROOT / "profiles" / "slurm" / "profile.yaml").read_text())
    local, targets = {"copy_licence", "write_packing", "write_verify"}, {"all", "package", "self_test"}
    assert profile["set-resources"].keys() == {plain or derived for plain, derived in names} - local - targets
    assert all("runtime" in resources for resources in profile["set-resources"].values())
