-- A run that was lost has no exit code: nobody saw it end.

ALTER TABLE runbook.closings ALTER COLUMN exit_code DROP NOT NULL;

INSERT INTO runbook.migrations (version) VALUES (2);
