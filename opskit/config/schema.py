"""The classes of `model` as strict pydantic models, which judge what a file says.

Unknown keys, wrong types and several kinds in one entry are errors; text is never taken for a number. Paths are made
absolute against the validation context `base` (the config file's folder). No key is named here: keys, types and
descriptions come from `model`, and this module knows what its types and marks demand.

Importing it costs 0.1 s (pydantic), so only `judging` does, and whoever wants the JSON Schema.
"""

from __future__ import annotations

import os
import re
from datetime import timedelta
from pathlib import Path, PurePath
from types import GenericAlias, NoneType, UnionType
from typing import Annotated, Any, Union, get_args, get_origin, get_type_hints

# No plugin of whatever else is installed runs in opskit.
os.environ.setdefault("PYDANTIC_DISABLE_PLUGINS", "__all__")

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Discriminator,
    Field,
    PlainSerializer,
    PlainValidator,
    StringConstraints,
    Tag,
    ValidationInfo,
    WithJsonSchema,
    create_model,
    model_validator,
)
from pydantic.json_schema import GenerateJsonSchema
from pydantic_core import PydanticCustomError

from opskit.config.entry import NOTHING, Entry, Key
from opskit.config.model import Config, Keys, Retention, Values
from opskit.config.terms import (
    DURATION_EXAMPLE,
    DURATION_PATTERN,
    FINGERPRINT_PATTERN,
    MEANINGS,
    VARIABLE_PATTERN,
    Between,
    Duration,
    Matches,
    Rule,
)
from opskit.errors import UnresolvedReference
from opskit.secrets.reference import BUILT_IN_SCHEMES, Reference


def judged(value: object, base: Path, schemes: Any) -> Values:
    """What a file says, if it is right, as `model.Values`. Raises pydantic.ValidationError."""
    model = MODELS[Config].model_validate(value, context={"base": base, "schemes": schemes})
    # What was not given stays out: a default may depend on the machine (its name, its processors).
    return model.model_dump(mode="json", exclude_unset=True)


def json_schema() -> dict[str, Any]:
    """The JSON Schema of a config file, for editors."""
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        **MODELS[Config].model_json_schema(schema_generator=_JsonSchema),
    }


class _JsonSchema(GenerateJsonSchema):
    """JSON Schema in which the default of a duration stands as it is written."""

    def encode_default(self, dft: Any) -> Any:
        return str(dft) if isinstance(dft, Duration) else super().encode_default(dft)


class _Strict(BaseModel):
    """Base of all models here: nothing unknown, nothing converted, nothing changed, no input in messages."""

    model_config = ConfigDict(
        extra="forbid", frozen=True, strict=True, hide_input_in_errors=True, defer_build=True, validate_default=False
    )


def _wrong(what: str, expected: str) -> PydanticCustomError:
    """A validation error in opskit's form; `judging` adds where it stands and what was found there."""
    return PydanticCustomError("opskit", "{what}, expected {expected}", {"what": what, "expected": expected})


def _duration(value: object) -> Duration:
    try:
        return Duration.parse(value if isinstance(value, str) else "")
    except ValueError:
        raise _wrong("not a duration", DURATION_EXAMPLE) from None


def _a_day_or_more(value: Duration) -> Duration:
    if value < timedelta(days=1):
        raise _wrong("too short", "24h or more")
    return value


def _path(value: object, info: ValidationInfo) -> Path:
    text = str(value) if isinstance(value, PurePath) else value
    if not isinstance(text, str):
        raise _wrong("wrong type", "a path as text")
    if not text.strip() or "\x00" in text or not _is_encodable(text):
        raise _wrong("not a path", "a path")
    if text.startswith("~"):
        raise _wrong("'~' is not expanded", "an absolute path")
    # normpath keeps a leading '//', which POSIX allows to mean something else.
    return Path(re.sub("^//", "/", os.path.normpath(os.path.join((info.context or {})["base"], text))))


def _is_encodable(text: str) -> bool:
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def _reference(value: object, info: ValidationInfo) -> Reference:
    schemes = (info.context or {}).get("schemes", BUILT_IN_SCHEMES)
    try:
        return Reference.parse(value if isinstance(value, str) else "", schemes)
    except UnresolvedReference as error:
        # `from None` and no input: what stands here may be the secret itself.
        raise PydanticCustomError("opskit_secret", "{message}", {"message": str(error)}) from None


def _argv(words: tuple[str, ...]) -> tuple[str, ...]:
    if not words or not words[0]:
        raise _wrong("no program", "a list whose first word is a program")
    if any("\x00" in word for word in words):
        raise _wrong("NUL in an argument", "arguments without NUL")
    return words


def _passes_file(words: tuple[str, ...] | None) -> tuple[str, ...] | None:
    if words and not any("{file}" in word for word in words):
        raise _wrong("the file is not passed on", "an argument that holds {file}")
    return words


def _without_blanks(value: object) -> object:
    # gpg prints fingerprints in groups of four.
    return value.replace(" ", "") if isinstance(value, str) else value


def _whole_number(value: object) -> object:
    # To Python True == 1 == 1.0, and Literal compares like Python.
    if type(value) is not int:
        raise _wrong("wrong type", "a whole number")
    return value


def _variables(value: object) -> object:
    # Judged here, not name by name: a name that is none (`NAME=value`) may hold the secret, so it is not repeated.
    if isinstance(value, dict) and not all(re.fullmatch(VARIABLE_PATTERN, str(name)) for name in value):
        raise _wrong("a key is no name of a variable", MEANINGS[VARIABLE_PATTERN])
    return value


