from collections.abc import AsyncIterator, Awaitable, Generator, Iterator
from dataclasses import dataclass
from typing import Any, NamedTuple, NotRequired, TypedDict

from pydantic import BaseModel

import tenantry
from tenantry import current_operation, emits


@dataclass
class Rows:
    rows: int


@dataclass
class NoRows:
    lines: int


class MaybeRows(TypedDict):
    rows: NotRequired[int]


class SomeRows(TypedDict):
    rows: int


class NamedRows(NamedTuple):
    rows: int


class ModelRows(BaseModel):
    rows: int


class Plain:
    def rows(self) -> int:
        return 1


class Own:
    def __init__(self) -> None:
        self.rows = 1


@emits("imprt")  # unknown_operation
def misnamed(source: str) -> Rows: ...


@emits("import")  # missing_key source
def without_source(path: str) -> Rows: ...


@emits("import")  # missing_key rows
def with_other_result(source: str) -> NoRows: ...


@emits("import")  # missing_key rows
async def without_result(source: str) -> None: ...


@emits("import")  # missing_key rows
def with_text(source: str) -> str: ...


@emits("import")  # missing_key rows
def with_method(source: str) -> Plain: ...


@emits("import")  # missing_key rows
async def with_asynchronous_pieces(source: str) -> AsyncIterator[int]:
    yield 1


@emits("import")  # uncertain_key rows
def unannotated(source): ...


@emits("import")  # uncertain_key rows
def with_anything(source: str) -> Any: ...


@emits("import")  # uncertain_key rows
def with_mapping(source: str) -> dict[str, int]: ...


@emits("import")  # uncertain_key rows
def with_optional_key(source: str) -> MaybeRows: ...


@emits("import")  # uncertain_key rows
def with_optional_result(source: str) -> Rows | None: ...


@emits("import")  # uncertain_key rows
def with_attribute_of_instance(source: str) -> Own: ...


@emits("import")  # uncertain_key rows
def with_pieces(source: str) -> Iterator[int]:
    yield 1


@emits("import")  # uncertain_key source
def with_keywords(**given: str) -> Rows: ...


@emits("import")  # missing_key rows
def with_nothing_returned(source: str) -> Generator[int, None, None]:
    yield 1


@emits("import", origin="file")  # undeclared_key origin
def misspelt(source: str) -> Rows: ...


@emits("import", result="rowz")  # undeclared_key rowz missing_key rows
def misspelt_result(source: str) -> int: ...


@emits("import", fields={"lines": 3})  # undeclared_key lines
def misspelt_field(source: str) -> Rows: ...


@emits("refund")  # reserved_key result
def refund(result: str) -> None: ...


@emits("rename")  # reserved_key tenant
def rename(tenant: str, name: str) -> None: ...


@emits("export", failed_if=bool)  # uncertain_key rows
def with_failure_by_result() -> Rows: ...


class Importer:
    @staticmethod
    @emits("import")  # missing_key source
    def statically() -> Rows: ...

    @emits("import")  # missing_key rows
    @classmethod
    def of_class(cls, source: str) -> int: ...

    @emits("import")  # missing_key source
    def of_instance(self) -> Rows: ...


def blocks(source: str, options: dict[str, str]) -> None:
    with emits("import", source=source):  # missing_key rows
        pass
    with emits("imports"):  # unknown_operation
        pass
    with emits("import") as operation:  # missing_key source missing_key rows
        operation.fail("no")
    with tenantry.emits("import", source=source) as operation:  # undeclared_key pages
        operation.set(rows=1, pages=3)
    with emits("import", source=source) as operation:  # uncertain_key rows
        options.update(operation=operation)
    with emits("export") as operation:  # uncertain_key rows
        operation.set(rows=1)
    with emits("import", correlation="x", source=source) as operation:  # reserved_key correlation
        operation.set(rows=1)


def nested():
    @emits("import")  # missing_key source
    def inner(path: str) -> Rows: ...

    @emits("import")  # missing_key rows
    def without(source: str) -> "NoRows": ...

    return inner, without


# What is right.


@emits("import")
def right(source: str) -> Rows: ...


@emits("import")
async def right_asynchronously(source: str) -> SomeRows: ...


@emits("import")
def right_by_name(source: str) -> NamedRows: ...


@emits("import")
def right_by_model(source: str) -> ModelRows: ...


@emits("import")
def right_awaitable(source: str) -> Awaitable[Rows]: ...


@emits("import")
def right_generator(source: str) -> Generator[int, None, Rows]:
    yield 1
    return Rows(1)


@emits("import", result=lambda count: {"rows": count})
def right_by_lambda(source: str) -> int: ...


@emits("import", result="rows", fields={"source": "path"})
def right_by_fields(path: str) -> int: ...


@emits("import", rows=3)
def right_by_keyword(source: str) -> None: ...


@emits("import")
def right_by_current_operation(source: str) -> None:
    operation = current_operation()
    if operation is not None:
        operation.set(note="done", rows=3, error_code="x")


def right_block(source: str) -> None:
    with emits("import", source=source) as operation:
        operation.set(rows=len(operation.id))


def right_by_unknown_keys(source: str, **more: int) -> None:
    with emits("import", source=source, **more):
        pass
    with emits(source):
        pass
