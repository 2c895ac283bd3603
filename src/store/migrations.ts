/**
 * The tables of berth.db, as the steps that lead to them. `PRAGMA user_version` counts the steps that a file has taken. A step that
 * was ever released is never changed: a later one is added.
 *
 * Times (`_at`) are Unix milliseconds, durations micros, flags 0 or 1.
 */
export const MIGRATIONS: readonly string[] = [
  `
  CREATE TABLE tenants (
    id TEXT PRIMARY KEY,
    name TEXT NOT NULL,
    weight INTEGER NOT NULL,
    limits TEXT NOT NULL,          -- JSON
    models TEXT,                   -- JSON list of patterns; NULL: all
    isolation TEXT NOT NULL CHECK (isolation IN ('strict', 'shared')),
    disabled INTEGER NOT NULL,
    created_at INTEGER NOT NULL,
    removed_at INTEGER             -- NULL: it exists. Its usage outlasts it.
  ) STRICT, WITHOUT ROWID;

  CREATE TABLE keys (
    id TEXT PRIMARY KEY,
    tenant TEXT NOT NULL,
    name TEXT NOT NULL,
    hash BLOB NOT NULL UNIQUE,     -- SHA-256 of the secret, which is kept nowhere
    prefix TEXT NOT NULL,          -- its first characters, to recognise it by
    limits TEXT NOT NULL,
    models TEXT,
    expires_at INTEGER,            -- NULL: never
    created_at INTEGER NOT NULL,
    last_used_at INTEGER,
    revoked_at INTEGER             -- NULL: it is not
  ) STRICT, WITHOUT ROWID;
  CREATE INDEX keys_by_tenant ON keys (tenant);

  -- Append-only: one row a request, and the rows of device time that was nobody's request.
  CREATE TABLE usage (
    id INTEGER PRIMARY KEY,
    at INTEGER NOT NULL,           -- when it ended
    kind TEXT NOT NULL,            -- request | compute | switch | idle | overhead
    tenant TEXT NOT NULL,
    key_id TEXT NOT NULL,          -- '': none
    model TEXT NOT NULL,           -- '': none
    request TEXT NOT NULL,         -- '': none
    outcome TEXT NOT NULL,
    input_tokens INTEGER NOT NULL,
    cached_tokens INTEGER NOT NULL,
    output_tokens INTEGER NOT NULL,
    queue_micros INTEGER NOT NULL,
    load_micros INTEGER NOT NULL,
    restore_micros INTEGER NOT NULL,
    prefill_micros INTEGER NOT NULL,
    decode_micros INTEGER NOT NULL,
    lane_micros INTEGER NOT NULL,
    cost_nanos INTEGER NOT NULL    -- by the price of that day; of what currency is berth.yaml's matter
  ) STRICT;
  CREATE INDEX usage_by_time ON usage (at);

  -- The sums of usage, a row a day (Unix days, UTC). Written with its rows in one transaction.
  CREATE TABLE usage_days (
    day INTEGER NOT NULL,
    tenant TEXT NOT NULL,
    key_id TEXT NOT NULL,
    model TEXT NOT NULL,
    kind TEXT NOT NULL,
    rows INTEGER NOT NULL,
    input_tokens INTEGER NOT NULL,
    cached_tokens INTEGER NOT NULL,
    output_tokens INTEGER NOT NULL,
    queue_micros INTEGER NOT NULL,
    load_micros INTEGER NOT NULL,
    restore_micros INTEGER NOT NULL,
    prefill_micros INTEGER NOT NULL,
    decode_micros INTEGER NOT NULL,
    lane_micros INTEGER NOT NULL,
    cost_nanos INTEGER NOT NULL,
    PRIMARY KEY (tenant, day, key_id, model, kind)
  ) STRICT, WITHOUT ROWID;
  CREATE INDEX usage_days_by_day ON usage_days (day);

  CREATE TABLE files (
    id TEXT PRIMARY KEY,
    tenant TEXT NOT NULL,
    purpose TEXT NOT NULL,
    filename TEXT NOT NULL,
    bytes INTEGER NOT NULL,
    created_at INTEGER NOT NULL
  ) STRICT, WITHOUT ROWID;
  CREATE INDEX files_by_tenant ON files (tenant, created_at, id);

  CREATE TABLE batches (
    id TEXT PRIMARY KEY,
    tenant TEXT NOT NULL,
    key_id TEXT NOT NULL,
    state TEXT NOT NULL,
    created_at INTEGER NOT NULL,
    body TEXT NOT NULL             -- JSON: the rest of the batch
  ) STRICT, WITHOUT ROWID;
  CREATE INDEX batches_by_tenant ON batches (tenant, created_at, id);
  CREATE INDEX batches_by_state ON batches (state);

  -- Counts changes of tenants and keys, so that a second node on the same file notices them.
  CREATE TABLE identity_version (only_row INTEGER PRIMARY KEY CHECK (only_row = 1), version INTEGER NOT NULL) STRICT;
  INSERT INTO identity_version VALUES (1, 0);
  `,
  `
  -- A request's row is all that is written when it ends; the sums by day follow, from the last row that is in them.
  DROP INDEX usage_by_time;
  CREATE TABLE usage_summed (only_row INTEGER PRIMARY KEY CHECK (only_row = 1), id INTEGER NOT NULL) STRICT;
  INSERT INTO usage_summed SELECT 1, coalesce(max(id), 0) FROM usage;
  -- No row of the day has a smaller id: where a part of a day is looked for.
  ALTER TABLE usage_days ADD COLUMN first_id INTEGER NOT NULL DEFAULT 0;
  `,
];
