"""Cron expressions as Kubeflow reads them: checked before they are sent, with their next firing times.

Kubeflow's scheduler uses github.com/robfig/cron 1.2 with six fields: second, minute, hour, day of
month, month, day of week. A classic expression of five fields is *not* refused there: it is read as
second, minute, hour, day, month, so "0 3 * * *" fires every hour at minute 3. Here five fields have
their meaning in crontab(5), and six fields are sent.

As in robfig/cron 1.2: when both the day of month and the day of week are restricted, either fires
(a field that begins with * or ? is not restricted, nor is */2); Sunday is 0; an hour that daylight
saving skips is skipped, an hour that it repeats fires twice; what does not fire in five years, such
as 31 February, never does. Tested against that library's own answers; Lord Howe Island, whose
clocks move by half an hour, is the one place where it answers oddly and this file does not.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, date, datetime, time, timedelta
from itertools import islice, product
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

from pergola.components.errors import InputError

HORIZON_YEARS = 5

_MONTHS = ("jan", "feb", "mar", "apr", "may", "jun", "jul", "aug", "sep", "oct", "nov", "dec")
_DAYS = ("sun", "mon", "tue", "wed", "thu", "fri", "sat")


@dataclass(frozen=True)
class _Field:
    name: str
    low: int
    high: int
    words: tuple[str, ...] = ()


_FIELDS = (
    _Field("second", 0, 59),
    _Field("minute", 0, 59),
    _Field("hour", 0, 23),
    _Field("day of month", 1, 31),
    _Field("month", 1, 12, _MONTHS),
    _Field("day of week", 0, 6, _DAYS),
)


@dataclass(frozen=True)
class Cron:
    """A parsed expression. `text` has six fields; the sets hold the values that fire."""

    text: str
    seconds: frozenset[int]
    minutes: frozenset[int]
    hours: frozenset[int]
    days: frozenset[int]  # of the month, 1 to 31
    months: frozenset[int]
    weekdays: frozenset[int]  # 0 is Sunday
    any_day: bool  # the day of month begins with * or ?
    any_weekday: bool  # so does the day of week

    def fires_on(self, day: date) -> bool:
        """Whether there are firing times on a day."""
        if day.month not in self.months:
            return False
        by_day, by_weekday = day.day in self.days, day.isoweekday() % 7 in self.weekdays
        if self.any_day or self.any_weekday:
            return by_day and by_weekday
        return by_day or by_weekday

    def after(self, moment: datetime, zone: ZoneInfo) -> Iterator[datetime]:
        """Firing times later than `moment`, in `zone`, in order; ends when five years have none."""
        day = moment.astimezone(zone).date()
        last_year = day.year + HORIZON_YEARS
        while day.year <= last_year:
            for firing in self._times(day, zone) if self.fires_on(day) else ():
                if firing.timestamp() > moment.timestamp():
                    last_year = day.year + HORIZON_YEARS
                    yield firing
            day += timedelta(days=1)

    def _times(self, day: date, zone: ZoneInfo) -> Iterator[datetime]:
        clock = (sorted(self.hours), sorted(self.minutes), sorted(self.seconds))
        naive = (datetime.combine(day, time(h, m, s)) for h, m, s in product(*clock))
        if _is_plain(day, zone):
            yield from (moment.replace(tzinfo=zone) for moment in naive)
            return
        both = (moment.replace(tzinfo=zone, fold=fold) for moment in naive for fold in (0, 1))
        real = {t.timestamp(): t for t in both if _exists(t)}
        yield from (real[stamp] for stamp in sorted(real))


def parse(text: str) -> Cron:
    """Read five fields (crontab) or six (with seconds first).

    Raises InputError for anything that Kubeflow would refuse or read otherwise, and for an
    expression that never fires.
    """
    fields = text.split()
    if len(fields) not in (5, 6) or text.startswith("@"):
        raise InputError(
            f"Cron '{text}' has {len(fields)} fields; expected five (minute hour day month weekday) "
            "or six (second first). Example: '0 3 * * 1-5', weekdays at 3:00."
        )
    if len(fields) == 5:
        fields = ["0", *fields]
    seconds, minutes, hours, days, months, weekdays = (
        _values(part, field, text) for part, field in zip(fields, _FIELDS, strict=True)
    )
    any_day, any_weekday = (any(p[0] in "*?" for p in fields[i].split(",")) for i in (3, 5))
    whole = " ".join(fields)
    cron = Cron(whole, seconds, minutes, hours, days, months, weekdays, any_day, any_weekday)
    if not any(True for _ in cron.after(datetime(2024, 1, 1, tzinfo=UTC), ZoneInfo("UTC"))):
        raise InputError(
            f"Cron '{text}' never fires: no month of '{fields[4]}' has a day '{fields[3]}'. "
            "For the last day of a month use '28', or '1' of the next."
        )
    return cron


def next_times(cron: Cron, moment: datetime, zone: ZoneInfo, count: int = 3) -> list[datetime]:
    """The first `count` firing times after `moment`, in `zone`."""
    return list(islice(cron.after(moment, zone), count))


def zone(name: str, where: str) -> ZoneInfo:
    """The time zone of an IANA name, such as "Europe/Berlin".

    where: its source, for the error. Raises InputError for an unknown name.
    """
    try:
        return ZoneInfo(name)
    except (ZoneInfoNotFoundError, ValueError, OSError):
        raise InputError(
            f"{where}: '{name}' is not a time zone. Expected an IANA name such as 'UTC' or 'Europe/Berlin'."
        ) from None


def translate(cron: Cron, source: ZoneInfo, target: ZoneInfo, moment: datetime) -> Cron:
    """The expression that fires in `target` when `cron` fires in `source`.

    Kubeflow reads every cron in one zone, that of its scheduler. Exact or refused: raises
    InputError when daylight saving moves the two zones against each other in the next five years,
    or when the other zone's date makes it inexpressible.
    """
    if source.key == target.key:
        return cron
    shift = _constant_difference(source, target, moment)
    if shift is None:
        raise InputError(
            f"Cron '{cron.text}' in {source.key} has no fixed time in {target.key}, in which this cluster's "
            f"scheduler reads crons: daylight saving moves the two. Set cronScheduleTimezone to {source.key} "
            "in the ConfigMap pipeline-install-config, restart ml-pipeline-scheduledworkflow and set "
            f'cluster_time_zone = "{source.key}"; or write the cron in {target.key}.'
        )
    return cron if not shift else _shifted(cron, shift, source, target)


def _shifted(cron: Cron, minutes: int, source: ZoneInfo, target: ZoneInfo) -> Cron:
    moved = {divmod(h * 60 + m + minutes, 1440) for h, m in product(cron.hours, cron.minutes)}
    dates = {day for day, _ in moved}
    hours, rest = {minute // 60 for _, minute in moved}, {minute % 60 for _, minute in moved}
    step = next(iter(dates))
    all_days = cron.any_day and len(cron.days) == 31 and len(cron.months) == 12
    every_day = all_days and len(cron.weekdays) == 7
    movable = every_day or (len(dates) == 1 and (step == 0 or all_days))
    if not movable or len(hours) * len(rest) != len({minute for _, minute in moved}):
        raise InputError(
            f"Cron '{cron.text}' in {source.key} cannot be written as one cron in {target.key}, in which "
            "this cluster's scheduler reads crons. Write it in the cluster's zone, or as two schedules."
        )
    old = cron.text.split()
    weekdays = old[5] if every_day or step == 0 else _listed((day + step) % 7 for day in cron.weekdays)
    return parse(" ".join([old[0], _listed(rest), _listed(hours), old[3], old[4], weekdays]))


def _listed(values: Iterator[int] | set[int]) -> str:
    return ",".join(str(value) for value in sorted(set(values)))


def _constant_difference(source: ZoneInfo, target: ZoneInfo, moment: datetime) -> int | None:
    """Minutes to add to a time in `source` to have it in `target`; None when it changes."""
    start = moment.astimezone(UTC)
    found = {
        _offset_difference(start + timedelta(days=n), source, target) for n in range(366 * HORIZON_YEARS)
    }
    difference = found.pop()
    return None if found else difference


def _offset_difference(moment: datetime, source: ZoneInfo, target: ZoneInfo) -> int:
    there, here = moment.astimezone(target).utcoffset(), moment.astimezone(source).utcoffset()
    return round(((there or timedelta()) - (here or timedelta())).total_seconds() / 60)


def _values(part: str, field: _Field, text: str) -> frozenset[int]:
    found: set[int] = set()
    for piece in part.split(","):
        found |= _range(piece, field, f"Cron '{text}', {field.name} '{part}'")
    return frozenset(found)


def _range(piece: str, field: _Field, where: str) -> set[int]:
    span, slash, step_text = piece.partition("/")
    step = _number(step_text, _Field("step", 1, field.high), f"{where}: step") if slash else 1
    first, hyphen, last = span.partition("-")
    if span in ("*", "?"):
        low, high = field.low, field.high
    else:
        low = _number(first, field, where)
        high = _number(last, field, where) if hyphen else field.high if slash else low
    if low > high:
        raise InputError(f"{where}: the range {span} runs backwards. Write it as two, such as '22-23,0-4'.")
    return set(range(low, high + 1, step))


def _number(text: str, field: _Field, where: str) -> int:
    if text.lower() in field.words:
        return field.words.index(text.lower()) + field.low
    known = f"{field.low} to {field.high}" + (
        f" or {field.words[0]} to {field.words[-1]}" if field.words else ""
    )
    if not text.isascii() or not text.isdigit():
        raise InputError(f"{where}: '{text}' is not a number. Expected {known}, *, a-b, a,b or */n.")
    if not field.low <= int(text) <= field.high:
        sunday = " Sunday is 0." if field.words is _DAYS and text == "7" else ""
        raise InputError(f"{where}: {text} is out of bounds, expected {known}.{sunday}")
    return int(text)


def _is_plain(day: date, zone: ZoneInfo) -> bool:
    """Whether no clock change falls on the day."""
    noon = datetime.combine(day, time(12), zone)
    offsets = {(noon + timedelta(hours=h)).utcoffset() for h in (-13, -12, 0, 12, 13)}
    return len(offsets) == 1


def _exists(moment: datetime) -> bool:
    """Whether a local time is shown by a clock; daylight saving skips some."""
    back = moment.astimezone(UTC).astimezone(moment.tzinfo)
    return back.replace(tzinfo=None) == moment.replace(tzinfo=None)
