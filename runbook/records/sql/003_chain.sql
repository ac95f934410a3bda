-- The chain: an entry for every run that opens or closes, for what is added to a closed run and for what is pruned, each bound to
-- the one before it. `line` is the text that is hashed together with `previous`; it repeats the row that it stands for.

CREATE TABLE runbook.chain (
    number   bigint PRIMARY KEY,
    kind     text NOT NULL CHECK (kind IN ('opened', 'closed', 'added', 'pruned')),
    run_id   text NOT NULL REFERENCES runbook.runs,
    line     text NOT NULL,
    previous text NOT NULL,
    head     text NOT NULL
);
CREATE INDEX chain_by_run ON runbook.chain (run_id);

-- The only way into the chain, for every role that may add runs: it alone gives numbers and hashes.
CREATE FUNCTION runbook.add_to_chain(kind text, run_id text, line text) RETURNS runbook.chain LANGUAGE plpgsql
SECURITY DEFINER SET search_path = pg_catalog AS $$
DECLARE
    last runbook.chain;
    made runbook.chain;
BEGIN
    IF NOT has_table_privilege(session_user, 'runbook.runs', 'INSERT') THEN
        RAISE insufficient_privilege USING MESSAGE = format('%s may not add to the audit', session_user);
    END IF;
    PERFORM pg_advisory_xact_lock(hashtext('runbook.closings'));
    SELECT * INTO last FROM runbook.chain c ORDER BY c.number DESC LIMIT 1;
    INSERT INTO runbook.chain VALUES (coalesce(last.number, 0) + 1, kind, run_id, line, coalesce(last.head, repeat('0', 64)),
        encode(sha256(convert_to(coalesce(last.head, repeat('0', 64)) || E'\n' || line, 'UTF8')), 'hex'))
    RETURNING * INTO made;
    RETURN made;
END $$;

-- What was chained before keeps its entry, its text and its head; then the runs that opened before there was a chain of openings.
INSERT INTO runbook.chain (number, kind, run_id, line, previous, head)
SELECT number, 'closed', run_id, run_id || ' ' || last_hash, previous, head FROM runbook.closings;

SELECT runbook.add_to_chain('opened', run_id, jsonb_build_object(
    'kind', 'opened', 'run', run_id, 'runbook', runbook, 'title', title, 'lock', lock, 'operator', operator, 'db_role', db_role,
    'host', host, 'pid', pid, 'started_at', to_char(started_at AT TIME ZONE 'UTC', 'YYYY-MM-DD"T"HH24:MI:SS.US"+00:00"'),
    'epoch', epoch, 'sha256', sha256, 'params', params,
    'first_hash', (SELECT e.hash FROM runbook.events e WHERE e.run_id = r.run_id AND e.seq = 1))::text)
FROM (SELECT * FROM runbook.runs ORDER BY started_at, run_id) r;

-- What history asks for stands together, so that an index can answer it.
DROP VIEW runbook.history;
ALTER TABLE runbook.closings DISABLE TRIGGER append_only;
ALTER TABLE runbook.closings DROP COLUMN previous, DROP COLUMN head, ADD COLUMN runbook text, ADD COLUMN started_at timestamptz;
UPDATE runbook.closings c SET runbook = r.runbook, started_at = r.started_at FROM runbook.runs r WHERE r.run_id = c.run_id;
ALTER TABLE runbook.closings ALTER COLUMN runbook SET NOT NULL, ALTER COLUMN started_at SET NOT NULL,
    ADD FOREIGN KEY (number) REFERENCES runbook.chain;
ALTER TABLE runbook.closings ENABLE TRIGGER append_only;
DROP INDEX runbook.closings_by_verdict;
CREATE INDEX closings_by_verdict ON runbook.closings (verdict, started_at DESC);
CREATE INDEX closings_by_runbook ON runbook.closings (runbook, verdict, started_at DESC);
CREATE INDEX runs_by_operator ON runbook.runs (operator, started_at DESC);
CREATE INDEX runs_by_params ON runbook.runs USING gin (params jsonb_path_ops);
CREATE INDEX runs_by_beginning ON runbook.runs (run_id text_pattern_ops);

CREATE VIEW runbook.history AS
SELECT r.run_id, r.runbook, r.title, c.verdict, c.exit_code, r.operator, r.host, r.started_at, c.finished_at, c.duration, r.params,
       r.sha256, (SELECT k.head FROM runbook.chain k WHERE k.run_id = r.run_id AND k.kind = 'closed') AS head
FROM runbook.runs r
LEFT JOIN runbook.closings c ON c.run_id = r.run_id;

-- Events may go only where the chain says who pruned them.
CREATE FUNCTION runbook.refuse_unpruned() RETURNS trigger LANGUAGE plpgsql SET search_path = pg_catalog AS $$
BEGIN
    IF NOT EXISTS (SELECT FROM runbook.chain c WHERE c.run_id = OLD.run_id AND c.kind = 'pruned') THEN
        RAISE EXCEPTION 'the audit is append-only: DELETE on runbook.events is refused; `runbook prune` records who did it';
    END IF;
    RETURN OLD;
END $$;
DROP TRIGGER append_only ON runbook.events;
CREATE TRIGGER append_only BEFORE UPDATE OR TRUNCATE ON runbook.events
    FOR EACH STATEMENT EXECUTE FUNCTION runbook.refuse_change();
CREATE TRIGGER pruned_only BEFORE DELETE ON runbook.events FOR EACH ROW EXECUTE FUNCTION runbook.refuse_unpruned();
CREATE TRIGGER append_only BEFORE UPDATE OR DELETE OR TRUNCATE ON runbook.chain
    FOR EACH STATEMENT EXECUTE FUNCTION runbook.refuse_change();
CREATE TRIGGER append_only BEFORE UPDATE OR DELETE OR TRUNCATE ON runbook.migrations
    FOR EACH STATEMENT EXECUTE FUNCTION runbook.refuse_change();

INSERT INTO runbook.migrations (version) VALUES (3);
