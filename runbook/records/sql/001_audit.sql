-- The audit: everything is INSERT; only a lease changes.

CREATE SCHEMA IF NOT EXISTS runbook;

CREATE TABLE runbook.migrations (
    version    integer PRIMARY KEY,
    applied_at timestamptz NOT NULL DEFAULT clock_timestamp()
);

-- A row when a run opens.
CREATE TABLE runbook.runs (
    run_id     text PRIMARY KEY,
    runbook    text NOT NULL,
    title      text NOT NULL,
    lock       text NOT NULL,
    operator   text NOT NULL,
    db_role    text NOT NULL DEFAULT session_user,
    host       text NOT NULL,
    pid        integer NOT NULL,
    started_at timestamptz NOT NULL,
    epoch      bigint NOT NULL,
    sha256     text NOT NULL,
    params     jsonb NOT NULL
);
CREATE INDEX runs_by_runbook ON runbook.runs (runbook, started_at DESC);
CREATE INDEX runs_by_time ON runbook.runs (started_at DESC);

-- Every event, as the journal has it: `line` is the text that is hashed together with `previous`.
CREATE TABLE runbook.events (
    run_id   text NOT NULL REFERENCES runbook.runs,
    seq      integer NOT NULL,
    at       timestamptz NOT NULL,
    kind     text NOT NULL,
    line     text NOT NULL,
    previous text NOT NULL,
    hash     text NOT NULL,
    epoch    bigint NOT NULL,
    PRIMARY KEY (run_id, seq)
);

-- A row when a run closes, chained from run to run by `previous` and `head`.
CREATE TABLE runbook.closings (
    number      bigint PRIMARY KEY,
    run_id      text NOT NULL UNIQUE REFERENCES runbook.runs,
    verdict     text NOT NULL,
    exit_code   integer NOT NULL,
    finished_at timestamptz NOT NULL,
    duration    numeric NOT NULL,
    last_seq    integer NOT NULL,
    last_hash   text NOT NULL,
    previous    text NOT NULL,
    head        text NOT NULL
);
CREATE INDEX closings_by_verdict ON runbook.closings (verdict, finished_at DESC);

-- Who holds a lock: the one thing that changes, outside the chain.
CREATE TABLE runbook.leases (
    lock      text PRIMARY KEY,
    epoch     bigint NOT NULL,
    run_id    text NOT NULL,
    host      text NOT NULL,
    pid       integer NOT NULL,
    operator  text NOT NULL,
    since     timestamptz NOT NULL,
    heartbeat timestamptz NOT NULL
);

CREATE FUNCTION runbook.refuse_change() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    RAISE EXCEPTION 'the audit is append-only: % on %.% is refused', TG_OP, TG_TABLE_SCHEMA, TG_TABLE_NAME;
END $$;

CREATE TRIGGER append_only BEFORE UPDATE OR DELETE OR TRUNCATE ON runbook.runs
    FOR EACH STATEMENT EXECUTE FUNCTION runbook.refuse_change();
CREATE TRIGGER append_only BEFORE UPDATE OR DELETE OR TRUNCATE ON runbook.events
    FOR EACH STATEMENT EXECUTE FUNCTION runbook.refuse_change();
CREATE TRIGGER append_only BEFORE UPDATE OR DELETE OR TRUNCATE ON runbook.closings
    FOR EACH STATEMENT EXECUTE FUNCTION runbook.refuse_change();

-- For people: one row a run, open or closed.
CREATE VIEW runbook.history AS
SELECT r.run_id, r.runbook, r.title, c.verdict, r.operator, r.host, r.started_at, c.finished_at, c.duration, r.params, r.sha256,
       c.head
FROM runbook.runs r LEFT JOIN runbook.closings c USING (run_id);

INSERT INTO runbook.migrations (version) VALUES (1);
