import shutil
from pathlib import Path

import pytest
import yaml
from workflow_project import ROOT, TINY, edit_config


@pytest.fixture(scope="session")
def tiny_project(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of the project whose only variant is tiny, and which compares two photographs at two sizes."""
    project = tmp_path_factory.mktemp("project")
    for name in ("Snakefile", "workflow", "vit2onnx", "config", "profiles", "resources", "envs"):
        copy = shutil.copytree if (ROOT / name).is_dir() else shutil.copy
        copy(ROOT / name, project / name)
    variants = project / "config" / "variants"
    variant = yaml.safe_load((variants / "dinov3_vits16_pretrain_lvd1689m.yaml").read_text())
    variant["parameters"] = 100_000
    variant["architecture"] |= {"embed_dim": 48, "depth": 2, "num_heads": 3, "ffn_hidden": 96}
    (variants / f"{TINY}.yaml").write_text(yaml.safe_dump(variant))
    edit_config(project, lambda config: config.update(variants=[TINY]))
    edit_config(project, lambda config: [config["images"].pop(name) for name in ("astronaut", "chelsea")])
    edit_config(project, lambda config: config["parity"].update(sizes=[[48, 112], [50, 34]], batch_sizes=[1, 3]))
    return project
