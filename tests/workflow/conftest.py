from pathlib import Path

import pytest
from workflow_project import make_tiny_project


@pytest.fixture(scope="session")
def tiny_project(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of the project whose only variant is tiny, and which compares two photographs at two sizes."""
    project = tmp_path_factory.mktemp("project")
    make_tiny_project(project)
    return project
