-- Two roles for this audit: who runs runbooks may only append, who reads or verifies may only read. Grant them to your own roles:
--   GRANT runbook_append TO etl;   GRANT runbook_read TO auditor;
-- Neither can change or remove what is written; the owner of the schema can, and `runbook audit verify` shows it.

DO $$
DECLARE
    name text;
BEGIN
    FOREACH name IN ARRAY ARRAY['runbook_append', 'runbook_read'] LOOP
        IF NOT EXISTS (SELECT FROM pg_roles WHERE rolname = name) THEN
            EXECUTE format('CREATE ROLE %I NOLOGIN', name);
        END IF;
    END LOOP;
END $$;

REVOKE ALL ON ALL TABLES IN SCHEMA runbook FROM PUBLIC, runbook_append, runbook_read;
GRANT USAGE ON SCHEMA runbook TO runbook_append, runbook_read;
GRANT SELECT ON ALL TABLES IN SCHEMA runbook TO runbook_append, runbook_read;
GRANT INSERT ON runbook.runs, runbook.events, runbook.closings, runbook.chain TO runbook_append;
GRANT INSERT, UPDATE ON runbook.leases TO runbook_append;
