"""Layout of a session file."""

VERSION = 2
"""Version of the layout."""
APPLICATION = 0x4B4E4554
"""application_id of a session file in SQLite: "KNET"."""

TABLES = """
CREATE TABLE sessions (
  id INTEGER PRIMARY KEY AUTOINCREMENT, title TEXT NOT NULL, created REAL NOT NULL, captured INTEGER NOT NULL,
  closed REAL);
CREATE TABLE models (
  id INTEGER PRIMARY KEY, key TEXT NOT NULL UNIQUE, card TEXT NOT NULL, runtime TEXT NOT NULL,
  precision TEXT NOT NULL);
CREATE TABLE fields (
  id INTEGER PRIMARY KEY AUTOINCREMENT, session INTEGER NOT NULL REFERENCES sessions ON DELETE CASCADE,
  number INTEGER NOT NULL, time REAL NOT NULL, width INTEGER NOT NULL, height INTEGER NOT NULL, mpp REAL NOT NULL,
  mpp_source TEXT NOT NULL, stage_x REAL, stage_y REAL, threshold TEXT NOT NULL, automatic INTEGER NOT NULL,
  model INTEGER NOT NULL REFERENCES models, nuclei BLOB NOT NULL, nuclei_crc INTEGER NOT NULL,
  region_kind TEXT, region BLOB, registered INTEGER NOT NULL DEFAULT 0, UNIQUE (session, number));
CREATE TABLE frames (field INTEGER PRIMARY KEY REFERENCES fields ON DELETE CASCADE, png BLOB NOT NULL);
CREATE TABLE readings (
  id INTEGER PRIMARY KEY AUTOINCREMENT, session INTEGER NOT NULL REFERENCES sessions ON DELETE CASCADE,
  reader TEXT NOT NULL, start TEXT NOT NULL, blind INTEGER NOT NULL, created REAL NOT NULL);
CREATE TABLE finished (
  reading INTEGER NOT NULL REFERENCES readings ON DELETE CASCADE,
  field INTEGER NOT NULL REFERENCES fields ON DELETE CASCADE, time REAL NOT NULL, PRIMARY KEY (reading, field));
CREATE TABLE corrections (
  id INTEGER PRIMARY KEY AUTOINCREMENT, field INTEGER NOT NULL REFERENCES fields ON DELETE CASCADE,
  reading INTEGER NOT NULL REFERENCES readings ON DELETE CASCADE, kind TEXT NOT NULL, nucleus INTEGER NOT NULL,
  x REAL, y REAL, cls TEXT, undoes INTEGER, reader TEXT NOT NULL, time REAL NOT NULL);
CREATE TABLE notes (
  id INTEGER PRIMARY KEY AUTOINCREMENT, session INTEGER NOT NULL REFERENCES sessions ON DELETE CASCADE,
  field INTEGER REFERENCES fields ON DELETE CASCADE, reader TEXT NOT NULL, text TEXT NOT NULL, time REAL NOT NULL);
CREATE TABLE links (
  first INTEGER NOT NULL REFERENCES fields ON DELETE CASCADE,
  second INTEGER NOT NULL REFERENCES fields ON DELETE CASCADE,
  dx REAL NOT NULL, dy REAL NOT NULL, pairs INTEGER NOT NULL, likeness REAL NOT NULL, PRIMARY KEY (first, second));
CREATE INDEX fields_of ON fields (session, number);
CREATE INDEX corrections_of ON corrections (field, reading);
CREATE INDEX links_second ON links (second);
"""
"""SQL that creates the tables of version 1."""

ADDED = """
CREATE TABLE IF NOT EXISTS deletions (
  id INTEGER PRIMARY KEY AUTOINCREMENT, field INTEGER NOT NULL REFERENCES fields ON DELETE CASCADE,
  deleted INTEGER NOT NULL, time REAL NOT NULL);
CREATE TABLE IF NOT EXISTS region_changes (
  correction INTEGER PRIMARY KEY REFERENCES corrections ON DELETE CASCADE,
  before_kind TEXT, before BLOB, after_kind TEXT, after BLOB);
CREATE TABLE IF NOT EXISTS note_readings (
  note INTEGER PRIMARY KEY REFERENCES notes ON DELETE CASCADE,
  reading INTEGER NOT NULL REFERENCES readings ON DELETE CASCADE);
"""
"""SQL that creates the tables that version 2 added: deleted and restored fields, the region before and after each edit,
and the reading in which a note was written."""

ADDED_TABLES = ("deletions", "region_changes", "note_readings")
"""Names of the tables that version 2 added."""

DELETED = "(SELECT field FROM (SELECT field, deleted, MAX(id) FROM deletions GROUP BY field) WHERE deleted)"
"""SQL of the deleted fields: their last entry in the table of deletions has ``deleted`` set."""
