"""Checks answers against the schemas of the discovery document that google-api-python-client bundles."""

from __future__ import annotations

import json
from datetime import datetime
from pathlib import Path
from typing import Any


class Schemas:
    """The schemas of Drive v3. ``problems`` says what is wrong with a value, by its place in it."""

    def __init__(self) -> None:
        import googleapiclient

        place = Path(googleapiclient.__file__).parent / "discovery_cache" / "documents" / "drive.v3.json"
        document = json.loads(place.read_text())
        self.by_name: dict[str, Any] = document["schemas"]
        self.methods: dict[str, Any] = {}
        for resource in document["resources"].values():
            self.methods |= {method["id"]: method for method in resource.get("methods", {}).values()}

    def problems(self, value: Any, name: str) -> list[str]:
        """What does not fit the schema ``name``; empty when all does."""
        return list(self._object(value, self.by_name[name], name))

    def _object(self, value: Any, schema: dict[str, Any], where: str) -> list[str]:
        if not isinstance(value, dict):
            return [f"{where}: not an object"]
        known = schema.get("properties", {})
        others = schema.get("additionalProperties")
        found: list[str] = []
        for name, one in value.items():
            if name in known:
                found += self._value(one, known[name], f"{where}.{name}")
            elif others is not None:
                found += self._value(one, others, f"{where}.{name}")
            else:
                found.append(f"{where}.{name}: there is no such field")
        return found

    def _value(self, value: Any, schema: dict[str, Any], where: str) -> list[str]:
        if "$ref" in schema:
            return self._object(value, self.by_name[schema["$ref"]], where)
        kind = schema.get("type")
        if kind == "object":
            return self._object(value, schema, where)
        if kind == "array":
            if not isinstance(value, list):
                return [f"{where}: not a list"]
            return [one for n, item in enumerate(value) for one in self._value(item, schema["items"], f"{where}[{n}]")]
        return [] if _fits(value, kind, schema.get("format")) else [f"{where}: {value!r} is no {kind}"]


def _fits(value: Any, kind: str | None, form: str | None) -> bool:
    if kind == "boolean":
        return isinstance(value, bool)
    if kind in ("integer", "number"):
        return isinstance(value, (int, float)) and not isinstance(value, bool)
    if not isinstance(value, str):
        return kind not in ("string",)
    if form == "int64":
        return value.lstrip("-").isdigit()
    if form == "date-time":
        return value.endswith("Z") and datetime.fromisoformat(value).tzinfo is not None
    return True
