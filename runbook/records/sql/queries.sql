-- name: version
SELECT max(version) FROM runbook.migrations

-- name: take_lease
WITH previous AS (
    SELECT e.line FROM runbook.leases l
    JOIN runbook.events e ON e.run_id = l.run_id AND e.seq = 1
    WHERE l.lock = $1 AND NOT EXISTS (SELECT FROM runbook.closings c WHERE c.run_id = l.run_id)
), taken AS (
INSERT INTO runbook.leases AS l (lock, epoch, run_id, host, pid, operator, since, heartbeat)
VALUES ($1, 1, $2, $3, $4, $5, clock_timestamp(), clock_timestamp())
ON CONFLICT (lock) DO UPDATE SET epoch = l.epoch + 1, run_id = excluded.run_id, host = excluded.host, pid = excluded.pid,
    operator = excluded.operator, since = excluded.since, heartbeat = excluded.heartbeat
RETURNING epoch
)
SELECT epoch, (SELECT line FROM previous) FROM taken

-- name: insert_run
INSERT INTO runbook.runs (run_id, runbook, title, lock, operator, host, pid, started_at, epoch, sha256, params)
VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11::jsonb)
ON CONFLICT (run_id) DO NOTHING
RETURNING db_role

-- name: insert_events
INSERT INTO runbook.events (run_id, epoch, seq, at, kind, line, previous, hash)
SELECT $1, $2, e.* FROM unnest($3::int[], $4::timestamptz[], $5::text[], $6::text[], $7::text[], $8::text[]) AS e
ON CONFLICT (run_id, seq) DO NOTHING

-- name: end_sessions
SELECT pid, pg_terminate_backend(pid) FROM pg_stat_activity
WHERE (application_name = $1 OR starts_with(application_name, $1 || ' ')) AND pid <> pg_backend_pid()
    AND datname = current_database()

-- name: event_hashes
SELECT seq, hash FROM runbook.events WHERE run_id = $1

-- name: fence
SELECT epoch = $2 FROM runbook.leases WHERE lock = $1 FOR SHARE

-- name: turn_fence
SELECT epoch = $2 AND state = 'running' FROM runbook_fleet.turns WHERE run_id = $1 FOR SHARE

-- name: turn
SELECT epoch FROM runbook_fleet.turns WHERE run_id = $1 FOR SHARE

-- name: end_lease
UPDATE runbook.leases SET epoch = epoch + 1, heartbeat = 'epoch' WHERE lock = $1 AND run_id = $2

-- name: lease_held
SELECT pg_backend_pid(), coalesce((SELECT epoch = $2::bigint FROM runbook.leases WHERE lock = $1), false)

-- name: heartbeat
WITH mine AS (SELECT lock FROM runbook.leases WHERE lock = $1 AND epoch = $2::bigint FOR NO KEY UPDATE SKIP LOCKED),
    beat AS (UPDATE runbook.leases l SET heartbeat = clock_timestamp() FROM mine WHERE l.lock = mine.lock)
SELECT pg_backend_pid(), coalesce((SELECT epoch = $2::bigint FROM runbook.leases WHERE lock = $1), false)

-- name: add_to_chain
SELECT number, head FROM runbook.add_to_chain($1, $2, $3)

-- name: insert_closing
WITH over AS (UPDATE runbook.leases l SET heartbeat = '-infinity'
    FROM runbook.runs r WHERE r.run_id = $2 AND l.lock = r.lock AND l.epoch = r.epoch)
INSERT INTO runbook.closings (number, run_id, verdict, exit_code, finished_at, duration, last_seq, last_hash, runbook, started_at)
SELECT $1::bigint, run_id, $3::text, $4::int, $5::timestamptz, $6::numeric, $7::int, $8::text, runbook, started_at
FROM runbook.runs WHERE run_id = $2

-- name: closing
SELECT k.head, c.verdict, c.last_hash FROM runbook.chain k JOIN runbook.closings c USING (run_id)
WHERE k.run_id = $1 AND k.kind = 'closed'

-- name: run_ids
SELECT run_id FROM runbook.runs WHERE run_id > $1 ORDER BY run_id LIMIT $2

-- name: strays
SELECT run_id FROM runbook.chain c WHERE NOT EXISTS (SELECT FROM runbook.runs r WHERE r.run_id = c.run_id)
UNION SELECT run_id FROM runbook.closings c WHERE NOT EXISTS (SELECT FROM runbook.runs r WHERE r.run_id = c.run_id)
UNION SELECT run_id FROM runbook.events e WHERE NOT EXISTS (SELECT FROM runbook.runs r WHERE r.run_id = e.run_id)

