"""The report of a session: one HTML file that needs nothing else, reads on a screen and prints in black on white.

What people typed is text, never markup; the page runs no script and loads nothing, and its own policy says so to the
browser. It holds no path and no name but those that were typed for it.
"""

from __future__ import annotations

import base64
import hashlib
import html
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from datetime import datetime
from importlib import resources
from importlib.metadata import version as package_version

import numpy as np

from kinet_trt.core.detections import NAMES
from kinet_trt.core.errors import KinetError
from kinet_trt.core.ki67 import NET, Bands, Ki67, Statement
from kinet_trt.core.notice import NOTICE
from kinet_trt.io.overlay import RING_UM
from kinet_trt.io.pixel_size import HOW_KNOWN
from kinet_trt.live.session import report_pictures as pictures
from kinet_trt.live.session.agreement import ReaderAgreement
from kinet_trt.live.session.edits import REVERSALS, Edit, active
from kinet_trt.live.session.export import outlines, state
from kinet_trt.live.session.merge import FieldNuclei
from kinet_trt.live.session.records import Field, Note, Reading, Session
from kinet_trt.live.session.report_pictures import percent, span_of
from kinet_trt.live.session.session import OpenSession
from kinet_trt.live.session.store import Store
from kinet_trt.live.session.summary import HOT_SPOT, SessionCount, Summary, field_counts, field_ki67, summarise

MAX_ENTRIES = 300
"""Corrections that the table lists one by one."""

_PICTURE, _SMALL_PICTURE, _MANY = 960, 640, 24  # px of a field's longer side, and from how many fields on it is small


def build(store: Store, session: int, *, bands: Bands | None = NET, hot_spot: int = HOT_SPOT) -> str:
    """Return the report of a session as HTML.

    Parameters
    ----------
    store, session
        Which.
    bands
        Grade ranges; None: none are stated.
    hot_spot
        Tumour nuclei of a hot spot.

    Raises
    ------
    KinetError
        If the session is not there, or damaged.
    """
    live = OpenSession(store, session)
    counted = live.count()
    summary = summarise(counted, hot_spot=hot_spot, bands=bands)
    readings = store.readings.in_session(session)
    agreements = [(reading, live.agreement(reading)) for reading in readings[1:]]
    notes, record = store.notes.in_session(session), store.edits.in_session(session)
    inside = {field.id for field in counted.fields}
    first = [one for one in record if one.reading == readings[0].id and one.field in inside]
    parts = [
        _header(live.session, counted, readings),
        _result(summary, hot_spot),
        _cautions(summary.cautions),
        _mosaics(store, counted, summary),
        _fields(store, counted, notes),
        _corrections(first, counted),
        _readers(readings, agreements),
        _notes([note for note in notes if note.field is None]),
        _method(counted, hot_spot, bool(agreements)),
    ]
    style = (resources.files("kinet_trt.live.session") / "report.css").read_text("utf-8")
    digest = base64.b64encode(hashlib.sha256(style.encode()).digest()).decode()
    policy = f"default-src 'none'; img-src data:; style-src 'sha256-{digest}'; base-uri 'none'; form-action 'none'"
    title = live.session.title or "Ki67 count"
    written = f"Written by kinet-trt {_e(package_version('kinet-trt'))} on {_when(time.time())}."
    return (
        '<!DOCTYPE html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        f'<meta http-equiv="Content-Security-Policy" content="{policy}">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f'<meta name="referrer" content="no-referrer">\n<title>{_e(title)}</title>\n<style>{style}</style>\n'
        "</head>\n<body>\n<main>\n"
        + "\n".join(part for part in parts if part)
        + f'\n<footer><p class="notice">{_e(NOTICE)}</p>'
        f'<p class="soft">{written}</p></footer>\n</main>\n</body>\n</html>\n'
    )


def listing(store: Store) -> list[str]:
    """Return one line a session: its number, when it began, its fields, its title."""
    lines = []
    for session in store.sessions.all():
        fields = len(store.fields.in_session(session.id))
        unit = "field " if fields == 1 else "fields"
        lines.append(f"{session.id:4d}  {_when(session.created)}  {fields:4d} {unit}  {session.title}")
    return lines or ["This file holds no session."]


