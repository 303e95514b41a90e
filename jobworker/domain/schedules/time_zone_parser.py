"""Parser of the fields `zone` and `dst` of schedules in JSON."""

from jobworker.domain.json.json_reader import JsonObjectReader, merge_problems
from jobworker.domain.schedules.time_zones import DstPolicy, FoldPolicy, GapPolicy, get_zone_names, suggest_zone


def parse_zone(reader: JsonObjectReader) -> str:
    """Return the field `zone`."""
    name = reader.get_text("zone", 64, "UTC") or "UTC"
    if name not in get_zone_names():
        reader.add_problem("zone", "unknown_zone", f"{name!r} is not an IANA time zone; {suggest_zone(name)}")
    return name


def parse_dst(reader: JsonObjectReader) -> DstPolicy | None:
    """Return the field `dst`."""
    value = reader.get_value("dst")
    if value is None:
        return None
    inner = JsonObjectReader(value, f"{reader.where}/dst")
    gap = GapPolicy(inner.get_choice("gap", list(GapPolicy), GapPolicy.SHIFT))
    policy = DstPolicy(gap, FoldPolicy(inner.get_choice("fold", list(FoldPolicy), FoldPolicy.FIRST)))
    merge_problems(reader, inner)
    return policy
