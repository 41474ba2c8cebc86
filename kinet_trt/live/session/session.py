"""An open session: capture, registration and count of its fields."""

from __future__ import annotations

import logging
import threading
from collections.abc import Collection, Sequence

from kinet_trt.core.errors import KinetError
from kinet_trt.core.frame import Frame
from kinet_trt.live.session.agreement import ReaderAgreement, compare_readings
from kinet_trt.live.session.edits import EditedNuclei
from kinet_trt.live.session.layout import Layout, lay_out
from kinet_trt.live.session.merge import FieldNuclei, merge
from kinet_trt.live.session.records import Field, Link, Reading, Session
from kinet_trt.live.session.registration import VERSION, FieldFeatures, Registration
from kinet_trt.live.session.store import Store
from kinet_trt.live.session.summary import SessionCount
from kinet_trt.quality.domain_check import DomainCheck

log = logging.getLogger(__name__)


class OpenSession:
    """An open session. Thread-safe.

    Links that cannot be stored (full disk, read-only file) are kept in memory while the session is open.

    Examples
    --------
    >>> live = OpenSession(store, store.sessions.create("Case 12").id)  # doctest: +SKIP
    >>> store.fields.capture(live.id, frame, nuclei, model=Model.from_counter(counter), threshold=counter.threshold,
    ...                      mpp=0.25, mpp_source="option")  # doctest: +SKIP
    >>> summarise(live.count()).ki67.sentences()  # doctest: +SKIP
    """

    def __init__(self, store: Store, session: int) -> None:
        self.store = store
        self.id = store.sessions.get(session).id
        self._registration = Registration()
        self._unsaved: dict[int, list[Link]] = {}
        self._unreadable: set[int] = set()
        self._domain_warnings: dict[int, str] = {}
        self._lock = threading.RLock()

    @property
    def session(self) -> Session:
        """Its record in the store."""
        return self.store.sessions.get(self.id)

    def count(self, reading: Reading | None = None, only: Collection[int] | None = None) -> SessionCount:
        """Count the session in a reading (None: its first); ``only``: ids of the fields to count (None: all)."""
        with self._lock:
            fields, layout = self._register()
            fields = [f for f in fields if only is None or f.id in only]
            edited = self.store.edits.nuclei_of(fields, reading or self.store.readings.first(self.id))
        field_nuclei = tuple(nuclei_of(f, nuclei) for f, nuclei in zip(fields, edited, strict=True))
        merged = merge(field_nuclei, layout)
        return SessionCount(tuple(fields), field_nuclei, layout, merged, self.domain_warnings(fields))

    def domain_warnings(self, fields: Sequence[Field]) -> dict[int, str]:
        """Return the warnings of out-of-distribution fields by id; cached, as each field is checked once."""
        for field in fields:
            with self._lock:
                if field.id in self._domain_warnings:
                    continue
                try:
                    frame = Frame(self.store.fields.pixels(field.id), field.mpp)
                    self._domain_warnings[field.id] = DomainCheck(field.model.card.mpp)(frame, field.detections)
                except KinetError as error:
                    log.warning("field %d was not compared with the training data: %s", field.number, error)
                    self._domain_warnings[field.id] = ""
        return {field.id: warning for field in fields if (warning := self._domain_warnings[field.id])}

    def agreement(self, recount: Reading) -> ReaderAgreement | None:
        """Compare a recount with the first reading on its finished fields; None without finished fields."""
        done = self.store.readings.finished(recount.id)
        if not done:
            return None
        return compare_readings(self.count(only=done).merged, self.count(recount, only=done).merged)

    def prepare(self) -> None:
        """Load the fields of an earlier run, about 50 ms per megapixel, to spare the next capture that time."""
        for field in self.store.fields.in_session(self.id):
            with self._lock:
                self._load(field, self.store.links.in_session(self.id))

    def _register(self) -> tuple[list[Field], Layout]:
        """Register new fields; return all fields and their layout."""
        with self._lock:
            fields = self.store.fields.in_session(self.id)
            links = self.store.links.in_session(self.id)
            waiting = [f for f in fields if not self._is_registered(f)]
            if waiting:
                for gone in set(self._registration.fields) - {f.id for f in fields}:
                    self._registration.forget(gone)
                for f in fields:
                    self._load(f, links)
            for f in waiting:
                features = self._features(f)
                self._registration.forget(f.id)  # if it was deleted and restored
                found = self._registration.add(features) if features else []
                try:
                    self.store.links.save(f.id, found, VERSION)
                    links += found
                except KinetError as error:
                    if self._is_deleted(f):
                        continue
                    log.warning("the position of field %d relative to the others is not saved: %s", f.number, error)
                    self._unsaved[f.id] = found
            links += [link for found in self._unsaved.values() for link in found]
            return fields, lay_out([f.id for f in fields], links)

    def _is_registered(self, field: Field) -> bool:
        return field.registered == VERSION or field.id in self._unsaved

    def _load(self, field: Field, links: list[Link]) -> None:
        """Load a field that an earlier run, or another program, has registered."""
        if not self._is_registered(field) or field.id in self._registration.fields:
            return
        if features := self._features(field):
            self._registration.add_known(features, [link for link in links if link.second == field.id])

    def _features(self, field: Field) -> FieldFeatures | None:
        """Return the features of a field; None, with one warning, if its picture is damaged or missing."""
        if field.id in self._unreadable:
            return None
        try:
            return FieldFeatures.extract(
                field.id, self.store.fields.pixels(field.id), field.detections, field.mpp, field.stage
            )
        except KinetError as error:
            if not self._is_deleted(field):
                log.warning("field %d cannot be aligned with others: %s", field.number, error)
            self._unreadable.add(field.id)
            return None

    def _is_deleted(self, field: Field) -> bool:
        """Return whether a field was deleted meanwhile."""
        try:
            return field.id not in {one.id for one in self.store.fields.in_session(self.id)}
        except KinetError:
            return not any(one.id == self.id for one in self.store.sessions.all())


def nuclei_of(field: Field, edited: EditedNuclei) -> FieldNuclei:
    """Return a field with its nuclei in one reading, as input of a merge."""
    region = field.region.mask(field.height, field.width) if field.region else None
    return FieldNuclei(field.id, field.width, field.height, field.mpp, edited, region)
