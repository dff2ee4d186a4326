"""How snapshots of recipes are stored and compared: defaults once, then differences."""

import json
from collections import Counter
from collections.abc import Mapping
from typing import Any

Flat = dict[str, Any]

# Computed numbers, which another processor rounds otherwise.
COMPUTED = ("optimizer.rates", "optimizer.updates", "learning_rate_fn")


def compressed(found: dict[str, Flat]) -> dict[str, Flat]:
    """Defaults (the commonest values), and the difference of each recipe to them.

    A recipe with an ablation after it is stored as its difference to the recipe alone.
    Names that a recipe lacks are listed under "absent".
    """
    alone = [flat for label, flat in found.items() if _parent(label, found) is None]
    defaults: Flat = {}
    for name in sorted(set.intersection(*(set(flat) for flat in alone))):
        values = Counter(_text(flat[name]) for flat in alone).most_common(1)
        defaults[name] = next(f[name] for f in alone if _text(f[name]) == values[0][0])
    stored = {"defaults": defaults}
    for label, flat in found.items():
        parent = _parent(label, found)
        base = defaults if parent is None else found[parent]
        stored[label] = {
            name: flat[name]
            for name in sorted(flat)
            if name not in base or _text(base[name]) != _text(flat[name])
        }
        if absent := sorted(base.keys() - flat.keys()):
            stored[label]["absent"] = absent
    return stored


def expanded(stored: dict[str, Flat]) -> dict[str, Flat]:
    """The inverse of `compressed`."""
    found: dict[str, Flat] = {}
    for label, own in stored.items():
        if label != "defaults":
            parent = _parent(label, stored)
            base = stored["defaults"] if parent is None else found[parent]
            flat = {**base, **own}
            for name in flat.pop("absent", ()):
                del flat[name]
            found[label] = flat
    return found


def _parent(label: str, labels: Mapping[str, Any]) -> str | None:
    parent = label.rpartition(" + ")[0]
    return parent if parent in labels else None


def _text(value: Any) -> str:
    return json.dumps(value, sort_keys=True)


def written(stored: dict[str, Flat]) -> str:
    """The text of a golden file: one line for each value."""
    parts = []
    for label, flat in stored.items():
        lines = [f"    {_text(name)}: {_text(value)}" for name, value in flat.items()]
        inner = ",\n".join(lines)
        parts.append(
            f"  {_text(label)}: {{\n{inner}\n  }}"
            if lines
            else f"  {_text(label)}: {{}}"
        )
    return "{\n" + ",\n".join(parts) + "\n}\n"


def differences(before: dict[str, Flat], after: dict[str, Flat]) -> list[str]:
    """What differs, a line each: recipe, name, before and after."""
    found = []
    for label in dict.fromkeys([*before, *after]):
        old, new = before.get(label, {}), after.get(label, {})
        for name in sorted(old.keys() | new.keys()):
            if name in old and name in new and _same(name, old[name], new[name]):
                continue
            was = _text(old[name]) if name in old else "(absent)"
            now = _text(new[name]) if name in new else "(absent)"
            found.append(f"{label}: {name}: was {was}, is {now}")
    return found


def _same(name: str, old: Any, new: Any) -> bool:
    if not name.endswith(COMPUTED) or not isinstance(old, dict) or set(old) != set(new):
        return _text(old) == _text(new)
    largest = max(abs(value) for value in old.values())
    return all(abs(old[key] - new[key]) <= 1e-5 * largest for key in old)
