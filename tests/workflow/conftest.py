from pathlib import Path

import pytest
from workflow_project import make_tiny_project


@pytest.fixture(scope="session")
def tiny_project(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of the project whose only variant is tiny, and which compares two photographs at two sizes.

    Its path and that of its Python are as users' are: with blanks, a quote and a letter beyond ASCII.
    """
    project = tmp_path_factory.mktemp("it's a köln")
    make_tiny_project(project)
    return project
