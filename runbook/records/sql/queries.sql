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
VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11)
ON CONFLICT (run_id) DO NOTHING

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

-- name: lease_held
SELECT pg_backend_pid(), coalesce((SELECT epoch = $2::bigint FROM runbook.leases WHERE lock = $1), false)

-- name: heartbeat
WITH mine AS (SELECT lock FROM runbook.leases WHERE lock = $1 AND epoch = $2::bigint FOR NO KEY UPDATE SKIP LOCKED),
    beat AS (UPDATE runbook.leases l SET heartbeat = clock_timestamp() FROM mine WHERE l.lock = mine.lock)
SELECT pg_backend_pid(), coalesce((SELECT epoch = $2::bigint FROM runbook.leases WHERE lock = $1), false)

-- name: chain_lock
SELECT pg_advisory_xact_lock(hashtext('runbook.closings'))

-- name: chain_head
SELECT number, head FROM runbook.closings ORDER BY number DESC LIMIT 1

-- name: insert_closing
WITH over AS (UPDATE runbook.leases l SET heartbeat = '-infinity'
    FROM runbook.runs r WHERE r.run_id = $2 AND l.lock = r.lock AND l.epoch = r.epoch)
INSERT INTO runbook.closings (number, run_id, verdict, exit_code, finished_at, duration, last_seq, last_hash, previous, head)
VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10)

-- name: closing
SELECT head FROM runbook.closings WHERE run_id = $1