-- name: all_runs
SELECT * FROM runbook.runs WHERE run_id = ANY($1)

-- name: all_events
SELECT * FROM runbook.events WHERE run_id = ANY($1) ORDER BY run_id, seq

-- name: all_closings
SELECT * FROM runbook.closings WHERE run_id = ANY($1)

-- name: all_chain
SELECT * FROM runbook.chain WHERE run_id = ANY($1) ORDER BY number

-- name: history
SELECT r.run_id, r.runbook, r.title, c.verdict, c.exit_code, r.started_at, c.finished_at, c.duration, r.operator, r.host, r.params,
    r.sha256
FROM runbook.runs r LEFT JOIN runbook.closings c ON c.run_id = r.run_id
WHERE ($1::text IS NULL OR r.runbook = $1)
    AND ($2::text IS NULL OR c.run_id IS NULL)
    AND ($3::text IS NULL OR r.operator = $3)
    AND ($4::timestamptz IS NULL OR r.started_at >= $4)
    AND ($5::timestamptz IS NULL OR r.started_at < $5)
    AND ($6::jsonb IS NULL OR r.params @> $6 OR r.params @> $7::jsonb)
    AND ($6::jsonb IS NULL OR NOT EXISTS (SELECT FROM unnest($8::text[], $9::text[], $10::text[]) AS p (name, one, other)
        WHERE (r.params->p.name IN (p.one::jsonb, p.other::jsonb)) IS NOT TRUE))
ORDER BY r.started_at DESC, r.run_id DESC
LIMIT $11

-- name: history_of_verdict
SELECT r.run_id, r.runbook, r.title, c.verdict, c.exit_code, r.started_at, c.finished_at, c.duration, r.operator, r.host, r.params,
    r.sha256
FROM runbook.closings c JOIN runbook.runs r ON r.run_id = c.run_id
WHERE ($1::text IS NULL OR c.runbook = $1)
    AND c.verdict = $2
    AND ($3::text IS NULL OR r.operator = $3)
    AND ($4::timestamptz IS NULL OR c.started_at >= $4)
    AND ($5::timestamptz IS NULL OR c.started_at < $5)
    AND ($6::jsonb IS NULL OR r.params @> $6 OR r.params @> $7::jsonb)
    AND ($6::jsonb IS NULL OR NOT EXISTS (SELECT FROM unnest($8::text[], $9::text[], $10::text[]) AS p (name, one, other)
        WHERE (r.params->p.name IN (p.one::jsonb, p.other::jsonb)) IS NOT TRUE))
ORDER BY c.started_at DESC, c.run_id DESC
LIMIT $11

-- name: runs_beginning
SELECT run_id FROM runbook.runs WHERE run_id LIKE $1 ORDER BY run_id = $2 DESC, run_id LIMIT 6

-- name: newest_run
SELECT run_id FROM runbook.runs ORDER BY started_at DESC, run_id DESC LIMIT 1

-- name: known_runs
SELECT run_id FROM runbook.runs WHERE run_id = ANY($1)

-- name: lines
SELECT run_id, line FROM runbook.events WHERE run_id = ANY($1) ORDER BY run_id, seq

-- name: later_entries
SELECT run_id, kind, line, head FROM runbook.chain WHERE run_id = ANY($1) AND kind IN ('closed', 'pruned') ORDER BY number

-- name: last_entry
SELECT coalesce((SELECT max(seq) FROM runbook.events WHERE run_id = $1), 0),
    (SELECT head FROM runbook.chain WHERE run_id = $1 ORDER BY number DESC LIMIT 1),
    EXISTS (SELECT FROM runbook.chain WHERE run_id = $1 AND kind = 'pruned')

-- name: closed_runs
SELECT run_id FROM runbook.closings WHERE run_id = ANY($1)

-- name: prunable
SELECT c.run_id, count(e.seq), max(e.seq), (SELECT l.hash FROM runbook.events l WHERE l.run_id = c.run_id ORDER BY l.seq DESC LIMIT 1),
    c.verdict, c.exit_code, c.finished_at, c.duration, c.runbook
FROM runbook.closings c JOIN runbook.events e ON e.run_id = c.run_id
WHERE c.finished_at < $1 AND ($2::text[] IS NULL OR c.run_id = ANY($2)) AND ($3::text[] IS NULL OR c.runbook = ANY($3))
GROUP BY c.number ORDER BY c.run_id

-- name: chain_lock
SELECT pg_advisory_xact_lock(hashtext('runbook.closings'))

-- name: prune_events
DELETE FROM runbook.events WHERE run_id = $1

-- name: prune_relayed
DELETE FROM runbook_fleet.output WHERE run_id = $1