def choose(store: Store, session: int | None) -> Session:
    """Return the session that is meant: the named one, or the only one.

    Raises
    ------
    KinetError
        If it is not there, or the file holds several and none is named.
    """
    if session is not None:
        return store.sessions.get(session)
    known = store.sessions.all()
    if len(known) == 1:
        return known[0]
    if not known:
        raise KinetError(f"{store.path}: expected a session, found none in this file")
    some = "; ".join(f"{one.id} {one.title!r}" for one in known[-8:])
    raise KinetError(
        f"{store.path}: {len(known)} sessions in this file: choose one with --session N ({some}); without -o all are "
        "listed"
    )


# --- sections ---------------------------------------------------------------------------------------------------------


def _header(session: Session, counted: SessionCount, readings: Sequence[Reading]) -> str:
    reader = f"Counted by {_typed(readings[0].reader)}. " if readings[0].reader else ""
    times = [field.time for field in counted.fields]
    taken = f"Fields taken {_when(min(times))} to {_when(max(times), clock=True)}." if times else "No fields yet."
    title = _typed(session.title) if session.title else "Ki67 count"
    return (
        f"<header><h1>{title}</h1><p>{reader}Session started {_when(session.created)}. {taken}</p>"
        f'<p class="notice">{_e(NOTICE)}</p></header>'
    )


def _result(summary: Summary, n: int) -> str:
    statement, spot = summary.statement, summary.hot_spot
    highest = max(ki67.interval[1] if ki67 and ki67.interval else 0.0 for ki67 in (summary.ki67, statement.hot_spot))
    hot = (
        _index("Hot spot", spot.ki67, statement, highest)
        if spot
        else f'<div><h3>Hot spot</h3><p class="big">–</p><p class="soft">Fewer than {n:,} tumour nuclei in each group '
        "of fields.</p></div>"
    )
    loud = f'<p class="loud">{_e(statement.warning)}</p>' if statement.warning else ""
    notes = statement.notes if summary.ki67.tumor else statement.sentences()
    words = "".join(f"<p>{_e(sentence)}</p>" for sentence in notes)
    progress = pictures.progress(summary) if summary.ki67.tumor else ""
    facts = [
        *((name.capitalize(), f"{number:,}", "nuclei") for name, number in _named(summary.counts)),
        ("Tumour nuclei", f"{summary.ki67.tumor:,}", "positive and negative"),
        ("Mean of the fields", percent(summary.mean_of_fields), "each field has the same weight"),
        ("Fields", f"{summary.fields:,}", f"in {summary.places:,} group{'' if summary.places == 1 else 's'}"),
        (
            "Area counted",
            f"{summary.area_mm2:.3f} mm²",
            f"{summary.ki67.tumor / summary.area_mm2:,.0f} tumour nuclei/mm²" if summary.area_mm2 else "",
        ),
        ("In overlaps", f"{summary.repeats:,}", "(counted once)"),
        ("Corrected by hand", f"{summary.corrected:,}", "nuclei added, confirmed or reclassified"),
    ]
    cells = "".join(
        f"<div><dt>{_e(name)}</dt><dd>{_e(value)}<small>{_e(more)}</small></dd></div>" for name, value, more in facts
    )
    return (
        f'<h2>Ki67 index</h2>{loud}<section class="result">{hot}'
        f"{_index('Average', summary.ki67, statement, highest)}</section>"
        f'<section class="words">{words}{progress}</section><dl class="facts">{cells}</dl>'
    )


def _index(title: str, ki67: Ki67, statement: Statement, highest: float) -> str:
    """Return an index with its interval and range, large, and a scale that has room for ``highest``."""
    if not ki67.tumor:
        return f'<div><h3>{title}</h3><p class="big">–</p><p class="soft">No tumour nuclei.</p></div>'
    name = statement.range_of(ki67)
    provisional = " (provisional)" if ki67.provisional else ""
    range_ = f'<p class="range">{_e(name)} range{provisional}</p>' if name else ""
    bands = None if statement.no_range else statement.bands
    return (
        f'<div><h3>{title}</h3><p class="big">{percent(ki67.index)}</p>{range_}<p class="soft">{ki67.positive:,} of '
        f"{ki67.tumor:,} tumour nuclei; 95% interval {span_of(ki67)}</p>{pictures.interval(ki67, bands, highest)}</div>"
    )


def _cautions(cautions: Sequence[str]) -> str:
    if not cautions:
        return ""
    said = "".join(f"<li>{_e(caution)}</li>" for caution in cautions)
    return f'<section class="cautions"><h3>Notes on this count</h3><ul>{said}</ul></section>'


