"""What pydantic writes: fields and models of all kinds that its documentation has, each with its name."""

from __future__ import annotations

import datetime as dt
import enum
import ipaddress
import pathlib
import uuid
from collections import OrderedDict, deque
from collections.abc import Sequence
from decimal import Decimal
from typing import Annotated, Any, Generic, Literal, NamedTuple, NotRequired, TypeVar

import pydantic
from pydantic import BaseModel, ConfigDict, Discriminator, Field, RootModel, StringConstraints, Tag
from typing_extensions import TypedDict

T = TypeVar("T")


class Colour(enum.Enum):
    RED = "red"
    GREEN = "green"


class Level(enum.IntEnum):
    LOW = 1
    HIGH = 2


class Point(NamedTuple):
    x: int
    y: int = 0


class Film(TypedDict):
    title: str
    year: NotRequired[int]


class Closed(BaseModel):
    model_config = ConfigDict(extra="forbid")
    name: str
    age: int | None = None


class Open(BaseModel):
    model_config = ConfigDict(extra="allow")
    name: str


class TypedExtra(BaseModel):
    model_config = ConfigDict(extra="allow")
    __pydantic_extra__: dict[str, int]
    name: str


class Address(BaseModel):
    """Where a person lives."""

    street: str = Field(description="With the number of the house", min_length=1)
    postcode: str = Field(pattern=r"^\d{5}$")


class Person(BaseModel):
    name: str = Field(max_length=40)
    home: Address
    work: Address | None = None
    tags: set[str] = set()


class Cat(BaseModel):
    kind: Literal["cat"] = "cat"
    lives: int = Field(9, ge=0, le=9)


class Dog(BaseModel):
    kind: Literal["dog"]
    tricks: list[str] = []


class Pets(BaseModel):
    pets: list[Annotated[Cat | Dog, Field(discriminator="kind")]] = Field(max_length=3)


def _kind(value: Any) -> str:
    return "text" if isinstance(value, str) else "number"


class Tree(BaseModel):
    value: int
    children: list[Tree] = []


class Employee(BaseModel):
    name: str
    boss: Employee | None = None


class Page(BaseModel, Generic[T]):
    items: list[T]
    total: int = Field(ge=0)


class Aliased(BaseModel):
    first_name: str = Field(alias="firstName")
    last_name: str = Field(serialization_alias="lastName")


class Shape(BaseModel):
    model_config = ConfigDict(title="A shape", json_schema_extra={"examples": [{"corners": 3}]})
    corners: int = Field(gt=2, lt=13, multiple_of=1)


class Tags(RootModel[list[str]]):
    pass


TYPES: dict[str, Any] = {
    "str": str,
    "str between lengths": Annotated[str, Field(min_length=2, max_length=8)],
    "str after a pattern": Annotated[str, Field(pattern=r"^[A-Z]\w+-\d{2,4}$")],
    "str in lower case": Annotated[str, StringConstraints(to_lower=True, strip_whitespace=True, max_length=9)],
    "int": int,
    "int between": Annotated[int, Field(ge=1, le=10)],
    "int of int64": Annotated[int, Field(ge=-(2**63), le=2**63 - 1)],
    "int multiple": Annotated[int, Field(multiple_of=15)],
    "positive int": pydantic.PositiveInt,
    "negative int": pydantic.NegativeInt,
    "float": float,
    "float between": Annotated[float, Field(gt=0.1, lt=1.5)],
    "float multiple": Annotated[float, Field(multiple_of=0.01)],
    "non-negative float": pydantic.NonNegativeFloat,
    "finite float": pydantic.FiniteFloat,
    "large float": Annotated[float, Field(ge=-1e300, le=1e300)],
    "decimal": Decimal,
    "decimal with places": Annotated[Decimal, Field(max_digits=6, decimal_places=2)],
    "bool": bool,
    "bytes": bytes,
    "none": None,
    "any": Any,
    "object": object,
    "date": dt.date,
    "time": dt.time,
    "datetime": dt.datetime,
    "timedelta": dt.timedelta,
    "past date": pydantic.PastDate,
    "uuid": uuid.UUID,
    "uuid4": pydantic.UUID4,
    "ipv4": ipaddress.IPv4Address,
    "ipv6": ipaddress.IPv6Address,
    "ip of either kind": pydantic.IPvAnyAddress,
    "ipv4 network": ipaddress.IPv4Network,
    "url": pydantic.HttpUrl,
    "any url": pydantic.AnyUrl,
    "path": pathlib.Path,
    "file path": pydantic.FilePath,
    "secret": pydantic.SecretStr,
    "byte size": pydantic.ByteSize,
    "json": pydantic.Json[dict[str, int]],
    "base64": pydantic.Base64Str,
    "enum": Colour,
    "int enum": Level,
    "literal": Literal["a", "b", 3, None],
    "one literal": Literal["only"],
    "optional": int | None,
    "union": int | str | list[bool],
    "union of numbers": int | float,
    "list": list[int],
    "list between lengths": Annotated[list[str], Field(min_length=1, max_length=3)],
    "list of lists": list[list[float]],
    "sequence": Sequence[int],
    "deque": deque[int],
    "set": set[str],
    "set of few": Annotated[set[Literal["a", "b", "c"]], Field(min_length=1, max_length=3)],
    "set of at most one": Annotated[set[int], Field(max_length=1)],
    "frozenset": frozenset[int],
    "tuple": tuple[int, str],
    "tuple of any length": tuple[int, ...],
    "empty tuple": tuple[()],
    "named tuple": Point,
    "dict": dict[str, Any],
    "dict of int": dict[str, int],
    "dict by int": dict[int, str],
    "dict by enum": dict[Colour, int],
    "dict by literal": dict[Literal["x", "y"], bool],
    "dict by pattern": dict[Annotated[str, Field(pattern="^[a-z]{1,5}$")], int],
    "dict by length": dict[Annotated[str, Field(min_length=1, max_length=5)], int],
    "dict by uuid": dict[uuid.UUID, int],
    "dict by date": dict[dt.date, int],
    "dict with one or more": Annotated[dict[str, int], Field(min_length=1)],
    "dict with few": Annotated[dict[str, int], Field(min_length=2, max_length=3)],
    "ordered dict": OrderedDict[str, int],
    "typed dict": Film,
    "closed model": Closed,
    "open model": Open,
    "model with typed extras": TypedExtra,
    "nested model": Person,
    "discriminated union": Pets,
    "tagged union": Annotated[Annotated[str, Tag("text")] | Annotated[int, Tag("number")], Discriminator(_kind)],
    "tree": Tree,
    "recursive model": Employee,
    "generic model": Page[Address],
    "model with aliases": Aliased,
    "model with examples": Shape,
    "root model": Tags,
    "list of models": list[Closed],
    "dict of models": dict[str, Address],
    "optional model": Closed | None,
}
"""What the answer has to be → the type as annotated."""
