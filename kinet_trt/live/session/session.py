"""An open session: its store, the registration of its fields, and its count, together."""

from __future__ import annotations

import logging
import threading
from collections.abc import Collection, Sequence

from kinet_trt.core.detections import Detections
from kinet_trt.core.errors import KinetError
from kinet_trt.core.frame import Frame
from kinet_trt.inference.counter import Threshold
from kinet_trt.live.session.agreement import ReaderAgreement, compare
from kinet_trt.live.session.edits import EditedNuclei
from kinet_trt.live.session.merge import FieldNuclei
from kinet_trt.live.session.records import Field, Link, Model, Reading, Session
from kinet_trt.live.session.region import Region
from kinet_trt.live.session.registration import VERSION, FieldFeatures, Layout, Registration, lay_out
from kinet_trt.live.session.store import Store
from kinet_trt.live.session.summary import SessionCount, count
from kinet_trt.quality.domain_check import DomainCheck

log = logging.getLogger(__name__)


class OpenSession:
    """A session that fields are captured into and counted from. Safe to use from several threads.

    Parameters
    ----------
    store
        Where it is kept.
    session
        Its id there.

    Raises
    ------
    KinetError
        If there is no such session.

    Examples
    --------
    >>> live = OpenSession(store, store.sessions.create("Case 12").id)  # doctest: +SKIP
    >>> live.capture(frame, nuclei, model=Model.from_counter(counter), threshold=counter.threshold, mpp=0.25,
    ...              mpp_source="option")  # on disk when it returns  # doctest: +SKIP
    >>> summarise(live.count()).ki67.sentences()  # doctest: +SKIP
    """

    def __init__(self, store: Store, session: int) -> None:
        self.store = store
        self.id = store.sessions.get(session).id
        self._registration = Registration()
        self._unsaved: dict[int, list[Link]] = {}
        self._unseen: set[int] = set()
        self._domain_warnings: dict[int, str] = {}
        self._lock = threading.RLock()

    @property
    def session(self) -> Session:
        """What the store says of it."""
        return self.store.sessions.get(self.id)

    def capture(
        self,
        frame: Frame,
        detections: Detections,
        *,
        model: Model,
        threshold: Threshold,
        mpp: float,
        mpp_source: str,
        automatic: bool = False,
        region: Region | None = None,
    ) -> Field:
        """Keep a field, see :meth:`FieldTable.capture`. It is joined to the others later, by :meth:`register`."""
        return self.store.fields.capture(
            self.id,
            frame,
            detections,
            model=model,
            threshold=threshold,
            mpp=mpp,
            mpp_source=mpp_source,
            automatic=automatic,
            region=region,
        )

    def register(self) -> Layout:
        """Join the fields that were captured since, and return where all lie.

        What cannot be written down (a full disk, a file that is only read) holds as long as the session is open.
        """
        return self._register()[1]

    def count(self, reading: Reading | None = None, only: Collection[int] | None = None) -> SessionCount:
        """Count the session.

        Parameters
        ----------
        reading
            Whose; None: the session's first.
        only
            Fields, where not all are wanted.
        """
        with self._lock:
            fields, layout = self._register()
            fields = [f for f in fields if only is None or f.id in only]
            answers = self.store.edits.nuclei_of(fields, reading or self.store.readings.first(self.id))
        field_nuclei = [nuclei_of(f, answer) for f, answer in zip(fields, answers, strict=True)]
        return count(fields, field_nuclei, layout, self.domain_warnings(fields))

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
        return {field.id: said for field in fields if (said := self._domain_warnings[field.id])}

    def agreement(self, recount: Reading) -> ReaderAgreement | None:
        """Hold a recount to the first reading, on the fields that the recount is done with; None: on none."""
        done = self.store.readings.finished(recount.id)
        if not done:
            return None
        return compare(self.count(only=done).merged, self.count(recount, only=done).merged)

    def prepare(self) -> None:
        """Look at the fields of an earlier run, about 50 ms a megapixel: the next capture need not wait for it."""
        for field in self.store.fields.in_session(self.id):
            with self._lock:
                self._know(field, self.store.links.in_session(self.id))

    def _register(self) -> tuple[list[Field], Layout]:
        with self._lock:
            fields = self.store.fields.in_session(self.id)
            links = self.store.links.in_session(self.id)
            waiting = [f for f in fields if not self._done(f)]
            if waiting:
                for gone in set(self._registration.views) - {f.id for f in fields}:
                    self._registration.forget(gone)
                for f in fields:
                    self._know(f, links)
            for f in waiting:
                view = self._view(f)
                self._registration.forget(f.id)  # a field that was deleted and restored
                found = self._registration.add(view) if view else []
                try:
                    self.store.links.save(f.id, found, VERSION)
                    links += found
                except KinetError as error:
                    if self._gone(f):
                        continue
                    log.warning("the position of field %d relative to the others is not saved: %s", f.number, error)
                    self._unsaved[f.id] = found
            links += [link for found in self._unsaved.values() for link in found]
            return fields, lay_out([f.id for f in fields], links)

    def _done(self, field: Field) -> bool:
        return field.registered == VERSION or field.id in self._unsaved

    def _know(self, field: Field, links: list[Link]) -> None:
        """Look at a field that an earlier run, or another program, has joined."""
        if self._done(field) and field.id not in self._registration.views and (view := self._view(field)):
            self._registration.know(view, [link for link in links if link.second == field.id])

    def _view(self, field: Field) -> FieldFeatures | None:
        """Return what registration keeps of a field; None, and once a word, where its picture is damaged or gone."""
        if field.id in self._unseen:
            return None
        try:
            return FieldFeatures.of(
                field.id, self.store.fields.pixels(field.id), field.detections, field.mpp, field.stage
            )
        except KinetError as error:
            if not self._gone(field):
                log.warning("field %d cannot be joined to others: %s", field.number, error)
            self._unseen.add(field.id)
            return None

    def _gone(self, field: Field) -> bool:
        """Say whether a person has deleted a field since."""
        try:
            return field.id not in {one.id for one in self.store.fields.in_session(self.id)}
        except KinetError:
            return not any(one.id == self.id for one in self.store.sessions.all())


def nuclei_of(field: Field, answer: EditedNuclei) -> FieldNuclei:
    """Return a field with one reading's nuclei, as it is merged."""
    region = field.region.mask(field.height, field.width) if field.region else None
    return FieldNuclei(field.id, field.width, field.height, field.mpp, answer, region)