def _mosaics(store: Store, counted: SessionCount, summary: Summary) -> str:
    places: dict[int, list[Field]] = {}
    for field in counted.fields:
        places.setdefault(counted.layout.placed[field.id].place, []).append(field)
    drawn = [
        pictures.mosaic(store, counted, place, fields, summary) for place, fields in places.items() if len(fields) > 1
    ]
    if not drawn:
        return ""
    spot = " The dashed red circle is the hot spot." if summary.hot_spot else ""
    return (
        "<h2>Map of the fields</h2><p>The fields are aligned by their content; a nucleus in an overlap is counted once."
        f"{spot}</p>{''.join(drawn)}"
    )


def _fields(store: Store, counted: SessionCount, notes: Sequence[Note]) -> str:
    if not counted.fields:
        return ""
    longest = _SMALL_PICTURE if len(counted.fields) > _MANY else _PICTURE
    cards = [
        _field(store, field, piece, counted, [note for note in notes if note.field == field.id], longest)
        for field, piece in zip(counted.fields, counted.field_nuclei, strict=True)
    ]
    names = dict.fromkeys(name for field in counted.fields for name in field.detections.classes)
    key = [
        (pictures.key(pictures.mark(name, [(0, 0)], 7), pictures.css_class(name)), NAMES.get(name, name))
        for name in names
    ]
    key += [
        (
            pictures.key("M-2.5 0a2.5 2.5 0 1 0 5 0a2.5 2.5 0 1 0 -5 0", "away"),
            "not counted here: counted in another field, or outside the region",
        ),
        (pictures.key(pictures.plus([(0, 0)], 6), "said"), "added by hand"),
        (pictures.key(pictures.dot([(0, 0)], 2.5), "said"), "class set by hand"),
        (pictures.key(pictures.cross([(0, 0)], 5), "said"), "removed by hand"),
    ]
    items = "".join(f"<li>{picture}{_e(word)}</li>" for picture, word in key)
    return f'<h2>Fields</h2><ul class="key">{items}</ul><div class="fields">{"".join(cards)}</div>'


def _field(
    store: Store, field: Field, piece: FieldNuclei, counted: SessionCount, notes: Sequence[Note], longest: int
) -> str:
    answer, own = piece.answer, counted.merged.counted[field.id]
    radius = max(2.0, RING_UM / field.mpp)
    there = ~answer.removed
    shapes = []
    for c, name in enumerate(answer.classes):
        places = pictures.points(piece, own & (answer.cls == c))
        if places:
            path = pictures.mark(name, places, radius)
            shapes.append(f'<path class="case" d="{path}"/><path class="mark {pictures.css_class(name)}" d="{path}"/>')
    if away := pictures.points(piece, there & ~own):
        shapes.append(f'<path class="away" d="{pictures.dot(away, radius * 0.38)}"/>')
    states = np.array([state(answer, k) for k in range(len(answer))])
    if len(states):
        for which, draw, size in (
            (there & (states == "added"), pictures.plus, radius * 0.7),
            (there & np.isin(states, ("reclassified", "confirmed")), pictures.dot, radius * 0.25),
            (states == "removed", pictures.cross, radius * 0.6),
        ):
            if places := pictures.points(piece, which):
                path = draw(places, size)
                shapes.append(f'<path class="case" d="{path}"/><path class="mark said" d="{path}"/>')
    for ring in outlines(field.region):
        corners = " ".join(f"{x:.1f},{y:.1f}" for x, y in ring)
        shapes += [f'<polygon class="region" points="{corners}"/>']
    counts, ki67 = field_counts(piece), field_ki67(piece)
    numbers = ", ".join(f"{number:,} {name}" for name, number in _named(counts))
    limits = " Limited to a region." if field.region is not None else ""
    stage = f" Stage {field.stage[0]:,.0f}, {field.stage[1]:,.0f} µm." if field.stage else ""
    how = " Captured automatically." if field.automatic else ""
    index = f"index {percent(ki67.index)} ({span_of(ki67)})" if ki67.tumor else "no tumour nuclei"
    picture = pictures.data_uri(pictures.shrunk(store.fields.pixels(field.id), longest))
    return (
        f'<figure><svg viewBox="-0.5 -0.5 {field.width} {field.height}" role="img" '
        f'aria-label="Field {field.number}: {_e(numbers)}"><image x="-0.5" y="-0.5" width="{field.width}" '
        f'height="{field.height}" preserveAspectRatio="none" href="{picture}"/>{"".join(shapes)}</svg>'
        f"<figcaption><b>Field {field.number}</b> · {_e(index)}<br>{_e(numbers)}; {int(own.sum()):,} counted here.<br>"
        f"{_when(field.time)} · {field.mpp:.4g} µm/px, {_e(HOW_KNOWN[field.mpp_source])}.{limits}{stage}{how}"
        f"</figcaption>{''.join(_quote(note) for note in notes)}</figure>"
    )


