-- Two roles for this audit: who runs runbooks may only append, who reads or verifies may only read. Grant them to your own roles:
--   GRANT runbook_append TO etl;   GRANT runbook_read TO auditor;
-- Neither can change or remove what is written; the owner of the schema can, and `runbook audit verify` shows it.
-- Who may not create roles gets the tables alone, and a notice.

DO $$
DECLARE
    name text;
BEGIN
    FOREACH name IN ARRAY ARRAY['runbook_append', 'runbook_read'] LOOP
        IF NOT EXISTS (SELECT FROM pg_roles WHERE rolname = name) THEN
            EXECUTE format('CREATE ROLE %I NOLOGIN', name);
        END IF;
        EXECUTE format('REVOKE ALL ON ALL TABLES IN SCHEMA runbook FROM PUBLIC, %I', name);
        EXECUTE format('GRANT USAGE ON SCHEMA runbook TO %I', name);
        EXECUTE format('GRANT SELECT ON ALL TABLES IN SCHEMA runbook TO %I', name);
    END LOOP;
    GRANT INSERT ON runbook.runs, runbook.events, runbook.closings, runbook.leases TO runbook_append;
    GRANT UPDATE ON runbook.leases TO runbook_append;
EXCEPTION WHEN insufficient_privilege THEN
    RAISE NOTICE 'the roles runbook_append and runbook_read are not there: %', SQLERRM;
END $$;
