"""Implementations besides transformers are run where the config asks for them and they have the variant."""

import re
from pathlib import Path

import pytest
from workflow_project import ROOT, snakemake

BASE, LARGE = "siglip2_base_patch16_256", "siglip2_large_patch16_384"
# Kornia has none of them.
OTHERS = ["siglip2_so400m_patch16_256", "siglip2_base_patch16_naflex", "dinov3_vits16_pretrain_lvd1689m"]


@pytest.mark.parametrize("asked", [True, False])
def test_kornia_is_run_for_the_variants_that_it_has(tmp_path: Path, asked: bool) -> None:
    variants = f"variants=[{', '.join([BASE, LARGE, *OTHERS])}]"
    arguments = ["--config", variants, f"reference={{kornia: {str(asked).lower()}}}"]
    output = snakemake(ROOT, "--dry-run", "--workflow-profile", "none", "--directory", str(tmp_path), *arguments)
    found = re.findall(r"(\w+): running the reference \(kornia, (\w+)\)", output)
    every = [(name, interface) for name in (BASE, LARGE) for interface in ("pair", "text", "vision")]
    assert sorted(found) == (every if asked else [])
    assert ("comparing model.onnx with transformers kornia" in output) == asked
    assert not list(tmp_path.glob("results/*"))