def _corrections(record: Sequence[Edit], counted: SessionCount) -> str:
    if not record:
        return "<h2>Corrections</h2><p>None: all nuclei are as the model found them.</p>"
    numbers = {field.id: field.number for field in counted.fields}
    field_nuclei = {piece.field: piece for piece in counted.field_nuclei}
    stands = {one.id for one in active(record)}
    tally = Counter(one.kind for one in record if one.id in stands)
    undone = sum(one.kind not in REVERSALS and one.id not in stands for one in record)
    rows = []
    for one in record[:MAX_ENTRIES]:
        word = one.kind if one.id in stands or one.kind in REVERSALS else f"{one.kind} (undone)"
        if one.nucleus < 0:  # about the region of the field
            rows.append([_when(one.time), _typed(one.reader), str(numbers[one.field]), "", word, "", ""])
            continue
        answer = field_nuclei[one.field].answer
        before = answer.model_cls[one.nucleus]
        model = NAMES.get(answer.classes[before], answer.classes[before]) if before >= 0 else "no nucleus"
        said = NAMES.get(one.cls, one.cls) if one.cls else {"remove": "no nucleus"}.get(one.kind, "")
        rows.append(
            [_when(one.time), _typed(one.reader), str(numbers[one.field]), str(one.nucleus), word, _e(model), _e(said)]
        )
    more = len(record) - len(rows)
    rest = f"<p class='soft'>And {more:,} more, in the session file.</p>" if more else ""
    return (
        f"<h2>Corrections</h2><p>{tally['add']:,} added, {tally['remove']:,} removed, {tally['reclassify']:,} "
        f"reclassified or confirmed; {undone:,} undone. The session file keeps both the model's result and the "
        "corrections.</p>"
        + _table(["When", "Who", "Field", "Nucleus", "Correction", "Model", "Corrected to"], rows)
        + rest
    )


def _readers(readings: Sequence[Reading], agreements: Sequence[tuple[Reading, ReaderAgreement | None]]) -> str:
    if not agreements:
        return ""
    parts = ["<h2>Second readers</h2>"]
    for reading, found in agreements:
        start = "the model's nuclei" if reading.start == "model" else "empty fields"
        who = _typed(reading.reader) if reading.reader else "A second reader"
        parts.append(f"<h3>{who}</h3><p>Blind recount, starting from {start}.</p>")
        if found is None:
            parts.append("<p>No field is finished yet.</p>")
            continue
        parts.append(_agreement(found, readings[0], reading))
    return "".join(parts)


def _agreement(found: ReaderAgreement, first: Reading, second: Reading) -> str:
    one, two = (_typed(r.reader) if r.reader else word for r, word in ((first, "First"), (second, "Second")))
    kappa, span = found.kappa, found.kappa_interval
    said = [
        f"{found.both:,} nuclei by both, {found.only_first:,} only by {one}, {found.only_second:,} only by {two}.",
        f"Index {percent(found.first.index)} by {one}, {percent(found.second.index)} by {two}"
        + (f": a difference of {100 * found.difference:+.1f} points." if found.difference is not None else "."),
    ]
    if kappa is not None and span is not None and found.same_class is not None:
        said.append(
            f"Same class for {100 * found.same_class:.1f}% of the nuclei that both marked; Cohen's kappa {kappa:.2f} "
            f"(95% interval {span[0]:.2f} to {span[1]:.2f})."
        )
    else:
        said.append(
            "Cohen's kappa is not defined here: the readers marked too few nuclei in common, or only one class."
        )
    names = [NAMES.get(name, name) for name in found.classes]
    rows = [[_e(name), *(f"{v:,}" for v in row)] for name, row in zip(names, found.table, strict=True)]
    return "".join(f"<p>{s}</p>" for s in said) + _table(
        [f"{one} \\ {two}", *map(_e, names)], rows, right=1, plain=False
    )


def _notes(notes: Sequence[Note]) -> str:
    return f"<h2>Notes</h2>{''.join(map(_quote, notes))}" if notes else ""


