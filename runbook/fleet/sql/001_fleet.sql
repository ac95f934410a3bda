-- The fleet: what is submitted, whose turn it is, and who works. The queue itself is procrastinate's, in the same schema; the truth
-- about runs is the audit's, in the schema `runbook`.

CREATE TABLE runbook_fleet.migrations (
    name       text PRIMARY KEY,
    applied_at timestamptz NOT NULL DEFAULT clock_timestamp()
);

-- The texts of runbooks and of the files that they read, by their hash.
CREATE TABLE runbook_fleet.files (
    sha256  text PRIMARY KEY,
    content bytea NOT NULL
);

-- A row for every run that is asked for, with all that a worker needs; it never changes.
CREATE TABLE runbook_fleet.submissions (
    run_id       text PRIMARY KEY,
    experiment   text NOT NULL,        -- the runs of one matrix; empty for a run by itself
    runbook      text NOT NULL,        -- its name
    file         text NOT NULL,        -- its place, relative to the project
    sha256       text NOT NULL REFERENCES runbook_fleet.files,
    files        json NOT NULL,        -- what it reads: place relative to the project -> hash
    params       json NOT NULL,        -- json, which keeps every digit and the order of keys
    varied       text[] NOT NULL,      -- the params that the matrix varies
    options      json NOT NULL,        -- operator, note, strict, overrides, consent
    label        text NOT NULL,        -- of the workers that may take it; empty: any
    lock         text NOT NULL,
    rerun        boolean NOT NULL,
    operator     text NOT NULL,
    host         text NOT NULL,
    submitted_at timestamptz NOT NULL DEFAULT clock_timestamp(),
    due_at       timestamptz NOT NULL DEFAULT clock_timestamp(),
    attempt      integer NOT NULL DEFAULT 1,
    earlier      text UNIQUE REFERENCES runbook_fleet.submissions,  -- the lost run that this one does again
    schedule     text,
    tick         timestamptz
);
CREATE INDEX submissions_by_experiment ON runbook_fleet.submissions (experiment) WHERE experiment <> '';
CREATE INDEX submissions_by_time ON runbook_fleet.submissions (submitted_at DESC);
CREATE INDEX submissions_by_beginning ON runbook_fleet.submissions (run_id text_pattern_ops);
CREATE INDEX submissions_by_schedule ON runbook_fleet.submissions (schedule, tick) WHERE schedule IS NOT NULL;

-- Where each of them stands; `epoch` is raised at every start, and every write of the run carries it.
CREATE TABLE runbook_fleet.turns (
    run_id  text PRIMARY KEY REFERENCES runbook_fleet.submissions,
    state   text NOT NULL DEFAULT 'queued' CHECK (state IN ('queued', 'running', 'over')),
    epoch   bigint NOT NULL DEFAULT 0,
    worker  bigint,
    host    text NOT NULL DEFAULT '',
    since   timestamptz NOT NULL DEFAULT clock_timestamp(),  -- in this state
    seen_at timestamptz NOT NULL DEFAULT clock_timestamp(),  -- the run's last sign of life
    doing   jsonb,       -- {"stage": ..., "step": ..., "attempt": n, "done": {"state.metric": [so far, predicted]}}
    stop    text,        -- who asked for its end, and how
    failures integer NOT NULL DEFAULT 0,  -- starts that came to nothing before the run began
    because text NOT NULL DEFAULT ''      -- why it waits again
);
CREATE INDEX turns_open ON runbook_fleet.turns (state, run_id) WHERE state <> 'over';

-- What the steps of a run print, as far as it is passed on.
CREATE TABLE runbook_fleet.output (
    run_id text NOT NULL REFERENCES runbook_fleet.submissions,
    start  bigint NOT NULL,
    data   bytea NOT NULL,
    PRIMARY KEY (run_id, start)
);

CREATE TABLE runbook_fleet.workers (
    id          bigint PRIMARY KEY GENERATED ALWAYS AS IDENTITY,
    host        text NOT NULL,
    pid         integer NOT NULL,
    folder      text NOT NULL,
    labels      text[] NOT NULL,
    concurrency integer NOT NULL,
    version     text NOT NULL,
    operator    text NOT NULL,
    since       timestamptz NOT NULL DEFAULT clock_timestamp(),
    seen_at     timestamptz NOT NULL DEFAULT clock_timestamp(),
    state       text NOT NULL DEFAULT 'working' CHECK (state IN ('working', 'draining', 'ended'))
);

-- Schedules in force, one a runbook; a firing is a row of `ticks`, which never changes.
CREATE TABLE runbook_fleet.schedules (
    name       text PRIMARY KEY,       -- the runbook's
    file       text NOT NULL,
    sha256     text NOT NULL REFERENCES runbook_fleet.files,
    files      json NOT NULL,
    cron       text NOT NULL,
    timezone   text NOT NULL,
    params     json NOT NULL,
    on_overlap text NOT NULL CHECK (on_overlap IN ('skip', 'queue')),
    options    json NOT NULL,
    label      text NOT NULL,
    lock       text NOT NULL,
    rerun      boolean NOT NULL,
    operator   text NOT NULL,
    host       text NOT NULL,
    enabled    boolean NOT NULL DEFAULT true,
    changed_at timestamptz NOT NULL DEFAULT clock_timestamp(),
    next_tick  timestamptz NOT NULL
);
CREATE TABLE runbook_fleet.ticks (
    schedule   text NOT NULL,
    tick       timestamptz NOT NULL,
    outcome    text NOT NULL CHECK (outcome IN ('submitted', 'skipped', 'missed')),
    run_id     text,
    because    text NOT NULL DEFAULT '',
    noticed_at timestamptz NOT NULL DEFAULT clock_timestamp(),
    host       text NOT NULL,
    PRIMARY KEY (schedule, tick)
);

CREATE FUNCTION runbook_fleet.refuse_change() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    RAISE EXCEPTION 'this is only added to: % on %.% is refused', TG_OP, TG_TABLE_SCHEMA, TG_TABLE_NAME;
END $$;
CREATE TRIGGER append_only BEFORE UPDATE OR DELETE OR TRUNCATE ON runbook_fleet.submissions
    FOR EACH STATEMENT EXECUTE FUNCTION runbook_fleet.refuse_change();
CREATE TRIGGER append_only BEFORE UPDATE OR DELETE OR TRUNCATE ON runbook_fleet.ticks
    FOR EACH STATEMENT EXECUTE FUNCTION runbook_fleet.refuse_change();
CREATE TRIGGER append_only BEFORE UPDATE OR TRUNCATE ON runbook_fleet.files
    FOR EACH STATEMENT EXECUTE FUNCTION runbook_fleet.refuse_change();

INSERT INTO runbook_fleet.migrations (name) VALUES ('fleet 1');
