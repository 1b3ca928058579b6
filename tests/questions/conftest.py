from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.fix_postgres import Database
from tests.questions.asking import Asking, open_asking


@pytest.fixture
def asking(database18: Database) -> Iterator[Asking]:
    with open_asking(database18) as asking:
        yield asking
