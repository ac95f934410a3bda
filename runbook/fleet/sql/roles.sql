-- Who may append to the audit may submit, work and schedule; who may read it may look at the fleet.

DO $$
BEGIN
    IF EXISTS (SELECT FROM pg_roles WHERE rolname = 'runbook_append') THEN
        GRANT USAGE ON SCHEMA runbook_fleet TO runbook_append;
        GRANT SELECT, INSERT ON ALL TABLES IN SCHEMA runbook_fleet TO runbook_append;
        GRANT UPDATE ON runbook_fleet.turns, runbook_fleet.output, runbook_fleet.workers, runbook_fleet.schedules TO runbook_append;
        GRANT UPDATE, DELETE ON runbook_fleet.procrastinate_jobs, runbook_fleet.procrastinate_workers,
            runbook_fleet.procrastinate_events, runbook_fleet.procrastinate_periodic_defers TO runbook_append;
        GRANT USAGE ON ALL SEQUENCES IN SCHEMA runbook_fleet TO runbook_append;
    END IF;
    IF EXISTS (SELECT FROM pg_roles WHERE rolname = 'runbook_read') THEN
        GRANT USAGE ON SCHEMA runbook_fleet TO runbook_read;
        GRANT SELECT ON ALL TABLES IN SCHEMA runbook_fleet TO runbook_read;
    END IF;
END $$;