def _filename(value: str) -> str:
    if value in {".", ".."}:
        raise _wrong("not a file name", "a file name")
    return value


_RULES: dict[Rule, Any] = {
    Rule.NOT_EMPTY: Field(min_length=1),
    Rule.FILE_NAME: AfterValidator(_filename),
    Rule.FINGERPRINT: BeforeValidator(_without_blanks),
    Rule.PROGRAM: AfterValidator(_argv),
    Rule.PASSES_FILE: AfterValidator(_passes_file),
    Rule.VARIABLES: BeforeValidator(_variables),
    Rule.A_DAY_OR_MORE: AfterValidator(_a_day_or_more),
    Rule.WHOLE_NUMBER: BeforeValidator(_whole_number),
}
_AS_TEXT = PlainSerializer(str, return_type=str)
_TYPES: dict[Any, Any] = {
    Path: Annotated[Path, PlainValidator(_path), _AS_TEXT, WithJsonSchema({"type": "string", "format": "path"})],
    Duration: Annotated[
        Duration,
        PlainValidator(_duration),
        _AS_TEXT,
        WithJsonSchema({"type": "string", "pattern": DURATION_PATTERN}),
    ],
    Reference: Annotated[
        Reference,
        PlainValidator(_reference),
        _AS_TEXT,
        WithJsonSchema(
            {"type": "string", "format": "uri", "description": "a secret reference: env:, file:, cred:, gpg: or vault:"}
        ),
    ],
}


def _keeps_something(model: Any) -> Any:
    if not any(getattr(model, name) for name in Retention.known_keys() if name.startswith("keep_")):
        raise _wrong("keeps no snapshot at all", "at least one keep_… above 0")
    return model


def _host_by_default(value: Any) -> Any:
    host = _without_blanks(value.get("host")) if isinstance(value, dict) else None
    # A malformed host is reported once, where it stands.
    if isinstance(host, str) and re.fullmatch(FINGERPRINT_PATTERN, host):
        return {"signers": [host], "maintainers": [host], **value}
    return value


_WHOLE: dict[type[Entry], dict[str, Any]] = {
    Retention: {"keeps_something": model_validator(mode="after")(_keeps_something)},
    Keys: {"host_by_default": model_validator(mode="before")(_host_by_default)},
}
"""What is judged in an entry as a whole."""

MODELS: dict[type[Entry], type[BaseModel]] = {}
"""The pydantic model of every class of the schema."""


def _model_of(part: type[Entry]) -> type[BaseModel]:
    hints = get_type_hints(part, include_extras=True)
    keys = {name: (_translated(hints[name]), _field(key)) for name, key in part.known_keys().items()}
    made: Any = create_model  # its overloads know no computed fields
    MODELS[part] = made(part.__name__, __base__=_Strict, __doc__=part.__doc__, __validators__=_WHOLE.get(part), **keys)
    return MODELS[part]


def _field(key: Key) -> Any:
    if key.default_factory is not None:
        return Field(default_factory=key.default_factory, description=key.description)
    return Field(default=... if key.default is NOTHING else key.default, description=key.description)


def _translated(hint: Any) -> Any:
    """A type of `model` as pydantic is to read it."""
    origin, arguments = get_origin(hint), get_args(hint)
    if hint in _TYPES:
        return _TYPES[hint]
    if isinstance(hint, type) and issubclass(hint, Entry):
        return MODELS.get(hint) or _model_of(hint)
    if origin is Annotated:
        return _marked(_translated(arguments[0]), arguments[1:])
    if origin is tuple:
        # YAML knows lists only; the objects hold tuples, which nobody can change.
        listed: Any = GenericAlias(tuple, (_translated(arguments[0]), ...))
        return Annotated[listed, Field(strict=False)]
    if origin is dict:
        name, value = map(_translated, arguments)
        return GenericAlias(dict, (name, value))
    if origin in (Union, UnionType):
        return _one_of(arguments)
    return hint


def _marked(hint: Any, marks: tuple[Any, ...]) -> Any:
    for mark in marks:
        if isinstance(mark, Matches):
            hint = Annotated[hint, StringConstraints(pattern=mark.pattern, to_upper=Rule.FINGERPRINT in marks)]
        elif isinstance(mark, Between):
            hint = Annotated[hint, Field(ge=mark.least, le=mark.most)]
        else:
            hint = Annotated[hint, _RULES[mark]]
    return hint


def _one_of(parts: tuple[Any, ...]) -> Any:
    if NoneType in parts:
        return _translated(parts[0]) | None
    tagged = tuple(Annotated[_translated(part), Tag(f"[{part.kind}]")] for part in parts)
    choice: Any = Union[tagged]  # noqa: UP007
    return Annotated[choice, _kind_of({part.kind: MODELS[part] for part in parts})]


def _kind_of(kinds: dict[str, type[BaseModel]]) -> Discriminator:
    """Choose a model by the one key that announces it. Tags are bracketed to tell them from keys in error locations."""

    def choose(value: object) -> str | None:
        known = [kind for kind, model in kinds.items() if isinstance(value, model)]
        found = known or [kind for kind in kinds if isinstance(value, dict) and kind in value]
        return f"[{found[0]}]" if len(found) == 1 else None

    message = f"exactly one of the keys {', '.join(kinds)}"
    return Discriminator(choose, custom_error_type="opskit_kind", custom_error_message=message)


_model_of(Config)