def _method(counted: SessionCount, hot_spot: int, recounted: bool) -> str:
    models: dict[tuple[str, ...], list[int]] = {}
    scales: dict[tuple[str, str], list[int]] = {}
    for field in counted.fields:
        card = field.model.card
        made = (card.name, card.model_sha256, card.network, field.model.runtime, field.model.precision)
        models.setdefault((*made, str(field.threshold)), []).append(field.number)
        scales.setdefault((f"{field.mpp:.4g}", HOW_KNOWN[field.mpp_source]), []).append(field.number)
    rows = [
        [_e(name), _e(network), _e(runtime), _e(precision), _e(threshold), _spans(numbers)]
        for (name, _, network, runtime, precision, threshold), numbers in models.items()
    ]
    hashes = dict.fromkeys((name, sha) for name, sha, *_ in models)
    how = [
        "A nucleus is a peak of the model's map above the threshold; its class is that of the highest class map. The "
        "index is the number of positive tumour nuclei divided by that of all tumour nuclei, with a 95% Wilson score "
        "interval.",
        "Fields are aligned by the correlation of their optical density and by their nuclei, and only where both "
        "agree. In overlaps, a nucleus is taken from the field that shows it furthest from the edge; corrections by "
        "hand take precedence.",
        f"The hot spot is the disc of {hot_spot:,} tumour nuclei, centred on a tumour nucleus, with the highest "
        "index (WHO: 500 to 2,000 cells where labelling is highest). As the highest of many it is slightly too high by "
        "chance.",
    ]
    if recounted:
        how.append(
            "Readers are compared nucleus by nucleus, within 4 µm: Cohen's kappa over the classes of nuclei that both "
            "marked (interval of Fleiss, Cohen and Everitt), and the difference of their indices."
        )
    tables = (
        _table(["Model", "Network", "Runtime", "Precision", "Threshold", "Fields"], rows)
        + "<h3>sha256 of the models</h3>"
        + "".join(
            f'<table><tr><td>{_e(name)}</td><td class="hash">{_e(sha) or "not known"}</td></tr></table>'
            for name, sha in hashes
        )
        + "<h3>Pixel size</h3>"
        + _table(["µm/px", "Source", "Fields"], [[a, _e(b), _spans(n)] for (a, b), n in scales.items()])
        if models
        else ""
    )
    return f"<h2>Methods</h2>{tables}<h3>Definitions</h3>{''.join(f'<p>{_e(line)}</p>' for line in how)}"


# --- words ------------------------------------------------------------------------------------------------------------


def _e(text: str) -> str:
    return html.escape(text, quote=True)


def _typed(text: str) -> str:
    """Return what a person typed; its direction of writing does not spill over."""
    return f"<bdi>{_e(text)}</bdi>"


def _quote(note: Note) -> str:
    who = f" — {_typed(note.reader)}" if note.reader else ""
    return (
        f'<blockquote><p class="typed">{_typed(note.text)}</p><p class="soft">{_when(note.time)}{who}</p></blockquote>'
    )


def _table(head: Sequence[str], rows: Sequence[Sequence[str]], right: int = 99, plain: bool = True) -> str:
    """Return a table of cells that are HTML already; columns from ``right`` on are numbers."""

    def line(tag: str, cells: Sequence[str]) -> str:
        return "".join(f"<{tag}{' class=n' if k >= right else ''}>{cell}</{tag}>" for k, cell in enumerate(cells))

    titles = [_e(word) for word in head] if plain else list(head)
    body = "".join(f"<tr>{line('td', row)}</tr>" for row in rows)
    return f'<div class="scroll"><table><thead><tr>{line("th", titles)}</tr></thead><tbody>{body}</tbody></table></div>'


def _named(counts: Mapping[str, int]) -> list[tuple[str, int]]:
    return [(NAMES.get(name, name), number) for name, number in counts.items()]


def _spans(numbers: Sequence[int]) -> str:
    """Return "1–4, 7"."""
    runs: list[list[int]] = []
    for number in sorted(numbers):
        if runs and number == runs[-1][-1] + 1:
            runs[-1].append(number)
        else:
            runs.append([number])
    return ", ".join(f"{run[0]}–{run[-1]}" if len(run) > 1 else str(run[0]) for run in runs)


def _when(seconds: float, *, clock: bool = False) -> str:
    """Return a time here, with its zone; or only the clock."""
    try:
        moment = datetime.fromtimestamp(seconds).astimezone()
    except (OverflowError, OSError, ValueError):
        return "at an unknown time"
    return _e(moment.strftime("%H:%M" if clock else "%Y-%m-%d %H:%M %Z"))
